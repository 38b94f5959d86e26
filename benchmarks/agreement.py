"""All candidates must answer the same before any of them is timed."""

from collections.abc import Sequence

import jax
import numpy as np

from benchmarks.program import Program

# Of the largest entry of an answer. One rounding is off by up to 2^-24 in float32, 2^-11 in TF32,
# 2^-9 in bfloat16. Over hundreds of steps candidates differ by about 1e-6 in float32 and 2e-2 in
# bfloat16; TF32 is given 40 roundings. A wrong formula, gate order or sign shows as 0.1 to 2.
TOLERANCES = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 5e-2}


def tolerance(dtype: str) -> float:
    """The bound for inputs of `dtype` here: a GPU's float32 products are TF32 by default."""
    tf32 = dtype == "float32" and jax.default_backend() == "gpu"
    return TOLERANCES["tf32" if tf32 else dtype]


def check(programs: Sequence[Program], tolerance: float) -> dict[str, float]:
    """Each program's largest relative error against the first; ValueError where it is too large.

    A program with an empty answer computes nothing comparable, and is left out.
    """
    first, *others = programs
    wanted = first.answer()
    worst = {}
    for program in others:
        answer = program.answer()
        if not answer:
            continue
        if set(answer) != set(wanted):
            raise ValueError(f"{program.name} answers {sorted(answer)}, expected {sorted(wanted)}")
        errors = {}
        for quantity, want in wanted.items():
            got = answer[quantity]
            if got.shape != want.shape:
                raise ValueError(
                    f"{program.name}: {quantity} of shape {got.shape}, expected {want.shape}"
                )
            errors[quantity] = float(np.max(np.abs(got - want)) / np.max(np.abs(want)))
            if not errors[quantity] <= tolerance:  # nor NaN
                raise ValueError(
                    f"{program.name}: {quantity} is off by {errors[quantity]:.1e} of the largest"
                    f" entry of {first.name}'s, more than {tolerance:.0e}"
                )
        worst[program.name] = max(errors.values())
    return worst
