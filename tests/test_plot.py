"""Pictures: the cells, kinds and sizes that they show, against torch, and what of it is drawn."""

import base64
import importlib
import io
import re
import sys

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle

from jaxconv import plot
from tests.cases import CASES, Case
from tests.oracle import run_torch


def arguments(case: Case) -> tuple[tuple[int, ...], tuple[int, ...], dict]:
    """Input size, kernel size and keyword arguments: what a picture knows of a case."""
    n = case.num_spatial_dims
    kwargs = {name: value for name, value in case.kwargs.items() if name != "groups"}
    if "output_size" in kwargs:
        kwargs["output_size"] = tuple(kwargs["output_size"])[-n:]
    return tuple(case.input[-n:]), tuple(case.weight[2:]), kwargs


def picture_of(case: Case) -> plot.Picture:
    input_size, kernel_size, kwargs = arguments(case)
    return (plot.conv_transpose if case.transposed else plot.conv)(
        input_size, kernel_size, **kwargs
    )


def matrix_and_weight(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """torch's convolution of one channel as a matrix, `(outputs, inputs)`, for a random weight."""
    input_size, kernel_size, kwargs = arguments(case)
    number = int(np.prod(input_size))
    weight = np.random.default_rng(0).normal(size=kernel_size)
    one_channel = Case(
        case.name, (number, 1, *input_size), (1, 1, *kernel_size), kwargs, case.transposed
    )
    units = torch.eye(number, dtype=torch.float64).reshape(number, 1, *input_size)
    output = run_torch(one_channel, units, torch.from_numpy(weight)[None, None])
    return output.reshape(number, -1).numpy().T, weight


# Without channels and batches, many cases are the same. Empty images have no cells.
DRAWN = {
    repr(arguments(case)): case
    for case in CASES
    if case.num_spatial_dims < 3 and 0 not in arguments(case)[0]
}.values()


@pytest.mark.parametrize("case", DRAWN, ids=lambda case: case.name)
def test_the_cells_are_those_that_torch_reads(case):
    picture, (matrix, weight) = picture_of(case), matrix_and_weight(case)
    expected = np.zeros_like(matrix)
    for row, position in enumerate(np.ndindex(*picture.output_size)):
        cells = picture.footprint(position).reshape(-1, len(position))
        held = picture.values[tuple(cells.T)]
        np.add.at(expected[row], held[held > 0] - 1, weight.reshape(-1)[held > 0])
    # Where padding repeats an element, several weights add up, in either order.
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-12)
    # Each element has one cell of its own, in order, which says whether any output reads it.
    own = np.isin(picture.kinds, ("input", "input, not read"))
    assert picture.values[own].tolist() == list(range(1, matrix.shape[1] + 1))
    assert (picture.kinds[own] == "input").tolist() == (matrix != 0).any(0).tolist()


@pytest.mark.parametrize(
    ("padding_mode", "numpy_mode"),
    [("zeros", "constant"), ("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")],
)
@pytest.mark.parametrize(
    ("padding", "pads"), [((3, 2), ((3, 3), (2, 2))), ("same", ((1, 2), (2, 2)))]
)
def test_padding(padding_mode, numpy_mode, padding, pads):
    picture = plot.conv((4, 5), (4, 3), 1, padding, (1, 2), padding_mode=padding_mode)
    numbers = np.arange(1, 21).reshape(4, 5)
    assert picture.values.tolist() == np.pad(numbers, pads, numpy_mode).tolist()
    is_padding = np.pad(np.zeros((4, 5), bool), pads, constant_values=True)
    assert (picture.kinds == "padding").tolist() == is_padding.tolist()


def test_zeros_between_and_around_the_input_of_a_transposed_convolution():
    picture = plot.conv_transpose((3, 4), (3, 2), (2, 3), (1, 2), dilation=(2, 3))
    pads = ((3, 3), (1, 1))  # dilation*(kernel_size - 1) - padding
    spread = np.zeros((5, 10), int)
    spread[::2, ::3] = np.arange(1, 13).reshape(3, 4)
    assert picture.values.tolist() == np.pad(spread, pads).tolist()
    kinds = np.pad(np.where(spread > 0, "input", "inserted zero"), pads, constant_values="padding")
    assert picture.kinds.tolist() == kinds.tolist()


def test_output_padding_adds_cells_behind_the_rest():
    arguments = (3, 4), (3, 2), (2, 3), (1, 0)
    plain = plot.conv_transpose(*arguments)
    longer = plot.conv_transpose(*arguments, output_padding=(1, 2))
    for before, after in ((plain.kinds, longer.kinds), (plain.output_kinds, longer.output_kinds)):
        added = np.pad(before, ((0, 1), (0, 2)), constant_values="output_padding")
        assert after.tolist() == added.tolist()
    same = plot.conv_transpose(*arguments, output_size=longer.output_size)
    assert same.axes == longer.axes


def test_output_padding_first_takes_back_what_padding_cut_off():
    options = {"stride": 3, "padding": 2}
    assert plot.conv_transpose(5, 2, **options).kinds[-1] == "input, not read"
    picture = plot.conv_transpose(5, 2, **options, output_padding=2)
    assert picture.kinds[-2:].tolist() == ["input", "output_padding"]
    assert picture.footprint(picture.output_size[0] - 1).max() == picture.kinds.size - 1


# Between them, these have a cell of every kind.
PICTURES = [
    plot.conv((5, 6), (3, 2), stride=(3, 2), padding=(0, 1)),
    plot.conv(5, 4, padding="same", dilation=2, padding_mode="circular"),
    plot.conv_transpose((3, 2), 3, stride=2, padding=1, output_padding=(1, 0)),
    plot.conv_transpose(6, 2, stride=2, padding=2, output_size=9),
]
pictures = pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.title)


def squares(figure):
    """The drawn squares, by what they say that they are."""
    (axes,) = figure.axes
    return {p.get_gid(): p for p in axes.patches if isinstance(p, Rectangle) and p.get_gid()}


@pictures
def test_the_figure_shows_each_cell_in_the_colour_of_its_kind(picture):
    figure = picture.figure()
    colours = {}
    drawn = squares(figure)
    for name, kinds in (("cell", picture.kinds), ("output", picture.output_kinds)):
        for index, kind in np.ndenumerate(kinds):
            colours.setdefault(str(kind), set()).add(drawn[f"{name} {index}"].get_facecolor())
    assert all(len(found) == 1 for found in colours.values()), "two colours for one kind"
    assert len(set.union(*colours.values())) == len(colours), "one colour for two kinds"
    (legend,) = figure.legends
    *handles, _ = legend.get_patches()
    assert {handle.get_facecolor() for handle in handles} == set.union(*colours.values())


@pictures
def test_the_figure_shows_what_each_cell_holds(picture):
    figure = picture.figure()
    texts = {text.get_position(): text.get_text() for text in figure.axes[0].texts}
    for index, value in np.ndenumerate(picture.values):
        x, y = squares(figure)[f"cell {index}"].get_xy()
        assert texts[x + 0.5, y + 0.5] == str(value)


@pictures
def test_the_figure_marks_the_footprint_and_the_output_position(picture):
    position = tuple(size - 1 for size in picture.output_size)
    drawn = squares(picture.figure(position))
    footprint = picture.footprint(position)
    taps = [*np.ndindex(*footprint.shape[:-1])]
    assert sorted(f"tap {tap}" for tap in taps) == sorted(n for n in drawn if n.startswith("tap"))
    for tap in taps:
        cell = drawn[f"cell {tuple(footprint[tap].tolist())}"]
        assert drawn[f"tap {tap}"].get_xy() == cell.get_xy()
    assert drawn["position"].get_xy() == drawn[f"output {position}"].get_xy()


@pictures
def test_the_title_is_the_call(picture):
    assert eval(picture.title, vars(plot)) == picture


def test_the_animation_has_a_frame_for_each_position(tmp_path):
    picture = PICTURES[0]
    picture.save(tmp_path / "picture.gif", seconds=0.25)
    positions = [*np.ndindex(*picture.output_size)]
    figures = []
    for position in positions:
        file = io.BytesIO(picture.figure(position)._repr_png_())
        figures.append(np.asarray(PIL.Image.open(file).convert("RGB"), float))
    with PIL.Image.open(tmp_path / "picture.gif") as animation:
        assert animation.n_frames == len(positions)
        assert animation.info["duration"] == 250
        for number in range(len(positions)):
            animation.seek(number)
            frame = np.asarray(animation.convert("RGB"), float)
            distances = [np.abs(frame - figure).mean() for figure in figures]
            # The palette is small, so the frame is only nearly the figure.
            assert np.argmin(distances) == number
            assert distances[number] < 1


def test_a_notebook_shows_the_animation():
    picture = PICTURES[1]
    shown = re.fullmatch(
        r'<img alt="(.*)" src="data:image/gif;base64,(.*)">', picture._repr_html_()
    )
    assert (
        shown[1]
        == "conv(5, 4, padding=&#x27;same&#x27;, dilation=2, padding_mode=&#x27;circular&#x27;)"
    )
    assert PIL.Image.open(io.BytesIO(base64.b64decode(shown[2]))).n_frames == 5


@pytest.mark.parametrize(
    ("input_size", "kernel_size", "stride", "padding", "dilation"),
    [(3, 3, 2, 1, 1), (5, 4, 3, 0, 2), (1, 2, 4, 0, 1), (1, 1, 3, 1, 1), (4, 3, 1, 1, 1)],
)
def test_output_sizes(input_size, kernel_size, stride, padding, dilation):
    figure = plot.output_sizes(input_size, kernel_size, stride, padding, dilation)
    shown = {tuple(map(int, re.findall(r"\d+", name))) for name in squares(figure) if "=" in name}
    weight = torch.zeros(1, 1, kernel_size)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    expected = set()
    for size in range(1, 50):
        try:
            small = F.conv1d(torch.zeros(1, 1, size), weight, **options)
        except RuntimeError:  # the kernel does not fit
            continue
        if abs(small.shape[-1] - input_size) > 1:
            continue
        (output_padding,) = (
            op
            for op in range(stride)
            if _transposed_size(small, weight, output_padding=op, **options) == size
        )
        expected.add((small.shape[-1], output_padding, size))
    assert shown == expected


def _transposed_size(small, weight, **options):
    try:
        return F.conv_transpose1d(small, weight, **options).shape[-1]
    except RuntimeError:  # no output is left
        return None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plot.conv((4, 5, 6), 3),
            "`input_size` must have 1 or 2 axes to be drawn, got (4, ",
        ),
        (lambda: plot.conv_transpose((4, 5, 6), 3), "`input_size` must have 1 or 2 axes"),
        (lambda: plot.conv(4, 5), "`kernel_size` must not exceed the padded input"),
        (lambda: plot.conv(4, 3, padding_mode="mirror"), "`padding_mode` must be one of"),
        (lambda: plot.conv(4, 3, padding=4, padding_mode="reflect"), "`padding` must be less than"),
        (lambda: plot.conv_transpose(4, 3, 2, 0, 2), "`output_padding` must be smaller than"),
        (lambda: plot.conv_transpose(4, 3, 2, output_size=8), "`output_size` must be between (9,)"),
        (
            lambda: plot.conv((4, 5), 3).figure((2, 0)),
            "`position` must be inside the output of size (2, 3), got (2, 0)",
        ),
        (lambda: plot.conv(4, 3).footprint(-1), "`position` must be at least 0, got -1"),
        (lambda: plot.conv(4, 3).save("conv.png"), "`path` must end in .gif, got 'conv.png'"),
        (lambda: plot.conv(4, 3).save("conv.gif", seconds=0), "`seconds` must be positive, got 0"),
        (lambda: plot.output_sizes(1, 1, stride=2, padding=1), "`padding` must leave an output"),
    ],
)
def test_refusals(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("missing", ["matplotlib", "PIL"])
def test_a_missing_library_is_named_with_the_extra_that_brings_it(missing, monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] == missing:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "jaxconv.plot")
    with pytest.raises(ImportError, match=rf"pip install 'jaxconv\[plot\]'.*{missing}"):
        importlib.import_module("jaxconv.plot")
