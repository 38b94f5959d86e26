"""A memory of encoded positions, bound to parameters, and the alignment of a step with the memory.

Axes: `S` positions, `*B` any batch axes, `...` any leading axes, `I` inputs, `F` outputs of the
inner cell, `M` memory features, `Q` query features, `A` attention features.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src import placement, validation
from gatedrnn._src.base import Bound, Carry, Params
from gatedrnn._src.describe import documented, shown
from gatedrnn._src.numerics import accumulator, dot, for_cotangents, over_leading
from gatedrnn._src.placement import ROWS, STEPS, WHOLE
from gatedrnn._src.pytree import first_leaf


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory(Bound):
    """Encoded positions, in the layout that each step reads: batch axes first.

    The memory stands among the parameters, not in the carry: a loop over time then reads the memory
    without saving it at every step, sums the gradient like that of a weight, and beams share the
    memory.
    """

    values: Array  # [*B, S, M]
    keys: Array  # [*B, S, A]
    valid: Array  # [*B, S], 1 or 0, in the dtype of the parameters

    @property
    def batch_axes(self) -> int:
        """Return those of the sources."""
        return self.valid.ndim - 1

    def check(self, name: str) -> None:
        """Raise unless the memory holds arrays as `gr.attend` makes them."""
        for field in dataclasses.fields(self):
            array = validation.as_array(f"{name}.{field.name}", getattr(self, field.name))
            validation.check_floating(f"{name}.{field.name}", array)


@documented
class AttentionParams(NamedTuple):
    """The parameters of a cell with attention.

    Attributes:
      cell: the parameters of the inner cell, which reads `[x, m̂] [..., I + M]`.
      memory_kernel: `W_m [M, A]`, from a position to its key.
      query_kernel: `W_q [Q, A]`, from the inner state to the query.
      score: `v [A]`, from the comparison to the energy.
      memory: the encoded positions that `gr.attend` binds; None from `init`.

    Example:
      >>> cell = gr.Attention(gr.GRU(3), memory_features=4, features=2)
      >>> params = cell.init(jax.random.key(0), in_features=5)
      >>> params.cell.kernel.shape, params.memory_kernel.shape, params.query_kernel.shape
      ((9, 9), (4, 2), (3, 2))
    """

    cell: Params
    memory_kernel: Array
    query_kernel: Array
    score: Array
    memory: Memory | None = None


@documented
class AttentionCarry(NamedTuple):
    """The state between the steps of a cell with attention.

    Attributes:
      output: `[y, m̂] [*B, F + M]`, which the next step does not read; None without a rule.
      cell: the carry of the inner cell, of which the first leaf `[*B, Q]` is the query.

    Example:
      >>> carry = gr.Attention(gr.GRU(3), memory_features=4, features=2).carry((6,))
      >>> carry.output.shape, carry.cell.h.shape
      ((6, 7), (6, 3))
    """

    output: Array | None
    cell: Carry


# The equations (Bahdanau, Cho & Bengio 2015), over the positions s of a memory, k_s = m_s W_m, in a
# step from the inner state s_{t-1}:
#
#   q_t = s_{t-1} W_q      u_ts = tanh(k_s + q_t)      e_ts = u_ts · v      α_t = softmax_s e_ts
#   m̂_t = Σ_s α_ts m_s
#
# The softmax is over valid positions; without any, α_t = 0 and m̂_t = 0.


def check_memory(params: AttentionParams, x: Array | None) -> None:
    """Raise unless there is a memory, with the batch axes of `x [..., *B, I]`."""
    if not isinstance(params.memory, Memory):
        raise ValueError(
            f"params.memory: got {shown(params.memory)}, expected parameters that gr.attend has "
            "bound to a memory"
        )
    _check_parameters(params)
    params.memory.check("params.memory")
    rows = params.memory.valid.shape
    for name, size in (("values", params.memory_kernel.shape[0]), ("keys", params.score.shape[0])):
        got = getattr(params.memory, name).shape
        if got != (*rows, size):
            raise ValueError(f"params.memory.{name}: got shape {got}, expected {(*rows, size)}")
    batch_shape = params.memory.valid.shape[:-1]
    got = None if x is None else x.shape[:-1]
    if got is not None and got[len(got) - len(batch_shape) :] != batch_shape:
        raise ValueError(
            f"params.memory: got batch axes {batch_shape}, expected the last of {got}, as xs has"
        )


def _check_parameters(params: AttentionParams) -> None:
    """Raise unless the attention's own parameters are arrays whose shapes go together."""
    axes = {"memory_kernel": "[M, A]", "query_kernel": "[Q, A]", "score": "[A]"}
    arrays = {name: getattr(params, name) for name in axes}
    for name, array in arrays.items():
        validation.check_floating(
            f"params.{name}", validation.as_array(f"params.{name}", array, f"an array {axes[name]}")
        )
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    features = shapes["memory_kernel"][-1:]
    for name, shape in shapes.items():
        if len(shape) != axes[name].count(",") + 1 or shape[-1:] != features:
            raise ValueError(
                f"params.{name}: got shape {shape}, expected {axes[name]} with A = {features[0]}, "
                "as memory_kernel has"
            )


class Alignment(NamedTuple):
    """The alignment of one step with the positions of the memory."""

    u: Array  # the comparisons [..., S, A]
    weights: Array  # α [..., S]
    context: Array  # m̂ [..., M]


def align(params: AttentionParams, carry: Carry) -> Alignment:
    """Return the alignment of a step from the inner `carry`; leading axes share the memory."""
    assert params.memory is not None
    values, keys = params.memory.values, params.memory.keys
    valid = params.memory.valid
    q = dot(first_leaf(carry), params.query_kernel)
    q = q[..., None, :]
    u = jnp.tanh(over_leading(keys, q) + q)
    e = u @ params.score.astype(u.dtype)
    weights = _softmax(e, over_leading(valid, e) > 0)
    context = jnp.einsum(
        "...s,...sm->...m",
        weights.astype(values.dtype),
        values,
        preferred_element_type=accumulator(values.dtype),
    )
    return Alignment(u, weights, context)


def _softmax(e: Array, valid: Array) -> Array:
    """Return the softmax over the valid entries of the last axis; zeros where there are none."""
    constant = lax.stop_gradient(e)
    least = jnp.finfo(e.dtype).min
    greatest = jnp.max(constant, axis=-1, keepdims=True, where=valid, initial=least)
    # what is not valid becomes exp(0), not an overflow that a gradient would carry on
    raised = jnp.exp(jnp.where(valid, e - greatest, 0))
    raised = jnp.where(valid, raised, 0)
    summed = jnp.sum(raised, axis=-1, keepdims=True)
    return raised / jnp.where(summed > 0, summed, 1)


def attend(
    params: Params, memory: Array, *, lengths: Array | None = None, mask: Array | None = None
) -> Params:
    """Bind `memory` to every `gr.Attention` in `params`.

    Computes the keys `m W_m` once for all steps. Bind inside the loss, so that the gradient reaches
    the encoder and `W_m`; an optimiser holds the parameters without a memory.

    Args:
      params: of a `gr.Attention`, or of any layer or network that contains some.
      memory: encoded positions `[S, *B, M]`, time first as an encoder returns them. Cast to the
        dtype of the parameters.
      lengths: `[*B]`, integers: row `b` has `lengths[b]` positions. Out of range as in `unroll`.
      mask: `[S, *B]`, booleans, instead of `lengths`. Positions that are not valid have weight
        zero, and whatever they hold, NaN included, reaches nothing.

    Returns:
      The parameters with a memory each, a different pytree than `init` returns.

    Raises:
      ValueError: parameters without an attention, or one within `gr.repeat`, whose layers have
        their parameters stacked; a memory of the wrong shape; lengths as in `unroll`.
      TypeError: a memory that is not floating-point.

    Example:
      >>> cell = gr.Attention(gr.GRU(3), memory_features=4, features=2)
      >>> params = cell.init(jax.random.key(0), in_features=5)
      >>> bound = gr.attend(params, jnp.ones((8, 6, 4), "float32"))  # 8 positions, batch of 6
      >>> params.memory is None, bound.memory.values.shape
      (True, (6, 8, 4))
    """
    memory = validation.as_array("memory", memory, "an array [S, *B, M]")
    if memory.ndim < 2:
        raise ValueError(f"memory: got shape {memory.shape}, expected [S, *B, M]")
    validation.check_floating("memory", memory)
    mask = validation.as_mask(lengths, mask, memory.shape[0], memory.shape[1:-1])
    if mask is None:
        mask = jnp.ones(memory.shape[:-1], bool)
    rows = placement.rows_of("memory", memory, 1, memory.ndim - 2, (params, mask))

    def bind(node: Any) -> Any:
        if not isinstance(node, AttentionParams):
            return node
        kernel = node.memory_kernel
        if jnp.ndim(kernel) != 2:
            raise ValueError(
                f"params: got a memory_kernel of shape {jnp.shape(kernel)}, expected [M, A]: "
                "an attention inside gr.repeat cannot be bound"
            )
        _check_parameters(node)
        if kernel.shape[0] != memory.shape[-1]:
            raise ValueError(
                f"memory: got {memory.shape[-1]} features, expected {kernel.shape[0]}, the "
                "memory_features of gr.Attention"
            )
        arguments, roles = (kernel, memory, mask), (WHOLE, STEPS, STEPS)
        return node._replace(
            cell=jax.tree.map(bind, node.cell, is_leaf=_is_attention),
            memory=placement.on_mesh(_made, (), arguments, roles, ROWS, rows),
        )

    if not has_attention(params):
        raise ValueError("params: got none of a gr.Attention, expected at least one")
    return jax.tree.map(bind, params, is_leaf=_is_attention)


def _made(kernel: Array, memory: Array, mask: Array) -> Memory:
    """Return the memory in the layout of the steps, from `[S, *B, M]` and `mask [S, *B]`."""
    memory = jnp.moveaxis(validation.zero_masked(memory, mask), 0, -2)
    values = memory.astype(kernel.dtype)
    keys = dot(values, kernel).astype(for_cotangents(kernel.dtype))
    return Memory(values, keys, jnp.moveaxis(mask, 0, -1).astype(kernel.dtype))


def attention_weights(params: Params, carry: Carry) -> Array:
    """Return the weights `α` of the step that starts from `carry`, for pictures and for losses.

    The weights follow from the query, and so from the carry **before** the step: no step has to
    keep them. For many steps at once, stack their carries in front: `gr.trajectory` returns the
    carry after each step, so shift by one.

    Args:
      params: the parameters of a cell or network with exactly one `gr.Attention`, bound by
        `gr.attend`.
      carry: the carry of the same cell or network, with leaves `[..., *B, n]`.

    Returns:
      `[..., *B, S]`, in at least float32; rows sum to 1, or to 0 where no position is valid.

    Raises:
      ValueError: no attention or more than one, or one without a memory.

    Example:
      >>> cell = gr.Attention(gr.GRU(3), memory_features=4, features=2)
      >>> params = cell.init(jax.random.key(0), in_features=5)
      >>> bound = gr.attend(params, jnp.ones((8, 6, 4), "float32"))  # 8 positions, batch of 6
      >>> gr.attention_weights(bound, cell.carry((6,))).shape
      (6, 8)
    """
    found = [
        [node for node in jax.tree.leaves(tree, is_leaf=_is_attention) if _is_attention(node)]
        for tree in (params, carry)
    ]
    for name, nodes in zip(("params", "carry"), found, strict=True):
        if len(nodes) != 1:
            raise ValueError(f"{name}: got {len(nodes)} of a gr.Attention, expected one")
    (attention,), (at,) = found
    if not isinstance(attention, AttentionParams):
        raise ValueError(f"params: got {shown(params)}, expected those of a gr.Attention")
    if not isinstance(at, AttentionCarry):
        raise ValueError(f"carry: got {shown(carry)}, expected that of a gr.Attention")
    check_memory(attention, None)
    if not jax.tree.leaves(at.cell):
        raise ValueError(f"carry: got {shown(carry)}, expected one with an inner state")
    query = first_leaf(validation.as_arrays("carry", at.cell))
    validation.check_floating("carry", query)
    if query.ndim < 1 or query.shape[-1] != attention.query_kernel.shape[0]:
        raise ValueError(
            f"carry: got a first leaf of shape {query.shape}, expected [..., *B, Q] with Q = "
            f"{attention.query_kernel.shape[0]}, as params.query_kernel has"
        )
    return align(attention, at.cell).weights


def has_attention(params: Params) -> bool:
    """Return True if there is a `gr.Attention` anywhere in `params`."""
    return any(map(_is_attention, jax.tree.leaves(params, is_leaf=_is_attention)))


def _is_attention(node: Any) -> bool:
    return isinstance(node, AttentionParams | AttentionCarry)
