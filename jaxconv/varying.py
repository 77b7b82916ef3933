"""Arrays inside `shard_map`: the mesh axes over which they differ from device to device."""

import jax
from jax import lax

from jaxconv.dtypes import of_sums


def vary_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Let all arrays vary over the same mesh axes, as lax's functions do.

    Backwards, that is a sum over devices: of half-precision arrays it is taken in float32.
    """
    axes = frozenset().union(*map(varying_axes, arrays))
    return [_vary(array, axes) for array in arrays]


def _vary(array: jax.Array, axes: frozenset[str]) -> jax.Array:
    missing = tuple(sorted(axes - varying_axes(array)))
    if not missing:
        return array
    wide = array.astype(of_sums(array.dtype))
    return lax.pcast(wide, missing, to="varying").astype(array.dtype)


def varying_axes(array: jax.Array) -> frozenset[str]:
    """The mesh axes over which an array differs from device to device, inside `shard_map`."""
    aval = jax.typeof(array)
    if hasattr(aval, "manual_axis_type"):  # jax >= 0.11
        return frozenset(aval.manual_axis_type.varying)
    return frozenset(aval.vma)
