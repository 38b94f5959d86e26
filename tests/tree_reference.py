"""Recursive networks in NumPy, node by node, by recursion over nested tuples.

Nothing here is shared with the library but the containers. A tree is a tuple of its children, None
for an absent one, anything else a leaf; arrays are of one node: `x` is `[I]`, `h` is `[H]`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from reference import ACTIVATIONS, sigmoid

import gatedrnn as gr

FEATURES, IN_FEATURES = 3, 2

TREE_CELLS = {
    "rnn": gr.TreeRNN(FEATURES),
    "rnn-one": gr.TreeRNN(FEATURES, children=1),
    "rnn-three-relu": gr.TreeRNN(FEATURES, children=3, activation="relu"),
    "rnn-sigmoid-nobias": gr.TreeRNN(FEATURES, activation="sigmoid", use_bias=False),
    "rnn-identity": gr.TreeRNN(FEATURES, activation="identity"),
    "binary": gr.TreeLSTM(FEATURES),
    "binary-nobias": gr.TreeLSTM(FEATURES, use_bias=False),
    "child-sum": gr.TreeLSTM(FEATURES, kind="child_sum"),
    "child-sum-nobias": gr.TreeLSTM(FEATURES, kind="child_sum", use_bias=False),
}
"""Every cell of trees with every option, by name."""


def compose(cell, p, children, x):
    """The state of a node, a tuple of arrays; `children` are such states, or None."""
    if isinstance(cell, gr.TreeRNN):
        return rnn(cell, p, children, x)
    return (
        binary(cell, p, children, x) if cell.kind == "binary" else child_sum(cell, p, children, x)
    )


def rnn(cell, p, children, x):
    """`h_p = f(x_p U + Σ_k h_k W_k + b)`."""
    a = x @ p.kernel + (0.0 if p.bias is None else p.bias)
    W = np.split(p.recurrent_kernel, cell.children)
    for k, child in enumerate(children):
        if child is not None:
            a = a + child[0] @ W[k]
    return (ACTIVATIONS[cell.activation](a),)


def binary(cell, p, children, x):
    """Tai et al. 2015, eq. 9–14, for two children."""
    W_i, W_f, W_u, W_o = np.split(p.kernel, 4, axis=-1)
    b_i, b_f, b_u, b_o = _biases(cell, p)
    U_left, U_right = (np.split(U, 5, axis=-1) for U in np.split(p.recurrent_kernel, 2))
    nothing = (np.zeros(cell.features), np.zeros(cell.features))
    children = [nothing if child is None else child for child in children]
    (h_l, c_l), (h_r, c_r) = [*children, nothing, nothing][:2]

    i = sigmoid(x @ W_i + h_l @ U_left[0] + h_r @ U_right[0] + b_i)
    f_l = sigmoid(x @ W_f + h_l @ U_left[1] + h_r @ U_right[1] + b_f)
    f_r = sigmoid(x @ W_f + h_l @ U_left[2] + h_r @ U_right[2] + b_f)
    u = np.tanh(x @ W_u + h_l @ U_left[3] + h_r @ U_right[3] + b_u)
    o = sigmoid(x @ W_o + h_l @ U_left[4] + h_r @ U_right[4] + b_o)
    c = i * u + f_l * c_l + f_r * c_r
    return o * np.tanh(c), c


def child_sum(cell, p, children, x):
    """Tai et al. 2015, eq. 2–8."""
    W_i, W_f, W_u, W_o = np.split(p.kernel, 4, axis=-1)
    U_i, U_f, U_u, U_o = np.split(p.recurrent_kernel, 4, axis=-1)
    b_i, b_f, b_u, b_o = _biases(cell, p)
    children = [child for child in children if child is not None]

    h = sum((h_k for h_k, _ in children), np.zeros(cell.features))
    i = sigmoid(x @ W_i + h @ U_i + b_i)
    o = sigmoid(x @ W_o + h @ U_o + b_o)
    u = np.tanh(x @ W_u + h @ U_u + b_u)
    c = i * u
    for h_k, c_k in children:
        c = c + sigmoid(x @ W_f + h_k @ U_f + b_f) * c_k
    return o * np.tanh(c), c


def _biases(cell, p):
    return np.zeros((4, cell.features)) if p.bias is None else np.split(p.bias, 4)


def fold(cell, params, xs, tree):
    """The states of all nodes in post-order, each leaf of them `[n, H]`; `xs [n, I]` likewise."""
    params = jax.tree.map(np.asarray, params)
    rows, states = iter(np.asarray(xs)), []

    def visit(tree):
        children = tree if isinstance(tree, tuple) else ()
        below = [None if child is None else visit(child) for child in children]
        states.append(compose(cell, params, below, next(rows)))
        return states[-1]

    visit(tree)
    return tuple(map(np.stack, zip(*states, strict=True)))


def random_params(cell, in_features=IN_FEATURES, seed=0):
    """Parameters of `cell` in float64 with normal noise in every leaf."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), in_features, jnp.float64))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, 0.5, leaf.shape)), shapes)


def normal(*shape, seed=0):
    """Normal noise."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def chain(n):
    """A tree of `n` nodes, each with one child, as an index array."""
    return np.arange(-1, n - 1)[:, None]
