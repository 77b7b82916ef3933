"""The weight gradient where a group has few channels, on a CPU: sums over windows.

A weight is a sum of products over all windows of all images, and tap by tap, all images are read
anew for each. So one loop gives, for every few windows that lie together, the sum of their products
at each tap, with the taps as axes of the result: what it reads stays in the cache from tap to tap.
These sums are added up last. XLA:CPU compiles the loop to vectors of channels, in a fraction of a
second, and divides it between all cores.

What windows meet at a tap is looked up in tables, as in `gathers`, one axis at a time. The batch is
part of the first axis, as if its images lay one behind the other.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.geometry import Geometry
from jaxconv.lowerings.gathers import taken
from jaxconv.lowerings.once import computed_once

TOGETHER = 15
"""Windows that lie together, at most: what would be computed more often, XLA:CPU does not fuse."""

NUMBERS = 1 << 20
"""Sums in memory at a time, at most, but of two lines at least: with one, XLA:CPU looks up where it
is anew for each product."""

ADDED = 64
"""Sums that a matrix product adds up one by one. Of more, rounding would be more than torch's."""


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """w, of channels last."""
    g = geometry
    dtype = options.get("preferred_element_type") or x.dtype
    x, y = x.astype(dtype), y.astype(dtype)
    channels, multiplier = x.shape[-1] // g.groups, y.shape[-1] // g.groups
    if channels == multiplier == 1:
        return _depthwise(x, y, g)[:, None]
    depthwise = dataclasses.replace(g, groups=y.shape[-1])
    by_group = x.reshape(*x.shape[:-1], g.groups, channels)

    def of_channel(number: Any) -> jax.Array:
        channel = lax.dynamic_index_in_dim(by_group, number, axis=-1, keepdims=False)
        # Within the loop over sums, it would leave no vectors of channels.
        repeated = computed_once(jnp.repeat(channel, multiplier, axis=-1))
        return _depthwise(repeated, y, depthwise)

    return lax.map(of_channel, jnp.arange(channels)).swapaxes(0, 1)


class _Met(NamedTuple):
    """Along an axis, of all windows with the same place among those that lie together: which of y
    they are, `(chunks,)`; what they meet of x, and whether there is such an element, `(chunks,
    taps)`."""

    windows: Any
    places: Any
    exist: Any


def _depthwise(x: jax.Array, y: jax.Array, g: Geometry) -> jax.Array:
    """`(channels, *k)`"""
    first, *others = (
        [_met(g, axis, length, place) for place in range(length)]
        for axis, length in enumerate(_lengths(g.output_size))
    )
    first = [_of_batch(met, g, x.shape[0]) for met in first]
    x, y = (image.reshape(-1, *image.shape[2:]) for image in (x, y))
    chunks = math.prod(len(met[0].windows) for met in others)
    lines = max(2, NUMBERS // (chunks * g.taps * x.shape[-1]))
    blocks = -(-len(first[0].windows) // lines)

    def of_block(number: Any) -> jax.Array:
        block = [_block(met, number, blocks) for met in first]
        return _added(computed_once(_sums(x, y, [block, *others])), g.num_spatial_dims)

    if blocks <= 1:
        w = of_block(0)
    else:
        zeros = jnp.zeros_like(jax.eval_shape(of_block, 0))
        w = lax.fori_loop(0, blocks, lambda n, total: total + of_block(n), zeros)
    return jnp.moveaxis(w, -1, 0)


def _lengths(output_size: Sequence[int]) -> list[int]:
    """How many windows lie together along each axis: along the last, as many as may."""
    lengths, most = [], TOGETHER
    for o in reversed(output_size):
        chunks = max(1, -(-o // most))
        lengths.append(max(1, -(-o // chunks)))
        most //= lengths[-1]
    return lengths[::-1]


def _met(g: Geometry, axis: int, length: int, place: int) -> _Met:
    o, i = g.output_size[axis], g.input_size[axis]
    windows = np.arange(place, -(-o // length) * length, length)
    places = windows[:, None] * g.stride[axis] - g.padding_low[axis]
    places = places + np.arange(g.kernel_size[axis]) * g.dilation[axis]
    exist = (windows < o)[:, None] & (places >= 0) & (places < i)
    return _Met(np.minimum(windows, o - 1), np.clip(places, 0, i - 1), exist)


def _of_batch(met: _Met, g: Geometry, batch: int) -> _Met:
    """The same along the first axis of all images, one behind the other."""
    image = np.arange(batch)[:, None]
    windows = image * g.output_size[0] + met.windows
    places = image[..., None] * g.input_size[0] + met.places
    exist = np.tile(met.exist, (batch, 1))
    return _Met(windows.ravel(), places.reshape(exist.shape), exist)


def _block(met: _Met, number: Any, blocks: int) -> _Met:
    """One of so many blocks of lines, where the last may be filled up with windows that meet
    nothing."""
    if blocks <= 1:
        return met
    size = -(-len(met.windows) // blocks)

    def part(table: np.ndarray) -> jax.Array:
        filled = np.zeros((blocks * size, *table.shape[1:]), np.int32)
        filled[: len(table)] = table
        parts = jnp.asarray(filled.reshape(blocks, size, *table.shape[1:]))
        return computed_once(lax.dynamic_index_in_dim(parts, number, keepdims=False))

    return _Met(*map(part, met))


def _sums(x: jax.Array, y: jax.Array, met: Sequence[Sequence[_Met]]) -> jax.Array:
    """Of the products of windows that lie together: `(*chunks, *taps, channels)`"""
    n = len(met)

    def product(place: Sequence[int]) -> jax.Array:
        x_met, y_met, masks = x, y, []
        for axis, (of_axis, at) in enumerate(zip(met, place, strict=True)):
            x_met = taken(x_met, of_axis[at].places, 2 * axis)
            y_met = taken(y_met, of_axis[at].windows, axis)
            masks += [_mask(of_axis[at].exist, axis, n)] if len(of_axis) > 1 else []
        x_met = x_met.transpose(*range(0, 2 * n, 2), *range(1, 2 * n, 2), 2 * n)
        y_met = jnp.expand_dims(y_met, tuple(range(n, 2 * n)))
        return _where(masks, x_met * y_met)

    products = map(product, np.ndindex(*map(len, met)))
    masks = [_mask(axis[0].exist, n, len(met)) for n, axis in enumerate(met) if len(axis) == 1]
    return _where(masks, functools.reduce(jnp.add, products))


def _mask(exist: Any, axis: int, num_axes: int) -> jax.Array | None:
    """Along an axis of the sums and that of its taps, or None if all exist."""
    if isinstance(exist, np.ndarray) and exist.all():
        return None
    shape = [1] * (2 * num_axes + 1)
    shape[axis], shape[num_axes + axis] = exist.shape
    return jnp.asarray(exist, bool).reshape(shape)


def _where(masks: Sequence[jax.Array | None], array: jax.Array) -> jax.Array:
    masks = [mask for mask in masks if mask is not None]
    return jnp.where(functools.reduce(jnp.logical_and, masks), array, 0) if masks else array


def _added(sums: jax.Array, num_axes: int) -> jax.Array:
    """The sums over their first axes. Where there are few, XLA's reductions take 50 times as long
    as a product with ones."""
    rows = math.prod(sums.shape[:num_axes])
    size = max((size for size in range(1, ADDED + 1) if rows % size == 0), default=1)
    parts = sums.reshape(rows // size, size, -1)
    parts = jnp.einsum("pr,prc->pc", jnp.ones(parts.shape[:2], sums.dtype), parts)
    return parts.sum(0).reshape(sums.shape[num_axes:])
