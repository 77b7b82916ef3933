"""Few channels per group, tap by tap, from images as they are: for a CPU.

For small kernels, a padded copy of the image (`taps` needs one, and one more for each phase of a
stride) takes as long as the arithmetic. Here what is met at a tap is gathered, which XLA fuses into
the sum of products, and where that is padding, a select gives zero. Both read tables, one axis at a
time: with places computed where they are needed, it takes five times as long.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.geometry import Geometry
from jaxconv.lowerings import taps

Tables = list[list[tuple[np.ndarray, np.ndarray]]]
"""For each axis and tap along it: of all results, the place of what each meets, and whether there
is such an element."""


def conv(x: jax.Array, w: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """y, from x and w."""
    g = geometry

    def met(axis: int, tap: int) -> tuple[np.ndarray, np.ndarray]:
        places = np.arange(g.output_size[axis]) * g.stride[axis]
        places += tap * g.dilation[axis] - g.padding_low[axis]
        return within(places, g.input_size[axis])

    return _sum_over_taps(x, w, g, _tables(g, met), **options)


def conv_input(y: jax.Array, w: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """x, from y and w."""
    g = geometry

    def met(axis: int, tap: int) -> tuple[np.ndarray, np.ndarray]:
        windows = np.arange(g.input_size[axis]) + g.padding_low[axis] - tap * g.dilation[axis]
        places, rest = np.divmod(windows, g.stride[axis])
        places, exist = within(places, g.output_size[axis])
        return places, exist & (rest == 0)

    return _sum_over_taps(y, taps.transposed(w, g.groups), g, _tables(g, met), **options)


def within(places: Any, size: int) -> tuple[Any, Any]:
    """For each place the nearest that exists along an axis, and whether that is itself."""
    return places.clip(0, size - 1), (places >= 0) & (places < size)


def _tables(g: Geometry, met: Any) -> Tables:
    return [[met(axis, tap) for tap in range(k)] for axis, k in enumerate(g.kernel_size)]


def _sum_over_taps(
    image: jax.Array, w: jax.Array, g: Geometry, tables: Tables, **options: Any
) -> jax.Array:
    dtype = options.get("preferred_element_type") or image.dtype
    channels = taps.channels_of_groups(image, g, dtype)
    weights = taps.by_tap(w, g, in_steps=True).astype(dtype)
    products = [
        taps.broadcast_mul(_gathered(channel, g, tables, tap), weights[n][:, i], g)
        for n, tap in enumerate(np.ndindex(*g.kernel_size))
        for i, channel in enumerate(channels)
    ]
    return taps.by_group(functools.reduce(jnp.add, products), g.channel_axis)


def _gathered(image: jax.Array, g: Geometry, tables: Tables, tap: tuple[int, ...]) -> jax.Array:
    """What all results meet at a tap."""
    masks = []
    for axis, table, t in zip(g.spatial_axes, tables, tap, strict=True):
        places, exist = table[t]
        image = taken(image, places, axis)
        if not exist.all():
            masks.append(
                jnp.asarray(exist).reshape([-1 if n == axis else 1 for n in range(image.ndim)])
            )
    return jnp.where(functools.reduce(jnp.logical_and, masks), image, 0) if masks else image


def taken(image: jax.Array, places: Any, axis: int) -> jax.Array:
    """An image with the axes of `places` for one of its axes: of that, the elements there."""
    if isinstance(places, np.ndarray) and places.ndim == 1 and len(places):
        first, last = int(places[0]), int(places[-1])
        step = max(1, (last - first) // max(1, len(places) - 1))
        if np.array_equal(places, np.arange(first, last + 1, step)):
            return lax.slice_in_dim(image, first, last + 1, step, axis)
    rank = image.ndim - 1 + places.ndim
    return lax.gather(
        image,
        jnp.asarray(places, np.int32)[..., None],
        lax.GatherDimensionNumbers(
            tuple(n for n in range(rank) if not axis <= n < axis + places.ndim),
            collapsed_slice_dims=(axis,),
            start_index_map=(axis,),
        ),
        [1 if n == axis else size for n, size in enumerate(image.shape)],
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )
