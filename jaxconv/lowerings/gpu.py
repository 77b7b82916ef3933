"""Which plan is fastest on an NVIDIA GPU, by shape. The measurements are in `benchmarks/NOTES.md`.

cuDNN is good at dense convolutions over one or two axes, forward and backward, and at depthwise
ones over two axes with the kernels it has code for. The rest is brought to these, to one matrix
product, or to plain arithmetic over the taps.
"""

import math
import os
from typing import Any

import jax.numpy as jnp

from jaxconv.dtypes import is_half
from jaxconv.geometry import Geometry
from jaxconv.lowerings import changes
from jaxconv.lowerings.plans import (
    EXCHANGED,
    MOST_PHASES,
    STACKED_PLANES,
    WHOLE_STRIDES,
    Plan,
    divides,
    is_patchify,
    number_of_phases,
    takes_whole_strides,
)
from jaxconv.lowerings.setting import Setting

FEW_CHANNELS = 8
"""Products of a group's channel counts up to this are too small for a matrix product."""

FEW_IN_IMAGE = 16
"""Channels of an image without groups up to which all that windows meet is copied."""

FEW_GROUPS = 8
"""Up to so many groups, what cuDNN is slow at pays to be computed one by one."""

FEW_TAPS = 64
"""Kernels up to this many taps, and columns of a kernel, are taken apart tap by tap."""

LONG = 7
"""Up to this length of a kernel, cuDNN has code for groups, and for strides, over three axes."""

LARGE_PLANE, WIDE_GROUP = 10, 32
"""For groups, its code is slow from so many taps of a plane on, and in half precision so many
channels."""

MOST_COPIES = {1: 2, 2: 3, 3: 4}
"""By axes, how many times as large an image may become to be rid of dilation."""

CHANNELS_LAST_FLAG = "--xla_gpu_force_conv_nhwc"
"""With this among XLA's flags, it gives cuDNN images over three axes with channels last too."""

NARROW = 5
"""Up to this width, cuDNN has a weight gradient in float32 for depthwise kernels however tall."""

MANY_TAPS = 12
"""From this many taps on, it pays to bring the elements that they meet next to each other."""

MANY_SUMS = 64
"""And from so many sums on to each group of a weight gradient."""

EXCHANGED_FORWARD = ("exchange", "convolution")
"""A transposed convolution as a forward one, for which cuDNN has the faster code."""

LONGEST_FUSED, MOST_FUSED, MOST_FUSED_IN_HALF = 32, 32, 100
"""Up to this length of a kernel, and so many taps, cuDNN's code that adds a bias is as fast as its
other code."""

MANY_FUSED = 64
"""From so many channels of y in a group on, it is slower for groups in half precision."""


def choose(result: str, g: Geometry, in_channels: int, out_channels: int, setting: Setting) -> Plan:
    """The plan for the contraction giving `result`, of x with `in_channels` and y with
    `out_channels`."""
    if g.num_spatial_dims == 3 and g.is_pointwise(0):
        planes = changes.first_axis_to_batch(g).parts[0]
        return ("axis_to_batch", *choose(result, planes, in_channels, out_channels, setting))
    if g.num_spatial_dims == 3 and g.is_pointwise(1) and g.is_pointwise(2):
        joined = changes.join_last_axes(g).parts[0]
        return ("join_last_axes", *choose(result, joined, in_channels, out_channels, setting))
    c, o = in_channels // g.groups, out_channels // g.groups
    if g.groups > 1 and c * o <= FEW_CHANNELS:
        return _depthwise(result, g, c * o, setting.dtype, setting.one_device)
    if g.groups > 1:
        plan = _grouped(result, g, c, o, setting.dtype)
    else:
        plan = _by_copies(result, g, c, o) or _dense(result, g, c, o, setting.dtype)
    if result == "output" and plan == ("convolution",):
        return _with_bias(plan, g, c, o, setting.dtype)
    if plan == EXCHANGED_FORWARD:
        return _with_bias(plan, g, o, c, setting.dtype)
    return plan


def _with_bias(plan: Plan, g: Geometry, from_channels: int, to_channels: int, dtype: Any) -> Plan:
    """`plan` for a forward convolution, whose bias is kept apart where cuDNN's code that adds one
    is slow: for large kernels, and for channels that its tiles don't fit."""
    half = is_half(dtype)
    many_taps = g.taps > (MOST_FUSED_IN_HALF if half else MOST_FUSED)
    slow = (
        max(g.kernel_size) > LONGEST_FUSED
        or (many_taps and (half or from_channels > FEW_CHANNELS))
        or (g.taps > 1 and _tiles_misfit(g, to_channels, half))
    )
    return ("unfused", *plan) if slow else plan


def _tiles_misfit(g: Geometry, channels: int, half: bool) -> bool:
    if g.groups == 1:
        return half and channels % 8 > 0
    is_power_of_2 = channels & (channels - 1) == 0
    if not half:
        return not is_power_of_2
    small_steps = set(g.stride) == {1} and max(g.kernel_size) <= LONG
    return small_steps and (not is_power_of_2 or channels >= MANY_FUSED)


def _depthwise(result: str, g: Geometry, multiplier: int, dtype: Any, one_device: bool) -> Plan:
    if takes_whole_strides(g):
        return (*WHOLE_STRIDES, "taps_to_channels", "direct")
    if g.num_spatial_dims == 3 and multiplier == 1:
        slices = changes.first_axis_to_batch(g).parts[0]
        by_slices = _depthwise(result, slices, multiplier, dtype, one_device)
        return ("sum_over_taps:0", "axis_to_batch", *by_slices)
    if g.num_spatial_dims == 2 and multiplier == 1 and _cudnn_has_depthwise(result, g, dtype):
        return ("convolution",)
    if g.taps > FEW_TAPS and result == "weight" and _cudnn_is_faster(g, dtype, one_device):
        return ("convolution",)
    if number_of_phases(g) > MOST_PHASES:
        return ("convolution",)
    many = g.taps >= MANY_TAPS or (result == "weight" and g.taps * multiplier >= MANY_SUMS)
    first = many and one_device  # XLA might gather what lies on several.
    by_rows = result != "weight" and g.num_spatial_dims > 1
    computation = "rows_together" if by_rows else "taps"
    return (*(("first_in_memory",) if first else ()), "phases", "fit", computation)


def _cudnn_has_depthwise(result: str, g: Geometry, dtype: Any) -> bool:
    """Square odd kernels up to 7, stride 1 or 2, no dilation."""
    if result == "weight" and g.taps > 25 and jnp.dtype(dtype) == jnp.float32:
        return False
    (k, other) = g.kernel_size
    return k == other <= 7 and k % 2 == 1 and max(g.stride) <= 2 and max(g.dilation) == 1


def _cudnn_is_faster(g: Geometry, dtype: Any, one_device: bool) -> bool:
    """For the weight gradient of a large kernel."""
    if jnp.dtype(dtype) == jnp.float32:
        return g.num_spatial_dims == 2 and g.kernel_size[-1] <= NARROW
    return is_half(dtype) and not one_device


def _grouped(result: str, g: Geometry, c: int, o: int, dtype: Any) -> Plan:
    if is_patchify(g):
        return ("stride_to_channels", "direct")
    if g.taps == 1 and set(g.stride) == {1}:
        return ("direct",)
    if g.groups == 2 and g.taps > 1:
        return ("groups", *_dense(result, g, c, o, dtype))
    if _is_dilated_weight(result, g):
        return _dilated_weight(g, c, o)
    if result == "input" and max(g.stride) > 1:
        return _grouped_strided_input(g, c, o, dtype)
    if g.num_spatial_dims == 3 and g.kernel_size[0] > LONG:
        one_by_one = ("groups",) if g.groups <= FEW_GROUPS else ()
        return (*one_by_one, *STACKED_PLANES, "direct")
    return _grouped_planes(result, g, c, o, dtype) or ("convolution",)


def _grouped_planes(result: str, g: Geometry, c: int, o: int, dtype: Any) -> Plan | None:
    """All groups at once over planes, where cuDNN is slow at three axes."""
    if g.num_spatial_dims < 3 or math.prod(g.kernel_size[1:]) < LARGE_PLANE:
        return None
    full = jnp.dtype(dtype) == jnp.float32 and result != "weight"
    return (*STACKED_PLANES, "direct") if full or min(c, o) >= WIDE_GROUP else None


def _grouped_strided_input(g: Geometry, c: int, o: int, dtype: Any) -> Plan:
    is_3d = g.num_spatial_dims == 3
    if is_3d and divides(g):
        return ("stride_to_channels", *STACKED_PLANES, "direct")
    if max(g.dilation) > 1 and number_of_phases(g) <= MOST_PHASES:
        return ("phases", "direct")
    if is_3d and g.groups <= FEW_GROUPS:
        return ("groups", *_dense("input", g, c, o, dtype))
    return _grouped_planes("input", g, c, o, dtype) or ("convolution",)


def _by_copies(result: str, g: Geometry, c: int, o: int) -> Plan | None:
    """One product, of all taps as channels, for images of a few channels: cuDNN's code is for more.

    Only if what is copied for the taps is no larger than the other image, or with x and y
    exchanged. What gives images of many channels, cuDNN is as fast at over two axes."""
    if c > o and set(g.stride) == {1}:
        plan = _by_copies(EXCHANGED[result], g.exchanged(), o, c)
        return ("exchange", *plan) if plan else None
    if c > FEW_IN_IMAGE or c * g.taps > o or g.taps == 1 or _longest_column(g) > FEW_TAPS:
        return None
    if result == "output" and g.num_spatial_dims == 2:
        return None
    return ("stride_to_channels", "taps_to_channels", "direct")


def _longest_column(g: Geometry) -> int:
    """Taps along an axis that has most of them, when stride has gone into the channels."""
    axes = zip(g.kernel_size, g.stride, g.dilation, strict=True)
    return max(k if d > 1 or k % s else k // s for k, s, d in axes)


def _dense(result: str, g: Geometry, c: int, o: int, dtype: Any) -> Plan:
    if g.num_spatial_dims == 3 and g.kernel_size[0] > 1:
        return _dense_3d(result, g, c, dtype)
    if is_patchify(g):
        return ("stride_to_channels", "direct")
    if g.taps == 1 and result == "weight":
        return ("taps_to_channels", "direct")  # A product over the elements that are met.
    if _is_dilated_weight(result, g):
        return _dilated_weight(g, c, o)
    if result == "input" and set(g.stride) == {1} and g.taps > 1:
        return EXCHANGED_FORWARD
    return ("convolution",)


def _dense_3d(result: str, g: Geometry, c: int, dtype: Any) -> Plan:
    """Over planes, with depth taps as channels: left to itself, XLA gives cuDNN images over three
    axes with channels first, for which it has to copy them, and cuDNN has slower code."""
    by_planes, half = (*STACKED_PLANES, "direct"), is_half(dtype)
    strided_input = result == "input" and max(g.stride) > 1
    if _is_dilated_weight(result, g):
        return (*_without_dilation(g), *by_planes)
    if keeps_channels_last() and c * g.kernel_size[0] > FEW_IN_IMAGE:
        if strided_input and divides(g) and not is_patchify(g):
            return ("stride_to_channels", "direct")
        by_cudnn = half or result == "output" or strided_input or is_patchify(g)
        return ("convolution",) if by_cudnn else by_planes
    if is_patchify(g):
        return ("stride_to_channels", "direct")
    if strided_input and half and divides(g):
        return ("stride_to_channels", *by_planes)
    if strided_input and half and max(g.kernel_size) <= LONG and set(g.dilation) == {1}:
        return ("convolution",)
    return by_planes


def keeps_channels_last() -> bool:
    """Whether XLA's flag for it is set in the environment."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    return any(CHANNELS_LAST_FLAG + value in flags for value in ("", "=true", "=1"))


def _without_dilation(g: Geometry) -> Plan:
    """Changes of a weight gradient over three axes, that rid at least planes of dilation. Those of
    depth taps are taken apart anyway."""
    if _phases_are_dense(g):
        return ("phases",)
    (planes,) = changes.first_axis_to_batch(g).parts
    return ("dilation_to_batch:-1", "dilation_to_batch:-2") if _pays_apart(planes) else ()


def _is_dilated_weight(result: str, g: Geometry) -> bool:
    """Whether it is a dilated weight gradient, at which cuDNN is slow."""
    return result == "weight" and max(g.dilation) > 1


def _dilated_weight(g: Geometry, c: int, o: int) -> Plan:
    if _phases_are_dense(g):
        return ("phases", "direct")
    if _pays_apart(g):
        return ("dilation_to_batch", "direct")
    if g.taps > FEW_TAPS:
        return ("convolution",)
    narrower_first = ("exchange",) if o < c else ()  # Of which a copy is made for each tap.
    return (*narrower_first, "sum_over_taps", "direct")


def _phases_are_dense(g: Geometry) -> bool:
    """Whether none of the phases of a stride is dilated, and these are few."""
    dense = all(s % d == 0 for s, d in zip(g.stride, g.dilation, strict=True))
    return dense and number_of_phases(g) <= MOST_PHASES


def _pays_apart(g: Geometry) -> bool:
    """Whether every d-th window is worth an image of its own."""
    few_slices = set(g.stride) == {1} or max(g.dilation) <= FEW_TAPS
    most = MOST_COPIES[g.num_spatial_dims] * math.prod(g.input_size)
    return few_slices and _windows_apart(g) <= most


def _windows_apart(g: Geometry) -> int:
    """The elements of x with every d-th window in an image of its own."""
    return math.prod(
        min(o, d) * ((-(-o // d) - 1) * s + k) if d > 1 else i
        for i, o, s, d, k in zip(
            g.input_size, g.output_size, g.stride, g.dilation, g.kernel_size, strict=True
        )
    )
