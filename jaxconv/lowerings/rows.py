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

ROWS = 16
"""Rows added at a time, at most."""

TAPS = 8
"""Taps of the last axis written out, at most."""


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """w, from y and an x that is padded already; channels last."""
    g = geometry
    dtype = options.get("preferred_element_type") or x.dtype
    # Without the barrier, XLA replaces slices of the padded x by several pads.
    x = taps.by_place_in_group(lax.optimization_barrier(x), g.channel_axis, g.groups)
    y = taps.by_place_in_group(y, g.channel_axis, g.groups).astype(dtype)
    channels = [channel.astype(dtype) for channel in taps.unstack(x, g)]
    axis = max(g.num_spatial_dims - 2, 0)
    size = g.output_size[axis]
    rows = _rows_at_once(size)
    length = 1 if axis < g.num_spatial_dims - 1 else size // rows
    covered = size // (rows * length) * rows * length
    w = _sum_of_rows(channels, y, _with_rows(g, axis, covered), axis, rows, length)
    if covered < size:
        channels = [
            lax.slice_in_dim(channel, covered * g.stride[axis], None, axis=axis + 1)
            for channel in channels
        ]
        y = lax.slice_in_dim(y, covered, None, axis=axis + 1)
        rest = _with_rows(g, axis, size - covered)
        w += _sum_of_rows(channels, y, rest, axis, size - covered, 1)
    return w


def _rows_at_once(size: int) -> int:
    """As many as leave the fewest over."""
    if size <= ROWS:
        return size
    return min(range(ROWS // 2, ROWS + 1), key=lambda rows: (size % rows, -rows))


def _with_rows(g: Geometry, axis: int, count: int) -> Geometry:
    """`g`, x and y aside, with so many rows in y."""
    output_size = (*g.output_size[:axis], count, *g.output_size[axis + 1 :])
    return dataclasses.replace(g, output_size=output_size)


def _sum_of_rows(
    channels: list[jax.Array], y: jax.Array, g: Geometry, axis: int, rows: int, length: int
) -> jax.Array:
    """w, from `(N, *i, groups)` for each input channel of a group, and `(N, *o, O/groups, groups)`.

    At a time, `rows` rows of a `length` along `axis`, a divisor of the output's size.
    """
    last = g.num_spatial_dims - 1
    places = (y.shape[0], *g.output_size[:axis], g.output_size[axis] // (rows * length))
    block = (1,) * axis + (rows * length,) + g.output_size[axis + 1 :]
    taps_at_once = max(n for n in range(1, TAPS + 1) if g.kernel_size[last] % n == 0)
    tap_places = (*g.kernel_size[:last], g.kernel_size[last] // taps_at_once)

    # What a block of y meets of x, in all; and what a row of it meets at some taps.
    x_block = [
        (count - 1) * s + r + 1 for count, s, r in zip(block, g.stride, g.reach, strict=True)
    ]
    x_row = [1] * axis + [(length - 1) * g.stride[axis] + 1] + x_block[axis + 1 :]
    x_row[last] -= g.reach[last] if axis < last else 0
    x_row[last] += (taps_at_once - 1) * g.dilation[last]

    def add_block(number, sums):
        image, *place = _unravel(number, places)
        start = [*place[:-1], place[-1] * rows * length] + [0] * (last - axis)
        y_rows = lax.dynamic_slice(y, (image, *start, 0, 0), (1, *block, *y.shape[-2:]))
        y_rows = lax.split(lax.optimization_barrier(y_rows), (length,) * rows, axis=axis + 1)
        start = [p * s for p, s in zip(start, g.stride, strict=True)]
        x_blocks = lax.optimization_barrier(
            [
                lax.dynamic_slice(channel, (image, *start, 0), (1, *x_block, g.groups))
                for channel in channels
            ]
        )

        def add_taps(number, sums):
            tap = _unravel(number, tap_places)
            tap[last] *= taps_at_once
            start = [t * d for t, d in zip(tap, g.dilation, strict=True)]
            added = []
            x_rows = [
                [
                    lax.dynamic_slice(
                        x,
                        (
                            0,
                            *start[:axis],
                            start[axis] + row * length * g.stride[axis],
                            *start[axis + 1 :],
                            0,
                        ),
                        (1, *x_row, g.groups),
                    )
                    for row in range(rows)
                ]
                for x in x_blocks
            ]
            for t in range(taps_at_once):
                for x in x_rows:
                    products = [
                        _every(row, g, axis, t, taps_at_once)[..., None, :] * y_row
                        for row, y_row in zip(x, y_rows, strict=True)
                    ]
                    added.append(functools.reduce(jnp.add, products))
            return [_add_at(total, number, part) for total, part in zip(sums, added, strict=True)]

        return lax.fori_loop(0, math.prod(tap_places), add_taps, sums)

    row_shape = (1,) * (axis + 1) + (length, *y.shape[axis + 2 :])
    zeros = jnp.zeros((math.prod(tap_places), *row_shape), y.dtype)
    sums = lax.fori_loop(0, math.prod(places), add_block, [zeros] * (taps_at_once * len(channels)))
    w = jnp.stack(sums).sum(tuple(range(2, y.ndim)))
    w = w.reshape(taps_at_once, len(channels), *w.shape[1:])  # (t, I/g, tap, O/g, groups)
    return w.transpose(4, 3, 1, 2, 0).reshape(-1, len(channels), *g.kernel_size)


def _every(x: jax.Array, g: Geometry, axis: int, tap: int, taps_at_once: int) -> jax.Array:
    """Every stride-th element of a row of x, from a tap of the last axis on."""
    last = g.num_spatial_dims - 1
    starts, limits, strides = [0] * x.ndim, list(x.shape), [1] * x.ndim
    strides[axis + 1], strides[last + 1] = g.stride[axis], g.stride[last]
    starts[last + 1] = tap * g.dilation[last]
    limits[last + 1] = starts[last + 1] + (
        x.shape[last + 1] - (taps_at_once - 1) * g.dilation[last]
    )
    return lax.slice(x, starts, limits, strides)


def _add_at(total: jax.Array, number: Any, part: jax.Array) -> jax.Array:
    part += lax.dynamic_index_in_dim(total, number, keepdims=False)
    return lax.dynamic_update_index_in_dim(total, part, number, 0)


def _unravel(number: Any, sizes: Sequence[int]) -> list[Any]:
    """Places along axes of these sizes; the last goes fastest."""
    places = []
    for size in reversed(sizes):
        number, place = divmod(number, size)
        places.append(place)
    return places[::-1]
