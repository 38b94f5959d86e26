"""A stage, or the rest of one, in a process of its own: a request as JSON, rows as lines of JSON.

    python -m benchmarks.device.worker '{"stage": "grid", ...}'

Some lines are signs of life: `{"begin": k}` and `{"end": k}` around case `k` of the request.
"""

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.device import grid, kernels, rivals
from benchmarks.device.cases import KINDS, Case
from benchmarks.environment import environment
from benchmarks.measure import warm_up


def main(request: dict[str, Any]) -> None:
    """Do what is asked, and end at once: a thread that still compiles is not waited for."""
    where = _where(torch=rivals.TORCH in request["candidates"][0])
    _say({"environment": where, "missing": rivals.missing()})
    warm_up()
    for row in _rows(request):
        _say(row | {"device": where["device"], "versions": where["versions"]})
    sys.stdout.flush()
    os._exit(0)


def _rows(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cases = [Case(**case) for case in request["cases"]]
    if request["stage"] == "profile":
        yield from kernels.profile(cases, request["candidates"], Path(request["out"]))
        return
    for k, case in enumerate(cases):
        if time.time() > request["until"]:
            yield {"skipped": [case.described()]}
            continue
        yield {"begin": k}
        names = request["candidates"][k]
        yield from grid.measure(case, KINDS, names, request["until"], request["tiny"])
        jax.block_until_ready(jax.numpy.ones(8) + 1)  # raises where a kernel has spoilt the device
        yield {"end": k}
        gc.collect()


def _where(torch: bool) -> dict[str, Any]:
    """All that figures depend on; the versions of CUDA and cuDNN too."""
    where = environment()
    versions = {name: version for name, version in where["versions"].items() if version}
    versions["platform"] = " ".join(jax.devices()[0].client.platform_version.split())
    if torch and "torch" in versions:
        cudnn = importlib.import_module("torch").backends.cudnn
        versions["cuDNN of torch"] = str(cudnn.version())
    return where | {"versions": versions}


def _say(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
