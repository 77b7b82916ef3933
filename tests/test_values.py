"""Values agree with torch, for every case, in both layouts and every dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracle
from tests.cases import all_cases, few_cases

# Largest error allowed, relative to the largest value; sums here have up to some 500 terms.
TOLERANCES = {
    "float64": 1e-13,
    "float32": 2e-6,
    "bfloat16": 1e-2,
    "float16": 1e-3,
    "complex128": 1e-13,
    "complex64": 2e-6,
}


def _torch_output(case, arrays):
    return oracle.to_numpy(oracle.run_torch(case, *map(oracle.to_torch, arrays)))


@all_cases
def test_values_equal_torch(case):
    arrays = case.arrays()
    oracle.assert_close(
        oracle.run_jaxconv(case, *arrays), _torch_output(case, arrays), TOLERANCES["float64"]
    )


@all_cases
def test_channels_last_equals_torch(case):
    input, *params = case.arrays()
    kwargs = {}
    if len(case.kwargs.get("output_size", ())) > case.num_spatial_dims:
        n, c, *size = case.kwargs["output_size"]
        kwargs["output_size"] = (n, *size, c)
    output = getattr(oracle.jaxconv, case.function)(
        oracle.channels_last(input, case),
        *params,
        **case.kwargs | kwargs,
        data_format="channels_last",
    )
    expected = _torch_output(case, (input, *params))
    oracle.assert_close(oracle.channels_first(output, case), expected, TOLERANCES["float64"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "complex64", "complex128"])
@few_cases
def test_every_dtype_equals_torch(case, dtype):
    """Half precision is compared with float64 on the same rounded numbers: torch's own half
    precision is no better than ours."""
    arrays = [jnp.asarray(array).astype(dtype) for array in case.arrays(_drawn(dtype))]
    output = oracle.run_jaxconv(case, *arrays)
    assert output.dtype == jnp.dtype(dtype)
    wide = [np.asarray(array).astype(_reference(dtype)) for array in arrays]
    expected = _torch_output(case, wide)
    oracle.assert_close(np.asarray(output).astype(expected.dtype), expected, TOLERANCES[dtype])


def _drawn(dtype):
    return "complex128" if dtype.startswith("complex") else "float64"


_reference = _drawn


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_preferred_element_type_is_the_outputs_dtype(dtype):
    """The output keeps what rounding to half precision would lose; gradients are the operands'."""
    arrays = [jnp.full(shape, 0.3, dtype) for shape in ((1, 300, 4, 4), (2, 300, 3, 3))]
    output = oracle.jaxconv.conv2d(*arrays, preferred_element_type=jnp.float32)
    exact = oracle.jaxconv.conv2d(*(a.astype(jnp.float64) for a in arrays))
    assert output.dtype == jnp.float32
    # 2700 terms: float32 is good to 2700 * 2**-24, half precision to 2**-11 at best.
    oracle.assert_close(output, np.asarray(exact), 1e-4)

    def loss(*arrays):
        return oracle.jaxconv.conv2d(*arrays, preferred_element_type=jnp.float32).sum()

    grads = jax.grad(loss, (0, 1))(*arrays)
    assert [grad.dtype for grad in grads] == [jnp.dtype(dtype)] * 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_accumulates_in_float32(dtype):
    """4800 terms of about 1: a half-precision sum would stall long before the end."""
    x = jnp.ones((1, 4800, 1, 1), dtype) * jnp.asarray(0.5, dtype)
    w = jnp.ones((1, 4800, 1, 1), dtype) * jnp.asarray(0.5, dtype)
    oracle.assert_close(oracle.jaxconv.conv2d(x, w).astype(jnp.float64), [[[[1200.0]]]], 4e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_bias_gradient_accumulates_in_float32(dtype):
    """A plain broadcast add would sum its bfloat16 gradient in bfloat16: percents off."""
    bias = jnp.zeros((3,), dtype)
    x, w = jnp.zeros((4, 2, 50, 50), dtype), jnp.zeros((3, 2, 1, 1), dtype)
    cotangent = jax.random.uniform(jax.random.key(0), (4, 3, 50, 50), jnp.float32).astype(dtype)
    _, vjp = jax.vjp(lambda bias: oracle.jaxconv.conv2d(x, w, bias), bias)
    (grad,) = vjp(cotangent)
    exact = np.asarray(cotangent, np.float64).sum((0, 2, 3))
    eps = float(jnp.finfo(dtype).eps)
    oracle.assert_close(np.asarray(grad, np.float64), exact, eps)


def test_assert_close_fails_on_a_wrong_answer():
    with pytest.raises(AssertionError, match="relative error"):
        oracle.assert_close(np.array([1.0, 2.0]), np.array([1.0, 2.1]), 1e-3)
    with pytest.raises(AssertionError, match="shape"):
        oracle.assert_close(np.ones((2, 1)), np.ones(2), 1e-3)
    with pytest.raises(AssertionError, match="relative error"):
        oracle.assert_close(np.array([np.nan]), np.array([1.0]), 1e-3)


def test_very_asymmetric_padding_has_right_values_and_gradients():
    """Strictly causal: linen's and Equinox's gradients are garbage here on the CPU, since XLA
    reads out of bounds for a negative window pad (openxla/xla#48713)."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 16))
    w = jax.random.normal(jax.random.key(1), (8, 8, 2))

    def causal(x, w):
        return oracle.jaxconv.conv1d(oracle.jaxconv.pad(x, (2, 0)), w)[..., :16]

    def by_hand(x, w):
        shifted = jnp.pad(x, ((0, 0), (0, 0), (2, 0)))
        taps = (jnp.einsum("oc,ncl->nol", w[:, :, t], shifted[..., t : t + 16]) for t in (0, 1))
        return sum(taps)

    def gradients(f):
        return jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(f(x, w))), (0, 1)))(x, w)

    oracle.assert_close(jax.jit(causal)(x, w), by_hand(x, w), 1e-13)
    for actual, expected in zip(gradients(causal), gradients(by_hand), strict=True):
        oracle.assert_close(actual, expected, 1e-13)
