"""The parameters that each cell has, by path, with their shapes.

Axes: `I` input features, `H` features, `O` outputs, `R` recurrent features, `n` gates.
"""

from collections.abc import Callable
from typing import Any

Shapes = dict[str, tuple[int, ...]]


def elman(cell: Any, I: int) -> Shapes:
    """A kernel for the inputs and one for the state."""
    H = cell.features
    shapes: Shapes = {"kernel": (I, H), "recurrent_kernel": (H, H)}
    return shapes | ({"bias": (H,)} if cell.use_bias else {})


def jordan(cell: Any, I: int) -> Shapes:
    """A hidden layer and an output layer."""
    H, O = cell.features, cell.out_features
    shapes: Shapes = {"kernel": (I, H), "recurrent_kernel": (O, H), "output_kernel": (H, O)}
    return shapes | ({"bias": (H,), "output_bias": (O,)} if cell.use_bias else {})


def lstm(cell: Any, I: int) -> Shapes:
    """Four gates, coupled three; all but `g` and `o` have a peephole into the old memory."""
    H, n = cell.features, 3 if cell.coupled else 4
    R, m = cell.projection or H, n - 2
    shapes: Shapes = {"kernel": (I, n * H), "recurrent_kernel": (R, n * H)}
    if cell.use_bias:
        shapes["bias"] = (n * H,)
    if cell.peephole == "diagonal":
        shapes |= {"peephole": (m * H,), "output_peephole": (H,)}
    if cell.peephole == "full":
        shapes |= {"peephole": (H, m * H), "output_peephole": (H, H)}
    if cell.projection is not None:
        shapes["projection_kernel"] = (H, R)
    return shapes


def gru(cell: Any, I: int) -> Shapes:
    """Three gates; a second bias inside the product where the reset comes after it."""
    H = cell.features
    shapes: Shapes = {"kernel": (I, 3 * H), "recurrent_kernel": (H, 3 * H)}
    if cell.use_bias:
        shapes["bias"] = (3 * H,)
        if cell.reset == "after":
            shapes["recurrent_bias"] = (H,)
    return shapes


def layer_norm_lstm(cell: Any, I: int) -> Shapes:
    """Four gates, and a gain for each product and for the memory."""
    H = cell.features
    shapes: Shapes = {"kernel": (I, 4 * H), "recurrent_kernel": (H, 4 * H), "scale": (4 * H,)}
    shapes |= {"recurrent_scale": (4 * H,), "memory_scale": (H,)}
    return shapes | ({"bias": (4 * H,), "memory_bias": (H,)} if cell.use_bias else {})


def layer_norm_gru(cell: Any, I: int) -> Shapes:
    """Three gates, and a gain for each product."""
    H = cell.features
    shapes: Shapes = {"kernel": (I, 3 * H), "recurrent_kernel": (H, 3 * H), "scale": (3 * H,)}
    shapes["recurrent_scale"] = (3 * H,)
    return shapes | ({"bias": (3 * H,), "recurrent_bias": (H,)} if cell.use_bias else {})


def around(inner: Callable[[Any, int], Shapes], cell: Any, I: int) -> Shapes:
    """Those of the cell inside."""
    return inner(cell.cell, I)


def attention(inner: Callable[[Any, int], Shapes], cell: Any, I: int) -> Shapes:
    """Those of the cell inside, which reads the context too, and those of the comparison."""
    M, A, Q = cell.memory_features, cell.features, cell.cell.carry(())[0].shape[-1]
    shapes = {f"cell.{name}": shape for name, shape in inner(cell.cell, I + M).items()}
    return shapes | {"memory_kernel": (M, A), "query_kernel": (Q, A), "score": (A,)}


def tree_rnn(cell: Any, I: int) -> Shapes:
    """A kernel for the inputs and one for each place of a child, one above the other."""
    H = cell.features
    shapes: Shapes = {"kernel": (I, H), "recurrent_kernel": (cell.children * H, H)}
    return shapes | ({"bias": (H,)} if cell.use_bias else {})


def tree_lstm(cell: Any, I: int) -> Shapes:
    """Four gates; a binary one reads two children, and has a forget gate for each of them."""
    H = cell.features
    recurrent = (2 * H, 5 * H) if cell.kind == "binary" else (H, 4 * H)
    shapes: Shapes = {"kernel": (I, 4 * H), "recurrent_kernel": recurrent}
    return shapes | ({"bias": (4 * H,)} if cell.use_bias else {})
