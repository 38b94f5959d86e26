"""One long sequence in a process of its own, whose peak of resident memory is then the run's."""

import re
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.problem import Problem
from benchmarks.tables.length import final_loss
from benchmarks.worker import answer


def main(sizes: dict[str, int]) -> dict[str, Any]:
    problem = Problem("LSTM", sizes["T"], sizes["B"], sizes["I"], sizes["H"])
    shape = (problem.T, problem.B, problem.I)
    # not the problem's own inputs, which NumPy draws in float64: that would be the peak
    xs = jax.block_until_ready(jax.jit(lambda: jax.random.normal(jax.random.key(0), shape))())
    arguments = (jax.device_put(problem.weights()), xs)
    begin = time.perf_counter()
    step = jax.value_and_grad(final_loss(problem, "boundaries"))
    executable = jax.jit(step).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - begin
    memory = executable.memory_analysis()
    _forget_peak()
    before = _status("VmRSS")
    begin = time.perf_counter()
    jax.block_until_ready(executable(*arguments))
    taken = time.perf_counter() - begin
    figures = {
        "median": taken,
        "rounds": 1,
        "compile_seconds": compile_seconds,
        "temporary_bytes": int(memory.temp_size_in_bytes),
        "output_bytes": int(memory.output_size_in_bytes),
        "input_bytes": int(memory.argument_size_in_bytes),
        "resident_bytes_before": before,
        "peak_resident_bytes": _status("VmHWM"),
    }
    return {"candidates": {"boundaries": figures}, "failed": {}}


def _forget_peak() -> None:
    """Linux: let the peak of resident memory start again from here, not from compilation."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _status(field: str) -> int | None:
    try:
        found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


if __name__ == "__main__":
    answer(main)
