"""How the backward pass through time runs: one frozen value."""

import dataclasses
from typing import Literal

from gatedrnn._src import checks
from gatedrnn._src.base import Cell, Route, rule_of
from gatedrnn._src.describe import short_repr

Saved = Literal["carries", "gates", "boundaries"]


@dataclasses.dataclass(frozen=True, repr=False)
class BPTT:
    """Back-propagation through time, exact by default; every field holds on both routes.

    With `truncate` or `cell_path_only`, which are not the exact gradient, the routes agree on it
    but not on its own derivative: the rule's is that of the function that the rule computes,
    autodiff's leaves out what was cut in the forward pass too.

    Attributes:
      rule: None takes the cell's hand-derived rule if it has one and autodiff if not; `"hand"`
        insists on the rule; `"autodiff"` differentiates the loop itself. A hand-derived rule is
        reverse mode: `jax.jvp` and `jax.jacfwd` straight through `unroll`, and what `jax.linearize`
        returns, raise "can't apply forward-mode autodiff (jvp) to a custom_vjp function"; use
        `rule="autodiff"` for those. Forward over reverse (`jax.jvp` of `jax.grad`, `jax.hessian`)
        and reverse over reverse work on both routes.
      chunk: how many steps the engine projects, linearizes and contracts at once, at least 1; `T`
        if that is less; a remainder is one shorter chunk. None: a twentieth of `T`, between bounds
        on the bytes that a chunk makes.
      truncate: `k`, to set the gradient that crosses between array positions `jk−1` and `jk` to
        zero, in both directions, whatever the chunk or mask (Williams & Peng 1990); the forward
        pass and the gradient of the initial carry's own window are unchanged.
      cell_path_only: cut the gradient through the recurrent input for the state and keep it for
        the weights: the truncation of the 1997 LSTM paper. Not exact; Elman and Jordan networks
        and cells without a rule have no such path.
      clip: bound every element of `δcarry` to `[−clip, clip]` as it leaves a step of the backward
        pass (Graves 2013). No forward mode on either route.
      save: what the forward pass keeps. `"carries"`: the carry of every step; gates are computed
        again, for a whole chunk at once. `"gates"`: the gates too; faster where products dominate,
        for twice the memory and a little more. `"boundaries"`: only the carry at the start of each
        chunk, whose forward pass runs again. On the autodiff route, the same by `jax.checkpoint`
        of a step, not at all, and of a chunk.

    Raises:
      ValueError: an unknown option, or a number out of range.
    """

    rule: Route | None = None
    chunk: int | None = None
    truncate: int | None = None
    cell_path_only: bool = False
    clip: float | None = None
    save: Saved = "carries"

    def __post_init__(self) -> None:
        checks.option("rule", self.rule, Route | None)
        if self.chunk is not None:
            checks.size("chunk", self.chunk)
        if self.truncate is not None:
            checks.size("truncate", self.truncate)
        checks.flag("cell_path_only", self.cell_path_only)
        if self.clip is not None:
            checks.number("clip", self.clip, above=0)
            object.__setattr__(self, "clip", float(self.clip))  # NumPy's would promote
        checks.option("save", self.save, Saved)

    def __repr__(self) -> str:
        """The call that makes the value, with what differs from the defaults."""
        return short_repr(self)


def check_bptt(cell: Cell, bptt: BPTT) -> None:
    """Raise unless the backward pass that `bptt` asks for is one that `cell` has."""
    if not isinstance(bptt, BPTT):
        raise TypeError(f"bptt: got {bptt!r}, expected a gr.BPTT")
    rule = rule_of(cell)
    if bptt.rule == "hand" and rule is None:
        raise ValueError(f"rule: got 'hand', expected None or 'autodiff': {cell!r} has no rule")
    if bptt.cell_path_only and (rule is None or not rule.has_cell_path):
        raise ValueError(
            f"cell_path_only: got True, expected False: {cell!r} has no path from state to state "
            "beside its recurrent input"
        )
