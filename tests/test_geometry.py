"""Size arithmetic on plain ints, against the shapes that torch's convolutions really have."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv import conv_output_size, conv_transpose_output_size, geometry

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

sweep = settings(derandomize=True, deadline=None, max_examples=150)


@st.composite
def windows(draw, high=9):
    """Input size, kernel size, stride, padding and dilation over one to three axes."""
    n = draw(st.integers(1, 3))

    def sizes(least, most):
        return tuple(draw(st.lists(st.integers(least, most), min_size=n, max_size=n)))

    return sizes(1, high), sizes(1, 4), sizes(1, 4), sizes(0, 3), sizes(1, 3)


def torch_size(function, input_size, kernel_size, *args):
    """The spatial size of what torch computes, or None if it refuses to."""
    try:
        output = function(torch.ones(1, 1, *input_size), torch.ones(1, 1, *kernel_size), *args)
    except RuntimeError:
        return None
    return tuple(output.shape[2:])


def our_size(function, *args):
    try:
        return function(*args)
    except ValueError:
        return None


@sweep
@given(windows())
def test_conv_output_size_is_torchs(window):
    i, k, s, p, d = window
    assert our_size(conv_output_size, i, k, s, p, d) == torch_size(
        CONV[len(i)], i, k, None, s, p, d
    )


@sweep
@given(windows(high=5), st.data())
def test_conv_transpose_output_size_is_torchs(window, data):
    """With an output_padding up to one more than is allowed."""
    i, k, s, p, d = window
    op = tuple(data.draw(st.integers(0, max(pair))) for pair in zip(s, d, strict=True))
    assert our_size(conv_transpose_output_size, i, k, s, p, op, d) == torch_size(
        CONV_TRANSPOSE[len(i)], i, k, None, s, p, op, 1, d
    )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("kernel_size", [(3, 5), (2, 4), (1, 6)])
@pytest.mark.parametrize("dilation", [1, (2, 1)])
def test_output_size_with_string_padding_is_torchs(padding, kernel_size, dilation):
    expected = torch_size(CONV[2], (9, 8), kernel_size, None, 1, padding, dilation)
    assert conv_output_size((9, 8), kernel_size, 1, padding, dilation) == expected


@pytest.mark.parametrize("size", [conv_output_size, conv_transpose_output_size])
@pytest.mark.parametrize("given", [12, [12], (12,), np.int64(12), np.array([12])])
def test_an_int_is_a_size_of_one_axis(size, given):
    assert size(given, 3) == size((12,), (3,), (1,), (0,))
    assert all(type(o) is int for o in size(given, np.int32(3)))


@pytest.mark.parametrize("argument", ["kernel_size", "stride", "padding", "dilation"])
def test_one_int_counts_for_all_axes(argument):
    both = {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}
    assert conv_output_size((20, 13), **both) == conv_output_size(
        (20, 13), **both | {argument: (both[argument],) * 2}
    )


def test_torch_size_tells_sizes_apart():
    """The oracle is no constant, and knows a refusal."""
    assert torch_size(F.conv1d, (5,), (2,)) != torch_size(F.conv1d, (6,), (2,))
    assert torch_size(F.conv1d, (5,), (6,)) is None


# Reading arguments.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(3, (3, 3), id="int"),
        pytest.param(np.int64(3), (3, 3), id="numpy-int"),
        pytest.param(np.array(3), (3, 3), id="array-of-no-axes"),
        pytest.param((3,), (3, 3), id="tuple-of-one"),
        pytest.param((3, 4), (3, 4), id="tuple"),
        pytest.param([3, 4], (3, 4), id="list"),
        pytest.param(np.array([3, 4]), (3, 4), id="array"),
        pytest.param(torch.Size([3, 4]), (3, 4), id="torch-size"),
        pytest.param(range(3, 5), (3, 4), id="range"),
    ],
)
def test_to_tuple_gives_python_ints(value, expected):
    result = geometry.to_tuple(value, 2, "stride")
    assert result == expected
    assert [type(entry) for entry in result] == [int, int]


@pytest.mark.parametrize("value", [3, np.uint8(3), np.array(3), torch.tensor(3)])
def test_to_int_gives_a_python_int(value):
    assert geometry.to_int(value, "groups") == 3
    assert type(geometry.to_int(value, "groups")) is int


@pytest.mark.parametrize("value", [True, np.True_, 3.0, np.float32(3), "3", None, 3j, [3]])
def test_to_int_refuses_what_is_no_int(value):
    with pytest.raises(TypeError, match="`groups` must be an int"):
        geometry.to_int(value, "groups")


@pytest.mark.parametrize("value", [(3, 4, 5), (), [3] * 3])
def test_to_tuple_refuses_a_wrong_length(value):
    with pytest.raises(ValueError, match=f"`stride` must .* of length {len(value)}"):
        geometry.to_tuple(value, 2, "stride")


def test_to_tuple_keeps_to_its_minimum():
    assert geometry.to_tuple((1, 2), 2, "stride", minimum=1) == (1, 2)
    with pytest.raises(ValueError, match=r"`stride` must be at least 2, got \(1, 2\)"):
        geometry.to_tuple((1, 2), 2, "stride", minimum=2)


def test_to_tuple_repeats_a_single_entry_only_if_told():
    with pytest.raises(ValueError, match="of length 1"):
        geometry.to_tuple((3,), 2, "kernel_size", repeat_single=False)


# Windows.


def conv_geometry(i, k, s, p, d):
    pads = tuple((low, low) for low in p)
    o = geometry.window_output_size(i, k, s, pads, d)
    return geometry.Geometry(i, k, o, s, p, d)


valid_windows = windows().filter(lambda window: our_size(conv_output_size, *window) is not None)


@sweep
@given(valid_windows)
def test_padding_high_is_where_the_last_window_ends(window):
    """All windows, told one by one: none reaches beyond it, and the last one reaches it."""
    g = conv_geometry(*window)
    ends = [
        max(q * s + t * d - low for q in range(o) for t in range(k)) + 1
        for o, k, s, d, low in zip(
            g.output_size, g.kernel_size, g.stride, g.dilation, g.padding_low, strict=True
        )
    ]
    assert g.padding_high == tuple(end - i for end, i in zip(ends, g.input_size, strict=True))


@sweep
@given(valid_windows)
def test_padding_high_falls_short_of_padding_by_less_than_a_stride(window):
    """What is left over at the end is no place for one more window."""
    g = conv_geometry(*window)
    leftovers = [low - high for low, high in zip(g.padding_low, g.padding_high, strict=True)]
    assert all(0 <= left < s for left, s in zip(leftovers, g.stride, strict=True))


@sweep
@given(valid_windows)
def test_the_sizes_of_a_transposed_convolution_are_those_that_convolve_to_its_input(window):
    """`requested_output_size` accepts exactly the inverse image of `conv_output_size`."""
    i, k, s, p, d = window
    o = conv_output_size(*window)

    def accepted(size):
        args = ((1,), False, o[:1], k[:1], s[:1], p[:1], d[:1])
        return our_size(geometry.requested_output_size, (size,), *args) is not None

    def convolves_to_o(size):
        return our_size(conv_output_size, size, k[0], s[0], p[0], d[0]) == o[:1]

    sizes = range(1, i[0] + 3 * s[0])
    assert [size for size in sizes if accepted(size)] == [
        size for size in sizes if convolves_to_o(size)
    ]


@pytest.mark.parametrize(
    ("output_size", "batch_shape", "channels_last"),
    [
        pytest.param((12, 13), (2,), False, id="spatial"),
        pytest.param((12, 13), (), True, id="spatial-unbatched-last"),
        pytest.param((2, 6, 12, 13), (2,), False, id="full"),
        pytest.param((6, 12, 13), (), False, id="full-unbatched"),
        pytest.param((2, 12, 13, 6), (2,), True, id="full-last"),
        pytest.param((12, 13, 6), (), True, id="full-unbatched-last"),
    ],
)
def test_requested_output_size_takes_the_spatial_entries(output_size, batch_shape, channels_last):
    sizes = geometry.requested_output_size(
        output_size, batch_shape, channels_last, (5, 6), (3, 3), (2, 2), (0, 0), (1, 1)
    )
    assert sizes == (12, 13)


@sweep
@given(windows())
def test_same_padding_keeps_the_size_with_its_odd_element_at_the_end(window):
    i, k, _, _, d = window
    pads = geometry.pad_amounts("same", k, d)
    assert geometry.window_output_size(i, k, (1,) * len(i), pads, d) == i
    assert all(high - low in (0, 1) for low, high in pads)


@sweep
@given(windows(), st.sampled_from(["same", 1, 2]))
def test_pad_amounts_are_those_of_torchs_layer(window, padding):
    """torch stores them flat, last axis first; tuples are the same on both sides."""
    _, k, _, _, d = window
    n = len(k)
    layer = getattr(torch.nn, f"Conv{n}d")(1, 1, k, padding=padding, dilation=d)
    to_padding = geometry.to_padding(padding, (1,) * n, n)
    flat = [p for pair in geometry.pad_amounts(to_padding, k, d)[::-1] for p in pair]
    assert flat == list(layer._reversed_padding_repeated_twice)


# The geometry itself.

PLAIN = geometry.Geometry((7, 8), (3, 2), (5, 7), (1, 1), (0, 0), (1, 1))


def test_geometry_is_a_value():
    same = dataclasses.replace(PLAIN)
    assert same is not PLAIN
    assert same == PLAIN
    assert hash(same) == hash(PLAIN)
    assert dataclasses.replace(PLAIN, groups=2) != PLAIN


def test_geometry_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAIN.groups = 2


@pytest.mark.parametrize("channels_last", [False, True])
def test_axes_of_a_layout(channels_last):
    """Written as letters, they read as the layout does."""
    g = dataclasses.replace(PLAIN, channels_last=channels_last)
    layout = "NHWC" if channels_last else "NCHW"
    assert layout[g.channel_axis] == "C"
    assert "".join(layout[axis] for axis in g.spatial_axes) == "HW"


@sweep
@given(windows())
def test_taps_and_reach_are_those_of_a_kernel_drawn_out(window):
    """A dilated kernel is one with gaps: it has `taps` ones, and its last is `reach` away."""
    _, k, s, p, d = window
    drawn = np.zeros(tuple(d_ * (k_ - 1) + 1 for k_, d_ in zip(k, d, strict=True)))
    drawn[tuple(slice(None, None, d_) for d_ in d)] = 1
    g = geometry.Geometry(k, k, k, s, p, d)
    assert g.taps == drawn.sum()
    assert g.reach == tuple(size - 1 for size in drawn.shape)


def test_geometry_imports_no_jax():
    """Loaded on its own, past the package's `__init__`, in a fresh interpreter."""
    program = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("geometry", {geometry.__file__!r})
module = sys.modules["geometry"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.conv_output_size(5, 3))
print(sorted({{"jax", "flax", "numpy", "torch"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.splitlines() == ["(3,)", "[]"], run.stderr
