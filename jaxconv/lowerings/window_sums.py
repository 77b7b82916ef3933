"""The weight gradient where a group has few channels, on a CPU: sums over windows.

A weight is a sum of products over all windows of all images, and tap by tap, all images are read
anew for each. So one loop gives, for every few windows that lie together, the sum of their products
at each tap, with the taps as axes of the result: what it reads stays in the cache from tap to tap.
These sums are added up last. XLA:CPU compiles the loop to vectors of channels, in a fraction of a
second, and divides it between all cores.

What windows meet at a tap is looked up in tables, as in `gathers`, one axis at a time. The batch is
part of the first axis, as if its images lay one behind the other.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.geometry import Geometry
from jaxconv.lowerings.blocks import FRESH_BYTES, largest_divisor
from jaxconv.lowerings.copies import MOST_READS, as_arithmetic
from jaxconv.lowerings.gathers import taken, within
from jaxconv.lowerings.once import computed_once
from jaxconv.lowerings.setting import cores

TOGETHER = 15
"""Windows that lie together, at most: what would be computed more often, XLA:CPU does not fuse."""

NUMBERS, OF_A_CORE = 1 << 20, 1 << 18
"""Sums in memory at a time, at most; so many for each core, if these are more and all. But those of
two lines at least: with one, XLA:CPU looks up where it is anew for each product."""

ENTRIES = 1 << 16
"""Of a table, up to which it is written down in the program, and not computed there."""

ADDED = 64
"""Sums that a matrix product adds up one by one. Of more, rounding would be more than torch's."""


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """w, of channels last."""
    g = geometry
    dtype = options.get("preferred_element_type") or x.dtype
    x, y = x.astype(dtype), y.astype(dtype)
    channels, multiplier = x.shape[-1] // g.groups, y.shape[-1] // g.groups
    if channels == multiplier == 1:
        return jnp.moveaxis(_of_channels(x, y, g), -1, 0)[:, None]
    by_group = x.reshape(*x.shape[:-1], g.groups, channels)
    if channels > 1 and _pays_at_once(x, channels * y.shape[-1], g):
        w = _of_channels(_repeated(by_group.swapaxes(-1, -2), multiplier), y[..., None, :], g)
        return jnp.moveaxis(w, (-1, -2), (0, 1))

    def of_channel(number: Any) -> jax.Array:
        channel = lax.dynamic_index_in_dim(by_group, number, axis=-1, keepdims=False)
        return _of_channels(_repeated(channel, multiplier), y, g)

    w = lax.map(of_channel, jnp.arange(channels))
    return jnp.moveaxis(w, (-1, 0), (0, 1))


def _pays_at_once(x: jax.Array, all_channels: int, g: Geometry) -> bool:
    """Whether sums of all channels of a group of x are better had together."""
    sums = _number_of_sums(g, x.shape[0], all_channels)
    repeated = math.prod(x.shape[:-1]) * all_channels
    in_memory = (sums + repeated) * x.dtype.itemsize
    return sums <= cores() * OF_A_CORE and in_memory <= FRESH_BYTES


def _repeated(by_channel: jax.Array, multiplier: int) -> jax.Array:
    """Each channel of x as often as its group has channels of y. Within the loop over sums, that
    would leave no vectors of channels."""
    # XLA does the arithmetic before it repeats.
    arithmetic = as_arithmetic(by_channel, reads=multiplier)
    return computed_once(jnp.repeat(arithmetic, multiplier, axis=-1))


class _Met(NamedTuple):
    """Along an axis, of the windows that lie together, in each of its chunks: which of y they are,
    `(together, chunks)`; what they meet of x, and whether there is such an element, `(together,
    chunks, taps)`."""

    windows: Any
    places: Any
    exist: Any


def _of_channels(x: jax.Array, y: jax.Array, g: Geometry) -> jax.Array:
    """`(*k, *channels)`, of an x and a y with channels for each other, along one axis or two."""
    together, chunks = _together(g.output_size), _chunks(g)
    others = [_met(g, n, together[n], _numbers(chunks[n])) for n in range(1, len(chunks))]
    batch, channels = x.shape[0], math.prod(x.shape[1 + len(chunks) :])
    lines, blocks = batch * chunks[0], 1
    if _number_of_sums(g, batch, channels) > max(NUMBERS, cores() * OF_A_CORE):
        of_line = _number_of_sums(g, 1, channels) // chunks[0]
        blocks = -(-lines // max(2, NUMBERS // of_line))
    size = -(-lines // blocks)
    x, y = (image.reshape(-1, *image.shape[2:]) for image in (x, y))

    def of_lines(first: _Met, y: jax.Array) -> jax.Array:
        sums = _sums(x, y, [first, *others])
        # XLA counts all of x for each block.
        reads = 2 * math.prod(together) + min(MOST_READS, x.size // sums.size)
        return _added(computed_once(as_arithmetic(sums, reads)), g.num_spatial_dims)

    def of_block(number: Any) -> jax.Array:
        start = jnp.minimum(number * size, lines - size)
        line = start + _numbers(size)
        met = _met_by_lines(g, together[0], *map(computed_once, divmod(line, chunks[0])))
        is_new = line >= number * size  # The last block begins within the one before.
        tables = met._replace(exist=met.exist & is_new[None, :, None])
        first = _Met(*(computed_once(table.astype(np.int32)) for table in tables))
        if together[0] > 1:
            return of_lines(first, y)
        # A slice within the loop over sums would leave no vectors.
        of_these = computed_once(as_arithmetic(lax.dynamic_slice_in_dim(y, start, size)))
        return of_lines(first._replace(windows=_numbers(size)[None]), of_these)

    if blocks == 1 and lines * together[0] * g.kernel_size[0] <= ENTRIES:
        return of_lines(_met_by_lines(g, together[0], *divmod(_numbers(lines), chunks[0])), y)
    zeros = jnp.zeros_like(jax.eval_shape(of_block, 0))
    return lax.fori_loop(0, blocks, lambda n, total: total + of_block(n), zeros)


def _number_of_sums(g: Geometry, batch: int, channels: int) -> int:
    return batch * math.prod(_chunks(g)) * g.taps * channels


def _numbers(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int32)


def _together(output_size: Sequence[int]) -> list[int]:
    """How many windows lie together along each axis: along the last, as many as may."""
    lengths, most = [], TOGETHER
    for o in reversed(output_size):
        chunks = max(1, -(-o // most))
        lengths.append(max(1, -(-o // chunks)))
        most //= lengths[-1]
    return lengths[::-1]


def _chunks(g: Geometry) -> list[int]:
    """How many chunks of windows that lie together there are along each axis."""
    return [-(-o // n) for o, n in zip(g.output_size, _together(g.output_size), strict=True)]


def _met(g: Geometry, axis: int, together: int, chunks: Any) -> _Met:
    """What is met in chunks of these numbers."""
    windows = chunks[None] * together + _numbers(together)[:, None]
    places = windows[..., None] * g.stride[axis] - g.padding_low[axis]
    places = places + _numbers(g.kernel_size[axis])[None, None] * g.dilation[axis]
    windows, are_windows = within(windows, g.output_size[axis])
    places, exist = within(places, g.input_size[axis])
    return _Met(windows, places, exist & are_windows[..., None])


def _met_by_lines(g: Geometry, together: int, image: Any, chunk: Any) -> _Met:
    """The same along the first axis of all images, one behind the other."""
    met = _met(g, 0, together, chunk)
    return met._replace(
        windows=image[None] * g.output_size[0] + met.windows,
        places=image[None, :, None] * g.input_size[0] + met.places,
    )


def _sums(x: jax.Array, y: jax.Array, met: Sequence[_Met]) -> jax.Array:
    """Of the products of windows that lie together: `(*chunks, *taps, *channels)`"""
    n = len(met)
    ndim, together = x.ndim + n, [len(axis.windows) for axis in met]

    def product(place: Sequence[int]) -> jax.Array:
        x_met, y_met, masks = x, y, []
        for axis, at in enumerate(place):
            windows, places, exist = (_at(table, at) for table in met[axis])
            x_met, y_met = taken(x_met, places, 2 * axis), taken(y_met, windows, axis)
            masks += [_mask(exist, axis, n, ndim)] if together[axis] > 1 else []
        x_met = x_met.transpose(*range(0, 2 * n, 2), *range(1, 2 * n, 2), *range(2 * n, ndim))
        y_met = jnp.expand_dims(y_met, tuple(range(n, 2 * n)))
        return _where(masks, x_met * y_met)

    products = map(product, np.ndindex(*together))
    alone = [axis for axis in range(n) if together[axis] == 1]
    masks = [_mask(_at(met[axis].exist, 0), axis, n, ndim) for axis in alone]
    return _where(masks, functools.reduce(jnp.add, products))


def _at(table: Any, number: int) -> Any:
    if isinstance(table, np.ndarray):
        return table[number]
    return lax.index_in_dim(table, number, keepdims=False)


def _mask(exist: Any, axis: int, num_axes: int, ndim: int) -> jax.Array | None:
    """Along an axis of the sums and that of its taps, or None if all exist."""
    if isinstance(exist, np.ndarray) and exist.all():
        return None
    shape = [1] * ndim
    shape[axis], shape[num_axes + axis] = exist.shape
    return jnp.asarray(exist, bool).reshape(shape)


def _where(masks: Sequence[jax.Array | None], array: jax.Array) -> jax.Array:
    masks = [mask for mask in masks if mask is not None]
    return jnp.where(functools.reduce(jnp.logical_and, masks), array, 0) if masks else array


def _added(sums: jax.Array, num_axes: int) -> jax.Array:
    """The sums over their first axes. Where there are few, XLA's reductions take 50 times as long
    as a product with ones."""
    rows = math.prod(sums.shape[:num_axes])
    size = largest_divisor(rows, ADDED)
    parts = sums.reshape(rows // size, size, -1)
    parts = jnp.einsum("pr,prc->pc", jnp.ones(parts.shape[:2], sums.dtype), parts)
    return parts.sum(0).reshape(sums.shape[num_axes:])
