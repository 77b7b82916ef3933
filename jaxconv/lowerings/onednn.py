"""Convolutions by oneDNN, the library that computes torch's on a CPU, in float32 and with channels
last: many times as fast as XLA:CPU at groups, and at any convolution in a loop.

What oneDNN has no code of its own for, it computes by matrix products, in threads that start
threads. With XLA's threads, those wait for each other for ever. `fits` tells what is safe.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.geometry import Geometry
from jaxconv.lowerings import taps
from jaxconv.lowerings.changes import replace_axis
from jaxconv.lowerings.copies import as_arithmetic, moved_by_all_cores, moved_in_memory
from jaxconv.lowerings.onednn_calls import convolution, is_available
from jaxconv.lowerings.setting import Setting, cores

LARGEST = 2**31 - 1
"""Elements of an image that a C int can number."""

STRIPS = 8
"""Parts of an image, at most, over which a weight gradient is summed if it is depthwise or of few
channels to a group: oneDNN adds up one by one what torch adds up in parts, and rounding grows with
the square root of that."""

MANY_CORES, MORE_STRIPS = 8, 24
"""From so many on, torch adds up few channels to a group in more parts, and so do we."""

SUMMED_WINDOWS, SUMMED_PATCHES, LARGE_KERNEL = 1 << 13, 1 << 10, 1 << 19
"""Windows over which any other weight gradient is summed, for the same reason, and such as lie side
by side. oneDNN itself sums in parts, if y has at least so many elements."""

MOST_SUMMED = {1: 64, 2: 64, 3: 48}
"""By axes, channels to a part of those that a convolution sums over, if it sums in parts. oneDNN
adds up channels last all one by one; channels first, in parts of 16. So this is twice the rounding
that torch has with channels first."""

MOST_ROWS, MOST_TAPS = 1 << 7, 1 << 14
"""Of a kernel over one channel: each row takes code, and for 384 rows, or 128 of 2000 taps, it is
too much, which ends the process (oneDNN 3.7)."""

LONGEST_DEPTHWISE, MOST_DEPTHWISE = 1000, 1 << 13
"""Taps along an axis, and in all, of a depthwise kernel: windows that padding cuts off have code of
their own, which from 2300 and 12000 taps on may end the process for want of memory."""


def serves(setting: Setting) -> bool:
    """Whether a contraction may be left to oneDNN."""
    here = setting.one_device and not setting.kept
    return here and jnp.dtype(setting.dtype) == jnp.float32 and is_available()


def fits(g: Geometry, in_channels: int, out_channels: int) -> bool:
    """Whether oneDNN has code of its own for a convolution of channels last.

    It has for all that pad no further than the kernel reaches, save for depthwise ones that are
    dilated. With channels first, it lacks some. Where a row of y has one element, its numbers may
    be wrong if channels are few. An x of one channel to a group it copies first, to memory for as
    many rows as a stride no longer than the kernel would need, and may write beyond that (before
    oneDNN 3.13).
    """
    if g.output_size[-1] == 1:
        return False
    depthwise = _is_depthwise(g, in_channels, out_channels)
    rows = list(zip(g.stride, g.kernel_size, g.output_size, strict=True))[:-1]
    skips = any(s > k and o > 1 for s, k, o in rows)
    one_channel = in_channels == g.groups and not depthwise
    if one_channel and (skips or not takes_one_channel(g.kernel_size)):
        return False
    pads = zip(g.padding_low, g.padding_high, g.reach, strict=True)
    if any(max(low, high) > reach for low, high, reach in pads):
        return False
    if depthwise and (set(g.dilation) != {1} or not _takes_depthwise(g)):
        return False
    sizes = (in_channels * math.prod(g.input_size), out_channels * math.prod(g.output_size))
    return max(sizes) <= LARGEST


def _is_depthwise(g: Geometry, in_channels: int, out_channels: int) -> bool:
    return 1 < g.groups == in_channels == out_channels


def _takes_depthwise(g: Geometry) -> bool:
    """Whether a depthwise form has few enough taps; or windows, within an image."""

    def few(sizes: Sequence[int]) -> bool:
        return max(sizes) <= LONGEST_DEPTHWISE and math.prod(sizes) <= MOST_DEPTHWISE

    within = all(k <= i for k, i in zip(g.kernel_size, g.input_size, strict=True))
    return few(g.kernel_size) or (within and few(g.output_size))


def fits_result(result: str, a: jax.Array, b: jax.Array, g: Geometry) -> bool:
    """The same for the contraction giving `result` from these operands."""
    if result == "weight":
        return fits_weight(g, a.shape[0], a.shape[-1], b.shape[-1])
    out_channels, in_channels = b.shape[0], b.shape[1] * g.groups
    if result == "output":
        return fits(g, in_channels, out_channels)
    return set(g.stride) == {1} and fits(g.exchanged(), out_channels, in_channels)


def takes_one_channel(kernel_size: Sequence[int]) -> bool:
    """Whether it has code for a kernel over one channel that isn't depthwise."""
    return math.prod(kernel_size[:-1]) <= MOST_ROWS and math.prod(kernel_size) <= MOST_TAPS


# The contractions, of float32 and channels last.


def conv(
    x: jax.Array,
    w: jax.Array,
    geometry: Geometry,
    bias: jax.Array | None = None,
    *,
    in_parts: bool = False,
) -> jax.Array:
    """y, from x and w, and a bias to add. Without groups, channels may be summed in parts."""
    g = geometry
    if g.num_spatial_dims == 1:  # For depthwise ones, oneDNN wants two axes.
        return conv(x[:, None], w[:, :, None], _with_two_axes(g), bias, in_parts=in_parts)[:, 0]
    axes = tuple(range(w.ndim))
    return (_summed_in_parts if in_parts and g.groups == 1 else convolution)(x, w, axes, g, bias)


def conv_input(
    y: jax.Array,
    w: jax.Array,
    geometry: Geometry,
    bias: jax.Array | None = None,
    *,
    in_parts: bool = False,
) -> jax.Array:
    """x of stride 1, from y and w, and a bias to add: the convolution with x and y in each other's
    place, and the kernel reversed; or the images in its place, if they are smaller."""
    g = geometry
    if g.num_spatial_dims == 1:
        form = _with_two_axes(g)
        return conv_input(y[:, None], w[:, :, None], form, bias, in_parts=in_parts)[:, 0]
    of_image, of_kernel = g.spatial_axes, tuple(range(2, w.ndim))
    exchanged = g.exchanged()
    if g.groups > 1:
        return conv(y, moved_by_all_cores(taps.reversed_kernel(w, g.groups)), exchanged, bias)
    compute = _summed_in_parts if in_parts else convolution
    axes = (1, 0, *of_kernel)
    images = y.size + y.shape[0] * math.prod(g.input_size) * w.shape[1]
    if images < w.size:
        reversed_form = dataclasses.replace(exchanged, padding_low=exchanged.padding_high)
        return lax.rev(compute(lax.rev(y, of_image), w, axes, reversed_form, bias), of_image)
    return compute(y, moved_by_all_cores(lax.rev(w, of_kernel)), axes, exchanged, bias)


def _summed_in_parts(
    x: jax.Array, w: jax.Array, kernel_axes: Sequence[int], g: Geometry, bias: jax.Array | None
) -> jax.Array:
    """`convolution`, over parts of the channels, one after the other."""
    axes, channels = kernel_axes, x.shape[-1]
    parts = -(-channels // MOST_SUMMED[g.num_spatial_dims])
    if parts == 1:
        return convolution(x, w, axes, g, bias)
    size = -(-channels // parts)
    first = channels - (parts - 1) * size

    def part(start, size):
        of_x = lax.dynamic_slice_in_dim(x, start, size, -1)
        of_w = lax.dynamic_slice_in_dim(w, start, size, axes[1])
        # XLA counts all of them as read.
        return as_arithmetic(of_x, reads=parts), as_arithmetic(of_w, reads=parts)

    def add_part(n, y):
        return convolution(*part(first + n * size, size), axes, g, added=y)

    return lax.fori_loop(0, parts - 1, add_part, convolution(*part(0, first), axes, g, bias))


def conv_weight(
    x: jax.Array, y: jax.Array, geometry: Geometry, *, in_parts: bool = False, **_: Any
) -> jax.Array:
    """w, from x and y, by a convolution over x whose kernel is y. Unless depthwise, windows may be
    summed in parts."""
    if _is_depthwise(geometry, x.shape[-1], y.shape[-1]):
        return _depthwise_weight(x, y, geometry)
    pieces = (_in_strips if in_parts else _in_images)(x, y, geometry)
    w = functools.reduce(jnp.add, (_matrices(*piece) for piece in pieces))
    # Rows are moved first, then a matrix is transposed: at once, that takes XLA four times as long.
    rows = moved_in_memory(as_arithmetic(w.swapaxes(0, 1)))
    w = moved_in_memory(as_arithmetic(rows.reshape(-1, y.shape[-1]).T))
    return w.reshape(y.shape[-1], -1, *geometry.kernel_size)


Piece = tuple[jax.Array, jax.Array, Geometry]
"""`_batch_last(x)`, y and the geometry of a weight gradient, one of several to be added up."""


def _in_images(x: jax.Array, y: jax.Array, g: Geometry) -> list[Piece]:
    batch, windows = x.shape[0], x.shape[0] * math.prod(g.output_size)
    few = windows * (y.shape[-1] // g.groups) < LARGE_KERNEL
    most = SUMMED_PATCHES if g.kernel_size == g.stride else SUMMED_WINDOWS
    parts = max(1, min(-(-windows // most), batch // 2)) if few else 1
    sizes = [batch * (n + 1) // parts - batch * n // parts for n in range(parts)]
    pieces = zip(lax.split(x, sizes), lax.split(y, sizes), strict=True)
    return [(_batch_last(of_x, g), of_y, g) for of_x, of_y in pieces]


def _in_strips(x: jax.Array, y: jax.Array, g: Geometry) -> list[Piece]:
    batch, in_channels, out_channels = x.shape[0], x.shape[-1], y.shape[-1]

    def fit(part: Geometry) -> bool:
        return fits_weight(part, batch, in_channels, out_channels)

    image = _batch_last(x, g)
    most = STRIPS if cores() < MANY_CORES else MORE_STRIPS
    return [(image, strip, part) for strip, part in _strips(y, g, fit, most)]


def _batch_last(x: jax.Array, g: Geometry) -> jax.Array:
    """`(*i, channels, groups, batch)`"""
    channels = x.shape[-1] // g.groups
    image = jnp.moveaxis(x.reshape(*x.shape[:-1], g.groups, channels), (-2, 0), (-2, -1))
    if x.shape[0] == 1:  # Nothing moves, and the barrier would make a copy.
        return image
    return lax.optimization_barrier(as_arithmetic(image))


def _matrices(image: jax.Array, y: jax.Array, g: Geometry) -> jax.Array:
    """For each tap, a matrix from the channels of x to those of y, of a group."""
    *_, channels, groups, batch = image.shape
    form = for_dense_weight(g, channels)
    image = image.reshape(1, *form.input_size, groups * batch)
    kernel = y.reshape(batch, *form.kernel_size, -1)
    axes = form.num_spatial_dims
    w = convolution(image, kernel, (axes + 1, 0, *range(1, axes + 1)), form)
    return w.reshape(g.taps, channels, -1)


def for_dense_weight(g: Geometry, channels: int) -> Geometry:
    """Of the convolution that gives w of a layer, not depthwise, of so many channels of x to a
    group: from one image of x, with the images of the batch for the channels of each group.

    The channels of x lie along its last axis. There, window `t*c + n` is tap t and channel n, and
    from there to the same tap and channel of the layer's next window are `s*c` elements. If taps
    are d elements apart, channels take an axis of their own.
    """
    c = channels
    axes = list(
        zip(
            g.input_size, g.output_size, g.kernel_size, g.dilation, g.padding_low, g.stride,
            strict=True,
        )
    )  # fmt: skip
    if g.dilation[-1] > 1 and g.kernel_size[-1] > 1:
        axes.append((c, 1, c, 1, 0, 1))
    else:
        i, o, k, _, p, s = axes.pop()
        axes.append((i * c, o, k * c, 1, p * c, s * c))
    if len(axes) == 1:
        axes.insert(0, (1, 1, 1, 1, 0, 1))
    i, o, k, d, p, s = zip(*axes, strict=True)
    return Geometry(i, o, k, d, p, s, g.groups, channels_last=True)


def _depthwise_weight(x: jax.Array, y: jax.Array, g: Geometry) -> jax.Array:
    n, batch = g.num_spatial_dims, x.shape[0]
    if n == 1:
        return _depthwise_weight(x[:, None], y[:, None], _with_two_axes(g))[:, :, 0]
    moved = (jnp.moveaxis(array, 0, -2).reshape(1, *array.shape[1:-1], -1) for array in (x, y))
    image, kernel = (lax.optimization_barrier(as_arithmetic(array)) for array in moved)
    channels = g.groups * batch

    def fit(part: Geometry) -> bool:
        return fits(for_depthwise_weight(part, batch), channels, channels)

    sums = [
        convolution(image, strip, (n + 1, 0, *range(1, n + 1)), for_depthwise_weight(part, batch))
        for strip, part in _strips(kernel, g, fit)
    ]
    w = functools.reduce(jnp.add, sums).reshape(*g.kernel_size, batch, g.groups).sum(-2)
    return jnp.moveaxis(w, -1, 0)[:, None]


def _strips(
    y: jax.Array, g: Geometry, fit: Callable[[Geometry], bool], most: int = STRIPS
) -> list[tuple[jax.Array, Geometry]]:
    """So many parts of y at most, along its longest axis, for each of which oneDNN has code, with
    their geometry."""
    o = g.output_size
    axis = o.index(max(o))

    def parts(count: int) -> list[Geometry]:
        ends = [o[axis] * n // count for n in range(count + 1)]
        return [
            replace_axis(
                g,
                axis,
                output_size=stop - start,
                padding_low=g.padding_low[axis] - start * g.stride[axis],
            )
            for start, stop in itertools.pairwise(ends)
        ]

    divisions = map(parts, range(min(most, o[axis]), 1, -1))
    strips = next((strips for strips in divisions if all(map(fit, strips))), [g])
    of_y = lax.split(y, [part.output_size[axis] for part in strips], axis=1 + axis)
    return list(zip(of_y, strips, strict=True))


def for_depthwise_weight(g: Geometry, batch: int) -> Geometry:
    """Of the convolution that gives w of a depthwise layer, from one image of x, with all channels
    of all images for its channels. What it gives for each image is added up."""
    return Geometry(
        g.input_size, g.output_size, g.kernel_size, g.dilation, g.padding_low, g.stride,
        g.groups * batch, channels_last=True,
    )  # fmt: skip


def fits_weight(g: Geometry, batch: int, in_channels: int, out_channels: int) -> bool:
    """As `fits`, for `conv_weight`."""
    channels = batch * g.groups
    if _is_depthwise(g, in_channels, out_channels):
        return fits(for_depthwise_weight(g, batch), channels, channels)
    form = for_dense_weight(g, in_channels // g.groups)
    return form.num_spatial_dims <= 3 and fits(form, channels, out_channels)


def _with_two_axes(g: Geometry) -> Geometry:
    """`g` of one axis, and an axis of one element before it."""
    return Geometry(
        (1, *g.input_size), (1, *g.kernel_size), (1, *g.output_size), (1, *g.stride),
        (0, *g.padding_low), (1, *g.dilation), g.groups, channels_last=True,
    )  # fmt: skip


FORMS = {"output": conv, "input": conv_input, "weight": conv_weight}
