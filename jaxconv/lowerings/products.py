"""A kernel of 1 and stride 1 without padding: each contraction is one matrix product."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.geometry import Geometry


def fits(g: Geometry) -> bool:
    return all(g.is_pointwise(axis) for axis in range(g.num_spatial_dims))


def conv(x: jax.Array, w: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """y, from x and w."""
    return _product("x w -> y", x, w, geometry, options)


def conv_input(y: jax.Array, w: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """x, from y and w."""
    return _product("y w -> x", y, w, geometry, options)


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """w, from x and y."""
    return _product("x y -> w", x, y, geometry, options)


def weight_by_matrices(x: jax.Array, y: jax.Array, **options: Any) -> jax.Array:
    """w, from x and y with channels last and without groups, as XLA:CPU is fast at it.

    That is with a matrix of all positions for each, and with the narrower one first: the other
    order takes up to 6 times as long. The barrier keeps XLA from turning the product round.
    """
    x, y = (image.reshape(-1, image.shape[-1]) for image in (x, y))
    positions = (((0,), (0,)), ((), ()))
    if y.shape[1] <= x.shape[1]:
        return lax.dot_general(y, x, positions, **options)
    return lax.optimization_barrier(lax.dot_general(x, y, positions, **options)).T


def _product(
    roles: str, a: jax.Array, b: jax.Array, g: Geometry, options: dict[str, Any]
) -> jax.Array:
    first, second, _, result = roles.split()
    spatial = "dhw"[-g.num_spatial_dims :]
    axes = {
        "x": f"n{spatial}gc" if g.channels_last else f"ngc{spatial}",
        "y": f"n{spatial}go" if g.channels_last else f"ngo{spatial}",
        "w": "goc",
    }
    arrays = {first: a, second: b}
    operands = [_split_groups(array, role, g) for role, array in arrays.items()]
    if g.groups == 1:
        axes = {role: letters.replace("g", "") for role, letters in axes.items()}
    product = jnp.einsum(
        f"{axes[first]},{axes[second]}->{axes[result]}", *operands, optimize=False, **options
    )
    return _join_groups(product, result, g)


def _split_groups(array: jax.Array, role: str, g: Geometry) -> jax.Array:
    if role == "w":
        array = array.reshape(array.shape[:2])
    if g.groups == 1:
        return array
    axis = 0 if role == "w" else g.channel_axis
    shape = array.shape
    return array.reshape(*shape[:axis], g.groups, shape[axis] // g.groups, *shape[axis + 1 :])


def _join_groups(array: jax.Array, role: str, g: Geometry) -> jax.Array:
    if g.groups > 1:
        axis = 0 if role == "w" else g.channel_axis
        array = lax.collapse(array, axis, axis + 2)
    return array.reshape(*array.shape, *g.kernel_size) if role == "w" else array
