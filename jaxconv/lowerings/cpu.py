"""Which plan is fastest on a CPU, by shape. The measurements are in `benchmarks/NOTES.md`.

Where oneDNN can be called, convolutions and most weight gradients are left to it. XLA:CPU keeps
what is plain arithmetic or one matrix product, weight gradients of few channels to a group, and
without groups, over one or two axes, strided transposed convolutions of fewer products: oneDNN
could only be asked for their phases.
"""

import dataclasses
import math

from jaxconv.geometry import Geometry
from jaxconv.lowerings import few_channels, onednn, onednn_phases, onednn_products, xla_cpu
from jaxconv.lowerings.blocks import FRESH_BYTES
from jaxconv.lowerings.plans import (
    CHANNEL_TILE,
    MOST_PHASES,
    STACKED_PLANES,
    WHOLE_STRIDES,
    Plan,
    channels_moved,
    is_patchify,
    number_of_phases,
    takes_whole_strides,
)
from jaxconv.lowerings.setting import Setting, cores

LANES = 16
"""Numbers in a vector of AVX-512, or in two of AVX2."""

WIDE_GROUP, EVEN = 256, 8
"""Products of a group's channel counts from which its weight gradient is worth a call; multiples of
which always are. oneDNN's rounding is more than torch's for others, so their windows are summed in
parts, if there are many."""

NARROW_PATCH = 64
"""Elements of a patch up to which its weight gradient is better one product."""

SMALL_SINGLE = 20480
"""Elements of a single image, of its channels and first two axes, up to which torch does without
oneDNN."""

SMALL_BATCH = 1 << 19
"""Products of all images, for each core, up to which oneDNN's call takes longer than to look the
images up in tables."""

MANY_WINDOWS = 36
"""Windows of an image from which few of them meet padding."""

PAIR = 4
"""Products of a group's channel counts, two and two, that with few taps are not worth a call."""

SUMMED_TAPS = 49
"""Up to so many, sums over windows give a depthwise weight faster than oneDNN, or as fast."""

PANEL, TORCHS_PANEL = 320, 16
"""Products that XLA's matrix products add up one by one, at most; channels over whose taps torch
does, along one axis."""

FEW_COLORS, TAPS_OF_COLORS = 3, range(25, 100)
"""Channels of an image, and taps, from which XLA's convolution to whole tiles of channels takes
less time than oneDNN's on many cores; for larger kernels, it copies too much."""

TWICE_SQUARED = 4.2
"""By how much the square of an error may be another's: what `_rounds_well_by_xla` predicts is 1 to
4 percent too large."""

LONG_KERNEL = 16
"""From so many taps along a single axis, all groups in one call, if y fills vectors."""

MULTIPLY_ADDS_IN_ALL = 240
"""Products to all channels of an element up to which XLA's multiply-adds are faster, if several
channels are summed."""

MULTIPLY_ADDS_LAST, MULTIPLY_ADDS_FIRST = 320, 500
"""The same for a single channel that lies last, and first."""

MULTIPLIER = 4
"""Channels of y to one of x from which oneDNN is fast without help, and one fewer with a stride."""


def choose(result: str, g: Geometry, in_channels: int, out_channels: int, setting: Setting) -> Plan:
    """The plan for the contraction giving `result`, of x with `in_channels` and y with
    `out_channels`."""
    plan = _fastest(result, g, in_channels, out_channels, setting)
    if _number_of_written_phases(plan, g) > MOST_PHASES:
        plan = _by_whole_strides(result, g, in_channels, out_channels, setting)
    if result == "weight":
        return plan
    if plan[-1] in xla_cpu.ARITHMETIC:
        return ("once", *_padded_by_all_cores(plan, result)) if setting.one_device else plan
    woven = result == "input" and set(g.stride) != {1}
    return ("as_arithmetic", *plan) if woven else plan


def _number_of_written_phases(plan: Plan, g: Geometry) -> int:
    """How many phases a plan writes down."""
    names = [name.removeprefix("unpadded_") for name in plan]
    if "phases" not in names:
        return number_of_phases(g, slice(1)) if "phases:0" in names else 1
    is_in_planes = STACKED_PLANES[0] in names[: names.index("phases")]
    return number_of_phases(g, slice(1, None) if is_in_planes else slice(None))


def _by_whole_strides(
    result: str, g: Geometry, in_channels: int, out_channels: int, setting: Setting
) -> Plan:
    """Instead of many phases. Dilated ones are left to XLA as they are."""
    moved = channels_moved(g, setting.one_device)
    if not takes_whole_strides(g):
        return (*moved, "canonical")
    if result == "weight":
        return (*moved, *WHOLE_STRIDES, "taps_to_channels", "canonical")
    if onednn.serves(setting) and onednn_phases.rounds_well_at_once(g, out_channels // g.groups):
        most = _most_summed(g, in_channels, out_channels, setting.images)
        computation = "onednn" if math.isinf(most) else "onednn_in_parts"
        return (*moved, *WHOLE_STRIDES, computation)
    planes = STACKED_PLANES if g.num_spatial_dims == 3 else ()
    return (*moved, *WHOLE_STRIDES, *planes, "canonical")


def _padded_by_all_cores(plan: Plan, result: str) -> Plan:
    """The same arithmetic, with the padding before it shared by all cores."""
    if "fit" not in plan:
        return plan
    exchange = ("exchange",) if result == "input" else ()
    position = plan.index("fit")
    return (*plan[:position], *exchange, "copied", *plan[position:])


def _fastest(
    result: str, g: Geometry, in_channels: int, out_channels: int, setting: Setting
) -> Plan:
    plan = xla_cpu.choose(result, g, in_channels, out_channels, setting)
    if not onednn.serves(setting):
        return plan
    in_place = plan[-2:] == xla_cpu.KERNEL_IN_PLACE
    if in_place and _rounds_well_by_xla(result, g, in_channels, out_channels):
        return plan
    if g.groups == 1 and plan[-1] not in xla_cpu.ARITHMETIC:
        by_sums = few_channels.by_sums(
            result, g, in_channels, out_channels, setting, by_onednn=True
        )
        if by_sums:
            return (*by_sums[:-1], "onednn")
    if result == "input" and _is_better_one_product(g, in_channels, out_channels, setting.images):
        return (*channels_moved(g, setting.one_device), *xla_cpu.KERNEL_IN_PLACE)
    multiplier = out_channels // g.groups
    if 1 < g.groups == in_channels < out_channels and _pays_repeated(
        result, g, multiplier, setting.images
    ):
        depthwise = dataclasses.replace(g, groups=out_channels)
        by_onednn = _by_onednn(plan, result, depthwise, out_channels, out_channels, setting)
        if by_onednn:
            return ("repeat_channels", *by_onednn)
    return _by_onednn(plan, result, g, in_channels, out_channels, setting) or plan


def _by_onednn(
    plan: Plan, result: str, g: Geometry, in_channels: int, out_channels: int, setting: Setting
) -> Plan | None:
    """A plan with oneDNN, if it is faster than XLA's."""
    if not g.channels_last and _is_product_as_it_lies(result, g, in_channels, out_channels):
        change = "stride_to_channels" if is_patchify(g) else "taps_to_channels"
        return (change, *_copied(result, g), "onednn")
    if result == "weight":
        return _weight(plan, g, in_channels, out_channels, setting.images)
    if result == "output" and g.channels_last and g.groups == 1 and _is_one_product(g):
        return ("taps_to_channels", *_copied(result, g), "onednn")
    by_tables = plan[-1] == "gathers"
    if by_tables and _is_better_gathered(result, g, setting.images):
        return None
    if g.groups == g.taps == 1:
        return None
    if math.prod(g.output_size) == 1 and (g.groups == 1 or by_tables):
        return None
    moved = channels_moved(g, setting.one_device)
    most = _most_summed(g, in_channels, out_channels, setting.images)
    if result == "input" and set(g.stride) != {1}:
        c, o = in_channels // g.groups, out_channels // g.groups
        changed = onednn_phases.choose(plan, g, c, o, most, setting.images)
        return (*moved, *changed, "onednn") if changed else None
    by_convolution = g.groups == 1 and plan[-1] == "canonical"
    if by_convolution and _is_faster_by_xla(result, g, in_channels, out_channels, most):
        return (*moved, *(name for name in plan if name != "last"))
    changed = _to_onednn(plan, result, g, in_channels, out_channels, most, setting)
    if changed is None:
        return None
    computation = "onednn" if math.isinf(most) else "onednn_in_parts"
    return (*moved, *changed, computation)


def _most_summed(g: Geometry, in_channels: int, out_channels: int, images: int) -> float:
    """Channels that may be summed at once: all where torch does so too, and rounds as that does,
    which is with channels last over two or three axes, but not of one small image."""
    n = g.num_spatial_dims
    sizes = in_channels * math.prod(g.input_size[:2]), out_channels * math.prod(g.output_size[:2])
    small = images == 1 and min(sizes) <= SMALL_SINGLE
    at_once = g.channels_last and n > 1 and not small
    return math.inf if at_once else onednn.MOST_SUMMED[n]


def _is_better_one_product(g: Geometry, c: int, o: int, images: int) -> bool:
    """Whether x is better one product, and sums of what windows share, where oneDNN would sum over
    parts of the channels."""
    if set(g.stride) != {1} or g.groups > 1 or g.taps > xla_cpu.FEW_TAPS:
        return False
    windows = math.prod(g.output_size)
    in_parts = o > _most_summed(g, c, o, images) and c * g.taps > few_channels.FEW_PRODUCTS
    small = images * windows * c * g.taps <= few_channels.SMALL_COPIES
    return g.taps > 1 and in_parts and small and windows >= MANY_WINDOWS


def _is_better_gathered(result: str, g: Geometry, images: int) -> bool:
    """Whether a depthwise y takes less time than oneDNN's call for it: with a stride, or small."""
    if result != "output" or g.taps > xla_cpu.SMALL_KERNEL:
        return False
    products = images * g.groups * math.prod(g.input_size) * g.taps
    return set(g.stride) != {1} or products <= cores() * SMALL_BATCH


def _is_one_product(g: Geometry) -> bool:
    """Whether y is a product of w and single elements of x, for each group."""
    padded = any(g.padding_low) or max(g.padding_high) > 0
    return g.taps == 1 and not padded


def _copied(result: str, g: Geometry) -> Plan:
    """`copied`, where it takes a copy to make x one operand of a product."""
    as_it_lies = g.taps == 1 and set(g.stride) == {1}
    return () if result == "input" or as_it_lies else ("copied",)


def _is_product_as_it_lies(result: str, g: Geometry, in_channels: int, out_channels: int) -> bool:
    """Whether it is one product for each image and group, with channels first, and better left at
    that."""
    c, o = in_channels // g.groups, out_channels // g.groups
    if g.groups > 1 and c * o <= xla_cpu.FEW_CHANNELS:
        return False
    patchify = is_patchify(g) and g.taps <= xla_cpu.FEW_TAPS  # Of more, rows are better moved.
    copied = g.groups == 1 and _pays_copied(result, g, c, o)
    if not (patchify or copied or _is_one_product(g)):
        return False
    return onednn_products.pays_image_by_image(result, math.prod(g.output_size), c * g.taps, o)


def _pays_copied(result: str, g: Geometry, c: int, o: int) -> bool:
    """Whether what all windows meet of few channels takes less time to copy than channels to
    move, or multiply-adds."""
    if c * g.taps > few_channels.FEW_PRODUCTS:
        return False
    if result == "output":
        return o >= 2 * c * g.taps and c * o * g.taps > few_channels.FEW_PRODUCTS_IN_ALL
    if result == "weight":
        return o >= c * g.taps
    return not few_channels.takes_few_along_rows(g, o)


def _pays_repeated(result: str, g: Geometry, multiplier: int, images: int) -> bool:
    """Whether a depthwise form of x with its channels repeated is faster."""
    if result != "weight" and _meets_once(g):
        return False
    if result == "output":
        copied = images * multiplier * g.groups * math.prod(g.input_size)
        return multiplier + (max(g.stride) > 1) < MULTIPLIER and 4 * copied <= FRESH_BYTES
    return result == "weight" or multiplier * g.taps > few_channels.FEW_PRODUCTS


def _weight(
    plan: Plan, g: Geometry, in_channels: int, out_channels: int, images: int
) -> Plan | None:
    """A plan with oneDNN for a weight gradient, if it is faster: a convolution whose kernel is y,
    or a matrix product."""
    c, o = in_channels // g.groups, out_channels // g.groups
    layout = () if g.channels_last else ("y_last_in_memory",)
    if _takes_all_groups(g, c, o) and onednn.fits_weight(g, 1, in_channels, out_channels):
        return ("blocks", *layout, "onednn_in_parts")
    of_eights = c == o == EVEN
    if plan[-1] == "window_sums" and not of_eights:
        if g.taps <= SUMMED_TAPS or not onednn.fits_weight(g, 1, in_channels, out_channels):
            return None
        return ("blocks", *layout, "onednn" if c * o == 1 else "onednn_in_parts")
    uneven = g.groups > 1 and not c % EVEN == o % EVEN == 0
    in_parts = uneven and _pays_in_parts(g, images)
    if uneven and c * o < WIDE_GROUP and not in_parts:
        return None
    if g.taps == 1 or math.prod(g.output_size) == 1:  # One matrix product, or several in one.
        return (*plan[:-1], "onednn") if g.groups <= xla_cpu.FEW_GROUPS else None
    if g.groups == 1 and is_patchify(g) and c * g.taps <= NARROW_PATCH:
        return (*layout, "stride_to_channels", "onednn")
    if g.groups == 1 and c * g.taps <= few_channels.FEW_PRODUCTS and o % LANES:
        return ("blocks", *layout, "taps_to_channels", "onednn")
    exchange = ("exchange",) if _fills_lanes_better(c, o) else ()
    apart = g.dilation[-1] > 1 and (g.num_spatial_dims == 3 or min(c, o) < LANES)
    to_batch = ("dilation_to_batch:-1",) if apart else ()
    fit = ("fit",) if g.dilation == (1,) else ()  # Over one axis.
    if fit and layout:  # To move and pad at once takes longer.
        layout = ("last_in_memory",)
    computation = "onednn_in_parts" if in_parts else "onednn"
    tail = (*exchange, *to_batch, *fit, "image_to_halves", computation)
    if of_eights:  # For which oneDNN has code that is fast at all groups in one call.
        return ("large_blocks", *layout, *tail)
    groups = ("groups", "both_copied") if g.groups > 1 else ()
    if in_parts:  # So many calls to a group that no more should be written down.
        return ("pairs_of_groups", "large_blocks", *layout, *groups, *tail)
    many = ("blocks_of_groups",) if g.groups > xla_cpu.FEW_GROUPS else ()
    return (*many, "large_blocks", *layout, *groups, *tail)


def _takes_all_groups(g: Geometry, c: int, o: int) -> bool:
    """Whether the weight gradient of a long kernel over one axis is faster with all groups in one
    call than by sums over windows or group by group."""
    long = g.num_spatial_dims == 1 and g.taps >= LONG_KERNEL
    return long and g.groups > 1 and c % EVEN > 0 and o % LANES == 0


def _pays_in_parts(g: Geometry, images: int) -> bool:
    """Whether a weight gradient of uneven groups is worth the calls for each part."""
    many_windows = xla_cpu.windows_of_all(g, images) > xla_cpu.FEW_WINDOWS
    return xla_cpu.is_slow_by_groups(g) and many_windows


def _fills_lanes_better(c: int, o: int) -> bool:
    """Whether a weight gradient does with x and y exchanged: there, as many channels of y as a
    vector has are one step's work, and those of x a step each."""
    return c * -(-o // LANES) > o * -(-c // LANES)


def _to_onednn(
    plan: Plan,
    result: str,
    g: Geometry,
    in_channels: int,
    out_channels: int,
    most: float,
    setting: Setting,
) -> Plan | None:
    """The changes with which oneDNN has fast code for what gives y or x, if XLA:CPU has none that
    is as fast. It may sum `most` channels at once."""
    c, o = in_channels // g.groups, out_channels // g.groups
    few = g.groups > 1 and c * o <= xla_cpu.FEW_CHANNELS
    by_xla = few_channels.few_products(result, g, c, o, setting) if g.groups == 1 else None
    if by_xla and not _is_fast_at_few_products(result, g, c, o):
        return None
    if result == "input":
        g, c, o = g.exchanged(), o, c
    if not onednn.fits(g, c * g.groups, o * g.groups):
        return None
    if c > most and g.groups > 1:
        return ("groups",) if g.num_spatial_dims == 3 else None
    if c > most:
        return None if _leaves_out_padding(plan, g) else ()
    return () if not few or _is_fast_at_few(g, c, o) else None


def _is_faster_by_xla(result: str, g: Geometry, c: int, o: int, most: float) -> bool:
    """Whether XLA's convolution gives y or x faster: few channels of it, or y from few; or over one
    axis, where oneDNN would sum over parts of the channels."""
    in_parts = _summed(result, c, o) > most
    from_colors = result == "output" and _is_faster_from_colors(g, c, o)
    few = from_colors or few_channels.pays_by_xla(result, g, c, o)
    pays = few or (g.num_spatial_dims == 1 and in_parts)
    return pays and _rounds_well_by_xla(result, g, c, o)


def _is_faster_from_colors(g: Geometry, c: int, o: int) -> bool:
    """Whether that is so of a y from few channels, on many cores. With channels first, to add the
    bias would take one more pass over a large y."""
    by_all_cores = cores() >= onednn.MANY_CORES and not xla_cpu.SPLITS_COLUMNS_ONLY
    many = g.taps in TAPS_OF_COLORS and o % CHANNEL_TILE == 0
    planes = g.num_spatial_dims == 2 and g.channels_last
    return by_all_cores and planes and c <= FEW_COLORS and many


def _rounds_well_by_xla(result: str, g: Geometry, c: int, o: int) -> bool:
    """Whether what XLA's convolution or product sums for a layer without groups is rounded at most
    twice as much as torch's.

    Over one axis, both add up panels of the products. A sum of p panels of n products each, all of
    random sign, errs by the square root of `n + p`, in units of that sum. Over several axes, torch
    with channels last adds up one by one.
    """
    if g.num_spatial_dims > 1 or result == "weight":
        return True
    channels = _summed(result, c, o)
    products = channels * g.taps
    panels = -(-products // PANEL)
    of_torch = TORCHS_PANEL * g.taps + channels / TORCHS_PANEL
    return products / panels + panels <= TWICE_SQUARED * of_torch


def _summed(result: str, c: int, o: int) -> int:
    """The channels that an element of y or x is summed over."""
    return c if result == "output" else o


def _leaves_out_padding(plan: Plan, g: Geometry) -> bool:
    """Whether XLA's plan saves the products with padding of a small image: more than is gained, if
    what oneDNN sums over parts of the channels is yet to be added up."""
    return set(g.dilation) == {1} and any("met_taps" in name for name in plan)


def _is_fast_at_few_products(result: str, g: Geometry, c: int, o: int) -> bool:
    """Whether oneDNN is faster than XLA's multiply-adds, or one product, without groups."""
    summed = _summed(result, c, o)
    if few_channels.lacks_vectors(g, summed, c * o // summed):
        return True
    most = MULTIPLY_ADDS_IN_ALL
    if summed == 1:
        most = MULTIPLY_ADDS_LAST if g.channels_last else MULTIPLY_ADDS_FIRST
    if c * o * g.taps <= most:
        return False
    return not few_channels.takes_few_along_rows(g, summed)


def _is_fast_at_few(g: Geometry, c: int, o: int) -> bool:
    """Whether oneDNN is faster than XLA's multiply-adds at few channels to a group."""
    along_rows = few_channels.lies_along_rows(g)
    if g.taps == 1:
        return False
    if c * o == 1:
        return g.taps > (xla_cpu.FEW_GATHERS if along_rows else xla_cpu.SMALL_KERNEL - 1)
    wide = g.num_spatial_dims > 1 and min(g.kernel_size) > 1 and g.taps >= xla_cpu.SMALL_KERNEL
    if c == 1 and (o >= MULTIPLIER or (wide and not along_rows)):
        return True
    once = _meets_once(g) or _meets_once(g.exchanged())
    if g.taps * c > xla_cpu.FEW_TAPS or (once and g.taps >= xla_cpu.SMALL_KERNEL):
        return True
    several = c * o > PAIR or g.taps > xla_cpu.SMALL_KERNEL
    return min(c, o) > 1 and several and not along_rows


def _meets_once(g: Geometry) -> bool:
    """Whether over two or three axes, an element of x is in one window, as where a kernel is as
    long as the image."""
    if g.num_spatial_dims == 1 or set(g.stride) != {1}:
        return False
    return g.taps * math.prod(g.output_size) <= math.prod(g.input_size)
