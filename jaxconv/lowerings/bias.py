"""The bias of a layer, one number for each channel of what a contraction gives."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.geometry import Geometry


def add_bias(result: jax.Array, bias: jax.Array | None = None, *, geometry: Geometry) -> jax.Array:
    """The sum, if there is a bias, in the dtype of `result`."""
    return result if bias is None else result + spread(bias, result, geometry)


def spread(bias: jax.Array, result: jax.Array, geometry: Geometry) -> jax.Array:
    """`bias` at each place of `result`."""
    shape = [1] * result.ndim
    shape[geometry.channel_axis] = bias.shape[0]
    return jnp.broadcast_to(bias.reshape(shape), result.shape).astype(result.dtype)


def summed(result: jax.Array, dtype: Any, geometry: Geometry) -> jax.Array:
    """The transpose of `spread`: a sum over all places, in the dtype of the bias."""
    places = tuple(axis for axis in range(result.ndim) if axis != geometry.channel_axis)
    return jnp.sum(result.astype(dtype), places)
