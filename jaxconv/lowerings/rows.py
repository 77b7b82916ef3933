"""The weight gradient where a group has few channels, on a CPU: sums of rows.

A weight is a sum of products over all images, and tap by tap, all images are read anew for each. So
a loop takes a few rows of y at a time, and adds up their products with x, element by element, for
every tap while these rows are in the cache; sums along a row come last. That leaves XLA:CPU nothing
but products and sums of whole rows to compile, which it vectorises, and hardly any reductions,
where it is slow. Each tap's sum is a step of its own in the program, and several cores take such
steps at a time. Of larger kernels only a part is written out, in a loop over all such parts, since
each tap takes time to compile.

Rows follow each other along the last axis but one. Where there is one axis alone, its parts are the
rows. What would meet padding is left out of the sums, and x is padded along the last axis only
where a loop goes along it.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.geometry import Geometry
from jaxconv.lowerings import taps
from jaxconv.lowerings.changes import fit, replace_axis, windows_that_meet

ROWS = 7
"""Rows added at a time, at most,"""

ALL_ROWS = 10
"""unless an image has no more than that,"""

BLOCK_BYTES = 1 << 19
"""and of so much of x and y together, which stays in a core's cache."""

CORES_PER_IMAGE = 4
"""Taps alone keep so many cores busy. With more, blocks are of several images, which XLA divides
between them."""

TAPS = 16
"""Taps written out, at most,"""

SUMS = 36
"""and that times the channels of x in a group."""


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """w, of channels last."""
    dtype = jnp.dtype(options.get("preferred_element_type") or x.dtype)
    rows = _divide(geometry, x.shape, y.shape, dtype.itemsize)
    x, y, rows = _padded(x, y, rows)
    g = rows.geometry
    channels = taps.channels_of_groups(x, g, dtype)
    # As one axis still: as two, XLA would copy y in another layout, even if one is of length 1.
    y = taps.by_place_in_group(y, g.channel_axis, g.groups).reshape(y.shape).astype(dtype)
    w = jnp.stack([total.sum((1, 2)) for total in _sum_over_blocks(channels, y, rows)])
    # `(I/g, *part, *parts, O/g, groups)`: along each axis, parts follow each other.
    n = g.num_spatial_dims
    w = w.reshape(len(channels), *rows.part, *rows.parts, *w.shape[-2:])
    kernel_axes = [axis for m in range(n) for axis in (1 + n + m, 1 + m)]
    w = w.transpose(2 * n + 2, 2 * n + 1, 0, *kernel_axes)
    return w.reshape(-1, len(channels), *g.kernel_size)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """How y and the kernel are divided."""

    geometry: Geometry

    part: tuple[int, ...]
    """Shape of what is written out of the kernel."""

    images: int
    """Of a block."""

    length: int
    """Windows of a row along the axis along which rows follow each other."""

    together: int = 1
    """Rows of a block."""

    @property
    def axis(self) -> int:
        """Along which rows follow each other."""
        return max(self.geometry.num_spatial_dims - 2, 0)

    @property
    def count(self) -> int:
        """Rows along that axis. The last may be shorter."""
        return -(-self.geometry.output_size[self.axis] // self.length)

    @property
    def blocks(self) -> tuple[int, ...]:
        """How many there are along each axis up to that one. The last may have fewer rows."""
        return (*self.geometry.output_size[: self.axis], -(-self.count // self.together))

    @property
    def width(self) -> int:
        """Windows of a row along the last axis."""
        g = self.geometry
        return self.length if g.num_spatial_dims == 1 else g.output_size[-1]

    @property
    def parts(self) -> tuple[int, ...]:
        """Of the kernel."""
        return tuple(k // p for k, p in zip(self.geometry.kernel_size, self.part, strict=True))

    @property
    def begins_anywhere(self) -> bool:
        """Whether what a row meets of x begins anywhere along the last axis, and not with it."""
        return self.geometry.num_spatial_dims == 1 or self.parts[-1] > 1

    def windows(self, tap: int) -> range:
        """Those of a row that meet x at a tap of the last axis, as far as that is known."""
        g = self.geometry
        if self.begins_anywhere:
            return range(self.width)
        return windows_that_meet(g, g.num_spatial_dims - 1, tap)


def _divide(g: Geometry, x_shape: Sequence[int], y_shape: Sequence[int], itemsize: int) -> _Rows:
    batch, in_channels, out_channels = x_shape[0], x_shape[-1], y_shape[-1]
    part, most = [1] * g.num_spatial_dims, max(1, min(TAPS, SUMS * g.groups // in_channels))
    for axis, k in reversed(list(enumerate(g.kernel_size))):
        part[axis] = _largest_divisor(k, most)
        most //= part[axis]
        if part[axis] < k:
            break
    if g.num_spatial_dims == 1:
        window_bytes = (out_channels + g.stride[0] * in_channels) * itemsize
        length = max(1, min(BLOCK_BYTES // window_bytes, g.output_size[0]) // ROWS)
        row_bytes = length * window_bytes
    else:
        length = 1
        y_row, x_row = g.output_size[-1] * out_channels, g.input_size[-1] * in_channels
        row_bytes = (y_row + g.stride[-2] * x_row) * itemsize
    images = _largest_divisor(batch, max(1, _cores() // CORES_PER_IMAGE))
    rows = _Rows(g, tuple(part), images, length)
    most = rows.count if rows.count <= ALL_ROWS else ROWS
    most = max(1, min(BLOCK_BYTES // row_bytes, most))
    together = min(range(-(-most // 2), most + 1), key=lambda size: (-rows.count % size, -size))
    return dataclasses.replace(rows, together=together)


def _largest_divisor(number: int, most: int) -> int:
    return max((size for size in range(1, min(number, most) + 1) if number % size == 0), default=1)


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _padded(x: jax.Array, y: jax.Array, rows: _Rows) -> tuple[jax.Array, jax.Array, _Rows]:
    """The same of an x with its padding along the last axis, and a y of whole rows, if rows do not
    begin with x or some tap meets nothing."""
    g, n = rows.geometry, rows.geometry.num_spatial_dims
    if not rows.begins_anywhere and all(rows.windows(tap) for tap in range(g.kernel_size[-1])):
        return x, y, rows
    windows = rows.count * rows.length if n == 1 else g.output_size[-1]
    size = (windows - 1) * g.stride[-1] + g.reach[-1] + 1
    x, y = fit(x, n, g.padding_low[-1], size), fit(y, n, 0, windows)
    g = replace_axis(g, n - 1, input_size=size, padding_low=0)
    return x, y, dataclasses.replace(rows, geometry=g)


def _sum_over_blocks(channels: list[jax.Array], y: jax.Array, rows: _Rows) -> list[jax.Array]:
    """w by parts of the kernel, for each channel of a group and each tap written out: `(parts,
    images, windows, O/groups, groups)`, yet to be summed over the images of a block and the windows
    of a row. From `(N, *i, groups)` for each channel, and `(N, *o, O/groups * groups)`."""
    lines = [(*line, 0) for line in np.ndindex(*rows.part[:-1])]

    def add_block(number, totals):
        image, *block = _unravel(number, (y.shape[0] // rows.images, *rows.blocks))
        image = image * rows.images
        # Without the barrier, the sum for each tap computes them anew.
        image, *block = lax.optimization_barrier((image, *block))
        places = [_place(rows, block, row) for row in range(rows.together)]
        y_rows = [_row_of_y(y, image, place, rows) for place in places]

        def add_part(number, totals):
            part = _unravel(number, rows.parts)
            first = [at * size for at, size in zip(part, rows.part, strict=True)]
            sums = []
            for channel in channels:
                for line in lines:
                    tap = [a + b for a, b in zip(first, line, strict=True)]
                    starts = [_start(rows.geometry, place, tap) for place in places]
                    x_rows = [_row_of_x(channel, image, start, rows) for start in starts]
                    met = _met(rows, places, starts, line)
                    sums += _sums(x_rows, y_rows, *met, rows)
            return [_add_at(total, number, sum) for total, sum in zip(totals, sums, strict=True)]

        return lax.fori_loop(0, math.prod(rows.parts), add_part, totals)

    groups = rows.geometry.groups
    shapes = [
        (math.prod(rows.parts), rows.images, len(rows.windows(tap)), y.shape[-1] // groups, groups)
        for tap in range(rows.part[-1])
    ]
    totals = [_zeros(shape, y) for shape in shapes * (len(channels) * len(lines))]
    return lax.fori_loop(0, y.shape[0] // rows.images * math.prod(rows.blocks), add_block, totals)


def _unravel(number: Any, sizes: Sequence[int]) -> list[Any]:
    """The place of that number, where the last axis is the fastest."""
    place = []
    for size in reversed(sizes):
        size = lax.full_like(number, size)
        place.append(lax.rem(number, size))
        number = lax.div(number, size)
    return place[::-1]


def _place(rows: _Rows, block: list[Any], row: int) -> list[Any]:
    """The window with which a row of a block begins."""
    *before, along = block
    after = [0] * (rows.geometry.num_spatial_dims - len(block))
    return [*before, (along * rows.together + row) * rows.length, *after]


def _row_of_y(y: jax.Array, image: Any, place: list[Any], rows: _Rows) -> jax.Array:
    """`(images, windows, O/groups, groups)`"""
    sizes = [rows.images] + [1] * (len(place) - 1) + [rows.width, y.shape[-1]]
    row = lax.dynamic_slice(y, [image, *place, 0], sizes, allow_negative_indices=False)
    return row.reshape(rows.images, rows.width, -1, rows.geometry.groups)


def _start(g: Geometry, place: Sequence[Any], tap: Sequence[Any]) -> list[Any]:
    """Where a window meets x at a tap."""
    axes = zip(place, tap, g.stride, g.dilation, g.padding_low, strict=True)
    return [at * s + t * d - low for at, t, s, d, low in axes]


def _row_of_x(channel: jax.Array, image: Any, start: list[Any], rows: _Rows) -> jax.Array:
    """What a row meets of `(N, *i, groups)` from its start on, or all of the last axis."""
    g = rows.geometry
    size = (rows.width - 1) * g.stride[-1] + (rows.part[-1] - 1) * g.dilation[-1] + 1
    if not rows.begins_anywhere:
        start, size = [*start[:-1], 0], g.input_size[-1]
    sizes = [rows.images] + [1] * (len(start) - 1) + [size, channel.shape[-1]]
    row = lax.dynamic_slice(channel, [image, *start, 0], sizes, allow_negative_indices=False)
    return row.reshape(row.shape[0], *row.shape[-2:])


Condition = jax.Array | None
"""One that may not hold, or None."""


def _met(
    rows: _Rows, places: list[list[Any]], starts: list[list[Any]], line: Sequence[int]
) -> tuple[list[Condition], Condition]:
    """Whether each row of a block is one of y, and meets x; and whether all of them do, along the
    axes before. What always holds is no condition, for each takes time to compile."""
    g, axis = rows.geometry, rows.axis
    last_line = [t + k - size for t, k, size in zip(line, g.kernel_size, rows.part, strict=True)]
    of_rows = []
    for row, (place, start) in enumerate(zip(places, starts, strict=True)):
        first = row * rows.length
        last = ((rows.blocks[axis] - 1) * rows.together + row) * rows.length
        conditions = []
        if last + rows.length > g.output_size[axis]:
            windows = place[axis] + lax.iota(place[axis].dtype, rows.length)[None, :, None, None]
            conditions.append(windows < g.output_size[axis])
        if g.num_spatial_dims > 1:
            conditions += _within(g, axis, start, (first, last), (line, last_line))
        of_rows.append(_all(conditions))
    of_block = [
        condition
        for before in range(axis)
        for condition in _within(
            g, before, starts[0], (0, g.output_size[before] - 1), (line, last_line)
        )
    ]
    return of_rows, _all(of_block)


def _within(
    g: Geometry, axis: int, start: list[Any], places: tuple[int, int], taps: tuple[Any, Any]
) -> list[jax.Array]:
    """That a window starts in x, as far as that's not known from the first and last place and tap
    that it may be of."""
    lowest, highest = (
        place * g.stride[axis] + tap[axis] * g.dilation[axis] - g.padding_low[axis]
        for place, tap in zip(places, taps, strict=True)
    )
    size = g.input_size[axis]
    return [start[axis] >= 0] * (lowest < 0) + [start[axis] < size] * (highest >= size)


def _all(conditions: list[jax.Array]) -> Condition:
    return functools.reduce(jnp.logical_and, conditions) if conditions else None


def _where(condition: Condition, value: jax.Array) -> jax.Array:
    return value if condition is None else jnp.where(condition, value, 0)


def _sums(
    x_rows: list[jax.Array],
    y_rows: list[jax.Array],
    of_rows: list[Condition],
    of_block: Condition,
    rows: _Rows,
) -> list[jax.Array]:
    """For each tap of the last axis, what the rows add to its total."""
    g = rows.geometry

    def product(tap: int, x_row: jax.Array, y_row: jax.Array, condition: Condition) -> jax.Array:
        windows = rows.windows(tap)
        start = windows.start * g.stride[-1] + tap * g.dilation[-1] - g.padding_low[-1]
        stop = start + (len(windows) - 1) * g.stride[-1] + 1
        x_met = lax.slice_in_dim(x_row, start, stop, g.stride[-1], axis=1)[:, :, None]
        return _where(
            condition, x_met * lax.slice_in_dim(y_row, windows.start, windows.stop, axis=1)
        )

    row_by_row = list(zip(x_rows, y_rows, of_rows, strict=True))
    sums = [
        functools.reduce(jnp.add, (product(tap, *row) for row in row_by_row))
        for tap in range(rows.part[-1])
    ]
    return [_where(of_block, sum) for sum in sums]


def _zeros(shape: Sequence[int], like: jax.Array) -> jax.Array:
    """Of the type of another array, which may vary over the axes of a mesh."""
    return jnp.zeros_like(
        jax.eval_shape(lambda: jnp.broadcast_to(like[(0,) * like.ndim], tuple(shape)))
    )


def _add_at(total: jax.Array, number: Any, part: jax.Array) -> jax.Array:
    part += lax.dynamic_index_in_dim(total, number, keepdims=False)
    return lax.dynamic_update_index_in_dim(total, part, number, 0)
