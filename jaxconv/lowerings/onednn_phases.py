"""Which phases of a stride are left to oneDNN, by shape: for strided transposed convolutions, of
which it has no call.

They are a convolution for each phase, or one that has all phases for its channels.
"""

import dataclasses
import math

from jaxconv.geometry import Geometry
from jaxconv.lowerings import changes, few_channels, onednn, xla_cpu
from jaxconv.lowerings.plans import (
    WHOLE_STRIDES,
    Plan,
    divided_axes,
    divides,
    is_patchify,
)
from jaxconv.lowerings.setting import cores

MANY_PHASES, PHASES_TO_A_CHANNEL = 128, 16
"""oneDNN is fast at a convolution that gives all phases of a stride if they, times the channels of
x to a group, are at most the first, and fewer than the second for each channel of y."""

SEVERAL_CORES = 4
"""From which on phases of groups take less time in one call, though it multiplies more zeros."""

MANY_TO_AN_ELEMENT = 12
"""Products to an element of x from which oneDNN is faster at phases of few channels, too."""

SEVERAL_PHASES = 4
"""From which on one call for whole strides, and one for what is left of the kernel, are fewer."""

MANY_TO_A_PHASE, MANY_TO_ONE = 400, 1 << 10
"""Products to an element of x from which oneDNN is faster than XLA at each phase over two axes, and
where XLA has all of them in one convolution."""

MOST_TO_A_PHASE = 1 << 12
"""Products to an element of x up to which oneDNN rounds at most twice as much as torch."""

FEW_ROWS, SOME_ROWS, MOST_WITH_ROWS = 2, 4, 1600
"""Rows of a phase's taps over two axes, each of which torch adds up by itself. With more than the
second, that alone makes twice the rounding; with more than the first, and more products than the
third, torch adds up channels in parts as well."""


def choose(plan: Plan, g: Geometry, c: int, o: int, most: float, images: int) -> Plan | None:
    """The changes with which oneDNN is faster than XLA is with `plan`, if there are any: to an x of
    `c` channels to a group, from a y of `o`, of which it may sum `most` at once."""
    as_channels = _phases_as_channels(g, c, o)
    if as_channels or not _pays_by_phases(plan, g, c, o, most, images):
        return as_channels
    if g.groups > 1 and g.num_spatial_dims == 1 and _pays_by_whole_strides(g, c, o):
        return WHOLE_STRIDES
    fit = all(onednn.fits(part.exchanged(), o * g.groups, c * g.groups) for part in _phases(g))
    return ("unpadded_phases",) if fit else None


def _pays_by_phases(plan: Plan, g: Geometry, c: int, o: int, most: float, images: int) -> bool:
    """Whether oneDNN is faster at each phase than XLA is at them: in 3-D, where XLA's plan copies
    depth taps, if these copies are large."""
    if g.groups > 1:
        return o <= most and (c * o > xla_cpu.FEW_CHANNELS or _takes_many_products(g, c, o))
    if g.num_spatial_dims == 1:
        return False
    if g.num_spatial_dims == 2:
        return _pays_by_phases_of_planes(plan, g, c, o, images)
    if plan[-2:] == ("taps_to_channels", "canonical"):
        return o <= most
    copies = images * g.kernel_size[0] * o * math.prod(g.output_size)
    return copies > few_channels.SMALL_COPIES and rounds_well_at_once(g, o)


def _pays_by_phases_of_planes(plan: Plan, g: Geometry, c: int, o: int, images: int) -> bool:
    """The same over two axes: where each phase has several taps along both."""
    several = all(k >= 2 * s for k, s in zip(g.kernel_size, g.stride, strict=True) if s > 1)
    if not several or not _rounds_well_in_phases(g, o):
        return False
    if plan[-2:] == ("taps_to_channels", "canonical"):
        return not few_channels.pays_by_sums_in_phases(g, c, o, images)
    many = MANY_TO_ONE if divides(g) else MANY_TO_A_PHASE
    return c >= few_channels.CHANNELS_AT_ONCE and o * g.taps >= many * math.prod(g.stride)


def _takes_many_products(g: Geometry, c: int, o: int) -> bool:
    """Whether an element of x takes so many that XLA's multiply-adds are slow, of few channels."""
    depthwise = c == o == 1 and g.num_spatial_dims > 1
    many = o * g.taps >= MANY_TO_AN_ELEMENT * math.prod(g.stride)
    return many and (c > 1 or depthwise)


def _pays_by_whole_strides(g: Geometry, c: int, o: int) -> bool:
    """Whether two calls over one axis are faster than one for each phase."""
    (k,), (s,) = g.kernel_size, g.stride
    if s < SEVERAL_PHASES or g.dilation != (1,) or k < 2 * s:
        return False
    whole = _stride_to_channels(dataclasses.replace(g, kernel_size=(k - k % s,)))
    return onednn.fits(whole.exchanged(), o * g.groups, c * s * g.groups)


def rounds_well_at_once(g: Geometry, o: int) -> bool:
    """Whether all channels of y may be summed at once in each phase."""
    return o * g.taps <= MOST_TO_A_PHASE * math.prod(g.stride)


def _rounds_well_in_phases(g: Geometry, o: int) -> bool:
    """The same over two axes."""
    rows = max(k / s for k, s in zip(g.kernel_size, g.stride, strict=True))
    most = MOST_TO_A_PHASE if rows <= FEW_ROWS else MOST_WITH_ROWS
    return rows <= SOME_ROWS and o * g.taps <= most * math.prod(g.stride)


def _phases_as_channels(g: Geometry, c: int, o: int) -> Plan | None:
    """Where all phases are better the channels of one convolution, or of one for each phase of the
    first axis, which multiplies fewer zeros."""
    n = g.num_spatial_dims
    if g.groups == 1:
        pays, apart = n == 3, True
    else:
        pays = _pays_grouped(g, c, o)
        apart = n == 2 and c >= few_channels.CHANNELS_AT_ONCE and cores() < SEVERAL_CORES
    if not pays or not divides(g) or is_patchify(g) or not rounds_well_at_once(g, o):
        return None
    apart = apart and g.stride[0] > 1
    for part in changes.phases(g, 0, padded=False).parts if apart else [g]:
        channels = c * math.prod(part.stride) * g.groups
        if not onednn.fits(_stride_to_channels(part).exchanged(), o * g.groups, channels):
            return None
    return ("unpadded_phases:0", "stride_to_channels") if apart else ("stride_to_channels",)


def _pays_grouped(g: Geometry, c: int, o: int) -> bool:
    """Whether oneDNN is fast at that for groups."""
    if c == 1 or (c * o <= xla_cpu.FEW_CHANNELS and few_channels.lies_along_rows(g)):
        return False
    phases = c * math.prod(g.stride)
    return phases <= MANY_PHASES and phases < PHASES_TO_A_CHANNEL * o


def _stride_to_channels(g: Geometry) -> Geometry:
    """`g` with its stride gone into the channels, along all axes."""
    (part,) = changes.stride_to_channels(g, divided_axes(g)).parts
    return part


def _phases(g: Geometry) -> list[Geometry]:
    """The parts of stride 1 that it is a sum of."""
    strided = [axis for axis, s in enumerate(g.stride) if s > 1]
    if not strided:
        return [g]
    first = changes.phases(g, strided[0], padded=False)
    return [phase for part in first.parts for phase in _phases(part)]
