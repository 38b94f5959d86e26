"""Jacobians of steps, their products over time, and the growth of perturbations.

Axes: `T` time, `*B` any batch axes (also none), `I` input features, `K` elements of the carry, or
of one leaf, in one row. `J[..., i, j]` is the derivative of element `i` after the step by
element `j` before it: for an Elman network `diag(f'(a_t)) Wᵀ`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from gatedrnn._src import checks, placement, validation
from gatedrnn._src.base import Carry, Cell, Params, is_shared
from gatedrnn._src.cells.elman import Elman, ElmanParams
from gatedrnn._src.describe import shown
from gatedrnn._src.diagnostics.step_inputs import StepInputs, step_inputs
from gatedrnn._src.diagnostics.vectors import check_leaf, flatten, unflatten
from gatedrnn._src.numerics import ACTIVATIONS, accumulator
from gatedrnn._src.placement import ROWS, STEPS
from gatedrnn._src.pytree import where
from gatedrnn._src.time.unroll import Options


def step_jacobians(
    cell: Cell,
    params: Params,
    xs: Array,
    carry: Carry | None = None,
    *,
    leaf: str | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_carry: Carry | None = None,
    reverse: bool = False,
) -> Array:
    """The Jacobian `∂carry_t/∂carry_{t−1}` of every step, by autodiff of `cell.step`.

    Args:
      cell: any cell.
      params: parameters of the cell.
      xs: `[T, *B, I]`.
      carry: the initial carry; this and all further arguments but `leaf` are those of `gr.unroll`.
      leaf: the name of one leaf, such as `"c"`: its derivative by itself, with all other leaves
        fixed. None: the whole carry, its leaves side by side.
      lengths: `[*B]`.
      mask: `[T, *B]`; a masked step keeps the carry: the identity.
      resets: `[T, *B]`; a step that starts from the reset carry: zeros.
      reset_carry: the carry after a reset.
      reverse: run from the end: then `∂carry_t/∂carry_{t+1}`.

    Returns:
      `[T, *B, K, K]` in at least float32.

    Raises:
      ValueError: an unknown leaf, and the cases of `gr.unroll`.
      TypeError: the cases of `gr.unroll`.

    Example:
      >>> cell, xs = gr.LSTM(3), jnp.ones((4, 5, 2))
      >>> params = cell.init(jax.random.key(0), in_features=2)
      >>> gr.diagnostics.step_jacobians(cell, params, xs).shape  # of h and c together
      (4, 5, 6, 6)
      >>> gr.diagnostics.step_jacobians(cell, params, xs, leaf="c").shape
      (4, 5, 3, 3)
    """
    validation.check_cell(cell)
    check_leaf(cell, leaf)
    options = Options(lengths, mask, resets, reset_carry, reverse)
    inputs = step_inputs(cell, params, xs, carry, options)
    return _step_jacobians(cell, leaf, params, inputs)


@functools.partial(jax.jit, static_argnames=("cell", "leaf"))
def _step_jacobians(cell: Cell, leaf: str | None, params: Params, inputs: StepInputs) -> Array:
    def jacobian(before: Carry, x: Array) -> Array:
        def advance(state: Array) -> Array:
            new, _ = cell.step(params, unflatten(state, before, leaf), x)
            return flatten(new, 0, leaf)

        return jax.jacrev(advance)(flatten(before, 0, leaf))

    axes = jax.tree.map(lambda v: None if is_shared(v) else 0, inputs.before, is_leaf=is_shared)
    for _ in range(inputs.xs.ndim - 2):
        jacobian = jax.vmap(jacobian, in_axes=(axes, 0))
    jacobians = jax.vmap(jacobian)(inputs.before, inputs.xs)  # over time, also what rows share
    jacobians = where(inputs.starts, jnp.zeros_like(jacobians), jacobians)
    if inputs.mask is None:
        return jacobians
    identity = jnp.eye(jacobians.shape[-1], dtype=jacobians.dtype)
    return where(inputs.mask, jacobians, jnp.broadcast_to(identity, jacobians.shape))


def singular_values(jacobians: Array) -> Array:
    """The singular values of every matrix, the largest first.

    Args:
      jacobians: `[..., K, K]`.

    Returns:
      `[..., K]`. The first is the spectral norm, the largest growth of a perturbation.

    Raises:
      ValueError: matrices that are not square.

    Example:
      >>> gr.diagnostics.singular_values(jnp.diag(jnp.array([0.5, -2.0]))).tolist()
      [2.0, 0.5]
    """
    return jnp.linalg.svd(as_matrices(jacobians, 2), compute_uv=False)


def product_jacobians(jacobians: Array) -> Array:
    """The products `J_T … J_{t+1}` of step Jacobians: `∂carry_T/∂carry_t` for every `t`.

    Args:
      jacobians: `[T, *B, K, K]`, in the order in which the steps ran.

    Returns:
      `[T, *B, K, K]`, at index `t` from 0 to `T − 1`: the initial carry is index 0, and the
      distance is `T − t`. The spectral norms are `singular_values(products)[..., 0]`.

    Raises:
      ValueError: matrices that are not square.

    Example:
      >>> jacobians = jnp.full((3, 1, 1), 0.5)
      >>> products = gr.diagnostics.product_jacobians(jacobians)
      >>> gr.diagnostics.singular_values(products)[..., 0].tolist()
      [0.125, 0.25, 0.5]
    """
    jacobians = as_matrices(jacobians, 3)
    return _products(jacobians)


@jax.jit
def _products(jacobians: Array) -> Array:
    return lax.associative_scan(jnp.matmul, jacobians, reverse=True)


def jacobian_bound(cell: Elman, params: ElmanParams, steps: int) -> Array:
    """The bound `(γλ)^{T−t}` on the spectral norm of `∂h_T/∂h_t` in an Elman network.

    `γ = max|f'|`: 1 for tanh, relu and the identity, 1/4 for the logistic function; `λ` is the
    largest singular value of `W`. For a vanishing gradient `λ < 1/γ` is sufficient; for an
    exploding gradient `λ > 1/γ` is necessary, not sufficient (Pascanu et al. 2013).

    Args:
      cell: an Elman network.
      params: parameters of the network.
      steps: `T`.

    Returns:
      `[T]`, at the indices of `product_jacobians`.

    Raises:
      TypeError: another cell.
      ValueError: steps below 1.

    Example:
      >>> cell = gr.Elman(2)  # tanh: γ = 1
      >>> params = cell.init(jax.random.key(0), in_features=3)
      >>> params = params._replace(recurrent_kernel=0.5 * jnp.eye(2))  # λ = 1/2
      >>> gr.diagnostics.jacobian_bound(cell, params, steps=3).tolist()
      [0.125, 0.25, 0.5]
    """
    if not isinstance(cell, Elman):
        raise TypeError(
            f"cell: got {shown(cell)}, expected a gr.Elman: the bound is that of its step"
        )
    checks.size("steps", steps)
    if not isinstance(params, ElmanParams):
        raise TypeError(f"params: got {shown(params)}, expected ElmanParams")
    kernel = validation.as_array("params.recurrent_kernel", params.recurrent_kernel)
    validation.check_floating("params.recurrent_kernel", kernel)
    if kernel.shape != (cell.features, cell.features):
        raise ValueError(
            f"params.recurrent_kernel: got shape {kernel.shape}, expected "
            f"{(cell.features, cell.features)} for {cell!r}"
        )
    largest = singular_values(kernel.astype(accumulator(kernel.dtype)))[0]
    distance = jnp.arange(steps, 0, -1).astype(largest.dtype)
    return (ACTIVATIONS[cell.activation].steepest * largest) ** distance


def lyapunov_exponents(jacobians: Array, *, warm_up: int = 0, dt: float = 1.0) -> Array:
    """The Lyapunov exponents along a trajectory: the rates of growth of perturbations.

    By QR decomposition (Benettin et al. 1980): a frame of perturbations goes through the step
    Jacobians, `J_t Q_{t−1} = Q_t R_t`, and the exponents are the means of `log|diag R_t|`.

    Args:
      jacobians: `[T, *B, K, K]`, of any map, such as those of `step_jacobians`. All steps count, so
        leave padding out.
      warm_up: the number of first steps that turn the frame and do not count.
      dt: the length of a step in units of time.

    Returns:
      `[*B, K]`, per unit of time, the largest first: above 0 the network is chaotic along this
      trajectory, below 0 it forgets; -inf where a step loses a direction altogether.

    Raises:
      ValueError: matrices that are not square, a `warm_up` that leaves no step, or a `dt` that is
        not above 0.

    Example:
      >>> jacobians = jnp.tile(jnp.diag(jnp.array([0.5, 2.0])), (4, 1, 1))  # the same at each step
      >>> exponents = gr.diagnostics.lyapunov_exponents(jacobians)
      >>> print(np.asarray(exponents).round(3))  # log 2 and log 1/2
      [ 0.693 -0.693]
    """
    jacobians = as_matrices(jacobians, 3)
    checks.count("warm_up", warm_up)
    if not warm_up < len(jacobians):
        raise ValueError(
            f"warm_up: got {warm_up}, expected an integer from 0 to {len(jacobians) - 1}, fewer "
            "than the steps of jacobians"
        )
    checks.number("dt", dt, above=0)
    rows = placement.rows_of("jacobians", jacobians, 1, jacobians.ndim - 3, ())
    made = placement.on_mesh(_exponents, (warm_up,), (jacobians,), (STEPS,), ROWS, rows)
    return made / dt


@functools.partial(jax.jit, static_argnames="warm_up")
def _exponents(warm_up: int, jacobians: Array) -> Array:
    def step(frame: Array, jacobian: Array) -> tuple[Array, Array]:
        frame, r = jnp.linalg.qr(jacobian @ frame)
        return frame, jnp.log(jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1)))

    shape = jacobians.shape[1:]
    start = jnp.broadcast_to(jnp.eye(shape[-1], dtype=jacobians.dtype), shape)
    _, rates = lax.scan(step, start, jacobians)
    return -jnp.sort(-jnp.mean(rates[warm_up:], axis=0), axis=-1)


def as_matrices(jacobians: Array, axes: int) -> Array:
    """Return square matrices as an array; raise for other matrices or fewer than `axes` axes."""
    jacobians = validation.as_array("jacobians", jacobians)
    validation.check_floating("jacobians", jacobians)
    shape = jacobians.shape
    if len(shape) < axes or shape[-1] != shape[-2]:
        expected = "[..., K, K]" if axes == 2 else "[T, *B, K, K]"
        raise ValueError(f"jacobians: got shape {shape}, expected {expected}")
    return jacobians
