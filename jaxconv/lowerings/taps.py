"""Few channels per group: one multiply-add over the whole image per tap, which XLA fuses.

The groups lie along the vector unit, so x is taken apart by the channel within a group.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.geometry import Geometry

UNROLLED = 64
"""Taps written out one by one; a larger kernel loops, so that it compiles as fast."""


def conv(
    x: jax.Array, w: jax.Array, geometry: Geometry, *, copy_weights: bool, **options: Any
) -> jax.Array:
    """y, from w and an x that is padded already.

    `copy_weights` lays the weights out by tap before the loop over the image. XLA:CPU would fuse
    that transpose into the loop, which then reads them across and isn't vectorised (3 times
    slower); a `lax.map` is never fused.
    """
    g = geometry
    dtype = options.get("preferred_element_type") or x.dtype
    # Without the barrier, XLA replaces slices of the padded x by several pads.
    x = lax.optimization_barrier(x)
    channels = [
        c.astype(dtype) for c in _unstack(_by_place_in_group(x, g.channel_axis, g.groups), g)
    ]
    by_place = _by_place_in_group(w, 0, g.groups).astype(dtype)  # (O/g, groups, I/g, *k)
    by_place = by_place.reshape(*by_place.shape[:3], g.taps).swapaxes(1, 2)

    def at_tap(tap: Any) -> jax.Array:
        return lax.dynamic_index_in_dim(by_place, tap, axis=3, keepdims=False)

    weights = lax.map(at_tap, jnp.arange(g.taps)) if copy_weights else None
    inner = g.taps // g.kernel_size[0]

    def terms(first: Any, size: int) -> jax.Array:
        """The sum over taps `first` to `first + size` of the first axis."""
        total = None
        for i, image in enumerate(channels):
            for number, window in enumerate(_windows(image, g, first, size)):
                tap = first * inner + number
                weight = at_tap(tap) if weights is None else weights[tap]
                term = _broadcast_mul(window, weight[:, i], g)
                total = term if total is None else total + term
        return cast(jax.Array, total)

    chunk, loops, rest = _chunks(g, len(channels))
    total = terms(0, chunk)
    if loops > 1:
        total = lax.fori_loop(1, loops, lambda c, total: total + terms(c * chunk, chunk), total)
    if rest:
        total = total + terms(loops * chunk, rest)
    return _by_group(total, g.channel_axis)


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """w, from y and an x that is padded already."""
    g = geometry
    dtype = options.get("preferred_element_type") or x.dtype
    x = lax.optimization_barrier(x)
    channels = [
        c.astype(dtype) for c in _unstack(_by_place_in_group(x, g.channel_axis, g.groups), g)
    ]
    y = lax.optimization_barrier(_by_place_in_group(y, g.channel_axis, g.groups)).astype(dtype)
    kept = (y.ndim - 2, y.ndim - 1) if g.channels_last else (1, 2)
    summed = tuple(axis for axis in range(y.ndim) if axis not in kept)

    def sums(first: Any, size: int) -> jax.Array:
        """The weights, (taps, O/g, groups, I/g), of `size` taps from `first` on."""
        by_channel = [
            jnp.stack(
                [
                    jnp.sum(jnp.expand_dims(window, kept[0]) * y, summed)
                    for window in _windows(image, g, first, size)
                ]
            )
            for image in channels
        ]
        return jnp.stack(by_channel, -1)

    chunk, loops, rest = _chunks(g, len(channels))
    if loops == 1:
        parts = [sums(0, chunk)]
    else:
        looped = lax.map(lambda c: sums(c * chunk, chunk), jnp.arange(loops))
        parts = [looped.reshape(-1, *looped.shape[2:])]
    if rest:
        parts.append(sums(loops * chunk, rest))
    w = jnp.moveaxis(jnp.concatenate(parts), 0, -1)  # (O/g, groups, I/g, taps)
    return _by_group(w, 0).reshape(-1, w.shape[2], *g.kernel_size)


def _chunks(g: Geometry, channels: int) -> tuple[int, int, int]:
    """Taps of the first axis to unroll at a time, how often, and how many are left over."""
    k, *inner = g.kernel_size
    chunk = min(k, max(1, UNROLLED // (math.prod(inner) * channels)))
    return chunk, k // chunk, k % chunk


def _windows(x: jax.Array, g: Geometry, first: Any, size: int) -> Iterator[jax.Array]:
    """What all windows meet at each tap, for `size` taps from `first` on of the first axis."""
    axis, d, s, o = g.spatial_axes[0], g.dilation[0], g.stride[0], g.output_size[0]
    covered = (o - 1) * s + d * (size - 1) + 1
    x = lax.dynamic_slice_in_dim(x, first * d, covered, axis=axis)
    for tap in itertools.product(range(size), *map(range, g.kernel_size[1:])):
        starts, limits, strides = [0] * x.ndim, list(x.shape), [1] * x.ndim
        for axis, t, d, o, s in zip(
            g.spatial_axes, tap, g.dilation, g.output_size, g.stride, strict=True
        ):
            starts[axis], limits[axis], strides[axis] = t * d, t * d + (o - 1) * s + 1, s
        yield lax.slice(x, starts, limits, strides)


def _broadcast_mul(window: jax.Array, weight: jax.Array, g: Geometry) -> jax.Array:
    """`(N, *o, groups)` times `(O/g, groups)`: `(N, *o, O/g, groups)`, or channels first."""
    if g.channels_last:
        window = jnp.expand_dims(window, -2)
        weight = weight.reshape((1,) * (window.ndim - 2) + weight.shape)
    else:
        window = jnp.expand_dims(window, 1)
        weight = weight.reshape(1, *weight.shape, *(1,) * g.num_spatial_dims)
    return window * weight


def _by_place_in_group(array: jax.Array, axis: int, groups: int) -> jax.Array:
    """An axis of channels, `groups*m`, as two, `(m, groups)`."""
    shape = array.shape
    array = array.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    return jnp.swapaxes(array, axis, axis + 1)


def _by_group(array: jax.Array, axis: int) -> jax.Array:
    """Two axes of channels, `(m, groups)`, as one, `groups*m`."""
    array = jnp.swapaxes(array, axis, axis + 1)
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def _unstack(image: jax.Array, g: Geometry) -> list[jax.Array]:
    axis = g.channel_axis
    pieces = lax.split(image, (1,) * image.shape[axis], axis=axis)
    return [lax.squeeze(piece, (axis,)) for piece in pieces]
