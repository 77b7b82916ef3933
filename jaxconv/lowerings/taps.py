"""Few channels per group: one multiply-add over the whole image per tap, which XLA fuses.

The groups lie along the vector unit, so x is taken apart by the channel within a group.

XLA:CPU fuses more than is good for it: with the weights' transpose in the loop over the image,
weights are read across and the loop isn't vectorised (3 times slower). `in_steps` lays them out by
tap first, by a `lax.map`, which is never fused.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.geometry import Geometry

UNROLLED = 64
"""Products written out one by one; with more, a loop over taps compiles as fast."""


def conv(
    x: jax.Array, w: jax.Array, geometry: Geometry, *, in_steps: bool, **options: Any
) -> jax.Array:
    """y, from w and an x that is padded already."""
    g = geometry
    dtype = options.get("preferred_element_type") or x.dtype
    channels = channels_of_groups(x, g, dtype)
    by_place = by_place_in_group(w, 0, g.groups).astype(dtype)  # (O/g, groups, I/g, *k)
    by_place = by_place.reshape(*by_place.shape[:3], g.taps).swapaxes(1, 2)

    def weight_at(tap: Any) -> jax.Array:
        return lax.dynamic_index_in_dim(by_place, tap, axis=3, keepdims=False)

    weights = lax.map(weight_at, jnp.arange(g.taps)) if in_steps else None

    def terms(first: Any, count: int) -> jax.Array:
        """The sum over taps `first` to `first + count`."""
        products = []
        for tap in (first + n for n in range(count)):
            weight = weight_at(tap) if weights is None else weights[tap]
            products += [
                _broadcast_mul(_window(image, g, tap), weight[:, i], g)
                for i, image in enumerate(channels)
            ]
        return functools.reduce(jnp.add, products)

    chunk = _chunk(g.taps, max(1, UNROLLED // len(channels)))
    loops, rest = divmod(g.taps, chunk)
    if loops == 1:
        total = terms(0, chunk)
    else:
        zeros = jnp.zeros_like(jax.eval_shape(lambda: terms(0, 1)))
        total = lax.fori_loop(0, loops, lambda n, total: total + terms(n * chunk, chunk), zeros)
    if rest:
        total = total + terms(loops * chunk, rest)
    return _by_group(total, g.channel_axis)


def _chunk(taps: int, most: int) -> int:
    """How many taps to write out: all, or a good part that leaves no rest to be compiled too."""
    if taps <= most:
        return taps
    most //= 2
    divisor = max(n for n in range(1, most + 1) if taps % n == 0)
    return divisor if divisor > most // 8 else most


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """w, from y and an x that is padded already."""
    g = geometry
    dtype = options.get("preferred_element_type") or x.dtype
    channels = channels_of_groups(x, g, dtype)
    y = lax.optimization_barrier(by_place_in_group(y, g.channel_axis, g.groups)).astype(dtype)
    kept = (y.ndim - 2, y.ndim - 1) if g.channels_last else (1, 2)
    summed = tuple(axis for axis in range(y.ndim) if axis not in kept)

    def weight_at(tap: Any) -> jax.Array:
        """(O/g, groups, I/g)"""
        windows = [jnp.expand_dims(_window(image, g, tap), kept[0]) for image in channels]
        return jnp.stack([jnp.sum(window * y, summed) for window in windows], -1)

    if g.taps > UNROLLED:
        w = lax.map(weight_at, jnp.arange(g.taps))
    else:
        w = jnp.stack([weight_at(tap) for tap in range(g.taps)])
    w = jnp.moveaxis(w, 0, -1)
    return _by_group(w, 0).reshape(-1, w.shape[2], *g.kernel_size)


def _window(x: jax.Array, g: Geometry, tap: Any) -> jax.Array:
    """What all windows meet at a tap; taps are counted with the last axis fastest."""
    starts, sizes, strides = [0] * x.ndim, list(x.shape), [1] * x.ndim
    for n in reversed(range(g.num_spatial_dims)):
        axis, s = g.spatial_axes[n], g.stride[n]
        tap, place = divmod(tap, g.kernel_size[n])
        starts[axis], sizes[axis] = place * g.dilation[n], (g.output_size[n] - 1) * s + 1
        strides[axis] = s
    window = lax.dynamic_slice(x, starts, sizes)
    return window if set(strides) == {1} else lax.slice(window, [0] * x.ndim, sizes, strides)


def _broadcast_mul(window: jax.Array, weight: jax.Array, g: Geometry) -> jax.Array:
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
    array = array.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
    return jnp.swapaxes(array, axis, axis + 1)


def _by_group(array: jax.Array, axis: int) -> jax.Array:
    """Two axes of channels, `(m, groups)`, as one, `groups*m`."""
    array = jnp.swapaxes(array, axis, axis + 1)
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
