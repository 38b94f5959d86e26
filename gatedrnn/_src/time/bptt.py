"""The options of the backward pass through time: one frozen value."""

import dataclasses
from typing import Literal

from gatedrnn._src import checks
from gatedrnn._src.base import Cell, Route, rule_of
from gatedrnn._src.describe import short_repr, shown
from gatedrnn._src.target import Target, default_target

Saved = Literal["carries", "gates", "boundaries"]


@dataclasses.dataclass(frozen=True, repr=False)
class BPTT:
    """Back-propagation through time, exact by default; every field holds on both routes.

    The routes are the cell's hand-derived rule and autodiff. With `truncate` or `cell_path_only`
    the gradient is not exact: the routes agree on the gradient, but not on second derivatives. By
    the rule these differentiate the function that the rule computes; autodiff leaves the paths that
    are cut out of the forward pass too.

    Attributes:
      rule: None takes the cell's hand-derived rule, or autodiff for a cell without a rule; `"hand"`
        insists on the rule; `"autodiff"` differentiates the loop itself. A hand-derived rule is
        reverse mode: `jax.jvp` and `jax.jacfwd` straight through `unroll`, and the function that
        `jax.linearize` returns, raise "can't apply forward-mode autodiff (jvp) to a custom_vjp
        function"; use `rule="autodiff"` for those. Forward over reverse (`jax.jvp` of `jax.grad`,
        `jax.hessian`) and reverse over reverse work on both routes.
      chunk: the number of steps that the engine projects, linearizes and contracts at once, at
        least 1, at most `T`; a remainder is one shorter chunk. None: a twentieth of `T`, between
        bounds on the bytes of a chunk; on a GPU or TPU the whole sequence, within such bounds.
        Where sizes are symbols of `jax.export` the whole sequence; a number is refused there if `T`
        is a symbol.
      truncate: `k`: the gradient that crosses between array positions `jk−1` and `jk` is zero, in
        both directions of time and for any chunk or mask (Williams & Peng 1990). The forward pass
        and the gradient within each window of `k` steps are unchanged.
      cell_path_only: cut the gradient through the recurrent input for the state, and keep it for
        the weights: the truncation of the 1997 LSTM paper. Not exact; Elman and Jordan networks
        and cells without a rule have no such path.
      clip: bound every element of `δcarry` to `[−clip, clip]` as it leaves a step of the backward
        pass (Graves 2013). No forward mode on either route.
      save: the values that the forward pass keeps. `"carries"`: the carry of every step; gates are
        computed again, for a whole chunk at once. `"gates"`: the gates too, for about twice the
        memory with an LSTM or a GRU. `"boundaries"`: only the carry at the start of each chunk,
        whose forward pass runs again. On the autodiff route: `jax.checkpoint` of each step, none,
        and `jax.checkpoint` of each chunk.
        None: `"gates"` on a CPU, where that is faster, as long as the carries and gates
        of all steps of one recurrence, of one example under `vmap`, are at most 256 MiB, and gates
        at most four times as many values as carries (attention and layer normalisation have more).
        Otherwise, on a GPU or TPU, where sizes are symbols, and on the autodiff route `"carries"`.
      target: the kind of device to be fast on, `"cpu"`, `"gpu"` or `"tpu"`: the chunks, the layout
        of kernels and the loops follow it. None: the kind on which JAX runs by default
        (`jax.default_backend()`, `jax.default_device`), or that of the mesh in use. A program gives
        the right values on every device; say the target when it is compiled for another than the
        default one.
      kernel: `"scan"` runs the steps by `jax.lax.scan`, as several operations each; `"pallas"` runs
        all steps of a chunk in one kernel, on a GPU or TPU, and raises where it cannot; the name of
        a kernel that the cell's own rule brings (`gr.Rule`) likewise. None: a kernel where one fits
        and is known to be faster on this device, an LSTM's on an H100 or H200, else the scan.
        Kernels take part in every derivative that the rule has. Whether there is one is asked of
        the target; where the program is then lowered for another platform, the steps go by the
        scan. `jax.export` on a GPU, and lowering for several platforms at once, need `"scan"`: JAX
        promises nothing about programs with kernels.

    Raises:
      ValueError: an unknown option, a number out of range, or a kernel that cannot run the cell.

    Example:
      >>> gr.BPTT(truncate=2, save="gates")
      BPTT(truncate=2, save='gates')
      >>> cell = gr.Elman(1, activation="identity", use_bias=False)
      >>> params = gr.ElmanParams(jnp.ones((1, 1)), jnp.ones((1, 1)), None)  # h' = h + x
      >>> last = lambda xs, bptt: gr.unroll(cell, params, xs, bptt=bptt)[1][-1, 0]
      >>> jax.grad(last)(jnp.ones((4, 1)), gr.BPTT(truncate=2))[:, 0].tolist()
      [0.0, 0.0, 1.0, 1.0]
    """

    rule: Route | None = None
    chunk: int | None = None
    truncate: int | None = None
    cell_path_only: bool = False
    clip: float | None = None
    save: Saved | None = None
    kernel: str | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        checks.option("rule", self.rule, Route | None)
        if self.chunk is not None:
            checks.sizes(self, "chunk")
        if self.truncate is not None:
            checks.sizes(self, "truncate")
        checks.flag("cell_path_only", self.cell_path_only)
        if self.clip is not None:
            checks.number("clip", self.clip, above=0)
            object.__setattr__(self, "clip", float(self.clip))  # NumPy's would promote
        checks.option("save", self.save, Saved | None)
        checks.option("target", self.target, Target | None)
        if self.kernel is not None and not isinstance(self.kernel, str):
            raise TypeError(f"kernel: got {shown(self.kernel)}, expected a name or None")
        if self.kernel not in (None, "scan") and self.rule == "autodiff":
            raise ValueError(
                f"kernel: got {shown(self.kernel)}, expected None or 'scan' with rule='autodiff', "
                "which differentiates the loop itself"
            )

    def __repr__(self) -> str:
        """Return the call that makes the value, with the fields that differ from their defaults."""
        return short_repr(self)


def target_of(bptt: BPTT) -> Target:
    """Return the kind of device that a recurrence is compiled for."""
    return bptt.target or default_target()


def check_bptt(cell: Cell, bptt: BPTT) -> None:
    """Raise unless `cell` has the backward pass that `bptt` asks for."""
    if not isinstance(bptt, BPTT):
        raise TypeError(f"bptt: got {shown(bptt)}, expected a gr.BPTT")
    rule = rule_of(cell)
    if bptt.rule == "hand" and rule is None:
        raise ValueError(f"rule: got 'hand', expected None or 'autodiff': {cell!r} has no rule")
    if bptt.cell_path_only and (rule is None or not rule.has_cell_path):
        raise ValueError(
            f"cell_path_only: got True, expected False: {cell!r} has no path from state to state "
            "beside its recurrent input"
        )
    if bptt.kernel not in (None, "scan"):
        target = target_of(bptt)
        names = [k.name for k in rule.kernels if k.target == target] if rule else []
        if bptt.kernel not in names:
            expected = ", ".join(["None", *map(repr, sorted({"scan", *names}))])
            raise ValueError(
                f"kernel: got {bptt.kernel!r}, expected one of {expected} for {cell!r} on a "
                f"{target.upper()} (`target`)"
            )
