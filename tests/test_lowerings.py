"""Every plan equals the direct form, for each contraction, at the edges of what it fits."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxconv
from jaxconv import geometry, varying
from jaxconv.geometry import Geometry
from jaxconv.lowerings import blocks, canonical, copies, cpu, gpu, onednn, plans, window_sums
from jaxconv.lowerings.setting import Setting
from tests import oracle
from tests.cases import all_cases

GEOMETRIES = {
    "dense": Geometry((7, 9), (3, 2), (7, 9), (1, 1), (1, 1), (1, 1), channels_last=True),
    "strided": Geometry((9, 11), (3, 4), (5, 4), (2, 3), (1, 2), (1, 1), channels_last=True),
    "unreached-rows": Geometry((14, 9), (3, 2), (3, 2), (3, 2), (0, 1), (2, 1)),
    "patchify": Geometry((9, 8), (4, 3), (2, 2), (4, 3), (0, 0), (1, 1), channels_last=True),
    "divides": Geometry((8, 10), (4, 4), (4, 5), (2, 2), (1, 1), (1, 1)),
    "dilated": Geometry((8, 9), (3, 3), (8, 9), (1, 1), (2, 3), (2, 3), channels_last=True),
    "strided-dilated": Geometry((13, 12), (3, 4), (4, 2), (3, 4), (2, 1), (2, 2)),
    "groups": Geometry((7, 8), (3, 2), (4, 4), (2, 2), (1, 0), (1, 1), 3, channels_last=True),
    "one-window": Geometry((4, 3), (4, 3), (1, 1), (1, 1), (0, 0), (1, 1), channels_last=True),
    "unmet-taps": Geometry((6, 3), (4, 3), (3, 1), (1, 1), (6, 4), (5, 5), channels_last=True),
    "1d": Geometry((20,), (4,), (6,), (3,), (2,), (2,), channels_last=True),
    "3d": Geometry((4, 5, 6), (2, 3, 2), (4, 3, 4), (1, 2, 2), (0, 1, 1), (1, 1, 2), 2),
    "3d-padded-deep": Geometry((4, 5, 6), (3, 3, 2), (6, 5, 6), (1, 1, 1), (2, 1, 0), (1, 1, 1)),
}
MORE_GEOMETRIES = {
    "unpadded": Geometry((60, 81), (4, 5), (29, 39), (2, 2), (0, 0), (1, 1), channels_last=True),
    "strided-dilated-alike": Geometry((13, 12), (3, 4), (5, 2), (2, 4), (2, 1), (2, 2)),
    "groups-patchify": Geometry((9, 8), (4, 3), (2, 3), (4, 3), (1, 1), (1, 1), 3),
    "groups-dilated": Geometry((7, 8), (3, 2), (7, 9), (1, 1), (2, 3), (2, 5), 3, True),
    "groups-strided-dilated": Geometry((9, 8), (3, 2), (4, 4), (2, 2), (2, 0), (2, 2), 3),
    "groups-3d-strided": Geometry(
        (4, 5, 6), (3, 2, 2), (2, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1), 3
    ),
    "nine-groups-dilated": Geometry((7, 8), (3, 2), (7, 9), (1, 1), (2, 3), (2, 5), 9, True),
    "groups-deep": Geometry((5, 4, 3), (9, 2, 1), (3, 5, 3), (1, 1, 1), (3, 1, 0), (1, 1, 1), 3),
    "nine-groups-deep": Geometry((5, 4, 3), (9, 2, 1), (3, 5, 3), (1,) * 3, (3, 1, 0), (1,) * 3, 9),
    "strided-dilated-uneven": Geometry((19, 17), (3, 2), (5, 6), (3, 2), (2, 0), (2, 4)),
    "few-windows-dilated": Geometry((14, 13), (3, 2), (2, 3), (1, 1), (0, 0), (6, 10), 3, True),
    "3d-divides": Geometry((4, 5, 6), (2, 4, 2), (2, 3, 6), (2, 2, 1), (0, 1, 1), (1, 1, 2), 3),
    "3d-depth": Geometry((6, 5, 4), (3, 1, 1), (3, 5, 4), (2, 1, 1), (1, 0, 0), (1,) * 3, 1, True),
    "groups-large-patches": Geometry(
        (18, 24), (9, 8), (2, 3), (9, 8), (0, 0), (1, 1), 3, channels_last=True
    ),
    "many-phases": Geometry((19, 29), (8, 9), (3, 4), (6, 7), (1, 2), (1, 1)),
    "groups-many-phases-last": Geometry((80,), (35,), (3,), (40,), (20,), (1,), 3, True),
    "groups-many-phases-dilated": Geometry((24, 29), (5, 9), (2, 4), (6, 7), (1, 2), (5, 1), 3),
    "3d-groups-many-phases": Geometry(
        (10, 9, 11), (5, 4, 3), (3, 2, 3), (4, 4, 4), (2, 0, 1), (1,) * 3, 3, True
    ),
    "groups-1x1": Geometry((7, 8), (1, 1), (7, 8), (1, 1), (0, 0), (1, 1), 3, True),
}
"""What only rules tell apart."""

THREE_TAPS = Geometry((7, 9), (3, 3), (8, 9), (1, 1), (2, 1), (1, 1), channels_last=True)
GEOMETRIES |= {
    "three-taps": THREE_TAPS,
    "three-taps-dilated": dataclasses.replace(THREE_TAPS, dilation=(2, 1), output_size=(5, 9)),
    "3d-three-taps": Geometry((4, 5, 6), (3, 2, 3), (4, 4, 2), (1,) * 3, (1, 0, 0), (1, 1, 2), 2),
}

PLANS = [
    ("canonical",),
    ("exchange", "canonical"),
    ("last", "phases", "canonical"),
    ("stride_to_channels", "direct"),
    ("stride_to_channels", "taps_to_channels:0", "axis_to_batch", "direct"),
    ("whole_strides", "stride_to_channels", "direct"),
    ("last", "whole_strides", "phases", "taps_to_channels", "direct"),
    ("taps_to_channels", "direct"),
    ("taps_to_channels:0", "axis_to_batch", "direct"),
    ("exchange", "taps_to_channels", "direct"),
    ("blocks:1", "exchange", "taps_to_channels:-1", "sum_over_taps", "direct"),
    ("sum_over_taps", "direct"),
    ("phases", "sum_over_taps:0", "axis_to_batch", "direct"),
    ("dilation_to_batch", "canonical"),
    ("batch_to_last_axis", "direct"),
    ("first_in_memory", "phases", "fit", "taps"),
    ("first", "phases", "fit", "rows_together"),
    ("crop_kernel", "direct"),
    ("sum_over_met_taps", "direct"),
    ("last", "groups", "sum_over_met_taps", "matrix_product"),
    ("sum_over_met_taps:0", "axis_to_batch", "direct"),
    ("sum_over_met_taps:0", "taps_to_channels", "direct"),
    ("fill_operand", "canonical"),
    ("extend_output", "direct"),
    ("last_in_memory", "direct"),
    ("y_last_in_memory", "fit", "direct"),
    ("phases", "exchange", "convolution"),
    ("last", "groups", "exchange", "fit", "taps_to_channels:-1", "sum_over_taps", "matrix_product"),
    ("fill_channels", "batch_to_last_axis", "direct"),
    ("groups", "canonical"),
    ("phases", "fit", "taps_in_steps"),
    ("phases", "taps"),
    ("gathers",),
    ("once", "phases", "exchange", "copied", "fit", "taps"),
    ("as_arithmetic", "unpadded_phases", "copied", "direct"),
    ("unpadded_phases:0", "stride_to_channels", "exchange", "direct"),
    ("last", "window_sums"),
    ("last", "groups", "sum_over_taps", "matrix_product"),
    ("last", "groups", "phases", "taps_to_channels:-1", "sum_over_taps", "matrix_product"),
    ("windows_to_channels", "direct"),
    ("first", "windows_to_channels", "direct"),
    ("blocks", "sum_over_taps", "canonical"),
    ("large_blocks", "groups", "both_copied", "direct"),
    ("repeat_channels", "direct"),
    ("blocks", "last", "groups", "sum_over_taps", "matrix_product"),
    ("blocks", "phases", "taps_to_channels:-1", "sum_over_taps", "direct"),
    ("blocks_of_groups", "last", "groups", "sum_over_taps", "matrix_product"),
]
RESULTS = {
    "window_sums": ("weight",),
    "matrix_product": ("weight",),
    "gathers": ("output", "input"),
}
"""What a computation can give, if not all."""
CHANNELS = {"repeat_channels": (1, 3)}
"""To a group, of x and y, for a plan that begins so, if not (2, 3)."""


def _operands(result, g, per_group=(2, 3)):
    rng = np.random.default_rng(0)
    c, o = (channels * g.groups for channels in per_group)

    def image(channels, size):
        return rng.normal(size=(2, *size, channels) if g.channels_last else (2, channels, *size))

    arrays = {
        "input": image(c, g.input_size),
        "output": image(o, g.output_size),
        "weight": rng.normal(size=(o, c // g.groups, *g.kernel_size)),
    }
    return [jnp.asarray(arrays[role]) for role in plans.OPERANDS[result]]


@functools.cache
def _by_plan(plan, result, g, per_group):
    form = functools.partial(plans.carry_out, plan, result, g=g)
    return jax.jit(form)(*_operands(result, g, per_group))


def _direct(result, g, per_group=(2, 3)):
    return _by_plan(("convolution",), result, g, per_group)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: "+".join(plan[:-1]) + "+" + plan[-1])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_plan_equals_the_direct_form(name, plan, monkeypatch):
    g, per_group = GEOMETRIES[name], CHANNELS.get(plan[0], (2, 3))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)  # A block to each image.
    monkeypatch.setitem(plans.GROUP_BLOCKS, "blocks_of_groups", 1)
    monkeypatch.setattr(onednn, "MOST_SUMMED", dict.fromkeys((1, 2, 3), 1))

    @jax.jit
    def planned(arrays):
        return {result: plans.carry_out(plan, result, *ab, g) for result, ab in arrays.items()}

    results = RESULTS.get(plan[-1], plans.OPERANDS)
    arrays = {result: _operands(result, g, per_group) for result in results}
    if plan == ("phases", "taps"):  # Else x has to be padded first.
        arrays = {"input": arrays["input"]}
    if name == "strided-dilated":
        # XLA:CPU is not to be trusted with both dilations: torch is the oracle in other tests.
        arrays.pop("input", None)
    for result, actual in planned(arrays).items():
        oracle.assert_close(actual, _direct(result, g, per_group), 1e-13, result)


def test_arithmetic_before_a_norm_is_compiled_once():
    """Where XLA:CPU copies it into each of the norm's loops."""
    g = Geometry((8, 9), (3, 3), (8, 9), (1, 1), (1, 1), (1, 1), groups=3)
    device = jax.devices("cpu")[0]
    ab = [
        jax.device_put(operand.astype(jnp.float32), device)
        for operand in _operands("output", g, per_group=(2, 2))
    ]

    def products(plan):
        def normalized(a, b):
            y = plans.carry_out(plan, "output", a, b, g)
            y -= y.mean((0, 2, 3), keepdims=True)
            return jnp.tanh(y / jnp.sqrt(jnp.square(y).mean((0, 2, 3), keepdims=True)))

        return jax.jit(normalized).lower(*ab).compile().as_text().count(" multiply(")

    of_the_layer = 2 * g.taps
    assert of_the_layer <= products(("once", "fit", "taps")) < 2 * of_the_layer
    assert products(("fit", "taps")) >= 2 * of_the_layer


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int32"])
def test_arithmetic_that_copies_changes_no_bit(dtype):
    numbers = [0.0, -0.0, 1 / 3, -jnp.inf, jnp.nan, jnp.finfo(jnp.float16).smallest_subnormal]
    array = jnp.asarray(numbers if dtype != "int32" else [0, -1, 2**31 - 1], dtype)
    copied = jax.jit(copies.as_arithmetic)(array)
    assert np.asarray(copied).tobytes() == np.asarray(array).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_xla_keeps_the_arithmetic_of_a_copy(dtype):
    """Else it were a copy again: of more bytes, in and out, than it has operations."""
    array = jax.device_put(jnp.ones((64, 48), dtype), jax.devices("cpu")[0])
    program = jax.jit(lambda a: copies.moved_in_memory(copies.as_arithmetic(a.T)))
    operations = program.lower(array).compile().as_text().count(" reduce-precision(")
    assert operations > 2 * array.dtype.itemsize


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_blocks_are_larger_for_more_cores(cores, monkeypatch):
    """If several images are wanted, one MiB each here; two blocks' worth at least."""
    monkeypatch.setattr(blocks, "cores", lambda: cores)
    images = [jax.ShapeDtypeStruct((24, 1 << 17), jnp.float32)] * 2
    assert blocks._images_per_block(images, 1) == 4
    assert blocks._images_per_block(images, 1, most=3) == 3
    assert blocks._images_per_block(images, 12) == {1: 8, 2: 8, 16: 12}[cores]


def test_a_loop_over_single_images_copies_no_batch():
    """Of one image to a block, XLA:CPU may choose another layout, and copy all of them."""
    g = Geometry((9, 11), (3, 3), (9, 11), (1, 1), (1, 1), (1, 1), channels_last=True)
    x, w = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((50, 9, 11, 64), (2, 64, 3, 3)))
    plan = ("blocks:1", "exchange", "taps_to_channels", "direct")
    form = functools.partial(plans.carry_out, plan, "output", g=g)
    lowered = jax.jit(form).trace(x, w).lower(lowering_platforms=("cpu",))
    # As users compile it, where other tests do not (see conftest.py).
    options = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else {}
    program = lowered.compile(options)
    assert program.memory_analysis().temp_size_in_bytes < x.size * x.dtype.itemsize / 2


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@all_cases
def test_xla_cpu_has_fast_code_for_all_convolutions_within_a_loop(case, channels_last):
    """There, it leaves them as they are written. In float64, so that oneDNN takes none."""
    operands = case.arrays()
    layer = functools.partial(oracle.run_jaxconv, case, channels_last=channels_last)

    def gradients(*operands):
        y, pull = jax.vjp(layer, *operands)
        return pull(y)

    program = jax.jit(gradients).trace(*operands).lower(lowering_platforms=("cpu",)).as_text()
    forms = re.findall(r"dim_numbers = (.*), window.* feature_group_count = 1 ", program)
    # An empty batch is left to lax.
    fast = r"\[b, ([\d, ]+)f\]x\[\1i, o\]->\[b, \1f\]" if operands[0].size else ".*"
    assert all(re.fullmatch(fast, form) for form in forms)


@pytest.mark.parametrize("result", plans.OPERANDS)
def test_many_cores_move_a_large_kernel(result, monkeypatch):
    monkeypatch.setattr(copies, "cores", lambda: 16)
    g = GEOMETRIES["dense"]
    a, b = _operands(result, g)
    form = functools.partial(plans.carry_out, ("canonical",), result, g=g)
    monkeypatch.setattr(canonical, "LARGE_KERNEL", b.size + 1)
    assert "reduce_precision" not in jax.jit(form).lower(a, b).as_text()
    monkeypatch.setattr(canonical, "LARGE_KERNEL", b.size)
    jax.clear_caches()
    assert "reduce_precision" in jax.jit(form).lower(a, b).as_text()
    oracle.assert_close(jax.jit(form)(a, b), _direct(result, g), 1e-13)


@pytest.mark.parametrize("result", plans.OPERANDS)
@pytest.mark.parametrize("size", [(7,), (4, 5), (3, 8, 3)], ids=str)
def test_a_single_image_as_two(size, result, monkeypatch):
    """Windows along the longest axis in two runs, of which the second may have one less."""
    monkeypatch.setattr(onednn, "MOST_TAPS", 1)
    n = len(size)
    k, s, p, d = ((2, 3, 3)[:n], (2, 1, 3)[:n], (1, 2, 0)[:n], (1, 2, 1)[:n])
    input_size = tuple((o - 1) * t + 2 for o, t in zip(size, s, strict=True))
    g = Geometry(input_size, k, size, s, p, d, channels_last=True)
    ab = _operands(result, g)
    a, b = (ab[0][:1], ab[1] if result != "weight" else ab[1][:1])
    plan = ("image_to_halves", "convolution")
    assert plans._change(plan[0], result, a, b, g) is not None
    assert plans._change(plan[0], result, *ab, g) is None
    actual = plans.carry_out(plan, result, a, b, g)
    oracle.assert_close(actual, plans.DIRECT[result](a, b, g), 1e-13)


@pytest.mark.parametrize(("channels_last", "dilation"), [(True, 2), (False, 1)])
@pytest.mark.parametrize("taps", [(9, 8), (3, 31), (67, 2), (131,), (128,), (5, 5, 5)], ids=str)
@pytest.mark.parametrize("computation", ["taps", "rows_together"])
def test_large_depthwise_kernels_loop_and_agree(computation, taps, dilation, channels_last):
    """More taps than are written out: a loop over rows, along any axis, with a rest and without."""
    n = len(taps)
    size = tuple((k - 1) * dilation + 4 for k in taps)
    s, d = (1,) * n, (dilation,) * n
    g = Geometry(size, taps, (4,) * n, s, (0,) * n, d, 3, channels_last)
    for result in plans.OPERANDS:
        ab = _operands(result, g)
        form = functools.partial(plans.carry_out, ("phases", "fit", computation), result, g=g)
        oracle.assert_close(jax.jit(form)(*ab), plans.DIRECT[result](*ab, g), 1e-12, result)


@pytest.mark.parametrize("numbers", [1, 1 << 11, 1 << 20])
@pytest.mark.parametrize("together", [1, 4, 15])
@pytest.mark.parametrize("size", [(37,), (37, 5), (9, 4), (3, 32, 4), (1, 6)], ids=str)
@pytest.mark.parametrize("per_group", [(1, 1), (2, 3)], ids=str)
def test_window_sums_are_of_blocks(per_group, size, together, numbers, monkeypatch):
    """Single windows and several together, along one axis and more, with some left over and with
    none; of two lines at a time, of some, and of all; channel by channel, and together."""
    monkeypatch.setattr(window_sums, "TOGETHER", together)
    monkeypatch.setattr(window_sums, "NUMBERS", numbers)
    monkeypatch.setattr(window_sums, "OF_A_CORE", numbers // blocks.cores())
    monkeypatch.setattr(window_sums, "ENTRIES", 1 << 6)
    n = len(size)
    k, s, p, d = ((3, 8, 2)[-n:], (2, 1, 2)[-n:], (2, 5, 1)[-n:], (1, 2, 3)[-n:])
    input_size = tuple(
        (o - 1) * step + (taps - 1) * apart + 1 - 2 * pad + more
        for o, taps, step, pad, apart, more in zip(size, k, s, p, d, (1, 0, 1)[-n:], strict=True)
    )
    g = Geometry(input_size, k, size, s, p, d, 4, channels_last=True)
    ab = _operands("weight", g, per_group)
    actual = jax.jit(functools.partial(plans.carry_out, ("window_sums",), "weight", g=g))(*ab)
    oracle.assert_close(actual, plans.DIRECT["weight"](*ab, g), 1e-13)


@pytest.mark.parametrize("choose", [cpu.choose, gpu.choose], ids=["cpu", "gpu"])
@pytest.mark.parametrize("per_group", [(1, 1), (2, 3), (24, 25)], ids=str)
@pytest.mark.parametrize(
    ("size", "taps", "stride", "groups"),
    [
        ((3000,), (3000,), 1, 1),
        ((3000,), (3000,), 1, 2),
        ((320, 320), (16, 16), 16, 3),
        ((3000,), (400,), 160, 2),
        ((3000,), (130,), 160, 1),
        ((250, 250), (41, 41), 20, 3),
        ((40, 40, 40), (11, 11, 11), 5, 2),
    ],
    ids=str,
)
def test_long_kernels_are_not_written_out(size, taps, stride, groups, per_group, choose):
    """As long as the image or the stride, or with a long stride: a program of some operations,
    whatever the length."""
    n = len(size)
    output = tuple(1 + (i - k) // stride for i, k in zip(size, taps, strict=True))
    g = Geometry(size, taps, output, (stride,) * n, (0,) * n, (1,) * n, groups, True)
    c, o = (channels * groups for channels in per_group)
    shapes = {"input": (2, *size, c), "output": (2, *output, o), "weight": (o, c // groups, *taps)}
    for result, roles in plans.OPERANDS.items():
        ab = [jax.ShapeDtypeStruct(shapes[role], jnp.float32) for role in roles]
        plan = choose(result, g.simplified(), c, o, Setting(jnp.float32, images=2))
        form = functools.partial(plans.carry_out, plan, result, g=g.simplified())
        assert jax.jit(form).lower(*ab).as_text().count("\n") < 2000, result


def test_window_sums_write_down_no_large_tables():
    """Where each window of a long row meets each tap is 32 MB of numbers."""
    g = Geometry((16000,), (255,), (16000,), (1,), (127,), (1,), 8, channels_last=True)
    image = jax.ShapeDtypeStruct((4, 16000, 8), jnp.float32)
    form = functools.partial(plans.carry_out, ("window_sums",), "weight", g=g)
    assert len(jax.jit(form).lower(image, image).as_text()) < 1 << 20


def test_window_sums_keep_infinity_from_padding():
    """What would meet padding is left out, where zero times infinity was no number."""
    g = Geometry((6, 7), (3, 3), (6, 7), (1, 1), (1, 1), (1, 1), 2, channels_last=True)
    x, y = _operands("weight", g, per_group=(1, 1))
    y = y.at[0, 0, 3, 1].set(jnp.inf).at[0, 2, 6, 0].set(jnp.inf)
    w = window_sums.conv_weight(x, y, g)
    assert not jnp.isnan(w).any()
    met = np.ones((2, 1, 3, 3), bool)
    met[1, :, 0], met[0, :, :, 2] = False, False
    np.testing.assert_array_equal(np.isfinite(w), ~met)


RULE_CASES = [
    pytest.param(name, per_group, one_device, id=f"{name}-{per_group}-{one_device}")
    for name, g in (GEOMETRIES | MORE_GEOMETRIES).items()
    for per_group, one_device in [((2, 3), True), ((2, 3), False), ((4, 5), True)]
    if per_group == (2, 3) or g.groups > 1
]


@pytest.mark.parametrize("choose", [cpu.choose, gpu.choose], ids=["cpu", "gpu"])
@pytest.mark.parametrize(("name", "per_group", "one_device"), RULE_CASES)
def test_every_rule_gives_a_plan_that_equals_the_direct_form(name, per_group, one_device, choose):
    g = (GEOMETRIES | MORE_GEOMETRIES)[name]
    _assert_rules_equal_the_direct_form(choose, g, per_group, one_device)


def _assert_rules_equal_the_direct_form(choose, g, per_group, one_device, dtype=jnp.float64):
    """In float64; `dtype` is what the rule is told."""
    c, o = (channels * g.groups for channels in per_group)
    for result in plans.OPERANDS:
        plan = choose(result, g, c, o, Setting(dtype, one_device, images=2))
        actual = _by_plan(plan, result, g, per_group)
        oracle.assert_close(actual, _direct(result, g, per_group), 1e-13, result)


def _geometry(i, k, s, p, d=None, groups=1):
    d = d or (1,) * len(i)
    o = geometry.window_output_size(i, k, s, tuple(zip(p, p, strict=True)), d)
    return Geometry(i, k, o, s, p, d, groups)


WIDE_LAYERS = {
    "rows": ((32, 33), _geometry((9, 11), (3, 2), (1, 1), (1, 0))),
    "rows-strided": ((24, 50), _geometry((11, 14), (3, 3), (2, 3), (1, 2))),
    "rows-dilated": ((33, 40), _geometry((12, 13), (2, 3), (1, 1), (1, 1), d=(3, 2))),
    "one-row": ((40, 32), _geometry((5, 13), (1, 5), (1, 1), (0, 2))),
    "one-column": ((32, 40), _geometry((9, 11), (3, 1), (1, 1), (1, 0))),
    "tall-kernel": ((34, 32), _geometry((9, 16), (4, 3), (1, 1), (2, 1))),
    "groups": ((32, 33), _geometry((8, 11), (3, 2), (1, 1), (1, 1), groups=2)),
    "all-cores": ((64, 96), _geometry((5, 70), (2, 2), (1, 1), (0, 1))),
    "3d": ((16, 9), _geometry((4, 5, 9), (3, 2, 3), (1, 1, 1), (1, 0, 1))),
    "3d-groups": ((32, 33), _geometry((3, 5, 6), (2, 3, 4), (1, 1, 1), (1, 0, 2), groups=3)),
    "no-vectors": ((2, 6), _geometry((9, 12), (3, 3), (1, 1), (1, 0))),
    "no-vectors-input": ((7, 3), _geometry((9, 12), (3, 3), (1, 1), (1, 0))),
    "no-vectors-product": ((3, 12), _geometry((9, 12), (3, 3), (1, 1), (1, 0))),
    "product": ((3, 13), _geometry((9, 12), (3, 3), (1, 1), (1, 0))),
    "product-strided": ((2, 15), _geometry((11, 14), (3, 4), (2, 3), (1, 2))),
    "one-channel": ((1, 60), _geometry((9, 12), (5, 4), (1, 1), (2, 0))),
    "one-channel-1d": ((1, 60), _geometry((37,), (10,), (5,), (2,))),
    "few-channels-strided": ((3, 50), _geometry((11, 14), (4, 3), (2, 2), (1, 2))),
    "few-channels-3d": ((2, 60), _geometry((5, 6, 7), (2, 3, 4), (1, 1, 1), (1, 0, 2))),
    "few-channels-out": ((40, 4), _geometry((9, 12), (3, 2), (1, 1), (1, 1))),
    "few-channels-out-1d": ((30, 3), _geometry((31,), (5,), (1,), (4,), d=(2,))),
    "small-image": ((16, 64), _geometry((4, 5), (3, 4), (2, 1), (1, 1))),
    "dilated-far": ((9, 4), _geometry((12, 13), (3, 2), (1, 1), (10, 11), d=(10, 11))),
}
"""With channels enough, of x and y for each group, for rules that count products."""


@pytest.mark.parametrize("choose", [cpu.choose, gpu.choose], ids=["cpu", "gpu"])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", WIDE_LAYERS)
def test_rules_for_many_channels_give_plans_that_equal_the_direct_form(name, channels_last, choose):
    per_group, g = WIDE_LAYERS[name]
    g = dataclasses.replace(g, channels_last=channels_last)
    _assert_rules_equal_the_direct_form(choose, g, per_group, one_device=True)


THREE_AXES = {
    "dense": _geometry((4, 5, 9), (3, 2, 3), (1, 1, 1), (1, 0, 1)),
    "strided": _geometry((6, 5, 9), (3, 2, 3), (2, 1, 2), (1, 0, 1)),
    "divides": _geometry((6, 7, 9), (2, 3, 4), (2, 1, 2), (0, 1, 1)),
    "patches": _geometry((6, 7, 8), (2, 3, 2), (2, 3, 2), (0, 0, 0)),
    "dilated": _geometry((9, 8, 10), (3, 2, 3), (1, 1, 1), (2, 1, 1), d=(2, 2, 3)),
    "dilated-planes": _geometry((4, 9, 10), (3, 2, 3), (1, 1, 1), (1, 2, 2), d=(1, 3, 2)),
    "dilated-far": _geometry((5, 8, 7), (3, 3, 2), (1, 1, 1), (4, 7, 6), d=(4, 7, 6)),
    "dilated-strided": _geometry((9, 8, 10), (3, 2, 3), (2, 2, 3), (2, 1, 2), d=(2, 2, 3)),
    "dilated-groups": _geometry((8, 8, 9), (3, 3, 2), (1, 1, 1), (2, 3, 2), d=(2, 3, 2), groups=3),
    "planes": _geometry((4, 6, 9), (1, 2, 3), (1, 2, 1), (0, 1, 1)),
    "depth": _geometry((5, 4, 6), (3, 1, 1), (2, 1, 1), (1, 0, 0)),
    "1x1x1-groups": _geometry((5, 4, 6), (1, 1, 1), (1, 1, 1), (0, 0, 0), groups=3),
    "groups": _geometry((3, 5, 6), (2, 3, 4), (1, 1, 1), (1, 0, 2), groups=3),
    "many-groups-strided": _geometry((4, 5, 9), (3, 3, 5), (2, 2, 2), (1, 0, 2), groups=9),
}


@pytest.mark.parametrize(
    "flags", ["", f"--xla_a=1 {gpu.CHANNELS_LAST_FLAG}=true"], ids=["", "nhwc"]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", THREE_AXES)
def test_rules_of_a_gpu_for_three_axes_equal_the_direct_form(name, dtype, flags, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    g = THREE_AXES[name]
    _assert_rules_equal_the_direct_form(gpu.choose, g, (16, 9), one_device=True, dtype=dtype)
    # With channels last, cuDNN has code as good for three axes as for two.
    if g.groups == 1 and 1 not in g.kernel_size:
        apart = ("unfused",) if dtype == jnp.bfloat16 else ()  # Nine channels of y: no eights.
        direct = (*apart, "convolution")
        assert (gpu.choose("output", g, 16, 9, Setting(dtype)) == direct) == bool(flags)


@pytest.mark.parametrize(
    ("dtype", "taps", "channels", "options", "apart"),
    [
        ("bfloat16", (33,), (32, 32), {}, True),
        ("bfloat16", (32,), (32, 32), {}, False),
        ("bfloat16", (10, 11), (32, 32), {}, True),
        ("bfloat16", (10, 10), (32, 32), {}, False),
        ("bfloat16", (10, 11), (8, 32), {}, True),
        ("bfloat16", (3, 3), (32, 20), {}, True),
        ("bfloat16", (1, 1), (32, 20), {}, False),
        ("bfloat16", (3, 3), (72, 72), {"groups": 3}, True),
        ("bfloat16", (3, 3), (72, 72), {"groups": 3, "stride": 2}, False),
        ("bfloat16", (3, 3), (96, 96), {"groups": 3}, False),
        ("bfloat16", (3, 3), (192, 192), {"groups": 3}, True),
        ("bfloat16", (7,), (72, 72), {"groups": 3}, True),
        ("bfloat16", (8,), (72, 72), {"groups": 3}, False),
        ("float32", (3, 11), (32, 32), {}, True),
        ("float32", (4, 8), (32, 32), {}, False),
        ("float32", (3, 11), (8, 32), {}, False),
        ("float32", (33,), (8, 136), {}, True),
        ("float32", (3, 3), (32, 20), {}, False),
        ("float32", (3, 3), (72, 72), {"groups": 3, "stride": 2}, True),
        ("float32", (3, 3), (192, 192), {"groups": 3}, False),
        ("float32", (33,), (32, 24), {"transposed": True}, True),
        ("float32", (3,), (32, 24), {"transposed": True}, False),
    ],
    ids=str,
)
def test_a_bias_stays_apart_where_cudnn_is_slow_with_it(dtype, taps, channels, options, apart):
    """What is added to a forward convolution has a barrier before it, at the edges of the rule."""
    options = dict(options)
    transposed, groups = options.pop("transposed", False), options.get("groups", 1)
    function = getattr(jaxconv, f"conv{'_transpose' * transposed}{len(taps)}d")
    inner = (channels[0], channels[1]) if transposed else (channels[1], channels[0] // groups)
    shapes = [(2, channels[0], *(40,) * len(taps)), (*inner, *taps), (channels[1],)]
    layer = jax.jit(functools.partial(function, **options))
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    text = layer.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert bool(re.search(r"optimization_barrier %\d+ : tensor<2x", text)) == apart


@pytest.mark.parametrize("choose", [cpu.choose, gpu.choose], ids=["cpu", "gpu"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("per_group", "g"),
    [
        *(pytest.param((2, 3), g, id=n) for n, g in (GEOMETRIES | MORE_GEOMETRIES).items()),
        *(pytest.param(*layer, id=f"wide-{name}") for name, layer in WIDE_LAYERS.items()),
    ],
)
def test_inside_shard_map_results_vary_as_operands_do(per_group, g, dtype, choose):
    """Else tracing fails wherever types have to agree: in loops and transposed functions."""
    c, o = (channels * g.groups for channels in per_group)
    mesh, axes = jax.make_mesh((1,), ("data",), (AxisType.Auto,)), []

    @jax.shard_map(mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    def contractions(arrays):
        results = {}
        for result, ab in arrays.items():
            plan = choose(result, g, c, o, Setting(dtype, images=2))
            options = {"preferred_element_type": jnp.float32}
            results[result] = plans.carry_out(plan, result, *ab, g, **options)
            axes.append(varying.varying_axes(results[result]))
        return results

    arrays = {
        result: [array.astype(dtype) for array in _operands(result, g, per_group)]
        for result in plans.OPERANDS
    }
    jax.eval_shape(contractions, arrays)
    assert axes == [{"data"}] * 3


@pytest.mark.parametrize(("dilation", "kernel"), [(7, "3x3"), (8, "3x1"), (9, "1x1")])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_taps_that_meet_nothing_are_left_out(platform, dilation, kernel):
    """As in the branches of an atrous pyramid whose kernels reach beyond a small image."""
    layer = functools.partial(jaxconv.conv2d, padding=dilation, dilation=dilation)
    traced = jax.jit(layer).trace(jnp.ones((1, 2, 9, 8)), jnp.ones((3, 2, 3, 3)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    others = {"3x3", "3x1", "1x1"} - {"3x3", kernel}
    assert f"tensor<3x2x{kernel}x" in text
    assert not any(f"tensor<3x2x{other}x" in text for other in others)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_no_dilated_input_meets_a_larger_kernel(platform):
    """XLA would swap the two, and end the process: "Window dimensions do not match RHS shape"."""
    y, w = jnp.ones((1, 2, 2, 3)), jnp.ones((2, 3, 3, 2))

    def lowered(**kwargs):
        layer = functools.partial(jaxconv.conv_transpose2d, **kwargs)
        return jax.jit(layer).trace(y, w).lower(lowering_platforms=(platform,)).as_text()

    strides = {"stride": 2, "padding": (1, 2)}
    assert "lhs_dilate = [2, 2]" not in lowered(**strides, output_padding=1)
    if platform != "cpu":
        y = jnp.ones((1, 2, 8, 9))
        assert "lhs_dilate = [2, 2]" in lowered(**strides)


@pytest.mark.parametrize(("groups", "channels"), [(2, 2), (4, 2), (40, 2), (40, 1)])
@pytest.mark.parametrize(("place", "padding"), [((2, 3), 0), ((0, 7), 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_infinity_stays_in_its_group_and_window(groups, channels, stride, place, padding):
    """A form that multiplied another group's values, or values between windows, by zeros would
    give NaN there."""
    x = np.ones((1, channels * groups, 9, 8))
    x[0, 1, *place] = np.inf
    w = np.random.default_rng(0).normal(size=((2 * channels - 1) * groups, channels, 3, 3))
    kwargs = {"stride": stride, "groups": groups, "padding": padding}
    actual = oracle.jaxconv.conv2d(x, w, **kwargs)
    expected = torch_conv2d(x, w, **kwargs)
    assert np.array_equal(np.isfinite(actual), np.isfinite(expected))
    assert not np.isfinite(expected).all()
    assert np.isfinite(expected).any()


def torch_conv2d(x, w, **kwargs):
    return oracle.F.conv2d(oracle.to_torch(x), oracle.to_torch(w), **kwargs).numpy()
