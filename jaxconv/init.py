"""torch's default initialisation of convolution layers."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def fan_in(weight_shape: Sequence[int]) -> int:
    """`weight_shape[1] * prod(kernel_size)`: torch's fan_in, of either kind of layer.

    That is `C_in/groups * prod(kernel_size)` for a convolution, and, as the torch docs have it,
    `C_out/groups * prod(kernel_size)` for a transposed one.
    """
    return math.prod(weight_shape[1:])


def torch_weight(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """U(-b, b) with `b = 1/sqrt(fan_in)`, the default of torch's convolution layers.

    (torch calls `kaiming_uniform_` with `a=sqrt(5)`, which comes to the same.)

    Args:
      key: a PRNG key.
      shape: `(C_out, C_in/groups, *k)`, or `(C_in, C_out/groups, *k)` of a transposed layer.
      dtype: real or complex; complex parts are drawn with the same bound, independently.

    >>> float(abs(torch_weight(jax.random.key(0), (8, 4, 3, 3))).max()) <= 1 / 6
    True
    """
    return _uniform(key, tuple(shape), dtype, fan_in(shape))


def torch_bias(weight_shape: Sequence[int]) -> jax.nn.initializers.Initializer:
    """An initialiser for the bias of a layer whose weight has `weight_shape`: the same U(-b, b).

    >>> torch_bias((8, 4, 3, 3))(jax.random.key(0), (8,)).shape
    (8,)
    """

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        return _uniform(key, tuple(shape), dtype, fan_in(weight_shape))

    return init


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any, fan: int) -> jax.Array:
    if fan == 0:
        return jnp.zeros(shape, dtype)
    bound = 1 / math.sqrt(fan)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        real_dtype = jnp.finfo(dtype).dtype
        real, imag = (
            jax.random.uniform(part, shape, real_dtype, -bound, bound)
            for part in jax.random.split(key)
        )
        return jax.lax.complex(real, imag)
    return jax.random.uniform(key, shape, dtype, -bound, bound)
