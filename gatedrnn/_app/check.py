"""`gatedrnn check`: every cell and option against NumPy, autodiff and finite differences."""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gatedrnn as gr
from gatedrnn._app.errors import CommandError
from gatedrnn._registry import cells as registry
from gatedrnn._registry.row import Row, name_of
from gatedrnn._src.checking import error

IN_FEATURES = 3


class Errors(NamedTuple):
    """The errors of a cell, each relative to the largest element of its array."""

    equations: float  # of a step, against the equations in NumPy
    autodiff: float  # of a gradient, against autodiff
    differences: float  # of a gradient, against finite differences


LIMITS = Errors(equations=1e-12, autodiff=1e-10, differences=1e-6)  # what float64 can tell


def cells() -> tuple[Any, ...]:
    """Return every cell of the registry with every combination of its options."""
    return tuple(registry.named(registry.ROWS, Row.every).values())


def errors_of(cell: Any) -> Errors:
    """Return the errors of a cell for sequences or for trees, in float64."""
    of_trees = hasattr(cell, "compose")
    report = (gr.check_tree_rule if of_trees else gr.check_rule)(cell, in_features=IN_FEATURES)
    with jax.enable_x64(True):
        equations = _error_of_nodes(cell) if of_trees else _error_of_step(cell)
    return Errors(equations, report.largest, report.largest_difference or 0.0)


def _error_of_step(cell: Any) -> float:
    noise, batch = np.random.default_rng(1), (2,)
    params = _normal(noise, _params(cell))
    carry = _normal(noise, jax.eval_shape(lambda: cell.carry(batch, jnp.float64)))
    x = noise.normal(size=(*batch, IN_FEATURES))
    made = registry.step(cell, params, carry, x)
    return _largest(cell.step(params, carry, jnp.asarray(x)), (made.carry, made.output))


def _error_of_nodes(cell: Any) -> float:
    """Return that of the states of a tree in which a node has all children, and one the last."""
    noise, most = np.random.default_rng(1), cell.children or 3
    tree = (((),) * most,) * (most - 1) + ((None,) * (most - 1) + ((),),)
    children, _ = gr.flatten_tree(tree)
    params, xs = _normal(noise, _params(cell)), noise.normal(size=(len(children), IN_FEATURES))
    _, states = gr.fold_tree(cell, params, jnp.asarray(xs), children)
    return _largest(tuple(states), registry.fold(cell, params, xs, tree))


def _params(cell: Any) -> Any:
    return jax.eval_shape(lambda: cell.init(jax.random.key(0), IN_FEATURES, jnp.float64))


def _normal(noise: np.random.Generator, tree: Any) -> Any:
    """Return normal numbers shaped as `tree`, of half the usual size: few gates saturate."""
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * noise.normal(size=leaf.shape)), tree)


def _largest(got: Any, expected: Any) -> float:
    errors = jax.tree.map(lambda a, b: error(a, jnp.asarray(b)), got, expected)
    return float(np.max(jax.tree.leaves(errors)))


def run(arguments: argparse.Namespace) -> int:
    """Print the table; 0 if every cell is exact, 1 if not."""
    wanted = (arguments.cell or "").lower()
    chosen = {name_of(cell): cell for cell in cells() if wanted in name_of(cell).lower()}
    if not chosen:
        raise CommandError(f"--cell: got {arguments.cell!r}, which is in the name of no cell")
    print("largest relative error in float64, of a step against its equations in NumPy, and of any")
    print("gradient (parameters, inputs, initial carry) against autodiff and finite differences\n")
    width = max(map(len, chosen)) + 2
    print(f"{'cell':<{width}}{'vs NumPy':>10}{'vs autodiff':>13}{'vs differences':>16}")
    wrong = 0
    for name, cell in chosen.items():
        found = errors_of(cell)
        bad = not all(got <= limit for got, limit in zip(found, LIMITS, strict=True))  # nor NaN
        wrong += bad
        figures = f"{found.equations:>10.1e}{found.autodiff:>13.1e}{found.differences:>16.1e}"
        print(f"{name:<{width}}{figures}{'   WRONG' if bad else ''}", flush=True)
    print(f"\n{len(chosen) - wrong} of {len(chosen)} exact")
    return 1 if wrong else 0
