"""A convolution as XLA:CPU has fast code for it: channels last, in images and in the kernel.

XLA:CPU brings others to this form itself, but not those within a loop, such as a user's `scan`.
There, it takes a hundred times as long over what isn't written so.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from jaxconv.lowerings.copies import moved_by_all_cores

LARGE_KERNEL = 1 << 17
"""Elements from which more cores move a kernel faster."""


def convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    *,
    dimension_numbers: lax.ConvDimensionNumbers,
    **options: Any,
) -> jax.Array:
    """As `lax.conv_general_dilated`, of operands that are moved first."""
    lhs_spec, rhs_spec, out_spec = dimension_numbers
    image, kernel = _channels_last(lhs_spec), (*rhs_spec[2:], rhs_spec[1], rhs_spec[0])
    axes = tuple(range(lhs.ndim))
    canonical = lax.ConvDimensionNumbers(
        lhs_spec=_channels_second(axes),
        rhs_spec=(axes[-1], axes[-2], *axes[:-2]),
        out_spec=_channels_second(axes),
    )
    is_known = all(isinstance(size, int) for size in rhs.shape)
    if is_known and rhs.size >= LARGE_KERNEL:
        rhs = moved_by_all_cores(rhs)
    result = lax.conv_general_dilated(
        lax.transpose(lhs, image),
        lax.transpose(rhs, kernel),
        dimension_numbers=canonical,
        **options,
    )
    moved = _channels_last(out_spec)
    return lax.transpose(result, [moved.index(axis) for axis in axes])


def _channels_last(spec: Sequence[int]) -> tuple[int, ...]:
    """Batch, channels and spatial axes as batch, spatial axes and channels."""
    return (spec[0], *spec[2:], spec[1])


def _channels_second(axes: Sequence[int]) -> tuple[int, ...]:
    return (axes[0], axes[-1], *axes[1:-1])
