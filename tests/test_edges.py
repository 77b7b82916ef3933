"""Numbers at the edges: Inf and NaN, overflow, denormals, huge sizes, with x64 on and off."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxconv
from tests import oracle
from tests.cases import CASES, normal

BY_NAME = {case.name: case for case in CASES}
INPUT, WEIGHT, COTANGENT = range(3)
OUTPUT, INPUT_GRADIENT, WEIGHT_GRADIENT = range(3)
INDEPENDENT = [(INPUT, INPUT_GRADIENT), (WEIGHT, WEIGHT_GRADIENT), (COTANGENT, OUTPUT)]
"""Operands and results: the form is linear in each operand."""

# Cases that the CPU computes in different ways.
VARIOUS = [
    "2d-plain", "2d-1x1-stride", "2d-1x1-groups", "2d-patchify", "2d-patchify-padded",
    "2d-one-pixel", "2d-same-even-dilated", "2d-depthwise-stride", "2d-depthwise-many",
    "2d-depthwise-many-stride", "1d-depthwise-many", "T-2d-depthwise-many", "2d-groups-many",
    "2d-groups-beyond-32", "2d-many-channels", "2d-stride-many-channels", "1d-depthwise-k31",
    "1d-groups-beyond-32-k65", "3d-plain", "3d-stride", "3d-groups", "3d-patchify", "T-2d-groups-3",
    "T-2d-padding-beyond-strided", "T-1d-k16s8", "T-3d-k4s2", "T-3d-groups-dilation-stride",
]  # fmt: skip
LAST = [
    "2d-plain",
    "2d-depthwise-stride",
    "2d-depthwise-many",
    "3d-stride",
    "3d-groups",
    "T-1d-k16s8",
    "T-2d-groups-3",
]
various = pytest.mark.parametrize(
    ("case", "channels_last"),
    [(BY_NAME[name], False) for name in VARIOUS] + [(BY_NAME[name], True) for name in LAST],
    ids=VARIOUS + [f"{name}-channels-last" for name in LAST],
)


def _operands(case, dtype="float64"):
    """Input, weight and cotangent."""
    x, w, *_ = case.arrays(dtype)
    shape = jax.eval_shape(functools.partial(oracle.run_jaxconv, case), x, w).shape
    return [x, w, normal(np.random.default_rng(5), shape, dtype)]


def _ours(case, channels_last):
    """A function of input, weight and cotangent: the output and the two gradients."""

    @jax.jit
    def run(x, w, cotangent):
        function = functools.partial(oracle.run_jaxconv, case, channels_last=channels_last)
        y, vjp = jax.vjp(function, x, w)
        return y, *vjp(cotangent)

    return run


def _torchs(case, x, w, cotangent):
    x, w = (oracle.to_torch(array).requires_grad_() for array in (x, w))
    y = oracle.run_torch(case, x, w)
    gradients = torch.autograd.grad(y, (x, w), oracle.to_torch(cotangent))
    return [oracle.to_numpy(array) for array in (y, *gradients)]


@various
def test_infinity_and_nan_go_where_they_belong(case, channels_last):
    """To what the poisoned element is multiplied into, which torch tells with ones for numbers.

    An element of an image poisons that and nothing else. A weight, or an element that the weight's
    gradient sums over, may also poison where it meets a zero of the padding: torch's own kernels
    differ there, by shape. It must stay in its channel.
    """
    if case.name == "2d-same-even-dilated" and jax.default_backend() == "gpu":
        pytest.xfail("cuDNN multiplies padding by elements: see tests/test_upstream.py")
    run, operands = _ours(case, channels_last), _operands(case)
    spatial = tuple(range(-case.num_spatial_dims, 0))
    for poisoned in (INPUT, WEIGHT, COTANGENT):
        shape = operands[poisoned].shape
        place = np.unravel_index(operands[poisoned].size // 3, shape)
        reached = _reach(case, operands, poisoned, place)
        channel = _reach(case, operands, poisoned, place[: -case.num_spatial_dims])
        for poison in (np.inf, np.nan):
            arrays = [array.copy() for array in operands]
            arrays[poisoned][place] = poison
            bad = [~np.isfinite(array) for array in run(*arrays)]
            for result in range(3):
                if (poisoned, result) in INDEPENDENT:
                    assert not bad[result].any()
                elif (poisoned, result) in [(INPUT, OUTPUT), (COTANGENT, INPUT_GRADIENT)]:
                    np.testing.assert_array_equal(bad[result], reached[result])
                else:
                    assert not (reached[result] & ~bad[result]).any(), "poison is hidden"
                    inside = channel[result].any(spatial, keepdims=True)
                    assert not (bad[result] & ~inside).any(), "poison leaves its channel"


def _reach(case, operands, poisoned, place):
    """What the elements at `place` of one operand are multiplied into."""
    ones = [np.ones_like(array) for array in operands]
    ones[poisoned][...] = 0
    ones[poisoned][place] = 1
    return [array > 0 for array in _torchs(case, *ones)]


@various
def test_float16_overflows_at_the_end_only(case, channels_last):
    """Sums of 30000 and -30000: partial sums exceed what float16 holds, 65504, where totals do
    not. All are exact in float32, so one rounding of the exact total is what must come out."""
    rng = np.random.default_rng(0)
    signs = [rng.choice([-1.0, 1.0], size=array.shape) for array in _operands(case)]
    signs[INPUT] *= 30000
    expected = _torchs(case, *signs)
    actual = _ours(case, channels_last)(*(array.astype(np.float16) for array in signs))
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == jnp.float16
        with np.errstate(over="ignore"):
            e = e.astype(np.float16)
        if jax.default_backend() == "gpu":  # Where cuDNN may put 0: see tests/test_upstream.py.
            e[(e == -np.inf) & (a == 0)] = 0
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize(("dtype", "power"), [("bfloat16", 60), ("float32", 60)])
@pytest.mark.parametrize(
    "name", ["2d-depthwise-stride", "2d-groups-mixed", "3d-stride", "T-1d-k16s8"]
)
def test_powers_of_two_only_move_the_exponent(name, dtype, power):
    """Large input, tiny weight, and the other way round: the same to the bit."""
    case = BY_NAME[name]
    x, w, cotangent = (jnp.asarray(array, dtype) for array in _operands(case))
    run, scale = _ours(case, False), jnp.asarray(2.0**power, dtype)
    y, dx, dw = run(x, w, cotangent)
    for up in (scale, 1 / scale):
        moved = run(x * up, w / up, cotangent)
        for a, e in zip(moved, (y, dx / up, dw * up), strict=True):
            np.testing.assert_array_equal(a.astype(jnp.float64), e.astype(jnp.float64))


@pytest.mark.parametrize("name", ["2d-plain", "2d-depthwise-stride", "T-1d-k16s8"])
def test_denormals_are_kept_or_flushed_to_zero(name):
    case = BY_NAME[name]
    tiny = np.finfo(np.float32).tiny
    x, w, cotangent = _operands(case, "float32")
    x *= tiny / 4
    y, _, dw = _ours(case, False)(x, w, cotangent)
    exact_y, _, exact_dw = _torchs(case, *(a.astype(np.float64) for a in (x, w, cotangent)))
    for actual, exact in ((y, exact_y), (dw, exact_dw)):
        # What is lost of a term is less than `tiny` times its other factor.
        terms = 4 * x.size
        assert np.isfinite(actual).all()
        assert np.abs(np.asarray(actual, np.float64) - exact).max() <= tiny * terms


BEYOND_INT32 = [
    ("conv1d", (1, 2, 2**31 + 7), (3, 2, 4), {"stride": 2}, (1, 3, 2**30 + 2)),
    ("conv2d", (3, 2, 2**16, 2**15 + 1), (2, 1, 3, 3), {"groups": 2, "padding": 1},
     (3, 2, 2**16, 2**15 + 1)),
    ("conv3d", (1, 1, 2**11, 2**11, 2**10), (1, 1, 2, 2, 2), {"dilation": 2},
     (1, 1, 2**11 - 2, 2**11 - 2, 2**10 - 2)),
    ("conv_transpose2d", (1, 2, 2**15, 2**15), (2, 3, 4, 4), {"stride": 2, "padding": 1},
     (1, 3, 2**16, 2**16)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "input", "weight", "kwargs", "output"), BEYOND_INT32)
def test_sizes_beyond_32_bits(function, input, weight, kwargs, output):
    """Traced, differentiated and lowered, of arrays that need not exist."""

    def run(x, w):
        y, vjp = jax.vjp(functools.partial(getattr(jaxconv, function), **kwargs), x, w)
        return y, *vjp(y)

    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in (input, weight)]
    assert [array.shape for array in jax.eval_shape(run, *arrays)] == [output, input, weight]
    jax.jit(run).lower(*arrays)


@pytest.mark.parametrize("name", ["2d-depthwise-7x7", "T-2d-groups"])
def test_x64_changes_no_float32_number(name):
    case = BY_NAME[name]
    operands = _operands(case, "float32")
    with_x64 = _ours(case, False)(*operands)
    with jax.enable_x64(False):
        without = _ours(case, False)(*operands)
        # float64 does not exist here: arrays of it become float32.
        narrowed = _ours(case, False)(*(array.astype(np.float64) for array in operands))
    for a, b, c in zip(with_x64, without, narrowed, strict=True):
        assert a.dtype == b.dtype == c.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(b, c)
