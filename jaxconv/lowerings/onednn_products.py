"""Layers of one tap by oneDNN's matrix products, in float32.

With channels last, an output is one product over all positions. With channels first, it is one for
each image as it lies, and nothing has to be moved.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.geometry import Geometry
from jaxconv.lowerings.onednn_calls import matmul

LARGE_RESULT, LONG_SUM = 1 << 18, 1 << 11
"""Elements from which it takes longer to go over them once more, to add a bias, than to call oneDNN
for a product; and channels up to which that rounds at most twice as much as torch's does."""

FEW_POSITIONS = 64
"""Positions of an image that are too few for a product of their own."""


def pays(result: str, a: jax.Array, bias: jax.Array | None, g: Geometry) -> bool:
    """Whether it is worth a call, for the operand `a`, which comes first."""
    if result == "weight" or not g.channels_last:
        return True
    large = bias is not None and math.prod(a.shape[:-1]) * bias.size >= LARGE_RESULT
    return result == "output" and large and a.shape[-1] <= LONG_SUM


def pays_image_by_image(result: str, positions: int, in_channels: int, out_channels: int) -> bool:
    """Whether it is worth it not to move channels that lie first."""
    if positions < FEW_POSITIONS:
        return False
    if result == "weight":  # The results of all images are no more than the images.
        return in_channels * out_channels <= (in_channels + out_channels) * positions
    return (in_channels if result == "output" else out_channels) <= LONG_SUM


def conv(x: jax.Array, w: jax.Array, geometry: Geometry, bias: jax.Array | None) -> jax.Array:
    """y, and a bias to add."""
    w = w.reshape(w.shape[:2])
    if geometry.channels_last:
        y = matmul(_rows(x), w, None if bias is None else bias[None], transpose_b=True)
        return y.reshape(*x.shape[:-1], -1)
    y = matmul(w[None], _matrices(x), None if bias is None else bias[None, :, None])
    return y.reshape(x.shape[0], -1, *x.shape[2:])


def conv_input(y: jax.Array, w: jax.Array, geometry: Geometry, bias: jax.Array | None) -> jax.Array:
    """x of channels first, and a bias to add."""
    w = w.reshape(1, *w.shape[:2])
    x = matmul(w, _matrices(y), None if bias is None else bias[None, :, None], transpose_a=True)
    return x.reshape(y.shape[0], -1, *y.shape[2:])


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **_: Any) -> jax.Array:
    """w."""
    if geometry.channels_last:
        w = matmul(_rows(y), _rows(x), transpose_a=True)
    else:
        of_images = matmul(_matrices(y), _matrices(x), transpose_b=True)
        shape = of_images.shape
        # Their sum, as a product: along its first axis, XLA:CPU adds up ten times as slowly.
        ones = jnp.ones((1, shape[0]), of_images.dtype)
        w = (ones @ of_images.reshape(shape[0], -1)).reshape(shape[1:])
    return w.reshape(*w.shape, *geometry.kernel_size)


FORMS = {"output": conv, "input": conv_input, "weight": conv_weight}


def _rows(image: jax.Array) -> jax.Array:
    """Positions by channels, of channels last."""
    return image.reshape(-1, image.shape[-1])


def _matrices(image: jax.Array) -> jax.Array:
    """Images by channels by positions, of channels first."""
    return image.reshape(*image.shape[:2], -1)
