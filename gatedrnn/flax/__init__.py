"""Our layers and cells inside flax models: `gatedrnn.flax.linen` and `gatedrnn.flax.nnx`.

Each has a `Layer`, a module that holds any layer and runs it by our engine, and a `Cell`, with
which a cell of ours drops into flax's own `RNN` and `Bidirectional`. Parameters live in flax's own
trees, as nested dictionaries that `to_tree` makes and `from_tree` takes back, so that checkpoints,
`TrainState`, masks of optax and optimisers treat them as any others.

Not part of `import gatedrnn`: import it by itself, with `pip install "gatedrnn[flax]"`.
"""

from gatedrnn._interop.flax.nested import from_tree, to_tree
from gatedrnn._interop.require import require

require("flax", "flax", "flax")  # says what to install, before the modules below need it

from gatedrnn.flax import linen, nnx  # noqa: E402

__all__ = ["from_tree", "linen", "nnx", "to_tree"]
