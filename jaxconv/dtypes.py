"""Half precision, and the dtype that its sums are taken in."""

from typing import Any

import jax.numpy as jnp


def is_half(dtype: Any) -> bool:
    return jnp.finfo(dtype).bits < 32


def of_sums(dtype: Any) -> Any:
    """float32 for half precision; for any other, itself."""
    return jnp.dtype(jnp.float32) if is_half(dtype) else jnp.dtype(dtype)
