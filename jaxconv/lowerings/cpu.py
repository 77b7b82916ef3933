"""Which plan XLA:CPU runs fastest, by shape. The measurements are in `benchmarks/NOTES.md`.

XLA:CPU has a fast matrix product and a fast dense convolution over one or two axes. Neither takes
groups; all else is a naive loop. So groups are taken apart, three axes become two, strides of
transposed convolutions become phases (which saves multiplying zeros), and few channels per group
become plain arithmetic across the groups.
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
"""Channels from which a matrix product keeps all cores busy even for small images."""

FEW_TAPS = 64
"""Kernels up to this many taps are taken apart tap by tap."""


def choose(result: str, g: Geometry, in_channels: int, out_channels: int, dtype: Any) -> Plan:
    """The plan for the contraction giving `result`, of x with `in_channels` and y with
    `out_channels`."""
    del dtype  # The ranking is the same for all.
    layout = () if g.channels_last else ("last",)
    c, o = in_channels // g.groups, out_channels // g.groups
    if g.groups == 1:
        return layout + _dense(result, g, c, o)
    if c * o <= FEW_CHANNELS and (result != "weight" or c * o == 1 or g.groups > FEW_GROUPS):
        return (*layout, "phases", "fit", "taps_copying_weights")
    if g.groups <= FEW_GROUPS:
        return (*layout, "groups", *_dense(result, g, c, o))
    if g.taps <= FEW_TAPS:
        return (*layout, "phases", "sum_over_taps", "direct")
    return (*layout, "phases", "taps_to_channels:0", "axis_to_batch", "direct")


def _dense(result: str, g: Geometry, c: int, o: int) -> Plan:
    if math.prod(g.output_size) == 1 or (g.taps == 1 and set(g.stride) != {1}):
        return ("taps_to_channels", "direct")  # One window, or single elements: a product.
    if g.num_spatial_dims == 3:
        return _dense_3d(result, g, c)
    return {"output": _dense_output, "input": _dense_input, "weight": _dense_weight}[result](
        g, c, o
    )


def _dense_3d(result: str, g: Geometry, c: int) -> Plan:
    """Two axes at a time: depth taps as channels."""
    by_depth = ("taps_to_channels:0", "axis_to_batch", "direct")
    if set(g.stride) == {1}:
        return by_depth
    if divides(g) and g.kernel_size == g.stride:
        return ("stride_to_channels", "direct")
    if result == "output":
        return by_depth
    if result == "weight":
        if c >= FEW_CHANNELS and g.taps <= FEW_TAPS:
            return ("phases", "sum_over_taps", "direct")
        return by_depth
    if divides(g):
        return ("stride_to_channels", *by_depth)
    return ("phases", "sum_over_taps:0", "axis_to_batch", "direct")


def _dense_output(g: Geometry, c: int, o: int) -> Plan:
    run = c * g.kernel_size[-1]  # How much of x is contiguous in a window.
    if run < 32 and divides(g) and g.kernel_size == g.stride:
        return ("stride_to_channels", "direct")
    if g.num_spatial_dims == 2 and (run < 32 or _many_channels(g, c, o)):
        return ("taps_to_channels:0", "axis_to_batch", "direct")
    return ("direct",)


def _dense_input(g: Geometry, c: int, o: int) -> Plan:
    if set(g.stride) == {1}:
        if g.num_spatial_dims == 2 and _many_channels(g, c, o):
            return ("taps_to_channels:0", "axis_to_batch", "direct")
        return ("direct",)
    if divides(g):
        return ("stride_to_channels", "direct")
    if c < 8:
        return ("phases", "taps_to_channels", "direct")
    return ("phases", "direct")


def _dense_weight(g: Geometry, c: int, o: int) -> Plan:
    if set(g.stride) == {1}:
        if _many_channels(g, c, o) and g.taps <= FEW_TAPS:
            return ("sum_over_taps", "direct")
        return ("direct",)
    if divides(g):
        return ("stride_to_channels", "taps_to_channels:0", "axis_to_batch", "direct")
    if c >= FEW_CHANNELS and g.taps <= FEW_TAPS:
        return ("phases", "sum_over_taps", "direct")
    return ("direct",)


def _many_channels(g: Geometry, c: int, o: int) -> bool:
    return min(c, o) >= MANY_CHANNELS and set(g.stride) == {1}
