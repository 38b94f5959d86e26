"""A layer that cuDNN's kernel runs.

Axes: `T` time, `*B` any batch axes, `N` rows, which are all of those, `I` input features, `F`
output features, `L` layers, `D` directions, `H` features of a cell.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gatedrnn._interop.carries import carry_from_states, states_from_carry
from gatedrnn._interop.conventions import CUDNN
from gatedrnn._interop.cudnn import equal_layers, levels_of, packed
from gatedrnn._interop.networks import directions_of
from gatedrnn._interop.supported import cannot
from gatedrnn._src import validation
from gatedrnn._src.base import Carry, Cell, Params
from gatedrnn._src.layers.base import Layer
from gatedrnn._src.layers.combinators import Around
from gatedrnn._src.layers.context import Context
from gatedrnn._src.layers.recurrent import as_layer
from gatedrnn._src.time.bptt import BPTT


@dataclasses.dataclass(frozen=True, repr=False)
class CuDNN(Around):
    """A layer that cuDNN's kernel runs; made by `gr.cudnn`.

    Attributes:
      layer: the layer whose function it is.
    """

    layer: Layer

    masks_outputs = True
    flips = False  # the kernel has no vmap

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in equal_layers(self.layer):
            for one in directions_of(part):
                if one.bptt != BPTT():
                    raise cannot(
                        self.layer, CUDNN, f"its backward pass has no options, {one.bptt!r}"
                    )

    def run(self, params: Params, xs: Array, carry: Carry, context: Context) -> tuple[Carry, Array]:
        """Return the final carry and the outputs `[T, *B, F]`."""
        carry, ys, _ = self._run(params, xs, carry, context)
        return carry, ys

    def run_final(
        self, params: Params, xs: Array, carry: Carry, context: Context
    ) -> tuple[Carry, Array]:
        """Return the final carry and the output that belongs to it, `[*B, F]`."""
        carry, _, y = self._run(params, xs, carry, context)
        return carry, y

    def _run(
        self, params: Params, xs: Array, carry: Carry, context: Context
    ) -> tuple[Carry, Array, Array]:
        """The final carry, the outputs `[T, *B, F]`, and those of the final carry, `[*B, F]`."""
        mask, lengths = context.mask, context.lengths
        if context.resets is not None:
            raise ValueError(f"resets: got them for {self!r}, expected None: its kernel has none")
        if xs.dtype != jnp.float32:
            raise TypeError(f"xs: got dtype {xs.dtype.name}, expected float32 for {self!r}")
        levels = levels_of(self.layer, params, xs)
        length, *batch_shape, in_features = xs.shape
        _check_platform()
        directions, features = len(levels[0]), levels[0][0].cell.features
        rows = math.prod(batch_shape)
        if length == 0 or rows == 0:
            y = jnp.zeros((*batch_shape, directions * features), xs.dtype)
            return carry, jnp.zeros((length, *y.shape), xs.dtype), y

        sequences = xs.reshape(length, rows, in_features)
        order, valid = None, jnp.full(rows, length, jnp.int32)
        if lengths is not None:  # the valid steps of a row are its first
            # clipped as a mask is: in a trace nobody has checked them, and the kernel does not
            valid = jnp.clip(lengths.reshape(rows), 0, length).astype(jnp.int32)
        elif mask is not None:  # in either direction, a masked step might as well not be there
            steps = mask.reshape(length, rows)
            valid = jnp.sum(steps, axis=0, dtype=jnp.int32)
            order = jnp.argsort(~steps, axis=0, stable=True)
            sequences = _along_time(sequences, order)
        before = [leaf.reshape(-1, rows, features) for leaf in states_from_carry(self.layer, carry)]
        ys, *after = _kernel(
            jnp.swapaxes(sequences, 0, 1),
            before,
            packed(levels),
            jnp.maximum(valid, 1),  # a row without a step is sorted out below
            input_size=in_features,
            hidden_size=features,
            num_layers=len(levels),
            bidirectional=directions == 2,
        )
        ys = jnp.swapaxes(ys, 0, 1)
        if order is not None:
            ys = _along_time(ys, jnp.argsort(order, axis=0))
        ys = validation.zero_masked(ys.reshape(*xs.shape[:-1], -1), mask)
        any_step = (valid > 0)[:, None]
        y = jnp.where(any_step, jnp.concatenate(list(after[0][-directions:]), axis=-1), 0)
        after = [
            jnp.where(any_step, new, old).reshape(-1, *batch_shape, features)
            for new, old in zip(after, before, strict=True)
        ]
        return carry_from_states(self.layer, after), ys, y.reshape(*batch_shape, -1)


def _along_time(sequences: Array, order: Array) -> Array:
    """The steps `[T, N, F]` of every row in an order `[T, N]` of its own."""
    return jnp.take_along_axis(sequences, order[..., None], axis=0)


def _kernel(
    xs: Array, states: list[Array], weights: Array, lengths: Array, **sizes: Any
) -> tuple[Array, Array, Array]:
    """`xs [N, T, I]`, `h` and `c [L·D, N, H]`, `lengths [N]` above 0 -> `ys [N, T, F]`, `h, c`."""
    from jax.experimental import rnn

    xs, *states = map(_row_major, (xs, *states))
    # any other precision allows products of TF32
    precision = jax.lax.Precision.HIGHEST
    out = rnn.lstm(xs, *states, weights, lengths, dropout=0.0, precision=precision, **sizes)
    ys, h, c = map(_row_major, out)
    return ys, h, c


def _row_major(array: Array) -> Array:
    """Return `array`, in memory with its last axis innermost, and its cotangent likewise.

    JAX does not say so of the kernel's arguments and results, so that XLA may hand it a transposed
    array as it lies, time-major, which the kernel reads as if it were batch-major.
    """
    from jax.experimental.layout import Layout, with_layout_constraint

    return with_layout_constraint(array, Layout(tuple(range(array.ndim))))


def _check_platform() -> None:
    """Raise unless what is compiled now will run on an NVIDIA GPU."""
    name, version = _platform()
    if "cuda" not in version:
        raise RuntimeError(
            f"gr.cudnn: got the platform {name!r}, expected an NVIDIA GPU, with JAX installed for "
            "it: cuDNN runs nowhere else; the layer inside has the same parameters and runs here"
        )


def _platform() -> tuple[str, str]:
    """The name and the version of the platform where JAX runs what says nothing else."""
    device = getattr(jax.config, "jax_default_device", None) or jax.local_devices()[0]
    if isinstance(device, str):
        device = jax.local_devices(backend=device)[0]
    return device.platform, device.client.platform_version


def cudnn(layer: Layer | Cell) -> CuDNN:
    """A layer that computes what `layer` does by cuDNN's LSTM, on an NVIDIA GPU and in float32.

    Parameters, carries, `init`, `carry`, `out_features` and `step` (which is the layer's own, and
    runs anywhere) are those of `layer`: either may go on with what the other has trained. The
    kernel is that of `jax.experimental.rnn`, at its highest precision, so that it differs from the
    exact result by the rounding of float32 only; our own products on a GPU do so under
    `jax.default_matmul_precision("highest")`. `gr.cudnn(net) if jax.default_backend() == "gpu" else
    net` is one model.

    Batch axes, `lengths` and masks of any pattern mean what they mean to `layer`. Lengths are the
    kernel's own. For a `mask` the valid steps are gathered in front and their outputs put back,
    once for each `gr.cudnn`; so wrap a whole stack rather than every layer in it.

    The backward pass is cuDNN's. There is no second derivative, no forward mode, no `jax.vmap` (add
    a batch axis instead) and no rule for sharding: JAX has none for the kernel.

    Args:
      layer: `gr.LSTM` without peepholes, projection or coupled gates, `gr.recurrent` over one with
        any initial carry, `gr.bidirectional` that concatenates, or a stack or repeat of such
        layers, all equal in size and without options for the backward pass.

    Raises:
      TypeError: neither a layer nor a cell; at `apply`, inputs or parameters not in float32.
      ValueError: a layer that cuDNN does not have, and why; at `apply`, resets, or what does not
        fit `layer`.
      RuntimeError: at `apply`, no NVIDIA GPU.

    Example:
      >>> net = gr.cudnn(gr.stack(gr.LSTM(4), gr.LSTM(4)))
      >>> net.out_features(3)  # runs on an NVIDIA GPU
      4
    """
    return CuDNN(as_layer(layer))
