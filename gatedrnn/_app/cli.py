"""The command line: its arguments, and its exit codes.

Exit codes: 0 done, 1 failed on the way, 2 cannot be done as asked, 130 stopped by Ctrl-C (or, while
training, by SIGTERM).
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from gatedrnn import __version__
from gatedrnn._app import shipped
from gatedrnn._app.errors import CommandError, reason

# module -> the package that has it
TRAINING = {
    "filelock": "filelock",
    "msgspec": "msgspec",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "tqdm": "tqdm",
    "matplotlib": "matplotlib",
    "tomli_w": "tomli-w",
    "sklearn": "scikit-learn",
}
SAMPLING = {"msgspec": "msgspec", "orbax": "orbax-checkpoint"}
EXPORTING = {  # by the ending of the file
    ".onnx": {"onnx": "onnx"},
    ".stablehlo": {"flatbuffers": "flatbuffers"},
    ".safetensors": {"safetensors": "safetensors"},
}
EXTRAS = {".onnx": "train,onnx", ".stablehlo": "train,export", ".safetensors": "train,files"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (by default the process's own arguments) asks for."""
    args = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # "?" where a terminal cannot show a character
    for name in ("absl", "asyncio", "jax", "matplotlib"):
        # orbax and the event loop report with a traceback what they also raise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # JAX, on arrays of more than 2**31 elements, for which memory fails next
            warnings.filterwarnings("ignore", "Explicitly requested dtype int64")
            return args.command(args) or 0
    except CommandError as error:
        print(f"gatedrnn {args.name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"gatedrnn {args.name}: interrupted", file=sys.stderr)
        _leave(130)
    except OSError as error:  # of our own output; all others are CommandErrors
        if not isinstance(error, BrokenPipeError):  # as with `head`, which has read enough
            print(f"gatedrnn {args.name}: cannot write: {reason(error)}", file=sys.stderr)
        _leave(1)  # nor must a last flush fail
    except Exception as error:
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        print(f"gatedrnn {args.name}: out of memory: {reason(error)}", file=sys.stderr)
        return 1


def _leave(code: int) -> NoReturn:
    """End the process at once: an orderly end may crash while threads of the libraries work."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gatedrnn",
        description="Train, evaluate, sample and export recurrent networks; check their rules.",
    )
    parser.add_argument("--version", action="version", version=f"gatedrnn {__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    train = _add(commands, "train", _train, "train the models of a configuration")
    train.add_argument(
        "config",
        help=f"a TOML file, or the name of one that is shipped: {', '.join(shipped.names())}",
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting, such as train.steps=500 or run.folder=runs/mine (repeatable)",
    )
    existing = train.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the run in the folder, as soon as the new one has saved parameters",
    )
    existing.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in the folder; of its settings, train.steps, run.folder and (a"
        " language model's, of the same text) data.path alone may differ",
    )

    several = train.add_argument_group(
        "several processes",
        "One run of several processes, each started with the same arguments on one file system:"
        " process 0 prints and writes, and a stop asked of one stops all. SLURM, Open MPI and GKE"
        " tell --distributed the rest; elsewhere each process is given all of it.",
    )
    several.add_argument(
        "--distributed", action="store_true", help="this process is one of several"
    )
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    several.add_argument("--processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process", type=int, metavar="I", help="this one, counted from 0")

    evaluate = _add(
        commands, "eval", _eval, "repeat the evaluation of a run, and draw its pictures"
    )
    evaluate.add_argument("run", help="the folder of a run, such as runs/digits")

    sample = _add(commands, "sample", _sample, "continue a text with a language model")
    sample.add_argument("run", help="the folder of a run of a language model, such as runs/char_lm")
    sample.add_argument(
        "--prompt",
        default="",
        help="the text to continue; --prompt=-the where it begins with a dash (default: none, as"
        " after a line break)",
    )
    sample.add_argument(
        "--length", type=int, default=300, help="how many characters to add (default: 300)"
    )
    sample.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="1 samples from the model as it is, less makes likely characters likelier, 0 always"
        " takes the likeliest (default: 0.8)",
    )
    sample.add_argument("--seed", type=int, default=0, help="of the random choices (default: 0)")

    export = _add(commands, "export", _export, "write the network of a run as a file of its own")
    export.add_argument("run", help="the folder of a run, such as runs/digits")
    export.add_argument(
        "--to",
        required=True,
        metavar="FILE",
        help="model.onnx; or model.stablehlo, a program that jax.export reads; or"
        " model.safetensors, which gr.load reads; replaced if it is there",
    )
    export.add_argument("--model", metavar="NAME", help="which one, if the run has several models")
    export.add_argument(
        "--lengths", action="store_true", help="have the file take the lengths of the sequences"
    )
    export.add_argument(
        "--carry", action="store_true", help="have the file take the initial states"
    )

    check = _add(commands, "check", _check, "compare the hand-derived gradients with autodiff")
    check.add_argument("--cell", metavar="NAME", help="only cells whose name contains NAME")
    return parser


def _add(commands: Any, name: str, command: Callable[..., Any], text: str) -> Any:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    return parser


# Each command is imported when it runs: --help and `check` need none of the packages of training.


def _train(args: argparse.Namespace) -> int:
    _need(TRAINING)
    from gatedrnn._app import train
    from gatedrnn._app.processes import Place

    place = Place(args.coordinator, args.processes, args.process)
    if place != Place() and not args.distributed:
        raise CommandError("--coordinator, --processes and --process go with --distributed")
    return train.run(
        shipped.path_of(args.config),
        args.set,
        overwrite=args.overwrite,
        resume=args.resume,
        place=place if args.distributed else None,
    )


def _eval(args: argparse.Namespace) -> int:
    _need(TRAINING)
    from gatedrnn._app import evaluation

    return evaluation.run(args.run)


def _sample(args: argparse.Namespace) -> int:
    _need(SAMPLING)
    from gatedrnn._app.tasks.language import sample

    return sample.run(
        args.run,
        prompt=args.prompt,
        length=args.length,
        temperature=args.temperature,
        seed=args.seed,
    )


def _export(args: argparse.Namespace) -> int:
    ending = os.path.splitext(args.to)[1]
    _need(TRAINING | EXPORTING.get(ending, {}), EXTRAS.get(ending, "train"))
    from gatedrnn._app import export

    return export.run(
        args.run, to=args.to, model=args.model, lengths=args.lengths, carry=args.carry
    )


def _check(args: argparse.Namespace) -> int:
    from gatedrnn._app import check

    return check.run(args)


def _need(packages: dict[str, str], extras: str = "train") -> None:
    """Raise unless all of `packages` are installed."""
    missing: Iterable[str] = [
        package for module, package in packages.items() if not importlib.util.find_spec(module)
    ]
    if missing:
        raise CommandError(
            f"this command needs {', '.join(missing)}; install with: pip install"
            f' "gatedrnn[{extras}]"'
        )
