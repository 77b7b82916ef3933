"""A contraction over a few images at a time, so that what lies between stays small; or over a few
groups, so that not all take time to compile.

XLA:CPU allocates the temporaries of a call anew each time. Large ones are fresh memory of the
operating system's, and touching it for the first time can cost several times the arithmetic. Copies
of a few images stay in the cache besides.

What runs in the loop must not be a convolution, which XLA:CPU computes naively in there. And a
batch that lies on several devices would be gathered: this is for one device.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.lowerings.setting import cores

FRESH_BYTES = 32 << 20
"""From so many on, memory is fresh each time."""

BLOCK_BYTES = 4 << 20
"""Images up to this size together, operands and results, make a block."""

PARTS_IN_A_RUN = 64
"""Of a weight, of images whose number is not known, that are added up one by one."""


def by_block(
    form: Callable[[jax.Array, jax.Array], jax.Array],
    result: str,
    a: jax.Array,
    b: jax.Array,
    images: int,
    most: int = 0,
) -> jax.Array:
    """`form(a, b)`, a contraction giving `result`, as a loop over blocks of the batch.

    To have so many images, a block may be as many times as large as there are cores, at least two.
    It has `most` at most, if that is given. Of a batch that is not known, each image is one.
    """
    arrays = (a, b) if result == "weight" else (a, jax.eval_shape(form, a, b))
    size = _images_per_block(arrays, images, most)
    count = a.shape[0] // size
    if count == 1:
        return form(a, b)

    def block(array: jax.Array, number) -> jax.Array:
        return lax.dynamic_slice_in_dim(array, number * size, size)

    if result == "weight":
        return _sum(lambda n: form(block(a, n), block(b, n)), count)
    whole = lax.map(lambda n: form(block(a, n), b), jnp.arange(count))
    return whole.reshape(a.shape[0], *whole.shape[2:])


def _sum(part: Callable[[Any], jax.Array], count: Any) -> jax.Array:
    """Of so many parts. Those of a known number are few. Others are added up in runs: one by one,
    rounding would grow with their number."""

    def add(n: Any, total: jax.Array) -> jax.Array:
        return total + part(n)

    if isinstance(count, int):
        return lax.fori_loop(1, count, add, part(0))
    zeros = jnp.zeros_like(jax.eval_shape(part, 0))

    def of_run(number: Any) -> jax.Array:
        start = number * PARTS_IN_A_RUN
        return lax.fori_loop(start, jnp.minimum(start + PARTS_IN_A_RUN, count), add, zeros)

    runs = -(-count // PARTS_IN_A_RUN)
    return lax.fori_loop(0, runs, lambda n, total: total + of_run(n), zeros)


def _images_per_block(
    arrays: tuple[jax.Array | jax.ShapeDtypeStruct, ...], wanted: int, most: int = 0
) -> int:
    batch = arrays[0].shape[0]
    if not isinstance(batch, int):
        return 1
    image_bytes = sum(math.prod(a.shape[1:]) * a.dtype.itemsize for a in arrays)
    fitting = BLOCK_BYTES // image_bytes
    size = max(1, fitting, min(wanted, max(2, cores()) * BLOCK_BYTES // image_bytes))
    return largest_divisor(batch, min(size, most or batch))


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` up to `most`."""
    return max(size for size in range(1, min(number, most) + 1) if number % size == 0)


def by_groups(
    form: Callable[[jax.Array, jax.Array], jax.Array],
    a: jax.Array,
    b: jax.Array,
    axis: int,
    blocks: int,
) -> jax.Array:
    """`form(a, b)`, a weight gradient, as a loop over so many blocks of groups. `axis` is that of
    the channels."""
    sizes = [array.shape[axis] // blocks for array in (a, b)]

    def block(number: jax.Array) -> jax.Array:
        of_block = (
            lax.dynamic_slice_in_dim(array, number * size, size, axis)
            for array, size in zip((a, b), sizes, strict=True)
        )
        return form(*of_block)

    return lax.collapse(lax.map(block, jnp.arange(blocks)), 0, 2)
