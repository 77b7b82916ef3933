"""Which plan XLA:CPU runs fastest, by shape. The measurements are in `benchmarks/NOTES.md`.

XLA:CPU has a fast matrix product and a fast dense convolution over one or two axes. Neither takes
groups; all else is a naive loop, and so is any convolution inside a loop. So groups are taken
apart, three axes become two, strides of transposed convolutions become phases (which saves
multiplying zeros), and few channels per group become plain arithmetic across the groups.
"""

import math
from typing import Any

from jaxconv.geometry import Geometry
from jaxconv.lowerings.plans import Plan, divides

FEW_CHANNELS = 16
"""Products of a group's channel counts up to this are too small for a matrix product."""

FEW_GROUPS = 32
"""Groups up to this many are taken apart one by one; the code grows with them."""

MANY_CHANNELS = 128
"""Channels from which a matrix product keeps all cores busy even for a whole batch of images."""

FEW_TAPS = 64
"""Kernels up to this many taps are taken apart tap by tap."""

SMALL_KERNEL = 9
"""Up to this many taps, one product of matrices for each beats the convolution's gradient,"""

FEW_ELEMENTS = 1 << 22
"""as long as a copy of an image for each tap has no more elements than this."""


def choose(
    result: str, g: Geometry, in_channels: int, out_channels: int, dtype: Any, one_device: bool
) -> Plan:
    """The plan for the contraction giving `result`, of x with `in_channels` and y with
    `out_channels`."""
    del dtype  # The ranking is the same for all.
    layout = () if g.channels_last else ("last",)
    c, o = in_channels // g.groups, out_channels // g.groups
    if g.groups == 1:
        return layout + _dense(result, g, c, o, one_device)
    if c * o <= FEW_CHANNELS and (result != "weight" or c * o == 1 or g.groups > FEW_GROUPS):
        # Forward, all taps are one pass over the image. Backward, each tap has a pass of its own.
        blocks = ("blocks",) if result == "weight" and one_device else ()
        return (*blocks, *layout, "phases", "fit", "taps_in_steps")
    if g.groups <= FEW_GROUPS:
        return (*layout, "groups", *_dense(result, g, c, o, one_device))
    if g.taps <= FEW_TAPS:
        return (*layout, "phases", "sum_over_taps", "direct")
    return (*layout, "phases", "taps_to_channels:0", "axis_to_batch", "direct")


def _dense(result: str, g: Geometry, c: int, o: int, one_device: bool) -> Plan:
    if math.prod(g.output_size) == 1 or (g.taps == 1 and set(g.stride) != {1}):
        return ("taps_to_channels", "direct")  # One window, or single elements: a product.
    if g.num_spatial_dims == 3:
        return _dense_3d(result, g, c)
    if result == "weight":
        return _dense_weight(g, c, o, one_device)
    return _dense_output(g, c) if result == "output" else _dense_input(g, c)


def _dense_3d(result: str, g: Geometry, c: int) -> Plan:
    """Two axes at a time: a sum over depth taps, or with few channels, depth taps as channels."""
    if divides(g) and g.kernel_size == g.stride != (1, 1, 1):
        return ("stride_to_channels", "direct")
    if result == "weight" and set(g.stride) != {1} and c >= FEW_CHANNELS and g.taps <= FEW_TAPS:
        return ("phases", "sum_over_taps", "direct")
    if c >= FEW_CHANNELS:
        others = ("phases", "direct") if result == "input" else ("direct",)
        return ("phases:0", "sum_over_taps:0", "axis_to_batch", *others)
    if result == "input" and set(g.stride) != {1}:
        return ("phases", "taps_to_channels:-1", "sum_over_taps", "direct")
    return ("taps_to_channels:0", "axis_to_batch", "direct")


def _dense_output(g: Geometry, c: int) -> Plan:
    run = c * g.kernel_size[-1]  # How much of x is contiguous in a window.
    if run < 32 and divides(g) and g.kernel_size == g.stride:
        return ("stride_to_channels", "direct")
    return ("direct",)


def _dense_input(g: Geometry, c: int) -> Plan:
    if set(g.stride) == {1} or c == 1:
        return ("direct",)
    if divides(g):
        return ("stride_to_channels", "direct")
    if c < 8:
        return ("phases", "taps_to_channels", "direct")
    return ("phases", "direct")


def _dense_weight(g: Geometry, c: int, o: int, one_device: bool) -> Plan:
    if set(g.stride) == {1}:
        if g.taps > SMALL_KERNEL or g.num_spatial_dims == 1:
            return ("direct",)
        if min(c, o) >= MANY_CHANNELS:
            return ("sum_over_taps", "direct")
        if one_device and g.taps * c * math.prod(g.input_size) <= FEW_ELEMENTS:
            return ("blocks", "sum_over_taps", "direct")
        return ("direct",)
    if divides(g):
        rows = ("taps_to_channels:0", "axis_to_batch") if g.num_spatial_dims > 1 else ()
        return ("stride_to_channels", *rows, "direct")
    if g.taps > FEW_TAPS:
        return ("direct",)
    if c >= FEW_CHANNELS:
        return ("phases", "sum_over_taps", "direct")
    return ("blocks", "taps_to_channels", "direct") if one_device else ("direct",)
