"""The weight gradient where a group has few channels, on a CPU: sums of rows.

A weight is a sum of products over all images, and tap by tap, all images are read anew for each. So
a loop takes a few rows of y at a time, and adds up their products with x, element by element, for
every tap while these rows are in the cache; sums along a row come last. That leaves XLA:CPU nothing
but products and sums of whole rows to compile, which it vectorises, and hardly any reductions,
where it is slow. Taps are a loop too but for some of the last axis: written out, they took seconds
to compile.

Rows follow each other along the last axis but one. Where there is one axis alone, its parts are the
rows.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.geometry import Geometry
from jaxconv.lowerings import taps

ROWS = 10
"""Rows added at a time, at most."""

TAPS = 8
"""Taps of the last axis written out, at most."""


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """w, from y and an x that is padded already; channels last."""
    g = geometry
    dtype = options.get("preferred_element_type") or x.dtype
    channels = taps.channels_of_groups(x, g, dtype)
    y = taps.by_place_in_group(y, g.channel_axis, g.groups).astype(dtype)
    axis = max(g.num_spatial_dims - 2, 0)
    size = g.output_size[axis]
    rows = _rows_at_once(size)
    length = 1 if axis < g.num_spatial_dims - 1 else size // rows
    covered = size // (rows * length) * rows * length
    w = _sum_over_blocks(channels, y, _Blocks(g, axis, rows, length, covered))
    if covered < size:
        channels = [
            lax.slice_in_dim(channel, covered * g.stride[axis], None, axis=axis + 1)
            for channel in channels
        ]
        y = lax.slice_in_dim(y, covered, None, axis=axis + 1)
        rest = size - covered
        w += _sum_over_blocks(channels, y, _Blocks(g, axis, rest, 1, rest))
    return w


def _rows_at_once(size: int) -> int:
    """As many as leave the fewest over."""
    if size <= ROWS:
        return size
    return min(range(ROWS // 2, ROWS + 1), key=lambda rows: (size % rows, -rows))


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """How y is divided: into blocks of `rows` rows of `length` along `axis`, of `size` in all."""

    geometry: Geometry
    axis: int
    rows: int
    length: int
    size: int

    @functools.cached_property
    def places(self) -> tuple[int, ...]:
        """How many blocks of an image there are along each axis up to that of the rows."""
        return (*self.geometry.output_size[: self.axis], self.size // (self.rows * self.length))

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """A block of y."""
        after = self.geometry.output_size[self.axis + 1 :]
        return (1,) * self.axis + (self.rows * self.length, *after)

    @functools.cached_property
    def row_shape(self) -> tuple[int, ...]:
        """A row of y."""
        return (1,) * self.axis + (self.length, *self.shape[self.axis + 1 :])

    @functools.cached_property
    def taps_at_once(self) -> int:
        k = self.geometry.kernel_size[-1]
        return max(n for n in range(1, TAPS + 1) if k % n == 0)

    @functools.cached_property
    def tap_places(self) -> tuple[int, ...]:
        """The kernel, as a loop goes over it."""
        *before, k = self.geometry.kernel_size
        return (*before, k // self.taps_at_once)

    def start(self, place: list[Any]) -> list[Any]:
        """Where in y a block begins."""
        after = [0] * (self.geometry.num_spatial_dims - 1 - self.axis)
        return [*place[:-1], place[-1] * self.rows * self.length, *after]

    def of_y(self, y: jax.Array, image: Any, start: list[Any]) -> list[jax.Array]:
        """The rows of a block of `(N, *o, O/groups, groups)`."""
        block = lax.dynamic_slice(y, (image, *start, 0, 0), (1, *self.shape, *y.shape[-2:]))
        block = lax.optimization_barrier(block)
        return list(lax.split(block, (self.length,) * self.rows, axis=1 + self.axis))

    def of_x(self, channel: jax.Array, image: Any, start: list[Any]) -> jax.Array:
        """All that the block of y at `start` meets of `(N, *i, groups)`."""
        g = self.geometry
        sizes = _met(self.shape, g.stride, g.reach)
        starts = [at * s for at, s in zip(start, g.stride, strict=True)]
        return lax.dynamic_slice(channel, (image, *starts, 0), (1, *sizes, channel.shape[-1]))

    def rows_of_x(self, block: jax.Array, tap: list[Any]) -> list[jax.Array]:
        """What each row of a block meets of `of_x`, from a tap on for `taps_at_once` of them."""
        g = self.geometry
        more = [0] * (g.num_spatial_dims - 1) + [(self.taps_at_once - 1) * g.dilation[-1]]
        sizes = _met(self.row_shape, g.stride, more)
        starts = [t * d for t, d in zip(tap, g.dilation, strict=True)]
        rows = []
        for row in range(self.rows):
            first = [*starts]
            first[self.axis] += row * self.length * g.stride[self.axis]
            rows.append(lax.dynamic_slice(block, (0, *first, 0), (1, *sizes, block.shape[-1])))
        return rows

    def at_tap(self, row: jax.Array, tap: int) -> jax.Array:
        """What a row of y meets of `rows_of_x` at one of the taps."""
        g = self.geometry
        starts = [0] * g.num_spatial_dims
        starts[-1] = tap * g.dilation[-1]
        sizes = _met(self.row_shape, g.stride, [0] * g.num_spatial_dims)
        limits = [start + size for start, size in zip(starts, sizes, strict=True)]
        return lax.slice(row, (0, *starts, 0), (1, *limits, row.shape[-1]), (1, *g.stride, 1))


def _met(shape: Sequence[int], stride: Sequence[int], more: Sequence[int]) -> list[int]:
    """The span of x that so many elements of y meet at one tap, and `more`."""
    return [(n - 1) * s + 1 + m for n, s, m in zip(shape, stride, more, strict=True)]


def _sum_over_blocks(channels: list[jax.Array], y: jax.Array, blocks: _Blocks) -> jax.Array:
    """w, from `(N, *i, groups)` for each channel of a group, and `(N, *o, O/groups, groups)`."""

    def add_block(number, sums):
        image, *place = jnp.unravel_index(number, (y.shape[0], *blocks.places))
        start = blocks.start(place)
        y_rows = blocks.of_y(y, image, start)
        x_blocks = [blocks.of_x(channel, image, start) for channel in channels]
        x_blocks = lax.optimization_barrier(x_blocks)

        def add_taps(number, sums):
            *before, tap = jnp.unravel_index(number, blocks.tap_places)
            tap = [*before, tap * blocks.taps_at_once]
            x_rows = [blocks.rows_of_x(block, tap) for block in x_blocks]
            products = [
                [
                    blocks.at_tap(x_row, t)[..., None, :] * y_row
                    for x_row, y_row in zip(of_channel, y_rows, strict=True)
                ]
                for t in range(blocks.taps_at_once)
                for of_channel in x_rows
            ]
            return [
                _add_at(total, number, functools.reduce(jnp.add, terms))
                for total, terms in zip(sums, products, strict=True)
            ]

        return lax.fori_loop(0, math.prod(blocks.tap_places), add_taps, sums)

    shape = (math.prod(blocks.tap_places), 1, *blocks.row_shape, *y.shape[-2:])
    # Of y's type: it may vary over the axes of a mesh.
    zeros = jnp.zeros_like(jax.eval_shape(lambda: jnp.broadcast_to(y[(0,) * y.ndim], shape)))
    sums = [zeros] * (blocks.taps_at_once * len(channels))
    sums = lax.fori_loop(0, y.shape[0] * math.prod(blocks.places), add_block, sums)
    w = jnp.stack(sums).sum(tuple(range(2, y.ndim)))
    w = w.reshape(blocks.taps_at_once, len(channels), *w.shape[1:])  # (t, I/g, tap, O/g, groups)
    kernel_size = blocks.geometry.kernel_size
    return w.transpose(4, 3, 1, 2, 0).reshape(-1, len(channels), *kernel_size)


def _add_at(total: jax.Array, number: Any, part: jax.Array) -> jax.Array:
    part += lax.dynamic_index_in_dim(total, number, keepdims=False)
    return lax.dynamic_update_index_in_dim(total, part, number, 0)
