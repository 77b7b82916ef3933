"""Few channels per group: one multiply-add over the whole image per tap, which XLA fuses.

The groups lie along the vector unit, or with channels first a row of the image, so x is taken apart
by the channel within a group.

XLA:CPU fuses more than is good for it: with the weights' transpose in the loop over the image,
weights are read across and the loop isn't vectorised (3 times slower). `in_steps` lays them out by
tap first, by a `lax.map`, which is never fused.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.geometry import Geometry

UNROLLED = 64
"""Products written out one by one. With more, those of a row of taps are, in a loop over rows."""

ROWS_TOGETHER = 3
"""Rows at most whose products are written out together, for a GPU, which adds up those of one
about as fast as it starts to."""


def conv(
    x: jax.Array,
    w: jax.Array,
    geometry: Geometry,
    *,
    in_steps: bool = False,
    together: bool = False,
    **options: Any,
) -> jax.Array:
    """y, from w and an x that is padded already; in a loop over rows, perhaps several together."""
    g = geometry
    dtype = options.get("preferred_element_type") or x.dtype
    channels = channels_of_groups(x, g, dtype)
    weights = by_tap(w, g, in_steps).astype(dtype)

    def sum_over(rows: _Rows) -> jax.Array:
        """`(N, *o, O/g, groups)` or channels first."""
        numbers = rows.numbers(g)
        by_row = _ordered(weights, numbers)

        def sum_over_row(row: Any) -> jax.Array:
            each = [_at(weights, n) for n in _at(numbers, row)] if in_steps else _at(by_row, row)
            products = [
                broadcast_mul(window, weight[:, i], g)
                for i, x in enumerate(channels)
                for weight, window in zip(each, _windows(x, g, rows, row, in_steps), strict=True)
            ]
            return functools.reduce(jnp.add, products)

        if len(rows.taps) == 1:
            return sum_over_row(0)
        zeros = jnp.zeros_like(jax.eval_shape(sum_over_row, 0))
        return lax.fori_loop(0, len(rows.taps), lambda row, total: total + sum_over_row(row), zeros)

    most = max(1, UNROLLED // len(channels))
    sums = map(sum_over, _rows(g.kernel_size, most, ROWS_TOGETHER if together else 1))
    return by_group(functools.reduce(jnp.add, sums), g.channel_axis)


def by_tap(w: jax.Array, g: Geometry, in_steps: bool) -> jax.Array:
    """`(taps, O/g, I/g, groups)`"""
    by_place = by_place_in_group(w, 0, g.groups)  # (O/g, groups, I/g, *k)
    by_place = by_place.reshape(*by_place.shape[:3], g.taps).swapaxes(1, 2)
    if not in_steps:
        return jnp.moveaxis(by_place, 3, 0)
    weight_at = functools.partial(lax.dynamic_index_in_dim, by_place, axis=3, keepdims=False)
    return lax.map(weight_at, jnp.arange(g.taps))


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """w, from y and an x that is padded already."""
    g = geometry
    dtype = options.get("preferred_element_type") or x.dtype
    channels = channels_of_groups(x, g, dtype)
    y = lax.optimization_barrier(by_place_in_group(y, g.channel_axis, g.groups)).astype(dtype)
    kept = (y.ndim - 2, y.ndim - 1) if g.channels_last else (1, 2)
    summed = tuple(axis for axis in range(y.ndim) if axis not in kept)

    def weights_of(rows: _Rows) -> jax.Array:
        """`(taps, I/g, O/g, groups)`"""

        def weights_of_row(row: Any) -> jax.Array:
            sums = [
                jnp.sum(jnp.expand_dims(window, kept[0]) * y, summed)
                for x in channels
                for window in _windows(x, g, rows, row)
            ]
            return jnp.stack(sums).reshape(len(channels), -1, *sums[0].shape).swapaxes(0, 1)

        if len(rows.taps) == 1:
            return weights_of_row(0)
        return lax.collapse(lax.map(weights_of_row, jnp.arange(len(rows.taps))), 0, 2)

    parts = _rows(g.kernel_size, max(1, UNROLLED // len(channels)))
    order = np.argsort(np.concatenate([rows.numbers(g).ravel() for rows in parts]))
    w = _ordered(jnp.concatenate([weights_of(rows) for rows in parts]), order).transpose(2, 3, 1, 0)
    return by_group(w, 0).reshape(-1, w.shape[2], *g.kernel_size)


class _Rows(NamedTuple):
    """Taps of the kernel in rows, of `shape` along its axes, which may be several side by side:
    `(rows, taps of a row, axes)`."""

    shape: tuple[int, ...]
    taps: np.ndarray

    def numbers(self, g: Geometry) -> np.ndarray:
        """Counted with the last axis fastest."""
        return np.asarray(np.ravel_multi_index(tuple(np.moveaxis(self.taps, -1, 0)), g.kernel_size))


def _rows(kernel_size: Sequence[int], most: int, together: int = 1) -> list[_Rows]:
    """The kernel as one row if it has at most `most` taps, and else as rows along its longest axis:
    equal ones, if a number up to half as many divides it well, or with the last ones shorter. Up to
    `together` rows, side by side along the next longest axis, make one if they have at most `most`
    taps."""
    if math.prod(kernel_size) <= most:
        return [_Rows(tuple(kernel_size), np.array([list(np.ndindex(*kernel_size))]))]
    *_, longest = axes = sorted(range(len(kernel_size)), key=lambda axis: (kernel_size[axis], axis))
    lengths = [1] * len(kernel_size)
    lengths[longest] = _length(kernel_size[longest], max(1, most // 2))
    if len(axes) > 1:
        lengths[axes[-2]] = min(kernel_size[axes[-2]], together, most // lengths[longest])
    runs = [_runs(k, length) for k, length in zip(kernel_size, lengths, strict=True)]
    return [_beginning(*zip(*of_axes, strict=True)) for of_axes in itertools.product(*runs)]


def _length(k: int, most: int) -> int:
    """How long the runs are that an axis of a kernel is divided into: up to `most` taps."""
    most = min(k, most)
    divisor = max(length for length in range(1, most + 1) if k % length == 0)
    return divisor if divisor > most // 4 else most


def _runs(k: int, length: int) -> list[tuple[int, range]]:
    """Runs of that length, and perhaps one of what is left: how long, and where they begin."""
    rest = k % length
    whole = (length, range(0, k - rest, length))
    return [whole, (rest, range(k - rest, k, rest))] if rest else [whole]


def _beginning(shape: tuple[int, ...], starts: tuple[range, ...]) -> _Rows:
    """Rows of that shape, one from each of the places that `starts` has along the axes."""
    firsts = np.array(list(itertools.product(*starts)))
    return _Rows(shape, firsts[:, None] + np.array(list(np.ndindex(*shape))))


def _windows(
    x: jax.Array, g: Geometry, rows: _Rows, row: Any, one_by_one: bool = False
) -> list[jax.Array]:
    """What all windows meet at each tap of a row.

    What they meet at all of them is one slice from anywhere, and each tap's a static one of that,
    which XLA:GPU fuses well. XLA:CPU takes up to ten times as long then, for weights too, if a row
    is short: there, each is a slice from anywhere.
    """
    taps = _at(rows.taps, row)
    if one_by_one:
        one = (1,) * g.num_spatial_dims
        return [_at_tap(_span(x, g, tap, one), g, (0,) * len(one)) for tap in taps]
    span = _span(x, g, taps[0], rows.shape)
    return [_at_tap(span, g, tap) for tap in np.ndindex(*rows.shape)]


def _ordered(array: jax.Array, places: np.ndarray) -> jax.Array:
    """`array[places]`, all its elements, without a gather if they lie so already."""
    if np.array_equal(places.ravel(), np.arange(array.shape[0])):
        return array.reshape(*places.shape, *array.shape[1:])
    return array[places]


def _at(table: Any, place: Any) -> Any:
    """An element of the first axis; of a numpy array, at a known place, as one."""
    if isinstance(place, int | np.integer):
        return table[place]
    return lax.dynamic_index_in_dim(jnp.asarray(table), place, keepdims=False)


def _span(x: jax.Array, g: Geometry, first: Sequence[Any], taps: Sequence[int]) -> jax.Array:
    """What all windows meet from a tap on, for so many taps along each axis."""
    starts, sizes = [0] * x.ndim, list(x.shape)
    for n, axis in enumerate(g.spatial_axes):
        starts[axis] = first[n] * g.dilation[n]
        sizes[axis] = (g.output_size[n] - 1) * g.stride[n] + (taps[n] - 1) * g.dilation[n] + 1
    return lax.dynamic_slice(x, [jnp.int32(start) for start in starts], sizes)


def _at_tap(span: jax.Array, g: Geometry, tap: Sequence[int]) -> jax.Array:
    """What all windows meet at one tap of a `_span`."""
    starts, limits, strides = [0] * span.ndim, list(span.shape), [1] * span.ndim
    for n, axis in enumerate(g.spatial_axes):
        starts[axis], strides[axis] = tap[n] * g.dilation[n], g.stride[n]
        limits[axis] = starts[axis] + (g.output_size[n] - 1) * g.stride[n] + 1
    return lax.slice(span, starts, limits, strides)


def broadcast_mul(window: jax.Array, weight: jax.Array, g: Geometry) -> jax.Array:
    """`(N, *o, groups)` times `(O/g, groups)`: `(N, *o, O/g, groups)`, or channels first."""
    if g.channels_last:
        window = jnp.expand_dims(window, -2)
        weight = weight.reshape((1,) * (window.ndim - 2) + weight.shape)
    else:
        window = jnp.expand_dims(window, 1)
        weight = weight.reshape(1, *weight.shape, *(1,) * g.num_spatial_dims)
    return window * weight


def channels_of_groups(x: jax.Array, g: Geometry, dtype: Any) -> list[jax.Array]:
    """A padded x by the place of a channel in its group, `(N, *i, groups)` or channels first."""
    # Without the barrier, XLA replaces slices of the padded x by several pads.
    x = by_place_in_group(lax.optimization_barrier(x), g.channel_axis, g.groups)
    pieces = lax.split(x, (1,) * x.shape[g.channel_axis], axis=g.channel_axis)
    return [lax.squeeze(piece, (g.channel_axis,)).astype(dtype) for piece in pieces]


def by_place_in_group(array: jax.Array, axis: int, groups: int) -> jax.Array:
    """An axis of channels, `groups*m`, as two, `(m, groups)`."""
    shape = array.shape
    if shape[axis] == groups:
        return jnp.expand_dims(array, axis)
    array = array.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    return jnp.swapaxes(array, axis, axis + 1)


def transposed(w: jax.Array, groups: int) -> jax.Array:
    """`(O, I/g, *k)` with the channels of each group exchanged: `(I, O/g, *k)`."""
    out_channels, in_per_group, *k = w.shape
    w = w.reshape(groups, out_channels // groups, in_per_group, *k).swapaxes(1, 2)
    return w.reshape(groups * in_per_group, out_channels // groups, *k)


def reversed_kernel(w: jax.Array, groups: int) -> jax.Array:
    """The kernel for the form of stride 1 with x and y in each other's place, and back."""
    return lax.rev(transposed(w, groups), tuple(range(2, w.ndim)))


def by_group(array: jax.Array, axis: int) -> jax.Array:
    """Two axes of channels, `(m, groups)`, as one, `groups*m`."""
    return lax.collapse(jnp.swapaxes(array, axis, axis + 1), axis, axis + 2)
