"""Derivatives agree with torch's, and with each other, for every case."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxconv import contractions
from jaxconv.geometry import Geometry
from tests import oracle
from tests.cases import all_cases, few_cases, fewest_cases

TOLERANCE = 1e-12


@all_cases
def test_gradients_equal_torch(case):
    """Of input, weight and bias, in float64; jitted, as everyone uses them."""
    arrays = case.arrays()
    output, cotangent, expected = oracle.torch_gradients(case, *arrays)

    @jax.jit
    def gradients(cotangent, *arrays):
        output, vjp = jax.vjp(functools.partial(oracle.run_jaxconv, case), *arrays)
        return output, vjp(cotangent)

    actual_output, actual = gradients(cotangent, *arrays)
    oracle.assert_close(actual_output, output, TOLERANCE)
    for name, gradient, expected_gradient in zip(
        ("input", "weight", "bias"), actual, expected, strict=False
    ):
        oracle.assert_close(gradient, expected_gradient, TOLERANCE, name)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("complex128", 1e-12)])
@few_cases
def test_gradients_in_other_dtypes_equal_torch(case, dtype, tolerance):
    arrays = case.arrays(dtype)
    _, cotangent, expected = oracle.torch_gradients(case, *arrays)
    _, vjp = jax.vjp(functools.partial(oracle.run_jaxconv, case), *arrays)
    # JAX's cotangents of complex numbers are torch's, conjugated.
    actual = [gradient.conj() for gradient in vjp(jnp.asarray(cotangent).conj())]
    assert [gradient.dtype for gradient in actual] == [jnp.dtype(dtype)] * len(arrays)
    for gradient, expected_gradient in zip(actual, expected, strict=True):
        oracle.assert_close(gradient, expected_gradient, tolerance)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@fewest_cases
def test_half_precision_gradients_are_rounded_once(case, dtype):
    """Within two roundings of float64 gradients of the same numbers: sums run in float32."""
    arrays = [jnp.asarray(array).astype(dtype) for array in case.arrays()]
    wide = [np.asarray(array).astype(np.float64) for array in arrays]
    output = jax.eval_shape(functools.partial(oracle.run_jaxconv, case), *arrays)
    cotangent = jax.random.normal(jax.random.key(2), output.shape, jnp.float32).astype(dtype)

    def gradients(cotangent, *arrays):
        return jax.vjp(functools.partial(oracle.run_jaxconv, case), *arrays)[1](cotangent)

    actual = jax.jit(gradients)(cotangent, *arrays)
    expected = gradients(cotangent.astype(jnp.float64), *wide)
    for gradient, exact in zip(actual, expected, strict=True):
        assert gradient.dtype == jnp.dtype(dtype)
        oracle.assert_close(gradient.astype(jnp.float64), exact, 2 * float(jnp.finfo(dtype).eps))


@fewest_cases
def test_second_derivatives_equal_torch(case):
    """The gradient of the squared norm of the gradients of sum(output**3)."""
    arrays = case.arrays()

    def loss(*arrays):
        return jnp.sum(oracle.run_jaxconv(case, *arrays) ** 3)

    def penalty(*arrays):
        return sum(jnp.sum(g**2) for g in jax.grad(loss, range(len(arrays)))(*arrays))

    actual = jax.jit(jax.grad(penalty, range(len(arrays))))(*arrays)
    tensors = [oracle.to_torch(array).requires_grad_() for array in arrays]
    first = torch.autograd.grad(
        (oracle.run_torch(case, *tensors) ** 3).sum(), tensors, create_graph=True
    )
    expected = torch.autograd.grad(sum((g**2).sum() for g in first), tensors)
    for gradient, expected_gradient in zip(actual, expected, strict=True):
        oracle.assert_close(gradient, oracle.to_numpy(expected_gradient), TOLERANCE)


GEOMETRIES = {
    "plain": Geometry((7, 9), (3, 2), (5, 8), (1, 1), (0, 0), (1, 1)),
    "strided-groups": Geometry((9, 11), (3, 4), (5, 4), (2, 3), (1, 2), (1, 1), groups=2),
    "unreached-rows": Geometry((14, 9), (3, 2), (3, 2), (3, 2), (0, 1), (2, 1)),
    "asymmetric": Geometry((6, 7), (2, 3), (8, 7), (1, 1), (3, 0), (1, 1), groups=3),
    "1d-last": Geometry((20,), (4,), (6,), (3,), (2,), (2,), channels_last=True),
    "3d": Geometry((4, 5, 6), (2, 3, 2), (3, 3, 4), (1, 2, 2), (0, 1, 1), (1, 1, 2), groups=2),
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_the_contractions_are_each_others_transposes(geometry, rng):
    """<y, conv(x, w)> = <x, conv_input(y, w)> = <w, conv_weight(x, y)>, the trilinear form."""
    x, w, y = _roles(geometry, rng)
    form = np.vdot(y, contractions.conv(x, w, geometry))
    assert abs(np.vdot(x, contractions.conv_input(y, w, geometry)) - form) <= 1e-11 * abs(form)
    assert abs(np.vdot(w, contractions.conv_weight(x, y, geometry)) - form) <= 1e-11 * abs(form)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_linear_transpose_of_each_contraction(geometry, rng):
    x, w, y = _roles(geometry, rng)
    (actual,) = jax.linear_transpose(lambda x: contractions.conv(x, w, geometry), x)(y)
    oracle.assert_close(actual, contractions.conv_input(y, w, geometry), 1e-13)
    (actual,) = jax.linear_transpose(lambda y: contractions.conv_input(y, w, geometry), y)(x)
    oracle.assert_close(actual, contractions.conv(x, w, geometry), 1e-13)
    (actual,) = jax.linear_transpose(lambda y: contractions.conv_weight(x, y, geometry), y)(w)
    oracle.assert_close(actual, contractions.conv(x, w, geometry), 1e-13)


def _roles(g: Geometry, rng):
    in_channels, out_channels = 2 * g.groups, 3 * g.groups

    def image(channels, size):
        shape = (2, *size, channels) if g.channels_last else (2, channels, *size)
        return rng.normal(size=shape)

    w = rng.normal(size=(out_channels, in_channels // g.groups, *g.kernel_size))
    return image(in_channels, g.input_size), w, image(out_channels, g.output_size)


def test_transposed_convolution_is_the_gradient_of_the_convolution(rng):
    """google/flax#2577: the true adjoint, with the weight as it is."""
    x, w = rng.normal(size=(2, 4, 9, 8)), rng.normal(size=(6, 2, 3, 2))
    y, vjp = jax.vjp(lambda x: oracle.jaxconv.conv2d(x, w, stride=2, padding=1, groups=2), x)
    (expected,) = vjp(y)
    actual = oracle.jaxconv.conv_transpose2d(
        y, w, stride=2, padding=1, groups=2, output_size=x.shape
    )
    oracle.assert_close(actual, expected, 1e-13)
