"""What docs/known-issues.md says of XLA is still so: a test here fails once it is mended."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

gpu_only = pytest.mark.skipif(jax.default_backend() != "gpu", reason="an issue of GPUs")


def still_fails(reason):
    return pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


@still_fails("openxla/xla#47945, open")
@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
def test_grouped_convolutions_on_auto_meshes_are_not_gathered():
    def conv(x, w):
        return lax.conv_general_dilated(x, w, (1, 1), "SAME", feature_group_count=4)

    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,))
    x = jax.device_put(normal(4, 8, 5, 6), NamedSharding(mesh, P("data")))
    program = jax.jit(conv).lower(x, normal(12, 2, 3, 3)).compile().as_text()
    assert "all-gather" not in program


SWAPPED = """
import jax, jax.numpy as jnp
from jax import lax
x, w = jnp.ones((1, 1, 3, 2)), jnp.ones((1, 1, 2, 3))
lax.conv_general_dilated(x, w, (1, 1), [(0, 0), (0, 0)], lhs_dilation=(2, 2)).block_until_ready()
"""


@still_fails("XLA swaps the operands and ends the process; not reported yet")
def test_strided_transposed_convolutions_of_small_images_do_not_abort():
    run = subprocess.run([sys.executable, "-c", SWAPPED], capture_output=True, text=True)
    assert "Window dimensions do not match RHS shape" not in run.stderr


# The rest compares what jit computes with what it should, on a GPU.


@gpu_only
@still_fails("XLA hands the constant to cuDNN in float32; not reported yet")
def test_a_float64_convolution_times_a_constant_is_exact():
    x, w = normal(2, 3, 7, 8), normal(4, 3, 3, 2)

    def product(x, w):
        return 0.1 * lax.conv(x, w, (1, 1), "VALID")

    np.testing.assert_allclose(jax.jit(product)(x, w), product(x, w), rtol=1e-12)


@gpu_only
@still_fails("cuDNN multiplies padding by elements of the image; not reported yet")
def test_infinity_stays_away_from_unequal_padding():
    x, w = normal(2, 3, 7, 8).at[0, 2, 0, 0].set(np.inf), normal(4, 3, 4, 2)
    pads = [(4, 5), (0, 1)]
    padded = jnp.pad(x, [(0, 0), (0, 0), *pads])
    y = lax.conv_general_dilated(x, w, (1, 1), pads, rhs_dilation=(3, 1))
    expected = lax.conv_general_dilated(padded, w, (1, 1), "VALID", rhs_dilation=(3, 1))
    np.testing.assert_array_equal(jnp.isfinite(y), jnp.isfinite(expected))


@gpu_only
@still_fails("cuDNN writes 0 where float16 overflows to -Inf; not reported yet")
def test_float16_overflows_to_negative_infinity():
    x, w = jnp.full((2, 8, 9, 10), -30000, jnp.float16), jnp.ones((8, 8, 3, 3), jnp.float16)
    y = lax.conv_general_dilated(x, w, (1, 1), "VALID")
    np.testing.assert_array_equal(y, np.full(y.shape, -np.inf))
