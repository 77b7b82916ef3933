"""Strict settings for every test, and eight virtual devices for those that shard.

Most of a test's time goes to compiling small programs that run once, so LLVM's optimisations are
off: XLA's own passes, which decide what is computed, are not touched by that.
"""

import os

os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_force_host_platform_device_count=8",
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
