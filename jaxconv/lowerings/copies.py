"""Copies that XLA:CPU makes as fast as it computes."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from jaxconv.lowerings.setting import cores

MOST_READS = 64
"""To an element, for which arithmetic may make up: it takes time to compile."""


def as_arithmetic(array: jax.Array, reads: int = 1) -> jax.Array:
    """The same array, after operations that change nothing.

    What does no more operations than it moves bytes, XLA:CPU takes for a copy, and gives it the
    square root of the cores; and transposes that are nothing else become slow code. `reads` numbers
    are read for each element.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    bits = jnp.finfo(array.dtype)
    for _ in range((reads + 1) * array.dtype.itemsize + 1):
        array = lax.reduce_precision(array, bits.nexp, bits.nmant)
    return array


def moved_by_all_cores(kernel: jax.Array) -> jax.Array:
    """A kernel that is moved. Two cores XLA:CPU gives to any copy, and a plain one takes less
    time."""
    return as_arithmetic(kernel) if cores() > 2 else kernel


def moved_in_memory(array: jax.Array) -> jax.Array:
    """A transpose that moves what it transposes: one alone, XLA may just note in the layout, or
    leave to each element's use."""
    return with_layout_constraint(array, Layout(tuple(range(array.ndim))))
