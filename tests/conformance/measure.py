"""One row of the table: a network beside a peer.

Axes: `T` time, `B` batch, `I` input features.
"""

import re
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from conformance.cases import IN
from conformance.peer import Peer

T, LENGTHS = 6, (6, 1, 4)
COLUMNS = ("round trip", "outputs", "final states", "gradients", "ragged lengths", "bidirectional")


def row(peer: Peer, layer, both) -> dict[str, float | str]:
    """An error, relative to the largest entry of its leaf, or a reason for each column."""
    why = refusal(peer, layer)
    if why:
        return {"refused": why}
    found: dict[str, float | str] = {"round trip": round_trip(peer, layer)}
    found |= compare(peer, layer, None)
    if peer.ragged is True:
        found["ragged lengths"] = max_of(compare(peer, layer, LENGTHS))
    else:
        found["ragged lengths"] = str(peer.ragged)
    why = refusal(peer, both)
    if why:
        found["bidirectional"] = why
    else:
        lengths = LENGTHS if peer.ragged is True else None
        found["bidirectional"] = max_of(
            {"round trip": round_trip(peer, both), **compare(peer, both, lengths)}
        )
    return found


def refusal(peer: Peer, layer) -> str:
    """Why the network cannot be converted; nothing where it can."""
    try:
        peer.convert(layer, random_params(peer, layer))
    except ValueError as error:
        return re.sub(r".*cannot become [^:]*: ", "", str(error))
    return ""


def max_of(errors: dict[str, float | str]) -> float:
    return max(error for error in errors.values() if not isinstance(error, str))


def random_params(peer: Peer, layer):
    """Every leaf drawn, biases included."""
    shapes = jax.eval_shape(lambda key: layer.init(key, IN), jax.random.key(0))
    return random_like(shapes, 0, peer.dtype)


def random_like(tree, seed: int, dtype: str | None = None):
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(
        jnp.asarray(
            np.random.default_rng((seed, k)).normal(size=leaf.shape) * 0.7, dtype or leaf.dtype
        )
        for k, leaf in enumerate(leaves)
    )


def round_trip(peer: Peer, layer) -> float:
    """How far weights that went there and back are from what they were; their layout is checked.

    Another network with the same function may come back, a GRU that keeps for one that writes: then
    outputs are compared.
    """
    params = random_params(peer, layer)
    back, recovered = peer.recover(peer.convert(layer, params))
    if jax.tree.structure(recovered) != jax.tree.structure(params) or back != layer:
        xs, carry = problem(peer, layer)
        got, want = (net.apply(p, xs, carry)[1] for net, p in ((back, recovered), (layer, params)))
        return error(got, want)
    return error(recovered, params)


def problem(peer: Peer, layer):
    """Inputs `[T, B, I]`, and an initial carry that is not zero."""
    xs = random_like(jax.ShapeDtypeStruct((T, len(LENGTHS), IN), peer.dtype), 1)
    shapes = jax.eval_shape(lambda: layer.carry((len(LENGTHS),), peer.dtype))
    return xs, random_like(shapes, 2)


def compare(peer: Peer, layer, lengths) -> dict[str, float | str]:
    """Outputs, final states and gradients, ours and the peer's."""
    params, (xs, carry) = random_params(peer, layer), problem(peer, layer)
    valid = (np.arange(T)[:, None] < np.asarray(lengths or LENGTHS[:1]))[..., None]
    lengths = None if lengths is None else jnp.asarray(lengths, jnp.int32)
    shapes = jax.eval_shape(layer.apply, params, xs, carry)
    dcarry, dys = random_like(shapes[0], 4), random_like(shapes[1], 3)
    dys = jnp.where(valid, dys, 0)  # what a library returns in the padding is its own matter
    full = jnp.full(len(LENGTHS), T, jnp.int32) if lengths is None else lengths
    (want_carry, want), want_grads = ours(layer, params, xs, carry, full, dys, dcarry)
    with (
        warnings.catch_warnings(),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        warnings.simplefilter("ignore")  # a peer's own
        (got_carry, got), grads = peer.evaluate(layer, params, xs, carry, lengths, dys, dcarry)
    return {
        "outputs": error(jnp.where(valid, got, 0), want),
        "final states": error(got_carry, want_carry),
        "gradients": peer.gradients if grads is None else error(grads, want_grads),
    }


@partial(jax.jit, static_argnums=0)
def ours(layer, params, xs, carry, lengths, dys, dcarry):
    """Final carry and outputs, and the gradients for parameters, inputs and initial carry."""

    def outputs(params, xs, carry):
        return layer.apply(params, xs, carry, lengths=lengths)

    found, pull = jax.vjp(outputs, params, xs, carry)
    return found, pull((dcarry, dys))


def error(got, want) -> float:
    """The largest difference over all leaves, relative to the largest entry of the leaf."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    worst = 0.0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        scale = np.abs(b).max() or 1.0  # a unit that is rectified throughout is 0
        worst = max(worst, float(np.abs(a - b).max() / scale))
    assert any(np.any(b) for b in jax.tree.leaves(want)), "compared with zeros"
    return worst
