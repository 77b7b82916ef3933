"""What XLA:CPU leaves to oneDNN, and what it must not."""

import dataclasses
import functools
import os
import platform
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxconv
from jaxconv.geometry import Geometry, window_output_size
from jaxconv.lowerings import (
    add_bias,
    changes,
    cpu,
    few_channels,
    onednn,
    onednn_calls,
    onednn_phases,
    plans,
    xla_cpu,
)
from jaxconv.lowerings.setting import Setting
from tests import oracle

CALL = "__onednn$"

available = pytest.mark.skipif(
    not onednn_calls.is_available(), reason="this jaxlib, or this machine, has no oneDNN to call"
)


def _assert_value_and_gradients_agree(layer, exact, *arrays):
    """With what torch's `exact` gives in float64."""
    y, vjp = jax.vjp(jax.jit(layer), *arrays)
    cotangent = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    operands = [oracle.to_torch(array).double().requires_grad_() for array in arrays]
    expected = exact(*operands)
    gradients = torch.autograd.grad(expected, operands, oracle.to_torch(cotangent).double())
    for actual, result in zip((y, *vjp(cotangent)), (expected, *gradients), strict=True):
        oracle.assert_close(actual, result.detach().numpy(), 2e-6)


def _program(layer, *arrays):
    return jax.jit(layer).lower(*arrays).as_text()


def _arrays(x_shape, w_shape, bias_size):
    rng = np.random.default_rng(0)
    return [
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in (x_shape, w_shape, (bias_size,))
    ]


LAYERS = {
    "dense": ("conv2d", (2, 20, 9, 11), (17, 20, 3, 2), {"padding": (1, 0)}),
    "strided": ("conv2d", (2, 20, 13, 11), (17, 20, 4, 3), {"stride": (2, 3), "padding": (3, 1)}),
    "dilated": ("conv2d", (2, 20, 13, 11), (17, 20, 3, 2), {"dilation": (2, 3)}),
    "groups": ("conv2d", (2, 24, 9, 11), (12, 8, 3, 2), {"groups": 3}),
    "depthwise": ("conv2d", (2, 33, 9, 11), (33, 1, 5, 4), {"groups": 33, "padding": 2}),
    "all-rows": ("conv2d", (2, 8, 22, 37), (16, 1, 22, 1), {"groups": 8}),
    "all-rows-groups": ("conv2d", (2, 10, 11, 37), (15, 2, 11, 1), {"groups": 5}),
    "1d": ("conv1d", (2, 20, 31), (17, 20, 4), {"padding": 2}),
    "1d-depthwise": ("conv1d", (2, 20, 61), (20, 1, 31), {"groups": 20, "padding": 15}),
    "3d": ("conv3d", (2, 16, 5, 6, 7), (17, 16, 2, 3, 3), {"padding": (1, 0, 1)}),
    "transposed": ("conv_transpose2d", (2, 20, 9, 11), (20, 17, 3, 2), {"padding": (1, 0)}),
    "transposed-groups": ("conv_transpose2d", (2, 24, 9, 11), (24, 5, 3, 2), {"groups": 3}),
}


@available
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_agree_with_torch(name, data_format):
    """Values and all gradients, with a bias, which is added in the same call."""
    function, x_shape, w_shape, kwargs = LAYERS[name]
    transposed = "transpose" in function
    channels = w_shape[1] * kwargs.get("groups", 1) if transposed else w_shape[0]
    x, w, bias = _arrays(x_shape, w_shape, channels)
    last = data_format == "channels_last"

    def layer(x, w, bias):
        x = jnp.moveaxis(x, 1, -1) if last else x
        y = getattr(jaxconv, function)(x, w, bias, **kwargs, data_format=data_format)
        return jnp.moveaxis(y, -1, 1) if last else y

    assert f"{CALL}convolution" in _program(layer, x, w, bias)
    exact = functools.partial(getattr(oracle.F, function), **kwargs)
    _assert_value_and_gradients_agree(layer, exact, x, w, bias)


@pytest.mark.skipif(
    platform.system() != "Linux"
    or not onednn_calls._has_avx2()
    or jax.__version_info__ >= onednn_calls.UNTRIED
    or os.environ.get("JAXCONV_ONEDNN") == "0",
    reason="it is not to be called here",
)
def test_the_calls_can_be_made():
    """Else all the tests here that need it would be skipped, and nobody would know."""
    assert onednn_calls.is_available()


def test_the_probe_tells_right_from_wrong():
    g = Geometry((5, 6), (2, 3), (4, 4), (1, 1), (0, 0), (1, 1), channels_last=True)
    x, w, _ = _arrays((1, 5, 6, 2), (3, 2, 2, 3), 3)
    expected = plans.DIRECT["output"](x, w, g)
    oracle.assert_close(onednn_calls._by_sums(np.asarray(x), np.asarray(w), g), expected, 1e-6)
    wrong = onednn_calls._by_sums(np.asarray(x), np.asarray(w)[:, :, ::-1], g)
    assert not np.allclose(wrong, expected, atol=1e-3)


DENSE = Geometry((9, 8), (3, 2), (9, 9), (1, 1), (1, 1), (1, 1), 1, channels_last=True)
UNSAFE = {
    "padding beyond the kernel": Geometry((9, 8), (3, 2), (13, 8), (1, 1), (4, 0), (1, 1), 1, True),
    "low padding beyond it": Geometry((9, 8), (3, 2), (8, 11), (1, 1), (0, 2), (1, 1), 1, True),
    "rows of one window": Geometry((9, 8), (3, 8), (7, 1), (1, 1), (0, 0), (1, 1), 1, True),
    "depthwise, dilated": Geometry((9, 8), (3, 2), (5, 6), (1, 1), (0, 0), (2, 2), 16, True),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_is_not_safe_is_computed_otherwise(name):
    assert onednn.fits(DENSE, 16, 16)
    g = UNSAFE[name]
    assert not onednn.fits(g, 16, 16)
    x, w, _ = _arrays((2, *g.input_size, 16), (16, 16 // g.groups, *g.kernel_size), 1)
    form = functools.partial(plans.carry_out, ("onednn",), "output", g=g)
    assert CALL not in _program(form, x, w)
    oracle.assert_close(jax.jit(form)(x, w), plans.DIRECT["output"](x, w, g), 1e-6)


@available
@pytest.mark.parametrize(("size", "taps"), [((40,), (2369,)), ((3, 4), (2, 1030))], ids=str)
def test_a_long_depthwise_kernel_that_takes_too_much_code(size, taps):
    """The process would end. For a few windows of an image as long, it would not."""
    low = tuple(k - 1 for k in taps)
    ones, windows = (1,) * len(size), tuple(i + p for i, p in zip(size, low, strict=True))
    g = Geometry(size, taps, windows, ones, low, ones, 3, channels_last=True)
    assert not onednn.fits(g, 3, 3)
    assert onednn.fits(dataclasses.replace(g, input_size=windows, output_size=size), 3, 3)
    x, w, bias = _arrays((2, 3, *size), (3, 1, *taps), 3)
    kwargs = {"groups": 3, "padding": low}
    layer = functools.partial(getattr(jaxconv, f"conv{len(size)}d"), **kwargs)
    exact = functools.partial(getattr(oracle.F, f"conv{len(size)}d"), **kwargs)
    _assert_value_and_gradients_agree(layer, exact, x, w, bias)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_one_channel_is_left_to_it_only_where_its_copy_fits(axis, dilation):
    """Where strides are larger than the kernel, it writes beyond its memory."""

    def geometry(stride):
        g = Geometry((29, 33, 12), (3, 2, 4), (1, 1, 9), (1, 1, 1), (0, 0, 0), (1, 1, 1))
        taps, size = g.kernel_size[axis], g.input_size[axis]
        output = (size - dilation * (taps - 1) - 1) // stride + 1
        sizes = {"stride": stride, "dilation": dilation, "output_size": output}
        return dataclasses.replace(changes.replace_axis(g, axis, **sizes), channels_last=True)

    taps = geometry(1).kernel_size[axis]
    assert onednn.fits(geometry(taps), 1, 8)
    assert not onednn.fits(geometry(taps + 1), 1, 8)
    assert onednn.fits(geometry(taps + 1), 2, 8)
    assert onednn.fits(geometry(40), 1, 8)  # One window, that does not move.


@available
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "complex64"])
def test_it_is_for_float32_alone(dtype):
    x, w, bias = (array.astype(dtype) for array in _arrays((2, 20, 9, 11), (17, 20, 3, 2), 17))
    assert CALL not in _program(jaxconv.conv2d, x, w, bias)
    assert not onednn.serves(Setting(jnp.dtype(dtype)))


@available
def test_results_of_another_dtype_are_not_its():
    x, w, bias = _arrays((2, 20, 9, 11), (17, 20, 3, 2), 17)
    wide = functools.partial(jaxconv.conv2d, preferred_element_type=jnp.float64)
    assert CALL not in _program(wide, x, w, bias)
    assert jax.jit(wide)(x, w, bias).dtype == jnp.float64


@available
def test_programs_that_are_kept_do_without(tmp_path):
    """XLA could not write them down: neither export nor a compilation cache would work."""
    x, w, bias = _arrays((2, 20, 9, 11), (17, 20, 3, 2), 17)
    assert CALL in _program(jaxconv.conv2d, x, w, bias)
    exported = jax.export.export(jax.jit(jaxconv.conv2d))(x, w, bias)
    assert CALL not in exported.mlir_module()
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    assert _calls_in_a_new_process(environment) == "0"


@available
def test_a_variable_turns_it_off():
    environment = {name: v for name, v in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    assert _calls_in_a_new_process(environment) == "1"
    assert _calls_in_a_new_process(environment | {"JAXCONV_ONEDNN": "0"}) == "0"


def _calls_in_a_new_process(environment):
    program = f"""
import jax, jax.numpy as jnp, jaxconv
x, w = jnp.ones((2, 20, 9, 11)), jnp.ones((17, 20, 3, 2))
print(jax.jit(jaxconv.conv2d).lower(x, w).as_text().count({CALL!r}))
jax.jit(jaxconv.conv2d)(x, w)
"""
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


@available
def test_layers_inside_loops_and_branches_call_it():
    """Where XLA:CPU's own convolutions are many times as slow as outside."""
    x, w, bias = _arrays((2, 20, 9, 11), (20, 20, 3, 3), 20)

    def body(x, _):
        return jnp.tanh(jaxconv.conv2d(x, w, bias, padding=1)), None

    @jax.jit
    def loop(x):
        return jax.lax.scan(body, x, length=3)[0]

    assert CALL in loop.lower(x).as_text()
    expected = x
    for _ in range(3):
        expected, _ = body(expected, None)
    # Not to the last bit: alone and in the loop, XLA compiles the body differently.
    chex.assert_trees_all_close(loop(x), expected, rtol=1e-5, atol=1e-6)


@available
def test_many_at_a_time_do_not_wait_for_each_other():
    """Independent calls of one program, which XLA may run at once, in threads that they share."""
    x, w, bias = _arrays((2, 24, 15, 16), (24, 24, 3, 3), 24)

    @jax.jit
    def many(x):
        return sum(jaxconv.conv2d(x * n, w, bias, padding=1) ** 2 for n in range(24))

    first = many(x)
    for _ in range(20):
        chex.assert_trees_all_equal(many(x), first)


@available
@pytest.mark.parametrize(
    ("groups", "channels"),
    [(1, (19, 33)), (3, (6, 15)), (3, (24, 24)), (19, (19, 19))],
    ids=["dense", "groups", "groups of eight", "depthwise"],
)
@pytest.mark.parametrize("taps", [(1, 1), (3, 2), (2, 1, 3), (5,)], ids=str)
@pytest.mark.parametrize("batch", [1, 5])
def test_weight_gradients_equal_the_direct_form(taps, batch, groups, channels):
    """A convolution whose kernel is y; of a dense layer of one tap, a product."""
    n = len(taps)
    plain = groups == 19 or taps == (1, 1)
    far = (1, 2) if n == 2 else (2, 2, 1)[:n]  # Over three axes, not along the last.
    stride, dilation = ((1,) * n, (1,) * n) if plain else ((2, 1, 1)[:n], far)
    size = tuple(3 * s + d * (k - 1) + 1 for s, d, k in zip(stride, dilation, taps, strict=True))
    g = Geometry(size, taps, (4,) * n, stride, (0,) * n, dilation, groups, channels_last=True)
    rng = np.random.default_rng(0)
    x, y = (
        jnp.asarray(rng.normal(size=(batch, *size, count)), jnp.float32)
        for size, count in zip((g.input_size, g.output_size), channels, strict=True)
    )
    form = functools.partial(plans.carry_out, ("onednn",), "weight", g=g)
    call = "matmul" if groups == 1 and taps == (1, 1) else "convolution"
    called = f"{CALL}{call}" in _program(form, x, y)
    row = taps[-1] * (1 if groups == 19 else channels[0] // groups)
    assert called == (call == "matmul" or row > 1)  # Not rows of one window.
    oracle.assert_close(jax.jit(form)(x, y), plans.DIRECT["weight"](x, y, g), 2e-6)


@available
@pytest.mark.parametrize("batch", [1, 2, 5, 16])
def test_long_sums_of_a_weight_gradient_are_taken_in_parts(batch, monkeypatch):
    monkeypatch.setattr(onednn, "SUMMED_WINDOWS", 60)
    g = Geometry((9, 8), (2, 3), (8, 6), (1, 1), (0, 0), (1, 1), channels_last=True)
    rng = np.random.default_rng(0)
    x, y = (
        jnp.asarray(rng.normal(size=(batch, *size, 5)), jnp.float32)
        for size in (g.input_size, g.output_size)
    )
    form = functools.partial(plans.carry_out, ("onednn",), "weight", g=g)
    # 48 windows to an image, and two images at least to a part.
    assert _program(form, x, y).count(f"{CALL}convolution") == {1: 1, 2: 1, 5: 2, 16: 8}[batch]
    oracle.assert_close(jax.jit(form)(x, y), plans.DIRECT["weight"](x, y, g), 2e-6)


@available
@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("size", "padding", "cores", "calls"),
    [
        ((19, 5), (1, 0), 2, 8),
        ((5, 19), (0, 1), 7, 8),
        ((31, 5), (0, 0), 8, 24),
        ((3, 6), (0, 0), 2, 6),  # One to a column.
        ((3, 6), (0, 2), 2, 2),  # So many that windows of each reach across the padding.
        ((3, 8), (0, 4), 2, 1),
        ((2, 9, 3), (0, 1, 1), 2, 4),
        ((17,), (3,), 2, 4),
    ],
    ids=str,
)
def test_windows_of_a_weight_gradient_are_summed_in_strips(
    size, padding, cores, calls, groups, batch, monkeypatch
):
    monkeypatch.setattr(onednn, "cores", lambda: cores)
    n = len(size)
    taps = (3, 2, 4)[:n]
    input_size = tuple(o + k - 1 - 2 * p for o, k, p in zip(size, taps, padding, strict=True))
    g = Geometry(input_size, taps, size, (1,) * n, padding, (1,) * n, groups, channels_last=True)
    rng = np.random.default_rng(0)
    x, y = (
        jnp.asarray(rng.normal(size=(batch, *sizes, channels * groups)), jnp.float32)
        for sizes, channels in ((input_size, 3), (size, 5))
    )
    form = functools.partial(plans.carry_out, ("onednn_in_parts",), "weight", g=g)
    assert _program(form, x, y).count(f"{CALL}convolution") == calls
    oracle.assert_close(jax.jit(form)(x, y), plans.DIRECT["weight"](x, y, g), 2e-6)


FEW_TO_A_GROUP = {
    "few-windows": (4, (32, 32), (3, 3), 1, 4, (12, 12), "window_sums"),
    "one-more": (1, (17, 241), (3, 3), 1, 4, (12, 12), "onednn_in_parts"),
    "few-windows-3d": (2, (8, 16, 16), (3, 2, 3), 1, 16, (9, 16), "window_sums"),
    "windows-3d": (2, (16, 16, 16), (3, 2, 3), 1, 16, (9, 16), "onednn_in_parts"),
    "few-channels-3d": (2, (24, 24, 24), (3, 3, 3), 1, 4, (4, 16), "onednn_in_parts"),
    "more-groups": (4, (64, 64), (3, 3), 1, 17, (12, 12), "canonical"),
    "strided": (4, (64, 64), (3, 3), 2, 4, (12, 12), "canonical"),
    "strided-many-taps": (4, (64, 64), (9, 4), 2, 4, (12, 12), "onednn_in_parts"),
    "strided-fewer-taps": (4, (64, 64), (5, 7), 2, 4, (12, 12), "canonical"),
    "one-axis": (4, (4096,), (3,), 1, 4, (12, 12), "canonical"),
    "eights": (4, (64, 64), (3, 3), 1, 4, (8, 16), "onednn"),
    "wide": (4, (64, 64), (3, 3), 1, 4, (16, 17), "onednn_in_parts"),
    "wide-few-windows": (4, (32, 32), (3, 3), 1, 4, (16, 17), "onednn"),
    "wide-one-axis": (4, (4096,), (3,), 1, 4, (16, 17), "onednn"),
    "long": (4, (512,), (16,), 1, 4, (4, 16), "onednn_in_parts"),
    "long-strided": (4, (512,), (41,), 4, 64, (4, 16), "onednn_in_parts"),
    "shorter": (4, (512,), (15,), 1, 4, (4, 16), "canonical"),
    "long-odd": (4, (512,), (16,), 1, 4, (4, 17), "canonical"),
    "long-eights": (4, (512,), (16,), 1, 4, (8, 16), "onednn"),
    "many-taps": (4, (64, 64), (9, 9), 1, 4, (4, 6), "onednn_in_parts"),
    "many-taps-depthwise": (4, (64, 64), (9, 9), 1, 4, (1, 1), "onednn"),
}


@available
@pytest.mark.parametrize("name", FEW_TO_A_GROUP)
def test_weights_of_few_channels_to_a_group_are_sums_over_windows_or_strips(name):
    batch, size, kernel_size, s, groups, per_group, computation = FEW_TO_A_GROUP[name]
    n = len(size)
    c, o = (channels * groups for channels in per_group)
    input_size = tuple((windows - 1) * s + k for windows, k in zip(size, kernel_size, strict=True))
    g = Geometry(input_size, kernel_size, size, (s,) * n, (0,) * n, (1,) * n, groups, True)
    plan = cpu.choose("weight", g, c, o, Setting(jnp.float32, images=batch))
    assert plan[-1] == computation


@pytest.fixture(params=[2, 16])
def threads(request):
    """Of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@available
@pytest.mark.parametrize(
    "name", ["few-windows", "one-more", "few-channels-3d", "wide", "long", "many-taps"]
)
def test_weights_of_few_channels_to_a_group_round_as_torchs(name, threads, monkeypatch):
    """At most twice as far from float64, whichever of its memory formats torch has."""
    monkeypatch.setattr(onednn, "cores", lambda: threads)
    batch, size, kernel_size, _, groups, per_group, _ = FEW_TO_A_GROUP[name]
    n = len(size)
    c, o = (channels * groups for channels in per_group)
    x, w, _ = _arrays((batch, c, *size), (o, c // groups, *kernel_size), o)
    y = _arrays((batch, o, *(i - k + 1 for i, k in zip(size, kernel_size, strict=True))), (), 0)[0]
    with_torch = functools.partial(getattr(torch.nn.functional, f"conv{n}d"), groups=groups)

    def of_torch(dtype, memory_format=torch.contiguous_format):
        operands = [oracle.to_torch(a).to(dtype, memory_format=memory_format) for a in (x, w, y)]
        weight = operands[1].requires_grad_()
        (gradient,) = torch.autograd.grad(with_torch(operands[0], weight), weight, operands[2])
        return gradient.double().numpy()

    exact = of_torch(torch.float64)

    def error(gradient):
        return np.linalg.norm(gradient - exact) / np.linalg.norm(exact)

    layer = getattr(jaxconv, f"conv{n}d")
    last = functools.partial(layer, groups=groups, data_format="channels_last")
    images = [jnp.moveaxis(image, 1, -1) for image in (x, y)]
    gradient = jax.jit(lambda x, w, y: jax.vjp(lambda w: last(x, w), w)[1](y)[0])(
        images[0], w, images[1]
    )
    last_formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    formats = (torch.contiguous_format, last_formats.get(n, torch.contiguous_format))
    most = max(error(of_torch(torch.float32, memory_format)) for memory_format in formats)
    assert error(np.asarray(gradient, np.float64)) <= 2 * most


@available
@pytest.mark.parametrize("size", [(300, 3), (2, 9000), (20, 21, 4)], ids=str)
def test_a_kernel_over_one_channel_that_takes_too_much_code(size):
    """As in the weight gradient of one tall image: the process would end."""
    n = len(size)
    g = Geometry(
        tuple(o + 1 for o in size), (2,) * n, size, (1,) * n, (0,) * n, (1,) * n,
        channels_last=True,
    )  # fmt: skip
    assert not onednn.fits_weight(g, 1, 4, 3)
    assert onednn.fits_weight(g, 2, 4, 3)
    rng = np.random.default_rng(0)
    x, y = (
        jnp.asarray(rng.normal(size=(1, *i, channels)), jnp.float32)
        for i, channels in ((g.input_size, 24), (g.output_size, 20))
    )
    plan = cpu.choose("weight", g, 24, 20, Setting(jnp.float32))
    form = functools.partial(plans.carry_out, plan, "weight", g=g)
    assert f"{CALL}convolution" in _program(form, x, y)
    oracle.assert_close(jax.jit(form)(x, y), plans.DIRECT["weight"](x, y, g), 5e-6)


@available
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
@pytest.mark.parametrize("size", [(40,), (9, 11), (5, 6, 7)], ids=str)
@pytest.mark.parametrize("channels", [48, 49, 64, 65, 67, 129, 142])
def test_more_channels_than_it_rounds_well_are_summed_in_parts(
    channels, size, transposed, monkeypatch
):
    """Equal parts, in a loop, but for the first."""
    monkeypatch.setattr(few_channels, "SMALL_COPIES", 0)
    monkeypatch.setattr(cpu, "_rounds_well_by_xla", lambda *_: False)
    n = len(size)
    shape = (channels, 17) if transposed else (17, channels)
    x, w, bias = _arrays((2, channels, *size), (*shape, *(3, 2, 4)[:n]), 17)
    layer = getattr(jaxconv, f"conv_transpose{n}d" if transposed else f"conv{n}d")
    in_parts = channels > onednn.MOST_SUMMED[n]
    assert _program(layer, x, w, bias).count(CALL) == (2 if in_parts else 1)
    operands = [oracle.to_torch(array).double() for array in (x, w, bias)]
    expected = getattr(oracle.F, layer.__name__)(*operands)
    oracle.assert_close(jax.jit(layer)(x, w, bias), expected.numpy(), 2e-6)


@available
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("channels", "taps", "by_xla"),
    [
        (64, 5, False),  # Not in parts.
        (65, 5, True),
        (73, 3, True),  # One panel of 219 products; torch has five panels of 48.
        (74, 3, False),  # 222.
        (128, 3, True),  # Two panels of 192.
        (160, 2, False),
        (512, 2, True),
    ],
)
def test_one_axis_is_left_to_xla_where_it_rounds_well(
    channels, taps, by_xla, channels_last, monkeypatch
):
    monkeypatch.setattr(few_channels, "SMALL_COPIES", 0)
    g = Geometry((60,), (taps,), (60,), (1,), (taps // 2,), (1,), 1, channels_last)
    setting = Setting(jnp.float32, images=20)
    computation = "canonical" if by_xla else "onednn_in_parts" if channels > 64 else "onednn"
    moved = () if channels_last else ("last_in_memory",)
    assert cpu.choose("output", g, channels, 80, setting)[: len(moved)] == moved
    assert cpu.choose("output", g, channels, 80, setting)[-1].startswith(computation)
    assert cpu.choose("input", g, 80, channels, setting)[-1].startswith(computation)
    monkeypatch.setattr(few_channels, "_pays_by_sums", lambda *_: False)
    if channels > 64:
        assert cpu.choose("output", g, channels, 4, setting)[-1].startswith(computation)


@available
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("channels", "kernel_size", "cores", "by_xla"),
    [
        ((3, 128), (5, 5), 8, True),
        ((3, 128), (5, 5), 7, False),
        ((4, 128), (5, 5), 8, False),
        ((3, 120), (5, 5), 8, False),
        ((3, 128), (4, 6), 8, False),
        ((3, 128), (9, 11), 8, True),
        ((3, 128), (10, 10), 8, False),
    ],
)
def test_many_cores_leave_images_of_few_channels_to_xla(
    channels, kernel_size, cores, by_xla, channels_last, monkeypatch
):
    monkeypatch.setattr(cpu, "cores", lambda: cores)
    monkeypatch.setattr(xla_cpu, "SPLITS_COLUMNS_ONLY", False)
    g = Geometry((31, 40), kernel_size, (14, 17), (2, 2), (3, 2), (1, 1), 1, channels_last)
    plan = cpu.choose("output", g, *channels, Setting(jnp.float32, images=20))
    assert plan[-1].startswith("canonical" if by_xla and channels_last else "onednn")


@available
@pytest.mark.parametrize("result", plans.OPERANDS)
@pytest.mark.parametrize(
    ("size", "taps", "channels", "images", "in_place"),
    [
        ((30,), (5,), (80, 90), 3, True),
        ((30,), (5,), (80, 90), 4, False),  # What windows meet is more than the kernel.
        ((30,), (2,), (80, 90), 3, False),  # Rounding would be more than twice torch's.
        ((3, 5), (2, 2), (80, 90), 1, True),
        ((3, 8), (2, 2), (80, 90), 1, False),
    ],
    ids=str,
)
def test_a_large_kernel_is_one_operand_of_a_product_as_it_lies(
    size, taps, channels, images, in_place, result, monkeypatch
):
    monkeypatch.setattr(few_channels, "SMALL_COPIES", 0)
    n = len(size)
    input_size = tuple(o + k - 1 for o, k in zip(size, taps, strict=True))
    g = Geometry(input_size, taps, size, (1,) * n, (0,) * n, (1,) * n, channels_last=True)
    plan = cpu.choose(result, g, *channels, Setting(jnp.float32, images=images))
    if taps == (2,) and result == "weight":
        in_place = True  # Its sums are over windows.
    assert (plan[-2:] == xla_cpu.KERNEL_IN_PLACE) == in_place


@available
@pytest.mark.parametrize(("channels", "taps"), [(512, 2), (128, 3), (200, 6), (768, 8)])
def test_what_is_left_to_xla_over_one_axis_rounds_as_torchs(channels, taps):
    x, w, bias = _arrays((2, channels, 300), (96, channels, taps), 96)
    program = _program(jaxconv.conv1d, x, w, bias)
    assert CALL not in program
    assert "stablehlo.convolution" in program
    operands = [oracle.to_torch(array) for array in (x, w, bias)]
    exact = oracle.F.conv1d(*(operand.double() for operand in operands)).numpy()
    ours = np.linalg.norm(np.asarray(jax.jit(jaxconv.conv1d)(x, w, bias)) - exact)
    assert ours <= 2 * np.linalg.norm(oracle.F.conv1d(*operands).double().numpy() - exact)


@available
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("channels", "taps"), [(512, 4), (256, 5), (128, 7), (97, 8)])
def test_phases_of_a_transposed_layer_round_as_torchs(channels, taps, data_format):
    x, w, bias = _arrays((2, channels, 14, 15), (channels, 32, taps, taps), 32)
    options = {"stride": 2, "padding": 1}
    operands = [oracle.to_torch(array) for array in (x, w, bias)]
    exact = oracle.F.conv_transpose2d(*(each.double() for each in operands), **options).numpy()
    torchs = oracle.F.conv_transpose2d(*operands, **options).double().numpy()
    last = data_format == "channels_last"
    x = jnp.moveaxis(x, 1, -1) if last else x
    layer = functools.partial(jaxconv.conv_transpose2d, **options, data_format=data_format)
    assert _program(layer, x, w, bias).count(f"{CALL}convolution") == 4
    y = np.asarray(jax.jit(layer)(x, w, bias))
    ours = np.moveaxis(y, -1, 1) if last else y
    assert np.linalg.norm(ours - exact) <= 2 * np.linalg.norm(torchs - exact)


@available
@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [(6,), (3, 5), (2, 4, 3), (61,), (19, 11), (7, 8, 9)], ids=str)
def test_a_transposed_convolution_reverses_the_kernel_or_smaller_images(size, groups, in_parts):
    n = len(size)
    kernel, padding, dilation = (2, 3, 3)[-n:], (0, 2, 1)[-n:], (1, 2, 1)[-n:]
    pads = [(p, p) for p in padding]
    *more, last = window_output_size(size, kernel, (1,) * n, pads, dilation)
    output = (*more, last - 1)  # So that there is less padding after than before.
    g = Geometry(size, kernel, output, (1,) * n, padding, dilation, groups, channels_last=True)
    rng = np.random.default_rng(0)
    y, w, bias = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, *output, 140), (140, 36 // groups, *kernel), (36,))
    )
    assert onednn.fits(g.exchanged(), 140, 36)
    form = functools.partial(onednn.conv_input, geometry=g, in_parts=in_parts)
    expected = plans.DIRECT["input"](*(array.astype(jnp.float64) for array in (y, w)), g)
    expected = add_bias(expected, bias.astype(jnp.float64), geometry=g)
    oracle.assert_close(jax.jit(form)(y, w, bias=bias), expected, 2e-6)


@available
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
@pytest.mark.parametrize(
    ("batch", "size", "at_once"),
    [
        (2, (9, 11), True),
        (1, (9, 11), False),
        (1, (40, 35), True),
        (2, (5, 6, 7), True),
        (1, (5, 6, 7), False),
    ],
)
def test_with_channels_last_all_are_summed_at_once(batch, size, at_once, transposed):
    """As by torch, and with the very same outcome; it does otherwise with a small single image."""
    n = len(size)
    shape = (160, 17) if transposed else (17, 160)
    x, w, bias = _arrays((batch, 160, *size), (*shape, *(3, 2, 2)[:n]), 17)
    name = f"conv_transpose{n}d" if transposed else f"conv{n}d"
    layer = functools.partial(getattr(jaxconv, name), data_format="channels_last")
    operands = jnp.moveaxis(x, 1, -1), w, bias
    assert (_program(layer, *operands).count(CALL) == 1) == at_once
    memory_format = {2: torch.channels_last, 3: torch.channels_last_3d}[n]
    of_x, *others = map(oracle.to_torch, (x, w, bias))
    expected = getattr(oracle.F, name)(of_x.contiguous(memory_format=memory_format), *others)
    actual = jnp.moveaxis(jax.jit(layer)(*operands), -1, 1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 if at_once else 2e-4)


@available
def test_the_rules_leave_weight_gradients_to_it():
    def gradient(function, x_shape, w_shape, **kwargs):
        x, w, _ = _arrays(x_shape, w_shape, 1)
        layer = functools.partial(getattr(jaxconv, function), **kwargs)
        y = jax.eval_shape(layer, x, w)
        vjp = jax.vjp(functools.partial(layer, x), w)[1]
        return _program(lambda y: vjp(y)[0], jnp.ones(y.shape, y.dtype))

    assert f"{CALL}matmul" in gradient("conv2d", (2, 40, 9, 8), (24, 40, 1, 1))
    depthwise = functools.partial(gradient, "conv2d", (2, 40, 9, 8), groups=40, padding=2)
    assert f"{CALL}convolution" in depthwise((40, 1, 7, 8))
    assert CALL not in depthwise((40, 1, 7, 8), stride=2)
    assert CALL not in depthwise((40, 1, 7, 7))


@available
@pytest.mark.parametrize(("groups", "per_group", "calls"), [(3, 8, 1), (40, 8, 1), (3, 16, 3)])
def test_groups_of_eight_channels_have_one_call_for_their_weight(groups, per_group, calls):
    channels = groups * per_group
    x, w, _ = _arrays((2, channels, 9, 8), (channels, per_group, 3, 2), 1)
    layer = functools.partial(jaxconv.conv2d, x, groups=groups)
    y = jax.eval_shape(layer, w)
    vjp = jax.vjp(layer, w)[1]
    program = _program(lambda y: vjp(y)[0], jnp.ones(y.shape, y.dtype))
    assert program.count(f"{CALL}convolution") == calls


@available
def test_strided_groups_are_left_to_it_where_it_has_code_for_every_phase():
    g = Geometry((11, 9), (3, 4), (6, 4), (2, 2), (1, 1), (1, 1), 2, channels_last=True)
    plan = cpu.choose("input", g, 16, 20, Setting(jnp.float32))
    assert plan == ("as_arithmetic", "unpadded_phases", "onednn")
    _, w, _ = _arrays((2, 16, *g.input_size), (20, 8, *g.kernel_size), 20)
    y = jnp.asarray(np.random.default_rng(1).normal(size=(2, *g.output_size, 20)), jnp.float32)
    form = functools.partial(plans.carry_out, plan, "input", g=g)
    assert f"{CALL}convolution" in _program(form, y, w)
    oracle.assert_close(jax.jit(form)(y, w), plans.DIRECT["input"](y, w, g), 2e-6)
    far = Geometry((2, 1), (7, 2), (5, 2), (2, 1), (10, 1), (2, 1), 2, channels_last=True)
    assert "onednn" not in cpu.choose("input", far, 16, 20, Setting(jnp.float32))


def _assert_calls_for_an_input_gradient(
    calls, size, kernel_size, stride, groups, channels, channels_last
):
    """So many convolutions are asked of oneDNN, and what results is right."""
    c, o = channels
    n = len(size)
    input_size = tuple(
        (windows - 1) * s + k - 2 for windows, s, k in zip(size, stride, kernel_size, strict=True)
    )
    g = Geometry(input_size, kernel_size, size, stride, (1,) * n, (1,) * n, groups, channels_last)
    plan = cpu.choose("input", g, c, o, Setting(jnp.float32, images=3))
    _, w, _ = _arrays((3, c, *input_size), (o, c // groups, *kernel_size), o)
    shape = (3, *size, o) if channels_last else (3, o, *size)
    y = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
    form = functools.partial(plans.carry_out, plan, "input", g=g)
    assert _program(form, y, w).count(f"{CALL}convolution") == calls, plan
    oracle.assert_close(jax.jit(form)(y, w), plans.DIRECT["input"](y, w, g), 2e-6)


@available
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "groups", "channels", "small_copies", "cores", "calls"),
    [
        ((5, 4), (6, 4), (2, 2), 2, (16, 20), None, 2, 1),
        ((5, 4), (6, 4), (3, 2), 2, (32, 40), None, 2, 3),  # Of the first axis apart,
        ((5, 4), (6, 4), (3, 2), 2, (32, 40), None, 4, 1),  # if there are few cores.
        ((5, 4), (6, 4), (1, 2), 2, (32, 40), None, 2, 1),
        ((2, 5, 4), (4, 6, 4), (2, 3, 2), 1, (5, 7), None, 4, 2),
        ((2, 5, 4), (4, 3, 6), (1, 1, 2), 1, (5, 7), None, 4, 1),
        ((2, 5, 4), (3, 4, 6), (2, 2, 2), 1, (5, 7), 2520, 2, 0),  # Odd: XLA's, phase by phase,
        ((2, 5, 4), (3, 4, 6), (2, 2, 2), 1, (5, 7), 2519, 2, 8),  # or oneDNN's, of large images.
    ],
)
def test_phases_of_a_stride_are_channels_where_it_divides_the_kernel(
    size, kernel_size, stride, groups, channels, small_copies, cores, calls, channels_last,
    monkeypatch,
):  # fmt: skip
    monkeypatch.setattr(onednn_phases, "cores", lambda: cores)
    monkeypatch.setattr(few_channels, "SMALL_COPIES", small_copies or few_channels.SMALL_COPIES)
    _assert_calls_for_an_input_gradient(
        calls, size, kernel_size, stride, groups, channels, channels_last
    )


@available
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "groups", "per_group", "calls"),
    [
        ((12,), (9,), (4,), 3, (4, 6), 2),  # Whole strides, and the rest.
        ((12,), (7,), (4,), 3, (4, 6), 4),  # Less than two: phases.
        ((12,), (8,), (3,), 3, (4, 6), 3),  # Few of these.
        ((12,), (17,), (4,), 3, (4, 3), 2),  # Nearly 13 products to an element of x.
        ((12,), (15,), (4,), 3, (4, 3), 0),  # 11: XLA's, as of few channels.
        ((12,), (51,), (4,), 9, (1, 1), 0),
        ((5, 6), (7, 7), (2, 2), 9, (1, 1), 4),
        ((5, 6), (7, 6), (2, 2), 9, (1, 1), 0),
        ((5, 6), (5, 5), (2, 2), 1, (16, 64), 4),  # 400 products to an element of x.
        ((5, 6), (5, 5), (2, 2), 1, (16, 63), 0),
        ((5, 6), (5, 5), (2, 2), 1, (15, 64), 0),
        ((5, 6), (5, 3), (2, 2), 1, (16, 128), 0),  # Phases of one tap.
        ((5, 6), (5, 3), (2, 1), 1, (16, 54), 2),
        ((5, 6), (4, 6), (2, 2), 1, (16, 171), 4),  # 1026.
        ((5, 6), (4, 6), (2, 2), 1, (16, 170), 0),  # XLA's are one convolution.
        ((5, 6), (4, 5), (2, 2), 1, (16, 320), 4),
        ((5, 6), (4, 5), (2, 2), 1, (16, 321), 0),  # Rounding would be more than twice torch's.
        ((5, 6), (9, 4), (2, 2), 1, (16, 64), 0),  # Likewise.
        ((7, 9), (4, 4), (2, 2), 1, (16, 321), 4),
        ((3, 4), (13, 15), (6, 7), 1, (2, 3), 3),  # 42 phases; the rest of both is a product.
        ((3, 2, 2), (9, 4, 5), (4, 4, 2), 2, (4, 5), 4),  # 32; one axis has no rest.
    ],
    ids=str,
)
def test_strided_input_gradients_have_a_call_for_each_phase_or_for_whole_strides(
    size, kernel_size, stride, groups, per_group, calls, channels_last
):
    """At the edges of what decides between them, and XLA's own code."""
    channels = tuple(count * groups for count in per_group)
    _assert_calls_for_an_input_gradient(
        calls, size, kernel_size, stride, groups, channels, channels_last
    )


@available
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("result", "channels", "kernel_size", "stride", "call"),
    [
        ("output", (3, 10), (3, 3), (1, 2), "convolution"),  # 270 products to all channels.
        ("output", (3, 8), (3, 3), (1, 2), None),  # 216.
        ("output", (2, 6), (3, 3), (1, 1), "convolution"),  # 108, but to no power of two.
        ("output", (2, 5), (3, 3), (1, 1), None),  # 90.
        ("output", (1, 36), (3, 3), (1, 1), "convolution"),  # 324, for a single channel.
        ("output", (1, 35), (3, 3), (1, 1), None),  # 315.
        ("output", (64, 5), (3, 3), (1, 1), "convolution"),
        ("output", (20, 4), (3, 2), (1, 1), None),  # XLA's convolution, in vectors of 4.
        ("output", (22, 4), (3, 2), (1, 1), "convolution"),
        ("output", (64, 4), (3, 3), (1, 1), None),  # Sums of one product, with all taps.
        ("input", (10, 3), (3, 3), (1, 1), "convolution"),
        ("input", (7, 64), (3, 3), (1, 1), "convolution"),
        ("input", (6, 64), (3, 3), (1, 1), None),  # As above.
        ("input", (6, 2), (3, 3), (1, 1), "convolution"),
        ("input", (4, 3), (3, 3), (1, 1), None),
        ("input", (3, 10), (3, 3), (2, 2), None),  # Phases, and one product of each.
        ("input", (3, 10), (5, 4), (2, 2), None),
        ("input", (3, 9), (5, 4), (2, 2), "convolution"),  # Phases.
        ("weight", (3, 10), (3, 4), (1, 2), "matmul"),  # Patches of 36 elements.
        ("weight", (3, 16), (3, 4), (1, 2), "convolution"),  # To channels that fill a vector.
        ("weight", (3, 16), (4, 5), (4, 5), "matmul"),  # Patches side by side, of 60.
        ("weight", (3, 16), (4, 6), (4, 6), "convolution"),  # Of 72.
    ],
)
def test_few_channels(result, channels, kernel_size, stride, call, channels_last, monkeypatch):
    monkeypatch.setattr(few_channels, "cores", lambda: 2)
    output_size = (6, 9)
    input_size = tuple(
        (o - 1) * s + k - low
        for o, s, k, low in zip(output_size, stride, kernel_size, (1, 0), strict=True)
    )
    g = Geometry(input_size, kernel_size, output_size, stride, (1, 0), (1, 1), 1, channels_last)
    plan = cpu.choose(result, g, *channels, Setting(jnp.float32, images=4))

    def image(count, size):
        return (4, *size, count) if channels_last else (4, count, *size)

    shapes = {
        "input": image(channels[0], input_size),
        "output": image(channels[1], output_size),
        "weight": (*channels[::-1], *kernel_size),
    }
    rng = np.random.default_rng(0)
    operands = [rng.normal(size=shapes[role]) for role in plans.OPERANDS[result]]
    ab = [jnp.asarray(operand, jnp.float32) for operand in operands]
    form = functools.partial(plans.carry_out, plan, result, g=g)
    if channels_last:
        program = _program(form, *ab)
        assert CALL not in program if call is None else f"{CALL}{call}" in program
    oracle.assert_close(jax.jit(form)(*ab), plans.DIRECT[result](*ab, g), 2e-6)


@available
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("size", "taps", "images", "cores", "block", "by_rows"),
    [
        ((60, 70), (3, 3), 27, 2, (), False),  # 75600 sums to an image, of up to 2^21.
        ((60, 70), (3, 3), 28, 2, ("blocks:27",), False),
        ((190, 130), (9, 9), 3, 2, ("blocks:1",), True),  # Channels last, XLA's convolution.
        ((500,), (101,), 2, 2, None, False),  # More than one operation adds up.
        ((60, 70), (3, 3), 27, 4, (), False),  # Likewise.
        ((60, 70), (3, 3), 28, 4, None, False),  # A loop would leave cores idle.
    ],
)
def test_sums_of_one_product_are_of_some_images_or_rows(
    size, taps, images, cores, block, by_rows, channels_last, monkeypatch
):
    monkeypatch.setattr(few_channels, "cores", lambda: cores)
    n = len(size)
    padding = tuple(k // 2 for k in taps)
    g = Geometry(size, taps, size, (1,) * n, padding, (1,) * n, 1, channels_last)
    setting = Setting(jnp.float32, images=images)
    plan = cpu.choose("output", g, 64, 2, setting)
    if block is None:
        assert "exchange" not in plan
        return
    if channels_last and (by_rows or cores == 4):
        assert plan[-1] == cpu.choose("input", g, 2, 64, setting)[-1] == "canonical"
        return
    axis = -1 if channels_last else 0
    taps = (f"taps_to_channels:{axis}", "sum_over_taps") if by_rows else ("taps_to_channels",)
    assert plan == (*block, "once", "exchange", *taps, "onednn")
    assert cpu.choose("input", g, 2, 64, setting) == (*block, "once", *taps, "onednn")


@available
@pytest.mark.parametrize(
    ("cores", "images", "looked_up"), [(2, 8, True), (2, 9, False), (4, 16, True), (4, 17, False)]
)
def test_small_depthwise_images_are_looked_up_in_tables(cores, images, looked_up, monkeypatch):
    monkeypatch.setattr(cpu, "cores", lambda: cores)
    monkeypatch.setattr(cpu, "SMALL_BATCH", 4 * 32 * 9 * 8 * 9)  # Of four images.
    g = Geometry((9, 8), (3, 3), (9, 8), (1, 1), (1, 1), (1, 1), 32, channels_last=True)
    plan = cpu.choose("output", g, 32, 32, Setting(jnp.float32, images=images))
    assert plan[-1] == ("gathers" if looked_up else "onednn")


@available
@pytest.mark.parametrize(("rows", "repeats"), [(22, False), (25, True)])
def test_channels_are_not_repeated_for_a_kernel_as_long_as_the_image(rows, repeats):
    """A copy of x would take longer than the products."""
    x, w, bias = _arrays((2, 8, rows, 37), (16, 1, 22, 1), 16)
    program = _program(functools.partial(jaxconv.conv2d, groups=8), x, w, bias)
    assert f"feature_groups\\22: {16 if repeats else 8}" in program
    assert program.count(CALL) == 1


@available
@pytest.mark.parametrize("per_group", [(1, 1), (1, 2), (2, 3)])
def test_groups_of_one_window_have_no_products_with_padding(per_group):
    c, o = (5 * channels for channels in per_group)
    x, w, bias = _arrays((3, c, 7, 6), (o, per_group[0], 7, 6), o)
    layer = functools.partial(jaxconv.conv2d, groups=5)
    cotangent = jnp.ones((3, o, 1, 1), jnp.float32)
    gradient = _program(lambda x: jax.vjp(layer, x, w, bias)[1](cotangent), x)
    assert f"{CALL}convolution" in gradient
    exact = functools.partial(oracle.F.conv2d, groups=5)
    _assert_value_and_gradients_agree(layer, exact, x, w, bias)


@available
@pytest.mark.parametrize(
    ("multiplier", "stride", "repeats"),
    [(2, 1, True), (3, 1, True), (4, 1, False), (2, 2, True), (3, 2, False)],
)
def test_a_depthwise_multiplier_repeats_the_channels_of_x(multiplier, stride, repeats):
    """The bias is still added in the same call."""
    x, w, bias = _arrays((2, 18, 9, 11), (18 * multiplier, 1, 5, 4), 18 * multiplier)
    layer = functools.partial(jaxconv.conv2d, groups=18, stride=stride)
    program = _program(layer, x, w, bias)
    assert program.count(CALL) == 1
    assert (f"feature_groups\\22: {18 * multiplier}" in program) == repeats
    exact = functools.partial(oracle.F.conv2d, groups=18, stride=stride)
    _assert_value_and_gradients_agree(layer, exact, x, w, bias)


@available
@pytest.mark.parametrize(
    ("size", "stride", "padding", "by_product"),
    [
        ((64, 64), 1, 0, True),
        ((128, 127), 2, 0, True),
        ((64, 63), 1, 0, False),  # The bias is no long work.
        ((64, 64), 1, 1, False),
    ],
)
def test_a_kernel_of_one_tap_is_a_product_that_adds_the_bias(size, stride, padding, by_product):
    """Over all positions at once, with channels last."""
    x, w, bias = _arrays((2, 5, *size), (32, 5, 1, 1), 32)
    layer = functools.partial(
        jaxconv.conv2d, stride=stride, padding=padding, data_format="channels_last"
    )
    image = np.moveaxis(x, 1, -1)
    assert _program(layer, image, w, bias).count(f"{CALL}matmul") == by_product
    assert CALL not in _program(layer, image, w)
    actual = jax.jit(layer)(image, w, bias)
    operands = [oracle.to_torch(array).double() for array in (x, w, bias)]
    expected = oracle.F.conv2d(*operands, stride=stride, padding=padding).numpy()
    oracle.assert_close(actual, np.moveaxis(expected, 1, -1), 2e-6)


@available
@pytest.mark.parametrize(
    ("kernel_size", "groups"), [((1, 1), 3), ((3, 2), 1), ((5, 4), 18), ((2, 5), 3)]
)
def test_rows_and_columns_that_make_no_window_are_not_cut_off(kernel_size, groups):
    """That would be a copy of all others."""
    x, w, bias = _arrays((2, 18, 12, 14), (18, 18 // groups, *kernel_size), 18)
    kwargs = {"stride": (4, 3), "groups": groups}
    layer = functools.partial(jaxconv.conv2d, data_format="channels_last", **kwargs)
    image = np.moveaxis(x, 1, -1)
    for program in (_program(layer, image, w), _program(layer, image, w, bias)):
        assert program.count(f"{CALL}convolution") == 1
        assert "slice" not in program
    actual = jax.jit(layer)(image, w, bias)
    operands = [oracle.to_torch(array).double() for array in (x, w, bias)]
    expected = oracle.F.conv2d(*operands, **kwargs).numpy()
    oracle.assert_close(actual, np.moveaxis(expected, 1, -1), 2e-6)


@available
@pytest.mark.parametrize(("batch", "groups"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "transposed"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [
        ((80,), 1, 1),
        ((9, 11), 1, 1),
        ((4, 5, 6), 1, 1),
        ((19, 21), 1, 2),
        ((130,), 2, 2),
        ((18, 25), (2, 3), (2, 3)),
        ((8, 10, 13), (2, 2, 3), (2, 2, 3)),
    ],
    ids=str,
)
def test_a_product_with_channels_first_is_one_for_each_image(
    size, kernel, stride, transposed, batch, groups
):
    """And each group, as they lie: nothing is moved but for a stride."""
    n = len(size)
    kernel = (kernel,) * n if isinstance(kernel, int) else kernel
    first, second = (20, 18) if transposed else (18, 20)
    x, w, bias = _arrays((batch, 20, *size), (first, second // groups, *kernel), 18)
    name = f"conv_transpose{n}d" if transposed else f"conv{n}d"
    layer = functools.partial(getattr(jaxconv, name), stride=stride, groups=groups)
    assert _program(layer, x, w, bias).count(f"{CALL}matmul") == 1
    y = jax.eval_shape(layer, x, w, bias)
    program = _program(lambda y, *a: jax.vjp(layer, *a)[1](y), jnp.ones_like(y), x, w, bias)
    assert program.count(f"{CALL}matmul") == 2
    exact = functools.partial(getattr(oracle.F, name), stride=stride, groups=groups)
    _assert_value_and_gradients_agree(layer, exact, x, w, bias)


@available
@pytest.mark.parametrize(
    ("channels", "size", "stride", "by_product"),
    [
        (70, (6, 7), 1, True),
        (64, (6, 7), 1, False),
        (70, (5, 7), 1, False),
        (70, (6, 7), 2, False),
        (70, (90, 90), 1, False),
    ],
)
def test_small_input_gradients_of_many_channels_are_one_product(channels, size, stride, by_product):
    x, w, bias = _arrays((2, channels, *size), (channels, 24, 3, 2), 24)
    layer = functools.partial(jaxconv.conv_transpose2d, stride=stride)
    by_onednn = CALL in _program(layer, x, w, bias)
    assert by_onednn == (stride == 1 and not by_product)
    operands = [oracle.to_torch(array).double() for array in (x, w, bias)]
    expected = oracle.F.conv_transpose2d(*operands, stride=stride).numpy()
    oracle.assert_close(jax.jit(layer)(x, w, bias), expected, 2e-6)
