"""The equations of every cell of trees in NumPy, node by node.

Nothing here is shared with the library but the containers. A tree is a tuple of its children, None
for an absent one, anything else a leaf; arrays are those of one node.

Axes: `N` nodes, `I` input features, `H` features.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from gatedrnn._registry.equations import ACTIVATIONS, sigmoid

State = tuple[ndarray, ...]  # of one node, each leaf [H]
Children = Sequence[State | None]


def fold(
    compose: Callable[..., State], cell: Any, params: Any, xs: ndarray, tree: Any
) -> tuple[ndarray, ...]:
    """Return the states of all nodes in post-order, each leaf `[N, H]`, for inputs `xs [N, I]`."""
    rows, states = iter(xs), []

    def visit(tree: Any) -> State:
        children = tree if isinstance(tree, tuple) else ()
        below = [None if child is None else visit(child) for child in children]
        states.append(compose(cell, params, below, next(rows)))
        return states[-1]

    visit(tree)
    return tuple(map(np.stack, zip(*states, strict=True)))


def rnn(cell: Any, p: Any, children: Children, x: ndarray) -> State:
    """`h_p = f(x_p U + Σ_k h_k W_k + b)`."""
    a = x @ p.kernel + (0.0 if p.bias is None else p.bias)
    W = np.split(p.recurrent_kernel, cell.children)
    for k, child in enumerate(children):
        if child is not None:
            a = a + child[0] @ W[k]
    return (ACTIVATIONS[cell.activation](a),)


def lstm(cell: Any, p: Any, children: Children, x: ndarray) -> State:
    """Tai et al. 2015: eq. 9-14 for the binary one, eq. 2-8 for the child-sum one."""
    return (_binary if cell.kind == "binary" else _child_sum)(cell, p, children, x)


def _binary(cell: Any, p: Any, children: Children, x: ndarray) -> State:
    W_i, W_f, W_u, W_o = np.split(p.kernel, 4, axis=-1)
    b_i, b_f, b_u, b_o = _biases(cell, p)
    U_left, U_right = (np.split(U, 5, axis=-1) for U in np.split(p.recurrent_kernel, 2))
    nothing = (np.zeros(cell.features), np.zeros(cell.features))
    there = [nothing if child is None else child for child in children]
    (h_l, c_l), (h_r, c_r) = [*there, nothing, nothing][:2]

    i = sigmoid(x @ W_i + h_l @ U_left[0] + h_r @ U_right[0] + b_i)
    f_l = sigmoid(x @ W_f + h_l @ U_left[1] + h_r @ U_right[1] + b_f)
    f_r = sigmoid(x @ W_f + h_l @ U_left[2] + h_r @ U_right[2] + b_f)
    u = np.tanh(x @ W_u + h_l @ U_left[3] + h_r @ U_right[3] + b_u)
    o = sigmoid(x @ W_o + h_l @ U_left[4] + h_r @ U_right[4] + b_o)
    c = i * u + f_l * c_l + f_r * c_r
    return o * np.tanh(c), c


def _child_sum(cell: Any, p: Any, children: Children, x: ndarray) -> State:
    W_i, W_f, W_u, W_o = np.split(p.kernel, 4, axis=-1)
    U_i, U_f, U_u, U_o = np.split(p.recurrent_kernel, 4, axis=-1)
    b_i, b_f, b_u, b_o = _biases(cell, p)
    there = [child for child in children if child is not None]

    h = sum((h_k for h_k, _ in there), np.zeros(cell.features))
    i = sigmoid(x @ W_i + h @ U_i + b_i)
    o = sigmoid(x @ W_o + h @ U_o + b_o)
    u = np.tanh(x @ W_u + h @ U_u + b_u)
    c = i * u
    for h_k, c_k in there:
        c = c + sigmoid(x @ W_f + h_k @ U_f + b_f) * c_k
    return o * np.tanh(c), c


def _biases(cell: Any, p: Any) -> Any:
    return np.zeros((4, cell.features)) if p.bias is None else np.split(p.bias, 4)
