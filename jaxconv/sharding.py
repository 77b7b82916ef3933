"""Arrays on several devices: how a layer is divided where types say how its arrays are.

That is on mesh axes of type Explicit. Each device computes its own part of the result: of the
batch, of the channels, and of the image, for which it first fetches the rows next to its own (the
halo) from its neighbours. So XLA has nothing left to divide, and each part is computed in the way
that is fastest on one device.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxconv.geometry import Geometry

Names = tuple[str, ...]
"""The mesh axes that an axis of an array is split over."""


class Division(NamedTuple):
    """What each device computes: how the axes of each array are split, and what follows."""

    image: list[Names]
    weight: list[Names]
    result: list[Names]
    halos: dict[int, tuple[int, int]]  # By axis of the image: rows before and behind a part.
    part: Geometry


def by_sharding(
    compute: Callable[..., jax.Array],
    image: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    geometry: Geometry,
    *,
    transposed: bool = False,
    exchange_halos: bool = True,
) -> jax.Array:
    """`compute(image, weight, bias, geometry)`, on each device for its part if types are sharded.

    The result is split as `image` is along the batch, as `weight` is along its output channels, and
    as `image` is in space where the parts fit each other. Whatever else is split is gathered.
    """
    arrays = [image, weight] if bias is None else [image, weight, bias]
    mesh = _explicit_mesh(arrays)
    if mesh is None:
        return compute(image, weight, bias, geometry)
    division = _divide(mesh, image, weight, geometry, transposed, exchange_halos)

    def compute_part(image, weight, bias=None):
        for axis, (low, high) in division.halos.items():
            image = _with_halo(image, axis, low, high, division.image[axis])
        return compute(image, weight, bias, division.part)

    splits = [division.image, division.weight, [division.result[geometry.channel_axis]]]
    specs = tuple(_spec(split) for split in splits[: len(arrays)])
    parts = [_reshard(array, mesh, spec) for array, spec in zip(arrays, specs, strict=True)]
    result = jax.shard_map(
        compute_part,
        mesh=mesh,
        in_specs=specs,
        out_specs=_spec(division.result),
        # By default, all but the mesh axes that `vmap` is splitting its own axis over.
        axis_names=set(mesh.explicit_axes) if mesh.auto_axes else set(),
    )(*parts)
    # Mesh axes of length 1 split nothing, but stay in the type.
    entries = list(_spec(division.result))
    for axis in (0, *geometry.spatial_axes):
        if division.result[axis] == _names(image, mesh)[axis]:
            entries[axis] = _entries(image)[axis]
    return _reshard(result, mesh, P(*entries))


def by_mapped_axis(
    compute: Callable[..., jax.Array], arrays: Sequence[jax.Array], axes: Sequence[int | None]
) -> jax.Array:
    """`compute(*arrays)` under `vmap`, on each device for its part if types split the mapped axis.

    `axes` has each array's mapped axis, or None; the result's is its first.
    """
    mesh = _explicit_mesh(arrays)
    if mesh is None:
        return compute(*arrays)
    mapped = ((a, axis) for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    array, axis = next(mapped)  # JAX sees to it that others are split alike.
    names = _names(array, mesh)[axis]
    if not names:
        return compute(*arrays)
    specs = tuple(P() if axis is None else P(*[None] * axis, names) for axis in axes)
    run = jax.shard_map(
        compute, mesh=mesh, in_specs=specs, out_specs=P(names), axis_names=set(names)
    )
    return run(*arrays)


def _explicit_mesh(arrays: Sequence[jax.Array]) -> Any:
    meshes = [jax.typeof(array).sharding.mesh for array in arrays]
    return next((mesh for mesh in meshes if mesh.explicit_axes), None)


def _entries(array: jax.Array) -> list[Any]:
    spec = jax.typeof(array).sharding.spec
    return [spec[axis] if axis < len(spec) else None for axis in range(array.ndim)]


def _names(array: jax.Array, mesh: Any) -> list[Names]:
    split = []
    for entry in _entries(array):
        names = entry if isinstance(entry, tuple) else (entry,) if entry else ()
        split.append(tuple(name for name in names if mesh.shape[name] > 1))
    return split


def _spec(split: list[Names]) -> P:
    return P(*(names or None for names in split))


def _reshard(array: jax.Array, mesh: Any, spec: P) -> jax.Array:
    return jax.sharding.reshard(array, NamedSharding(mesh, spec))


def _count(mesh: Any, names: Names) -> int:
    return math.prod(mesh.shape[name] for name in names)


def _divide(
    mesh: Any, image: jax.Array, weight: jax.Array, g: Geometry, transposed: bool, exchange: bool
) -> Division:
    split = _names(image, mesh)
    image_split: list[Names] = [split[0], *[()] * (image.ndim - 1)]
    weight_split: list[Names] = [()] * weight.ndim
    halos = {}
    for place, axis in enumerate(g.spatial_axes):
        parts = _count(mesh, split[axis])
        halo = _halo(g, place, parts, transposed) if exchange and parts > 1 else None
        if halo is not None:
            image_split[axis], halos[axis] = split[axis], halo
    result_split = list(image_split)
    # Groups lie along the weight's first axis. If transposed, output channels lie along its second.
    weight_axis = 1 if transposed and g.groups == 1 else 0
    channels = _names(weight, mesh)[weight_axis]
    parts = _count(mesh, channels)
    if not any(set(channels) & set(names) for names in image_split) and (
        g.groups == 1 or g.groups % parts == 0
    ):
        result_split[g.channel_axis] = weight_split[weight_axis] = channels
        if g.groups > 1:
            image_split[g.channel_axis] = channels
            g = dataclasses.replace(g, groups=g.groups // parts)
    for place, axis in enumerate(g.spatial_axes):
        if axis in halos:
            g = _part(g, place, _count(mesh, split[axis]), halos[axis], transposed)
    return Division(image_split, weight_split, result_split, halos, g)


# Space.


def _halo(g: Geometry, place: int, parts: int, transposed: bool) -> tuple[int, int] | None:
    """How many rows a part of the image needs of the parts before and behind it, along one axis.

    None if the parts of the form's x and y do not fit each other. They do if a part of y has the
    rows whose windows start in the same part of x (before padding): `stride` times fewer; and if
    these windows reach no further than the next part. Row q of y meets the rows of x from
    `q*stride - low` to `q*stride - low + reach`.
    """
    i, o, s = g.input_size[place], g.output_size[place], g.stride[place]
    low, reach = g.padding_low[place], g.reach[place]
    if i != o * s or o % parts:
        return None
    if transposed:
        halo, rows = ((reach - low) // s, -(-low // s)), o // parts
    else:
        halo, rows = (low, reach - low - s + 1), i // parts
    before, behind = max(halo[0], 0), max(halo[1], 0)
    return (before, behind) if max(before, behind) <= rows else None


def _part(g: Geometry, place: int, parts: int, halo: tuple[int, int], transposed: bool) -> Geometry:
    """The geometry of a part with its halo, split along one axis."""
    before, behind = halo
    i, o, low = list(g.input_size), list(g.output_size), list(g.padding_low)
    i[place], o[place] = i[place] // parts, o[place] // parts
    if transposed:
        o[place] += before + behind
        low[place] += before * g.stride[place]
    else:
        i[place] += before + behind
        low[place] -= before
    return dataclasses.replace(g, input_size=tuple(i), output_size=tuple(o), padding_low=tuple(low))


def _with_halo(image: jax.Array, axis: int, before: int, behind: int, names: Names) -> jax.Array:
    """This device's rows between the last of the device before it and the first of the next.

    The outermost devices get zeros, which is the padding.
    """
    parts, size = lax.axis_size(names), image.shape[axis]
    rows = [image]
    if before:
        last = lax.slice_in_dim(image, size - before, size, axis=axis)
        rows.insert(0, lax.ppermute(last, names, [(n, n + 1) for n in range(parts - 1)]))
    if behind:
        first = lax.slice_in_dim(image, 0, behind, axis=axis)
        rows.append(lax.ppermute(first, names, [(n + 1, n) for n in range(parts - 1)]))
    return lax.concatenate(rows, axis)
