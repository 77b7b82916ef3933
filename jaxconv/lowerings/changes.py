"""Changes of variables of the trilinear form.

A form T over x, w and y can often be written as a sum of forms over rearranged arrays,

    T(x, w, y) = sum over i of  T_i(X_i(x), W_i(w), Y_i(y))

with linear X, W and Y: a strided form is a sum of forms of stride 1 over every s-th element of x,
for example. Each contraction of T then follows from the contractions of the T_i, for

    conv(x, w)        = sum of Y_i'(conv_i(X_i(x), W_i(w)))
    conv_input(y, w)  = sum of X_i'(conv_input_i(Y_i(y), W_i(w)))
    conv_weight(x, y) = sum of W_i'(conv_weight_i(X_i(x), Y_i(y)))

where ' is the transpose, which JAX works out. So a change is stated once, as X, W and Y, and serves
all three. No change multiplies an element of one array with an element of another that the original
form doesn't, save for zeros of padding: Inf and NaN stay where they belong.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.geometry import Geometry

Pieces = list[jax.Array]


class Change(NamedTuple):
    """The geometries of the T_i, and X, W and Y, each from one array to a list of them."""

    parts: list[Geometry]
    x: Callable[[jax.Array], Pieces]
    w: Callable[[jax.Array], Pieces]
    y: Callable[[jax.Array], Pieces]


def same(array: jax.Array) -> Pieces:
    return [array]


def replace_axis(g: Geometry, axis: int, **values: int) -> Geometry:
    """`g` with other numbers along one spatial axis."""
    changed = {
        name: (*getattr(g, name)[:axis], value, *getattr(g, name)[axis + 1 :])
        for name, value in values.items()
    }
    return dataclasses.replace(g, **changed)


def fit(array: jax.Array, axis: int, low: int, size: int) -> jax.Array:
    """Elements `-low` to `size - low` of an axis, with zeros where there are none."""
    high = size - low - array.shape[axis]
    if low < 0 or high < 0:
        start, stop = min(max(-low, 0), array.shape[axis]), array.shape[axis] + min(high, 0)
        array = lax.slice_in_dim(array, start, max(stop, start), axis=axis)
    config = [(0, 0, 0)] * array.ndim
    before = min(max(low, 0), size)
    config[axis] = (before, size - before - array.shape[axis], 0)
    if config[axis] == (0, 0, 0):
        return array
    return lax.pad(array, jnp.zeros((), array.dtype), config)


def _split_axis(array: jax.Array, axis: int, inner: int) -> jax.Array:
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] // inner, inner, *shape[axis + 1 :])


def _unstack(array: jax.Array, axis: int) -> Pieces:
    """The elements of an axis as arrays; its transpose is one concatenation."""
    pieces = lax.split(array, (1,) * array.shape[axis], axis=axis)
    return [lax.squeeze(piece, (axis,)) for piece in pieces]


def crop_kernel(g: Geometry) -> Change:
    """Leave out taps at either end of the kernel that meet nothing but padding; not all may."""
    met = [_taps_that_meet(g, axis) for axis in range(g.num_spatial_dims)]
    ends = [(taps[0], taps[-1]) for taps in met]

    def w_map(w):
        for axis, (first, last) in enumerate(ends, start=2):
            w = lax.slice_in_dim(w, first, last + 1, axis=axis)
        return [w]

    part = dataclasses.replace(
        g,
        kernel_size=tuple(last + 1 - first for first, last in ends),
        padding_low=tuple(
            low - first * d
            for low, d, (first, _) in zip(g.padding_low, g.dilation, ends, strict=True)
        ),
    )
    return Change([part.simplified()], same, w_map, same)


def meets_nothing(g: Geometry) -> bool:
    """Whether all windows lie in the padding, along some axis."""
    return not all(_taps_that_meet(g, axis) for axis in range(g.num_spatial_dims))


def _taps_that_meet(g: Geometry, axis: int) -> list[int]:
    """The taps that meet an element of x."""
    return [tap for tap in range(g.kernel_size[axis]) if windows_that_meet(g, axis, tap)]


def windows_that_meet(g: Geometry, axis: int, tap: int) -> range:
    """The windows that have a tap within x."""
    i, o, s = g.input_size[axis], g.output_size[axis], g.stride[axis]
    place = tap * g.dilation[axis] - g.padding_low[axis]  # Where the first window has it.
    return range(max(0, -(place // s)), min(o, (i - 1 - place) // s + 1))


def fit_input(g: Geometry) -> Change:
    """Pad x by zeros and crop it to just what the windows cover."""
    size = tuple(
        (o - 1) * s + reach + 1
        for o, s, reach in zip(g.output_size, g.stride, g.reach, strict=True)
    )

    def x_map(x):
        for axis, low, covered in zip(g.spatial_axes, g.padding_low, size, strict=True):
            x = fit(x, axis, low, covered)
        return [x]

    part = dataclasses.replace(g, input_size=size, padding_low=(0,) * g.num_spatial_dims)
    return Change([part], x_map, same, same)


def phases(g: Geometry, axis: int, padded: bool = True) -> Change:
    """Along one axis: stride s as a sum over the s phases of x, each with stride 1.

    Window q and tap t meet x at `j = q*s + t*d - low`. With `before` zeros before x, of tap t,
    `t*d - low + before = e*s + r` says how many whole strides it lies away and in which phase r:
    `j + before = (q + e)*s + r`. Taps of a phase are `m = s/gcd(s, d)` apart, so that e grows by
    `d/gcd(s, d)` from one to the next: that is the dilation of their part, over the elements
    `x[a*s + r - before]`.

    All padding is part of the phases; or if they are not to be `padded`, of the parts.
    """
    s, d, k = g.stride[axis], g.dilation[axis], g.kernel_size[axis]
    o, low = g.output_size[axis], g.padding_low[axis]
    common = math.gcd(s, d)
    apart, dilation = s // common, d // common
    firsts = range(min(apart, k))  # The first tap of each phase that has any.
    counts = [len(range(t, k, apart)) for t in firsts]
    before = low if padded else 0
    places = [divmod(t * d - low + before, s) for t in firsts]
    met = [
        (e, e + o + (count - 1) * dilation) for (e, _), count in zip(places, counts, strict=True)
    ]
    rows = max(stop for _, stop in met) if padded else -(-g.input_size[axis] // s)
    runs = [
        # A single tap is one product, of all that its windows meet.
        run if count == 1 else _overlap(run, rows)
        for run, count in zip(met, counts, strict=True)
    ]
    image_axis = g.spatial_axes[axis]

    def x_map(x):
        x = _split_axis(fit(x, image_axis, before, rows * s), image_axis, s)
        by_phase = _unstack(x, image_axis + 1)
        return [
            fit(by_phase[phase], image_axis, -start, stop - start)
            for (_, phase), (start, stop) in zip(places, runs, strict=True)
        ]

    def w_map(w):
        return [
            lax.slice_in_dim(w, t, t + (count - 1) * apart + 1, apart, axis=2 + axis)
            for t, count in zip(firsts, counts, strict=True)
        ]

    def y_map(y):
        return [y] * len(firsts)

    parts = [
        replace_axis(
            g,
            axis,
            input_size=stop - start,
            kernel_size=count,
            stride=1,
            padding_low=start - e,
            dilation=dilation,
        )
        for (e, _), (start, stop), count in zip(places, runs, counts, strict=True)
    ]
    return Change(parts, x_map, w_map, y_map)


def _overlap(run: tuple[int, int], size: int) -> tuple[int, int]:
    """The part of a run `(start, stop)` on an axis of that size, or the run if none is there."""
    start, stop = max(run[0], 0), min(run[1], size)
    return (start, stop) if start < stop else run


def stride_to_channels(g: Geometry, axes: Sequence[int]) -> Change:
    """Along some axes of dilation 1, in ascending order: the s phases of x as s times the channels,
    with stride 1. All at once take one copy.

    The kernel must be a multiple of the stride, else some phases had taps that others lack.
    """
    rows = {axis: g.output_size[axis] + g.kernel_size[axis] // g.stride[axis] - 1 for axis in axes}

    def split(array: jax.Array, first: int) -> tuple[jax.Array, list[int]]:
        """With each of the axes as two, strides and phases, and where these are."""
        for axis in reversed(axes):
            array = _split_axis(array, first + axis, g.stride[axis])
        return array, [first + axis + n for n, axis in enumerate(axes, start=1)]

    def x_map(x):
        for axis in axes:
            x = fit(x, g.spatial_axes[axis], g.padding_low[axis], rows[axis] * g.stride[axis])
        return [_into_channels(*split(x, g.spatial_axes[0]), g)]

    def w_map(w):
        return [_into_weight_channels(*split(w, 2))]

    part = g
    for axis in axes:
        k = g.kernel_size[axis] // g.stride[axis]
        part = replace_axis(
            part, axis, input_size=rows[axis], kernel_size=k, stride=1, padding_low=0
        )
    return Change([part], x_map, w_map, same)


def whole_strides(g: Geometry, axis: int) -> Change:
    """Along one axis of dilation 1: the taps of as many whole strides as the kernel has, and the
    rest of them, which meets each element but once.

    What the rest meets is brought together: its stride is as long as itself.
    """
    s, k, o = g.stride[axis], g.kernel_size[axis], g.output_size[axis]
    rest = k % s
    whole, image_axis = k - rest, g.spatial_axes[axis]
    parts = [replace_axis(g, axis, kernel_size=whole)] if whole else []
    last = replace_axis(g, axis, input_size=o * rest, kernel_size=rest, stride=rest, padding_low=0)

    def x_map(x):
        by_stride = fit(x, image_axis, g.padding_low[axis] - whole, o * s)
        met = _split_axis(by_stride, image_axis, s)
        met = lax.slice_in_dim(met, 0, rest, axis=image_axis + 1)
        return [x] * len(parts) + [lax.collapse(met, image_axis, image_axis + 2)]

    def w_map(w):
        return [*lax.split(w, [whole, rest] if whole else [rest], axis=2 + axis)]

    return Change([*parts, last], x_map, w_map, lambda y: [y] * (len(parts) + 1))


def _windows(x: jax.Array, g: Geometry, axis: int) -> Pieces:
    """For each tap along one axis, the elements that all windows meet there."""
    k, o, d, s = g.kernel_size[axis], g.output_size[axis], g.dilation[axis], g.stride[axis]
    image_axis = g.spatial_axes[axis]
    x = fit(x, image_axis, g.padding_low[axis], (o - 1) * s + d * (k - 1) + 1)
    return [
        lax.slice_in_dim(x, t * d, t * d + (o - 1) * s + 1, s, axis=image_axis) for t in range(k)
    ]


def _stacked_windows(x: jax.Array, g: Geometry, axis: int) -> jax.Array:
    """The same, the taps along a new axis after the windows'."""
    image_axis = g.spatial_axes[axis]
    if g.output_size[axis] > 1:
        return jnp.stack(_windows(x, g, axis), image_axis + 1)
    # A single window meets all it meets as that lies, however many its taps.
    x = fit(x, image_axis, g.padding_low[axis], g.reach[axis] + 1)
    x = lax.slice_in_dim(x, 0, x.shape[image_axis], g.dilation[axis], axis=image_axis)
    return jnp.expand_dims(x, image_axis)


def _one_tap(g: Geometry, axis: int) -> Geometry:
    """`g` with what `_windows` gives for its input along one axis."""
    o = g.output_size[axis]
    return replace_axis(g, axis, input_size=o, kernel_size=1, stride=1, padding_low=0, dilation=1)


def taps_to_channels(g: Geometry, axis: int) -> Change:
    """Along one axis: the k elements that a window meets as k times the channels."""

    def x_map(x):
        return [_into_channels(_stacked_windows(x, g, axis), [g.spatial_axes[axis] + 1], g)]

    def w_map(w):
        # The kernel's axis becomes one of length 1 and a factor of the channels.
        return [_into_weight_channels(jnp.expand_dims(w, 2 + axis), [3 + axis])]

    part = _one_tap(g, axis)
    return Change([part], x_map, w_map, same)


def windows_to_channels(g: Geometry) -> Change:
    """All that a window meets as channels, with what the taps of one channel meet side by side, as
    they lie in the kernel, which is not moved."""
    axes = range(g.num_spatial_dims)

    def x_map(x):
        pieces = [x]
        for axis in axes:
            pieces = [window for piece in pieces for window in _windows(piece, g, axis)]
        if g.channels_last:
            return [jnp.stack(pieces, -1).reshape(*pieces[0].shape[:-1], -1)]
        return [lax.collapse(jnp.stack(pieces, 2), 1, 3)]

    def w_map(w):
        return [w.reshape(w.shape[0], -1, *(1 for _ in axes))]

    return Change([functools.reduce(_one_tap, axes, g)], x_map, w_map, same)


def _into_channels(x: jax.Array, axes: Sequence[int], g: Geometry) -> jax.Array:
    """`x`, which has some axes more, with those made outer factors of each group's channels."""
    n = len(axes)
    place = x.ndim - 1 - n if g.channels_last else 1
    x = jnp.moveaxis(x, axes, range(place, place + n))
    if g.groups == 1:
        return lax.collapse(x, place, place + n + 1)
    x = _split_axis(x, place + n, x.shape[place + n] // g.groups)
    return lax.collapse(jnp.moveaxis(x, place + n, place), place, place + n + 2)


def _into_weight_channels(w: jax.Array, axes: Sequence[int]) -> jax.Array:
    """`w`, which has some axes more, with those made outer factors of its input channels."""
    n = len(axes)
    return lax.collapse(jnp.moveaxis(w, axes, range(1, n + 1)), 1, n + 2)


def sum_over_taps(g: Geometry, axis: int) -> Change:
    """Along one axis: one part for each tap, with a kernel of 1 and stride 1."""
    k = g.kernel_size[axis]

    def x_map(x):
        return _windows(x, g, axis)

    def w_map(w):
        return list(lax.split(w, (1,) * k, axis=2 + axis))

    part = _one_tap(g, axis)
    return Change([part] * k, x_map, w_map, lambda y: [y] * k)


def sum_over_met_taps(g: Geometry, axis: int) -> Change:
    """Along one axis: a part for each tap as in `sum_over_taps`, but over those windows alone that
    have it within x."""
    s, d, low = g.stride[axis], g.dilation[axis], g.padding_low[axis]
    image_axis = g.spatial_axes[axis]
    windows = {tap: windows_that_meet(g, axis, tap) for tap in _taps_that_meet(g, axis)}

    def x_map(x):
        starts = [met.start * s + tap * d - low for tap, met in windows.items()]
        return [
            lax.slice_in_dim(x, start, start + (len(met) - 1) * s + 1, s, axis=image_axis)
            for start, met in zip(starts, windows.values(), strict=True)
        ]

    def w_map(w):
        return [lax.slice_in_dim(w, tap, tap + 1, axis=2 + axis) for tap in windows]

    def y_map(y):
        return [
            lax.slice_in_dim(y, met.start, met.stop, axis=image_axis) for met in windows.values()
        ]

    parts = [
        _one_tap(replace_axis(g, axis, output_size=len(met)), axis) for met in windows.values()
    ]
    return Change(parts, x_map, w_map, y_map)


def first_axis_to_batch(g: Geometry) -> Change:
    """A first spatial axis along which nothing happens, as part of the batch."""

    def image_map(image):
        if not g.channels_last:
            image = jnp.swapaxes(image, 1, 2)
        return [image.reshape(-1, *image.shape[2:])]

    part = _map_axes(g, lambda values: values[1:])
    return Change([part], image_map, lambda w: [lax.squeeze(w, (2,))], image_map)


def join_last_axes(g: Geometry) -> Change:
    """The last two spatial axes, along which nothing happens, as one."""
    first = g.spatial_axes[-2]

    def image_map(image):
        return [lax.collapse(image, first, first + 2)]

    part = _map_axes(g, lambda values: (*values[:-2], values[-2] * values[-1]))
    return Change([part], image_map, lambda w: [lax.squeeze(w, (w.ndim - 1,))], image_map)


def _map_axes(g: Geometry, change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Geometry:
    """`g` with the numbers of its axes changed alike."""
    names = ("input_size", "kernel_size", "output_size", "stride", "padding_low", "dilation")
    return dataclasses.replace(g, **{name: change(getattr(g, name)) for name in names})


def batch_to_last_axis(g: Geometry, batch: int) -> Change:
    """The images of the batch side by side along the last axis, as one long image.

    Image n begins at `n*period`, a whole number of strides, so its windows are those from
    `n*period/s` on. What pads the next image at its beginning pads this one at its end. Windows
    between images are in y too, and dropped from a result.
    """
    s, o, low = g.stride[-1], g.output_size[-1], g.padding_low[-1]
    covered = (o - 1) * s + g.reach[-1] + 1  # From the first padding element on.
    data = min(low + g.input_size[-1], covered)
    strides = -(-max(o * s, covered - low, data) // s)
    axis = g.spatial_axes[-1]

    def side_by_side(images):
        images = jnp.moveaxis(images, 0, axis - 1)
        *before, _, size = images.shape[: axis + 1]
        return [images.reshape(1, *before, batch * size, *images.shape[axis + 1 :])]

    part = replace_axis(
        g,
        g.num_spatial_dims - 1,
        input_size=batch * strides * s,
        output_size=batch * strides,
        padding_low=0,
    )
    return Change(
        [part],
        lambda x: side_by_side(fit(x, axis, low, strides * s)),
        same,
        lambda y: side_by_side(fit(y, axis, 0, strides)),
    )


def extend_output(g: Geometry, axis: int) -> Change:
    """Along one axis: y with one element more, of a window that reaches beyond x."""
    o = g.output_size[axis]
    image_axis = g.spatial_axes[axis]
    part = replace_axis(g, axis, output_size=o + 1)
    return Change([part], same, same, lambda y: [fit(y, image_axis, 0, o + 1)])


def windows_to_batch(g: Geometry, axis: int, images: int) -> Change:
    """Along one axis: up to `images` images in place of one, each with a run of its windows."""
    s, low = g.stride[axis], g.padding_low[axis]
    o = -(-g.output_size[axis] // images)
    images = -(-g.output_size[axis] // o)
    i = (o - 1) * s + g.reach[axis] + 1
    image_axis = g.spatial_axes[axis]

    def x_map(x):
        x = fit(x, image_axis, low, (images - 1) * o * s + i)
        starts = range(0, images * o * s, o * s)
        pieces = [lax.slice_in_dim(x, start, start + i, axis=image_axis) for start in starts]
        x = jnp.stack(pieces, axis=1)
        return [x.reshape(-1, *x.shape[2:])]

    def y_map(y):
        y = _split_axis(fit(y, image_axis, 0, images * o), image_axis, o)
        y = jnp.moveaxis(y, image_axis, 1)
        return [y.reshape(-1, *y.shape[2:])]

    part = replace_axis(g, axis, input_size=i, output_size=o, padding_low=0)
    return Change([part], x_map, same, y_map)


def dilation_to_batch(g: Geometry, axis: int) -> Change:
    """Along one axis: d images in place of one, each with every d-th window and dilation 1.

    Tap t of window `a*d + r` meets `x[(a*s + t)*d + r*s - low]`: of every d-th element of x, from
    `r*s - low` on, that is tap t of window a. y is filled up to as many windows in each image.
    """
    s, d, k = g.stride[axis], g.dilation[axis], g.kernel_size[axis]
    low, images = g.padding_low[axis], min(d, g.output_size[axis])
    o = -(-g.output_size[axis] // d)
    i = (o - 1) * s + k
    image_axis = g.spatial_axes[axis]

    def into_batch(image, low, size):
        """Every d-th element from `-low` on, from the next one on, and so forth."""
        image = _split_axis(fit(image, image_axis, low, size * d), image_axis, d)
        image = lax.slice_in_dim(image, 0, images, axis=image_axis + 1)
        image = jnp.moveaxis(image, image_axis + 1, 1)
        return image.reshape(-1, *image.shape[2:])

    def x_map(x):
        if s == 1:
            return [into_batch(x, low, i)]
        x = fit(x, image_axis, low, (images - 1) * s + (i - 1) * d + 1)
        pieces = [
            lax.slice_in_dim(x, start, start + (i - 1) * d + 1, d, axis=image_axis)
            for start in range(0, images * s, s)
        ]
        x = jnp.stack(pieces, axis=1)
        return [x.reshape(-1, *x.shape[2:])]

    def y_map(y):
        return [into_batch(y, 0, o)]

    part = replace_axis(g, axis, input_size=i, output_size=o, padding_low=0, dilation=1)
    return Change([part], x_map, same, y_map)
