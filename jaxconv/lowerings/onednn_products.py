"""Layers of one tap by oneDNN's matrix products, in float32.

With channels last, an output is one product over all positions. With channels first, it is one for
each image and group as it lies, and nothing has to be moved.
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
    """Whether it is worth it not to move channels that lie first, so many to a group."""
    if positions < FEW_POSITIONS:
        return False
    if result == "weight":  # The results of all images are no more than the images.
        return in_channels * out_channels <= (in_channels + out_channels) * positions
    return (in_channels if result == "output" else out_channels) <= LONG_SUM


def conv(x: jax.Array, w: jax.Array, geometry: Geometry, bias: jax.Array | None) -> jax.Array:
    """y, and a bias to add."""
    g = geometry
    if g.channels_last:
        bias = None if bias is None else bias[None]
        y = matmul(_rows(x), w.reshape(w.shape[:2]), bias, transpose_b=True)
        return y.reshape(*x.shape[:-1], -1)
    return _images(matmul(_kernels(w, g), _matrices(x, g), _to_rows(bias, g)), x)


def conv_input(y: jax.Array, w: jax.Array, geometry: Geometry, bias: jax.Array | None) -> jax.Array:
    """x of channels first, and a bias to add."""
    g = geometry
    x = matmul(_kernels(w, g), _matrices(y, g), _to_rows(bias, g), transpose_a=True)
    return _images(x, y)


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **_: Any) -> jax.Array:
    """w."""
    g = geometry
    if g.channels_last:
        w = matmul(_rows(y), _rows(x), transpose_a=True)
    else:
        of_images = matmul(_matrices(y, g), _matrices(x, g), transpose_b=True)
        batch, *shape, in_channels = of_images.shape
        # Their sum, as a product: along its first axis, XLA:CPU adds up ten times as slowly.
        ones = jnp.ones((1, batch), of_images.dtype)
        w = (ones @ of_images.reshape(batch, -1)).reshape(math.prod(shape), in_channels)
    return w.reshape(*w.shape, *g.kernel_size)


FORMS = {"output": conv, "input": conv_input, "weight": conv_weight}


def _rows(image: jax.Array) -> jax.Array:
    """Positions by channels, of channels last."""
    return image.reshape(-1, image.shape[-1])


# With channels first: matrices by images and groups, or without groups by images.


def _matrices(image: jax.Array, g: Geometry) -> jax.Array:
    """Channels by positions."""
    batch, channels = image.shape[:2]
    return image.reshape(batch, *_by_group(channels, g), math.prod(image.shape[2:]))


def _images(matrices: jax.Array, like: jax.Array) -> jax.Array:
    """What `_matrices` makes matrices of."""
    batch, _, *spatial = like.shape
    return matrices.reshape(batch, -1, *spatial)


def _kernels(w: jax.Array, g: Geometry) -> jax.Array:
    """Channels of y by those of x, the same for all images."""
    return w.reshape(1, *_by_group(w.shape[0], g), w.shape[1])


def _to_rows(bias: jax.Array | None, g: Geometry) -> jax.Array | None:
    return None if bias is None else bias.reshape(1, *_by_group(bias.shape[0], g), 1)


def _by_group(channels: int, g: Geometry) -> tuple[int, ...]:
    return (channels,) if g.groups == 1 else (g.groups, channels // g.groups)
