"""Pictures of what a convolution does: the cells that it reads, and the one that it writes.

They need matplotlib and pillow: `pip install 'jaxconv[plot]'`.
"""

import base64
import contextlib
import dataclasses
import html
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxconv.geometry import (
    Geometry,
    IntOrTuple,
    Padding,
    check_output_padding,
    check_padding_mode,
    conv_output_size,
    conv_transpose_output_size,
    pad_amounts,
    requested_output_size,
    to_input_size,
    to_int,
    to_padding,
    to_tuple,
    transposed_output_size,
)
from jaxconv.padding import pad_axes, pad_constant

try:
    import PIL.Image
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle
    from matplotlib.text import Text
except ImportError as error:
    raise ImportError(
        f"`jaxconv.plot` needs matplotlib and pillow: pip install 'jaxconv[plot]' ({error})"
    ) from error

__all__ = ["Picture", "conv", "conv_transpose", "output_sizes"]

Place = tuple[float, float]
# Cells, output elements, headings, and the width and height of it all.
Layout = tuple[dict[tuple[int, ...], Place], dict[tuple[int, ...], Place], dict[str, Place], Place]

INPUT = "input"
UNREAD = "input, not read"
PADDING = "padding"
INSERTED = "inserted zero"
OUTPUT_PADDING = "output_padding"
OUTPUT = "output"


# What to draw.


def conv(
    input_size: IntOrTuple,
    kernel_size: IntOrTuple,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    *,
    padding_mode: str = "zeros",
) -> "Picture":
    """The picture of a convolution over one or two axes.

    Args:
      input_size: spatial sizes of the input, height first; an int for one axis.
      kernel_size, stride, dilation: one int for all axes, or one per axis.
      padding: as `stride`, or "valid" or "same".
      padding_mode: "zeros", "reflect", "replicate" or "circular".

    Returns:
      A picture. A notebook shows it as an animation.

    Raises:
      TypeError: if an argument is not made of ints.
      ValueError: if an argument does not fit, as in `jaxconv.conv2d`, or if there are more than
        two axes.

    The numbers in it are the elements of the input, counted from 1; a zero is a 0:

    >>> conv(4, 3, padding=1).values.tolist()
    [0, 1, 2, 3, 4, 0]
    >>> conv(4, 3, padding=2, padding_mode="reflect").values.tolist()
    [3, 2, 1, 2, 3, 4, 3, 2]
    >>> conv((5, 6), 3, stride=2, padding=1).save("conv.gif")  # doctest: +SKIP
    """
    i = _to_drawable_size(input_size)
    n = len(i)
    check_padding_mode(padding_mode)
    o = conv_output_size(i, kernel_size, stride, padding, dilation)
    k = to_tuple(kernel_size, n, "kernel_size")
    s = to_tuple(stride, n, "stride")
    p = to_padding(padding, s, n)
    d = to_tuple(dilation, n, "dilation")
    pads = pad_amounts(p, k, d)
    geometry = Geometry(
        input_size=i,
        kernel_size=k,
        output_size=o,
        stride=s,
        padding_low=tuple(low for low, _ in pads),
        dilation=d,
    )
    arguments = {"stride": s, "padding": p, "dilation": d, "padding_mode": padding_mode}
    return Picture(
        title=_call("conv", i, k, arguments),
        transposed=False,
        padding_mode=padding_mode,
        axes=tuple(_conv_axis(geometry, axis, pads[axis], padding_mode) for axis in range(n)),
    )


def conv_transpose(
    input_size: IntOrTuple,
    kernel_size: IntOrTuple,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    *,
    output_size: IntOrTuple | None = None,
) -> "Picture":
    """The picture of a transposed convolution over one or two axes.

    It is drawn as the convolution of stride 1 that gives the same numbers: `stride - 1` zeros go
    between the elements of the input, `dilation*(kernel_size - 1) - padding` around it and
    `output_padding` more behind it, and the kernel is reversed. Nothing is computed that way: most
    products would be with a zero.

    Args:
      input_size: spatial sizes of the input, height first; an int for one axis.
      kernel_size, stride, padding, output_padding, dilation: one int for all axes, or one per
        axis.
      output_size: as `stride`; overrides `output_padding`.

    Returns:
      A picture. A notebook shows it as an animation.

    Raises:
      TypeError: if an argument is not made of ints.
      ValueError: if an argument does not fit, as in `jaxconv.conv_transpose2d`, or if there are
        more than two axes.

    >>> picture = conv_transpose(3, 3, stride=2, padding=1, output_size=6)
    >>> picture.values.tolist()
    [0, 1, 0, 2, 0, 3, 0, 0]
    >>> picture.kinds[-2:].tolist(), picture.output_kinds[-2:].tolist()
    (['padding', 'output_padding'], ['output', 'output_padding'])
    """
    i = _to_drawable_size(input_size)
    n = len(i)
    k = to_tuple(kernel_size, n, "kernel_size", minimum=1)
    s = to_tuple(stride, n, "stride", minimum=1)
    p = to_tuple(padding, n, "padding", minimum=0)
    op = to_tuple(output_padding, n, "output_padding", minimum=0)
    d = to_tuple(dilation, n, "dilation", minimum=1)
    if output_size is None:
        check_output_padding(op, s, d)
        o = transposed_output_size(i, k, s, p, op, d)
        chosen = {"output_padding": op}
    else:
        o = to_tuple(output_size, n, "output_size")
        o = requested_output_size(o, (), False, i, k, s, p, d)
        chosen = {"output_size": o}
    arguments = {"stride": s, "padding": p, **chosen, "dilation": d}
    # As in the trilinear form: what is called input here is its y, and the output is its x.
    geometry = Geometry(
        input_size=o, kernel_size=k, output_size=i, stride=s, padding_low=p, dilation=d
    )
    return Picture(
        title=_call("conv_transpose", i, k, arguments),
        transposed=True,
        padding_mode="zeros",
        axes=tuple(_conv_transpose_axis(geometry, axis) for axis in range(n)),
    )


def output_sizes(
    input_size: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Figure:
    """Which `output_padding` gives which output size, along one axis of a transposed convolution.

    A convolution of stride s sends s input sizes to one output size, so its transpose has s sizes
    to choose from. The figure shows the sizes for `input_size` and for its neighbours. (Where
    dilation exceeds stride, `output_padding` may go further, into the sizes of the next.)

    Args:
      input_size, kernel_size, stride, padding, dilation: ints, as in `jaxconv.conv_transpose1d`.

    Raises:
      TypeError: if an argument is not an int.
      ValueError: if an argument is out of range, or if nothing is left of the output.

    >>> figure = output_sizes(3, 3, stride=2, padding=1)
    >>> figure.savefig("sizes.png")  # doctest: +SKIP
    """
    i = to_int(input_size, "input_size", minimum=1)
    k = to_int(kernel_size, "kernel_size", minimum=1)
    s = to_int(stride, "stride", minimum=1)
    p = to_int(padding, "padding", minimum=0)
    d = to_int(dilation, "dilation", minimum=1)
    conv_transpose_output_size(i, k, s, p, s - 1, d)  # refuses what leaves no size at all
    sizes: dict[int, dict[int, int]] = {}
    for small, op in itertools.product(range(max(1, i - 1), i + 2), range(s)):
        # A smaller neighbour may leave no output, or only with enough output_padding.
        with contextlib.suppress(ValueError):
            (large,) = conv_transpose_output_size(small, k, s, p, op, d)
            sizes.setdefault(small, {})[op] = large
    title = _call("output_sizes", (i,), (k,), {"stride": s, "padding": p, "dilation": d})
    return _draw_sizes(title, i, sizes)


def _to_drawable_size(input_size: Any) -> tuple[int, ...]:
    sizes = to_input_size(input_size)
    if len(sizes) not in (1, 2):
        raise ValueError(f"`input_size` must have 1 or 2 axes to be drawn, got {sizes}")
    return sizes


_DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "padding_mode": "zeros"}


def _call(
    name: str, input_size: tuple[int, ...], kernel_size: tuple[int, ...], arguments: dict[str, Any]
) -> str:
    """The call in short: tuples of one value as that value, and no argument at its default."""

    def short(value: Any) -> Any:
        return next(iter(value)) if isinstance(value, tuple) and len({*value}) == 1 else value

    parts = [f"{input_size[0] if len(input_size) == 1 else input_size}", f"{short(kernel_size)}"]
    for argument, value in arguments.items():
        if short(value) != _DEFAULTS.get(argument):
            parts.append(f"{argument}={short(value)!r}")
    return f"{name}({', '.join(parts)})"


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One axis of a picture.

    Its cells are what the kernel slides over: the elements of the input and what is put around
    and between them.
    """

    kinds: tuple[str, ...]
    """Of each cell."""
    elements: tuple[int, ...]
    """The element of the input that each cell holds, from 0; -1 for a zero."""
    windows: tuple[tuple[int, ...], ...]
    """For each output element, the cell under each tap."""
    output_kinds: tuple[str, ...]
    """Of each output element."""

    def is_read(self) -> list[bool]:
        """Whether any output element reads what each cell holds, from it or from a copy."""
        read = {self.elements[cell] for window in self.windows for cell in window}
        return [element in read for element in self.elements]


def _conv_axis(g: Geometry, axis: int, pads: tuple[int, int], padding_mode: str) -> _Axis:
    i, s, d = g.input_size[axis], g.stride[axis], g.dilation[axis]
    elements = jnp.arange(i)
    if padding_mode == "zeros":
        elements = pad_constant(elements, [0], [pads], -1)
    else:
        elements = pad_axes(elements, [0], [pads], padding_mode)
    low, high = pads
    return _Axis(
        kinds=(PADDING,) * low + (INPUT,) * i + (PADDING,) * high,
        elements=tuple(elements.tolist()),
        windows=tuple(
            tuple(q * s + t * d for t in range(g.kernel_size[axis]))
            for q in range(g.output_size[axis])
        ),
        output_kinds=(OUTPUT,) * g.output_size[axis],
    )


def _conv_transpose_axis(g: Geometry, axis: int) -> _Axis:
    """Element q of the input lies at `q*stride`, so output element p reads places `p + low - t*d`.

    They begin at `low - reach` and end at `size - 1 + low`.
    """
    s, d, low = g.stride[axis], g.dilation[axis], g.padding_low[axis]
    size = g.input_size[axis]
    places = [q // s if q % s == 0 else -1 for q in range((g.output_size[axis] - 1) * s + 1)]
    # Where reach - padding is negative, there is no border, and the outermost places go unread.
    output_padding = low - g.padding_high[axis]
    border = max(0, g.reach[axis] - low)
    extra = max(0, g.reach[axis] - g.padding_high[axis]) - border
    return _Axis(
        kinds=(PADDING,) * border
        + tuple(INSERTED if q < 0 else INPUT for q in places)
        + (PADDING,) * border
        + (OUTPUT_PADDING,) * extra,
        elements=(-1,) * border + tuple(places) + (-1,) * (border + extra),
        windows=tuple(
            tuple(border + p + low - t * d for t in range(g.kernel_size[axis])) for p in range(size)
        ),
        output_kinds=(OUTPUT,) * (size - output_padding) + (OUTPUT_PADDING,) * output_padding,
    )


@dataclasses.dataclass(frozen=True)
class Picture:
    """What `conv` and `conv_transpose` return; they say what it shows.

    A notebook shows it as an animation of all output positions. `figure` is the picture at one of
    them, and `save` writes the animation to a file.
    """

    title: str
    transposed: bool
    padding_mode: str
    axes: tuple[_Axis, ...] = dataclasses.field(repr=False)

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple(len(axis.windows) for axis in self.axes)

    @cached_property
    def values(self) -> np.ndarray:
        """What each cell holds: an element of the input, counted from 1, or 0 for a zero."""
        elements = _grids([axis.elements for axis in self.axes])
        input_size = [max(axis.elements) + 1 for axis in self.axes]
        numbers = 1 + np.ravel_multi_index([grid.clip(0) for grid in elements], input_size)
        return np.where(np.min(elements, axis=0) < 0, 0, numbers)

    @cached_property
    def kinds(self) -> np.ndarray:
        """The kind of each cell.

        It is "input", "input, not read" (by any output element), "padding", "inserted zero" or
        "output_padding".
        """
        kinds = _strongest([axis.kinds for axis in self.axes])
        is_read = np.all(_grids([axis.is_read() for axis in self.axes]), axis=0)
        return np.where((kinds == INPUT) & ~is_read, UNREAD, kinds)

    @cached_property
    def output_kinds(self) -> np.ndarray:
        """The kind of each output element: "output", or "output_padding" if that added it."""
        return _strongest([axis.output_kinds for axis in self.axes])

    def footprint(self, position: IntOrTuple) -> np.ndarray:
        """The cell under each tap of the kernel when it makes the output element at `position`.

        Returns:
          Indices into `kinds` and `values`, `(*kernel_size, axes)`.

        Raises:
          ValueError: if `position` is outside the output.

        >>> conv(7, 3, stride=2, dilation=2).footprint(1).tolist()
        [[2], [4], [6]]
        """
        position = self._to_position(position)
        windows = [axis.windows[q] for axis, q in zip(self.axes, position, strict=True)]
        return np.stack(_grids(windows), axis=-1)

    def _to_position(self, position: Any) -> tuple[int, ...]:
        result = to_tuple(position, len(self.axes), "position", minimum=0)
        if any(q >= size for q, size in zip(result, self.output_size, strict=True)):
            raise ValueError(
                f"`position` must be inside the output of size {self.output_size}, got {position}"
            )
        return result

    def figure(self, position: IntOrTuple = 0) -> Figure:
        """The picture at one output position: one int per axis, or one for all."""
        position = self._to_position(position)
        canvas = _Canvas(self)
        canvas.add_position(position)
        return canvas.figure

    def save(self, path: str | os.PathLike[str], *, seconds: float = 0.7) -> None:
        """Write the animation of all output positions, `seconds` each, to a GIF file."""
        if os.path.splitext(path)[1].lower() != ".gif":
            raise ValueError(f"`path` must end in .gif, got {os.fspath(path)!r}")
        if not seconds > 0:
            raise ValueError(f"`seconds` must be positive, got {seconds!r}")
        with open(path, "wb") as file:
            file.write(self._gif(seconds))

    def _gif(self, seconds: float) -> bytes:
        frames = list(_Canvas(self).frames())
        # All of them as one tall image, so that they share one palette: the file stays small.
        height, width, _ = frames[0].shape
        tall = PIL.Image.fromarray(np.concatenate(frames)).quantize(64)
        first, *rest = (
            tall.crop((0, top, width, top + height)) for top in range(0, tall.height, height)
        )
        file = io.BytesIO()
        first.save(
            file, "GIF", save_all=True, append_images=rest, duration=round(1000 * seconds), loop=0
        )
        return file.getvalue()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self._gif(0.7)).decode()
        return f'<img alt="{html.escape(self.title)}" src="data:image/gif;base64,{data}">'


def _grids(axes: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    """For each axis a grid over all of them that holds that axis's values."""
    return list(np.meshgrid(*axes, indexing="ij"))


def _strongest(kinds: Sequence[Sequence[str]]) -> np.ndarray:
    """The kind of each cell of a grid: the first of these that it has along any axis."""
    order = [OUTPUT_PADDING, PADDING, INSERTED, INPUT, OUTPUT]
    ranks = _grids([[order.index(kind) for kind in axis] for axis in kinds])
    return np.array(order)[np.min(ranks, axis=0)]


# How to draw it. Lengths are in cells, and y points down.

# The colours of Okabe and Ito, which the colour-blind can tell apart.
SKY_BLUE, GREEN, YELLOW = "#56B4E9", "#009E73", "#F0E442"
ORANGE, VERMILLION, PURPLE = "#E69F00", "#D55E00", "#CC79A7"
GREY = "#737373"

CELL_INCHES = 0.46
MIN_WIDTH_INCHES, MAX_WIDTH_INCHES = 6.4, 9.6
DOTS_PER_INCH = 100


def _style(kind: str, padding_mode: str = "zeros", *, strong: bool = False) -> dict[str, Any]:
    """How a cell is filled: more strongly under the kernel."""
    color, light = {
        INPUT: (SKY_BLUE, 0.55),
        UNREAD: (SKY_BLUE, 0.15),
        PADDING: (GREY, 0.25) if padding_mode == "zeros" else (ORANGE, 0.45),
        INSERTED: (YELLOW, 0.45),
        OUTPUT_PADDING: (PURPLE, 0.55),
        OUTPUT: (GREEN, 0.35),
    }[kind]
    # Mixed with white.
    strength = min(1, 1.75 * light) if strong else light
    facecolor = tuple(1 - strength * (1 - channel) for channel in to_rgb(color))
    if kind == UNREAD:
        return {"facecolor": facecolor, "edgecolor": color, "hatch": "////", "linewidth": 0}
    return {"facecolor": facecolor, "edgecolor": "white", "linewidth": 1.5}


class _Figure(Figure):
    """A figure that a notebook shows, whether or not it has imported pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def _blank_figure(
    title: str, width: float, height: float, handles: Sequence[Artist]
) -> tuple[Figure, Axes]:
    """A figure with room for `width` by `height` cells between a title and a legend."""
    columns = 2 if len(handles) > 3 else len(handles)
    cell = min(CELL_INCHES, (MAX_WIDTH_INCHES - 0.4) / width)
    top, bottom = 0.5, 0.2 + 0.25 * -(-len(handles) // columns)
    size = max(MIN_WIDTH_INCHES, width * cell + 0.4), height * cell + top + bottom
    figure = _Figure(size, dpi=DOTS_PER_INCH, facecolor="white")
    figure.text(0.5, 1 - 0.28 / size[1], title, ha="center", va="center", family="monospace")
    figure.legend(
        handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=9,
        borderaxespad=0.2, handlelength=1.4, columnspacing=1.8,
    )  # fmt: skip
    axes = figure.add_axes(
        (0.5 - width * cell / size[0] / 2, bottom / size[1],
         width * cell / size[0], height * cell / size[1]),
        xlim=(0, width), ylim=(height, 0),
    )  # fmt: skip
    axes.set_axis_off()
    return figure, axes


class _Canvas:
    """A picture, to which an output position can be added."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        place = _place_rows if len(picture.axes) == 1 else _place_grids
        self.cells, self.outputs, headings, size = place(picture)
        self.figure, self.axes = _blank_figure(picture.title, *size, _legend(picture))
        for cell in self.cells:
            self._add(self._cell(cell, f"cell {cell}"))
        for position in self.outputs:
            self._add(self._output(position, f"output {position}"))
        for text, (x, y) in headings.items():
            self.axes.text(x, y, text, ha="center", va="center", fontsize=10)

    def add_position(self, position: tuple[int, ...]) -> list[Artist]:
        """Mark an output element and the cells that make it."""
        footprint = self.picture.footprint(position)
        cells = {tap: tuple(footprint[tap].tolist()) for tap in np.ndindex(*footprint.shape[:-1])}
        connect = _connect_row if len(position) == 1 else _connect_grids
        places = {tap: self.cells[cell] for tap, cell in cells.items()}
        artists = connect(places, self.outputs[position])
        for tap, cell in cells.items():
            artists += self._cell(cell, f"tap {tap}", marked=True)
        artists += self._output(position, "position", marked=True)
        self._add(artists)
        return artists

    def frames(self) -> Iterator[np.ndarray]:
        """The pixels of the picture at each output position: only what changes is drawn anew."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        background = canvas.copy_from_bbox(self.figure.bbox)
        for position in self.outputs:
            canvas.restore_region(background)
            for artist in self.add_position(position):
                self.axes.draw_artist(artist)
                artist.remove()
            yield np.array(canvas.buffer_rgba())[..., :3]

    def _add(self, artists: list[Artist]) -> None:
        for artist in artists:
            self.axes.add_artist(artist)

    def _cell(self, cell: tuple[int, ...], gid: str, *, marked: bool = False) -> list[Artist]:
        style = _style(str(self.picture.kinds[cell]), self.picture.padding_mode, strong=marked)
        return _square(self.cells[cell], str(self.picture.values[cell]), gid, style, marked)

    def _output(self, position: tuple[int, ...], gid: str, *, marked: bool = False) -> list[Artist]:
        style = _style(str(self.picture.output_kinds[position]), strong=marked)
        return _square(self.outputs[position], "", gid, style, marked)


def _square(
    corner: Place, text: str, gid: str, style: dict[str, Any], marked: bool = False
) -> list[Artist]:
    x, y = corner
    if marked:
        style = style | {"edgecolor": VERMILLION, "linewidth": 2.4}
    layer = 4 if marked else 1
    return [
        Rectangle(corner, 1, 1, clip_on=False, gid=gid, zorder=layer, **style),
        Text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9, zorder=layer + 0.1),
    ]


def _place_rows(picture: Picture) -> Layout:
    """One axis: the output above the input, each element above the middle of its window."""
    (axis,) = picture.axes
    middles = [(window[0] + window[-1]) / 2 for window in axis.windows]
    number = len(axis.kinds)
    left = max(0, -min(middles))
    width = max(left + number, left + max(middles) + 1)
    upper, lower = 0.8, 4.0
    return (
        {(cell,): (left + cell, lower) for cell in range(number)},
        {(q,): (left + middle, upper) for q, middle in enumerate(middles)},
        {
            _output_heading(picture): (left + (min(middles) + max(middles) + 1) / 2, upper - 0.4),
            _input_heading(picture): (left + number / 2, lower + 1.4),
        },
        (width, lower + 1.9),
    )


def _place_grids(picture: Picture) -> Layout:
    """Two axes: the output to the right of the input."""
    (rows, columns), (output_rows, output_columns) = picture.kinds.shape, picture.output_size
    heading, gap = 0.9, 2.4
    height = max(rows, output_rows)
    top, output_top = heading + (height - rows) / 2, heading + (height - output_rows) / 2
    output_left = columns + gap
    return (
        {(r, c): (c, top + r) for r in range(rows) for c in range(columns)},
        {
            (r, c): (output_left + c, output_top + r)
            for r in range(output_rows)
            for c in range(output_columns)
        },
        {
            _input_heading(picture): (columns / 2, top - 0.45),
            _output_heading(picture): (output_left + output_columns / 2, output_top - 0.45),
        },
        (output_left + output_columns, heading + height + 0.3),
    )


def _input_heading(picture: Picture) -> str:
    input_size = [len({e for e in axis.elements if e >= 0}) for axis in picture.axes]
    text = f"input {_times(input_size)}"
    if list(picture.kinds.shape) == input_size:
        return text
    how = "spread" if picture.transposed else "padded"
    return f"{text}, {how} to {_times(picture.kinds.shape)}"


def _output_heading(picture: Picture) -> str:
    return f"output {_times(picture.output_size)}"


def _times(sizes: Sequence[int]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(str(size) for size in sizes)


def _connect_row(taps: dict[tuple[int, ...], Place], output: Place) -> list[Artist]:
    """A line from each tap to the output element, with the weight's index on it."""
    artists: list[Artist] = []
    for (tap,), (x, y) in taps.items():
        line = (x + 0.5, output[0] + 0.5), (y, output[1] + 1)
        artists.append(Line2D(*line, color=VERMILLION, linewidth=1.2))
        artists.append(_line_label(f"w[{tap}]", *line, along=0.28, color=VERMILLION))
    return artists


def _line_label(
    text: str, x: tuple[float, float], y: tuple[float, float], along: float, color: str
) -> Text:
    """`text` on the line, `along` of the way."""
    return Text(
        x[0] + along * (x[1] - x[0]), y[0] + along * (y[1] - y[0]), text, fontsize=8,
        ha="center", va="center", color=color,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def _connect_grids(taps: dict[tuple[int, ...], Place], output: Place) -> list[Artist]:
    """The window's right side, widening or narrowing to the output element's left."""
    corners = np.array([*taps.values()])
    right, (top, bottom) = corners[:, 0].max() + 1, (corners[:, 1].min(), corners[:, 1].max() + 1)
    ends = ((top, output[1]), (bottom, output[1] + 1))
    return [
        Line2D([right, output[0]], [start, end], color=VERMILLION, linewidth=1.2)
        for start, end in ends
    ]


def _legend(picture: Picture) -> list[Artist]:
    """A handle for each kind of cell that there is."""
    transposed = picture.transposed
    texts = {
        INPUT: "input",
        UNREAD: "input that no output reads",
        PADDING: (
            "zeros around: dilation*(kernel_size - 1) - padding" if transposed
            else f"padding: {picture.padding_mode}"
        ),
        INSERTED: "zeros between: stride - 1",
        OUTPUT_PADDING: "added by output_padding",
        OUTPUT: "output",
    }  # fmt: skip
    shown = {*picture.kinds.flat, *picture.output_kinds.flat}
    handles: list[Artist] = [
        Patch(label=text, **_style(kind, picture.padding_mode))
        for kind, text in texts.items()
        if kind in shown
    ]
    handles.append(
        Patch(facecolor="white", edgecolor=VERMILLION, linewidth=2, label="kernel at one position")
    )
    return handles


def _draw_sizes(title: str, input_size: int, sizes: dict[int, dict[int, int]]) -> Figure:
    """`sizes` are the larger ones, by the smaller one and output_padding."""
    upper, lower = 0.9, 4.4
    first = min(size for row in sizes.values() for size in row.values())
    last = max(size for row in sizes.values() for size in row.values())
    width = max(last - first + 1, 8)
    left = (width - (last - first + 1)) / 2
    handles = [
        Patch(label="conv_transpose's input", **_style(INPUT)),
        Patch(label="its output", **_style(OUTPUT)),
        Line2D([], [], color=VERMILLION, linewidth=1.5, label="output_padding"),
    ]
    figure, axes = _blank_figure(title, width, lower + 1.9, handles)
    for small, row in sizes.items():
        strong = small == input_size
        color = VERMILLION if strong else GREY
        places = {op: left + size - first for op, size in row.items()}
        middle = sum(places.values()) / len(places)
        squares = _square((middle, lower), str(small), f"{small}", _style(INPUT, strong=strong))
        for op, x in places.items():
            gid = f"input_size={small} output_padding={op} output_size={row[op]}"
            squares += _square((x, upper), f"{row[op]}", gid, _style(OUTPUT, strong=strong))
            line = (middle + 0.5, x + 0.5), (lower, upper + 1)
            squares.append(Line2D(*line, color=color, linewidth=1.5 if strong else 1))
            squares.append(_line_label(f"{op}", *line, along=0.5, color=color))
        for artist in squares:
            axes.add_artist(artist)
    for y, text in (
        (upper - 0.45, "sizes that conv_transpose can make, and that conv takes"),
        (lower + 1.45, "the size that conv makes of them"),
    ):
        axes.text(width / 2, y, text, ha="center", va="center", fontsize=10)
    return figure
