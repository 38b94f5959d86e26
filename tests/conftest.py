"""Every test runs with float64 and strict promotion, of dtypes and ranks; warnings are errors."""

import os
from importlib.metadata import version

FLAGS = ["--xla_force_host_platform_device_count=4"]
# sizes here are tiny, and compiling is most of the time: these take it to a third
FLAGS += ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):  # later ones do not know it
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
    # a program in one piece: parts, to be compiled side by side, take a tenth longer in all
    FLAGS += ["--xla_cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def forget_what_was_compiled():
    """A module's programs are its own: kept, they fill gigabytes and slow every collection."""
    yield
    jax.clear_caches()
