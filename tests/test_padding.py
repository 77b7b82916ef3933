"""`jaxconv.pad` is `torch.nn.functional.pad`: what it accepts, its values, its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxconv

MODES = ["constant", "reflect", "replicate", "circular"]
DTYPES = ["float64", "float16", "complex64", "int32", "uint8", "bool"]

all_modes = pytest.mark.parametrize("mode", MODES)


def numbers(shape, dtype="float64"):
    """No two elements alike, as far as the dtype can tell them apart."""
    size = int(np.prod(shape))
    values = np.arange(1, size + 1).reshape(shape)
    if dtype == "bool":
        values %= 2
    return np.asarray(values * (1 + 1j) if dtype == "complex64" else values, dtype)


def torch_pad(array, *args):
    """torch's result, or None if it refuses; bools go by bytes, for which it has all modes."""
    array = array.view("uint8") if array.dtype == bool else array
    try:
        return F.pad(torch.from_numpy(array), *args).numpy()
    except (RuntimeError, NotImplementedError):
        return None


def our_pad(array, *args):
    try:
        return jax.jit(lambda x: jaxconv.pad(x, *args))(array)
    except ValueError:
        return None


def assert_same(actual, expected, dtype):
    """Both refused, or equal to the bit."""
    assert (actual is None) == (expected is None), f"got {actual}, expected {expected}"
    if expected is not None:
        assert actual.dtype == dtype
        np.testing.assert_array_equal(actual, expected.astype(dtype), strict=True)


CASES = [
    pytest.param((2, 3, 7), (2, 1), id="one-axis"),
    pytest.param((3, 7), (1, 3), id="one-axis-unbatched"),
    pytest.param((2, 3, 5, 6), (2, 1, 0, 3), id="two-axes"),
    pytest.param((3, 5, 6), (1, 2, 3, 4), id="two-axes-unbatched"),
    pytest.param((2, 3, 4, 5, 6), (1, 2, 3, 0, 2, 1), id="three-axes"),
    pytest.param((3, 4, 5, 6), (0, 2, 1, 0, 3, 1), id="three-axes-unbatched"),
    pytest.param((2, 3, 7), (6, 6), id="largest-reflection"),
    pytest.param((2, 3, 7), (-1, -3), id="crop"),
    pytest.param((2, 3, 7), (-2, 3), id="crop-and-pad"),
    pytest.param((2, 3, 5, 6), (-1, 2, 3, -2), id="crop-and-pad-two-axes"),
    pytest.param((2, 3, 7), (0, 0), id="nothing"),
    pytest.param((0, 3, 7), (1, 2), id="empty-batch"),
]


@all_modes
@pytest.mark.parametrize(("shape", "pad"), CASES)
def test_values_and_gradients_equal_torch(shape, pad, mode, rng):
    """The cotangent of an element is the sum over all its copies."""
    x = numbers(shape)
    tensor = torch.from_numpy(x).requires_grad_()
    output = F.pad(tensor, pad, mode)
    cotangent = rng.normal(size=tuple(output.shape))
    output.backward(torch.from_numpy(cotangent))

    @jax.jit
    def value_and_grad(x, cotangent):
        value, vjp = jax.vjp(lambda x: jaxconv.pad(x, pad, mode), x)
        return value, *vjp(cotangent)

    value, grad = value_and_grad(x, cotangent)
    assert_same(value, output.detach().numpy(), "float64")
    # Elements that are copied several times sum several cotangents, in either order.
    np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-14, atol=1e-14)


@all_modes
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_kept(dtype, mode):
    x = numbers((2, 5), dtype)
    assert_same(jaxconv.pad(x, (1, 2), mode), torch_pad(x, (1, 2), mode), dtype)


@all_modes
def test_bfloat16_is_padded_without_rounding(mode):
    x = jnp.asarray(numbers((2, 5))).astype(jnp.bfloat16)
    padded = jaxconv.pad(x, (1, 2), mode)
    assert padded.dtype == jnp.bfloat16
    expected = torch_pad(numbers((2, 5)), (1, 2), mode)
    assert_same(padded.astype(jnp.float64), expected, "float64")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float64", 2.5),
        ("float64", -np.inf),
        ("float64", True),
        ("float64", np.float32(0.5)),
        ("float16", 3),
        ("int32", 2.5),
        ("int32", -7),
        ("uint8", 255),
        ("bool", True),
    ],
)
def test_value_is_converted_as_torch_converts_it(dtype, value):
    x = numbers((2, 3), dtype)
    assert_same(
        jaxconv.pad(x, (1, 2), "constant", value),
        torch_pad(x, (1, 2), "constant", float(value)),
        dtype,
    )


def test_value_may_be_complex():
    padded = jaxconv.pad(numbers((3,), "complex64"), (1, 0), value=2 - 1j)
    assert padded[0] == 2 - 1j


@st.composite
def calls(draw):
    """Arguments of `pad` and a dtype: of ranks that the modes take, mostly, and some others."""
    if draw(st.integers(0, 9)):
        num_axes = draw(st.integers(1, 3))
        rank = num_axes + draw(st.integers(1, 2))
    else:
        num_axes, rank = draw(st.integers(0, 4)), draw(st.integers(0, 5))
    shape = draw(st.lists(st.integers(0, 5), min_size=rank, max_size=rank))
    pad = draw(st.lists(st.integers(-2, 3), min_size=2 * num_axes, max_size=2 * num_axes))
    mode, dtype = draw(st.sampled_from(MODES)), draw(st.sampled_from(DTYPES))
    return tuple(shape), tuple(pad), mode, dtype


def wraps_what_it_crops(shape, pad):
    """A circular pad that asks for more than cropping leaves."""
    return any(
        0 < max(low, high) > size + min(low, 0) + min(high, 0)
        for size, low, high in zip(shape[::-1], pad[::2], pad[1::2], strict=False)
    )


@settings(derandomize=True, deadline=None, max_examples=300)
@given(calls())
def test_any_call_is_answered_or_refused_as_torch_does(call):
    """With one exception: where a circular pad crops away what it should wrap, torch may answer
    with memory that nothing has written, and jaxconv refuses."""
    shape, pad, mode, dtype = call
    x = numbers(shape, dtype)
    if mode == "circular" and wraps_what_it_crops(shape, pad):
        assert our_pad(x, pad, mode) is None
    else:
        assert_same(our_pad(x, pad, mode), torch_pad(x, pad, mode), dtype)


def test_assert_same_fails_on_a_wrong_answer():
    x = numbers((2, 3))
    with pytest.raises(AssertionError):
        assert_same(jaxconv.pad(x, (1, 2)), torch_pad(x, (2, 1)), "float64")
    with pytest.raises(AssertionError):
        assert_same(jaxconv.pad(x, (1, 2), "reflect"), torch_pad(x, (1, 2)), "float64")
    with pytest.raises(AssertionError, match="got None"):
        assert_same(our_pad(x, (3, 3), "reflect"), torch_pad(x, (3, 3)), "float64")
    with pytest.raises(AssertionError):
        assert_same(jaxconv.pad(x, (1, 2)), torch_pad(x, (1, 2)), "float32")


def test_circular_crops_first_and_then_wraps():
    x = numbers((2, 7))
    np.testing.assert_array_equal(
        jaxconv.pad(x, (-2, 3), "circular"), jaxconv.pad(x[:, 2:], (0, 3), "circular")
    )


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_a_negative_amount_crops_what_the_others_padded(mode):
    x = numbers((2, 7))
    np.testing.assert_array_equal(
        jaxconv.pad(x, (-2, 3), mode), jaxconv.pad(x, (0, 3), mode)[:, 2:]
    )


@all_modes
def test_jit_and_vmap_change_nothing(mode):
    x = numbers((4, 2, 5, 6))

    def f(x):
        return jaxconv.pad(x, (1, 2, -1, 3), mode)

    np.testing.assert_array_equal(jax.jit(f)(x), f(x))
    np.testing.assert_array_equal(jax.vmap(f)(x), f(x))


@all_modes
@pytest.mark.parametrize("size", [4, 9])
def test_one_export_serves_all_sizes(mode, size):
    """`jnp.pad` cannot do this: its wrap mode wants to know the sizes."""

    def f(x):
        return jaxconv.pad(x, (2, 3, -1, 1), mode)

    n, h, w = jax.export.symbolic_shape("n, h, w", constraints=["h >= 4", "w >= 4"])
    spec = jax.ShapeDtypeStruct((n, 2, h, w), jnp.float64)
    exported = jax.export.export(jax.jit(f))(spec)
    x = numbers((3, 2, size, 5))
    np.testing.assert_array_equal(exported.call(x), f(x))
