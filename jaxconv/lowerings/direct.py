"""Each contraction as one `lax.conv_general_dilated`: the reference that every other form equals.

Arguments are those of `jaxconv.contractions`; words for windows are XLA's. `convolution` may stand
in for `lax.conv_general_dilated`, if it is called alike.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from jaxconv.crop import crop
from jaxconv.geometry import Geometry

Convolution = Callable[..., jax.Array]


def conv(
    x: jax.Array,
    w: jax.Array,
    geometry: Geometry,
    *,
    convolution: Convolution = lax.conv_general_dilated,
    **options: Any,
) -> jax.Array:
    """y, from x and w."""
    g = geometry
    padding = []
    for axis, i, o, s, low, high, reach in zip(
        g.spatial_axes, g.input_size, g.output_size, g.stride, g.padding_low, g.padding_high,
        g.reach, strict=True,
    ):  # fmt: skip
        if low < 0:
            x, i, low = crop(x, axis, -low, 0), i + low, 0
        if (i + 2 * low - reach - 1) // s + 1 == o:
            high = low  # As good, and cuDNN knows only symmetric padding.
        elif high <= -s:
            x, low = _crop_end(x, axis, low, -high)
        padding.append((low, max(high, 0)))
    spatial_weight_axes = tuple(range(2, w.ndim))
    return convolution(
        x,
        w,
        window_strides=g.stride,
        padding=padding,
        rhs_dilation=g.dilation,
        dimension_numbers=lax.ConvDimensionNumbers(
            lhs_spec=_image_spec(g),
            rhs_spec=(0, 1, *spatial_weight_axes),
            out_spec=_image_spec(g),
        ),
        feature_group_count=g.groups,
        **options,
    )


def conv_input(
    y: jax.Array,
    w: jax.Array,
    geometry: Geometry,
    *,
    convolution: Convolution = lax.conv_general_dilated,
    **options: Any,
) -> jax.Array:
    """x, from y and w.

    In the form, `x[j]` collects `y[q] * w[t]` from `q*stride + t*dilation - padding_low = j`. With
    zeros put between the elements of y (`q*stride -> q'`) and the kernel reversed
    (`t -> k - 1 - t'`), that is `q' = j + t'*dilation - (reach - padding_low)`: a convolution of
    stride 1 whose low padding is `reach - padding_low`. The high padding is what gives x its size.
    """
    g = geometry
    padding, crops = [], []
    for low, high, s, reach in zip(g.padding_low, g.padding_high, g.stride, g.reach, strict=True):
        # A symbolic leftover is at most stride - 1: pad by that, and crop to the size below.
        low, high = reach - low, reach - high if isinstance(high, int) else reach - low + s - 1
        padding.append((max(low, 0), max(high, 0)))
        crops.append(max(-low, 0))
    w, spec = _swap_channels(w, g.groups)
    spatial_weight_axes = tuple(range(2, w.ndim))
    x = convolution(
        y,
        lax.rev(w, spatial_weight_axes),
        window_strides=(1,) * g.num_spatial_dims,
        padding=padding,
        lhs_dilation=g.stride,
        rhs_dilation=g.dilation,
        dimension_numbers=lax.ConvDimensionNumbers(
            lhs_spec=_image_spec(g), rhs_spec=spec, out_spec=_image_spec(g)
        ),
        feature_group_count=g.groups,
        **options,
    )
    for axis, low, size in zip(g.spatial_axes, crops, g.input_size, strict=True):
        if low or x.shape[axis] != size:
            x = lax.slice_in_dim(x, low, low + size, axis=axis)
    return x


def conv_weight(
    x: jax.Array,
    y: jax.Array,
    geometry: Geometry,
    *,
    convolution: Convolution = lax.conv_general_dilated,
    **options: Any,
) -> jax.Array:
    """w, from x and y.

    In the form, `w[t]` collects `y[q] * x[t*dilation + q*stride - padding_low]`: a convolution over
    x in which y is the kernel, stride and dilation change places, and the batch is summed over.
    """
    g = geometry
    padding = []
    for axis, low, high in zip(g.spatial_axes, g.padding_low, g.padding_high, strict=True):
        if low < 0:
            x, low = crop(x, axis, -low, 0), 0
        if not isinstance(high, int):
            high = low  # One window too many at most: cut off below.
        elif high < 0:
            x, low = _crop_end(x, axis, low, -high)
        padding.append((low, max(high, 0)))
    batch, channel, *spatial = _image_spec(g)
    w = convolution(
        x,
        y,
        window_strides=g.dilation,
        padding=padding,
        rhs_dilation=g.stride,
        dimension_numbers=lax.ConvDimensionNumbers(
            lhs_spec=(channel, batch, *spatial),
            rhs_spec=(channel, batch, *spatial),
            out_spec=(1, 0, *range(2, x.ndim)),
        ),
        batch_group_count=g.groups,
        **options,
    )
    for axis, size in enumerate(g.kernel_size, start=2):
        if w.shape[axis] != size:
            w = lax.slice_in_dim(w, 0, size, axis=axis)
    return w


def _crop_end(x: jax.Array, axis: int, low: int, beyond: int) -> tuple[jax.Array, int]:
    """`x` without its last `beyond` elements, and the low padding: if there are fewer, the last
    window ends within that."""
    size = x.shape[axis]
    return crop(x, axis, 0, min(beyond, size)), low - max(beyond - size, 0)


def _image_spec(g: Geometry) -> tuple[int, ...]:
    """Batch, channels, then the spatial axes, of x and y."""
    return (0, g.channel_axis, *g.spatial_axes)


def _swap_channels(w: jax.Array, groups: int) -> tuple[jax.Array, tuple[int, ...]]:
    """`w` as a kernel from out_channels to in_channels, and its axes: out, in, spatial.

    `(O, I/g, *k)` becomes `(O/g, I, *k)`: groups move from the first axis to the second, which a
    plain reshape gets wrong as soon as `1 < groups < channels`.
    """
    spatial = tuple(range(2, w.ndim))
    if groups > 1:
        out_channels, in_per_group, *kernel_size = w.shape
        w = w.reshape(groups, out_channels // groups, in_per_group, *kernel_size)
        w = w.swapaxes(0, 1).reshape(out_channels // groups, groups * in_per_group, *kernel_size)
    return w, (1, 0, *spatial)
