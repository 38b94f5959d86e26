"""`python -m gatedrnn`: the same program as the command `gatedrnn`."""

import sys

from gatedrnn._app.cli import main

if __name__ == "__main__":
    sys.exit(main())
