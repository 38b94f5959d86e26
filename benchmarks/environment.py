"""Where figures come from: the device, the machine, the versions, the commit."""

import datetime
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import jax

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("jax", "jaxlib", "flax", "equinox", "dm-haiku"),
    *("keras", "torch", "optax", "numpy", "jax-cuda12-plugin", "libtpu"),
)


def device_name() -> str:
    """`"cpu"`, or the accelerator's name as a slug."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", device.device_kind.lower()).strip("-")


def environment() -> dict[str, Any]:
    """All that figures depend on, besides the sizes."""
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device.device_kind if device.platform != "cpu" else "cpu",
        "cpu": _cpu(),
        "cores": cores(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
    }


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit, `+dirty` if the sources differ from it; without git a digest of the sources."""
    sources = [":(glob)gatedrnn/**/*.py", ":(glob)benchmarks/**/*.py"]
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() == ROOT:
            changed = _git("status", "--porcelain", "--untracked-files=all", "--", *sources)
            return _git("rev-parse", "--short=12", "HEAD") + ("+dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        pass
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("gatedrnn/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]):
        digest.update(path.read_bytes())
    return f"no git; sources sha256 {digest.hexdigest()[:12]}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
