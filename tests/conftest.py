"""Strict settings for every test, and eight virtual devices for those that shard.

Most of a test's time goes to compiling small programs that run once, so LLVM's optimisations are
off, and jaxlib 0.10 writes code with the quicker of its two emitters, on one thread; later ones
lack these flags. XLA's own passes, which decide what is computed, are not touched by that. To test
the code that users get:
`XLA_FLAGS="--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true" make test`.
"""

import os
from importlib.metadata import version

os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        if version("jaxlib") < "0.11"
        else "",
        os.environ.get("XLA_FLAGS", ""),  # Last, so that it wins.
    ]
)

import jax  # reads XLA_FLAGS
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if jax.default_backend() == "gpu":  # TF32 would be wrong by more than any tolerance here.
    jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
