"""Layers without groups, of few channels, on a CPU: plain arithmetic, one product, or XLA's
convolution, where those of oneDNN are slow."""

import math

from jaxconv.geometry import Geometry
from jaxconv.lowerings.blocks import FRESH_BYTES
from jaxconv.lowerings.plans import CHANNEL_TILE, Plan, channels_moved, is_patchify
from jaxconv.lowerings.setting import Setting, cores
from jaxconv.lowerings.taps import UNROLLED

SHORT_ROW = 8
"""Rows of an image that fill no vector are shorter."""

FEW_PRODUCTS = 36
"""Products to an element, over all channels and taps, up to which plain arithmetic beats a
convolution."""

FEW_PRODUCTS_IN_ALL = 700
"""The same for all channels of an element together."""

FEWER_PRODUCTS_IN_ALL = 300
"""With more to all channels, one matrix product is better where x has several channels."""

WITHOUT_VECTORS = 100
"""Products to all channels of an element from which XLA multiplies and adds number by number, if
several channels are summed and those of the result are no power of two."""

SMALL_COPIES = 1 << 21
"""Numbers that all windows meet, or sums for a tap, counted for each, up to which they may well be
written down."""

CHANNELS_AT_ONCE = 16
"""Channels of a result that oneDNN's convolution computes in the time of one."""

WRITTEN_LAST, WRITTEN_FIRST, WRITTEN_IN_PHASES = 100, 40, 40
"""Products that take as long as to write their sum down, for one tap, and to add it to those of the
others: with channels last, and first, and of the phases of a stride."""

MANY_CORES, TIMES_WRITTEN = 4, 3
"""From so many on, they compute so many times the products while a sum is written down; and a loop
over images leaves most of them idle."""

COLUMNS, SHORT_OPERAND, PACKET = 4, 16, 4
"""Channels of a result that XLA's convolution computes at once, if those of the operand are more
than the second, and a multiple of the third: then what windows meet is read in vectors."""

MOST_ADDED = 100
"""Taps whose products may be added up by one operation, which has to be compiled."""


def few_products(result: str, g: Geometry, c: int, o: int, setting: Setting) -> Plan | None:
    """Multiply-adds, where an element of the result takes few; one product, where an element of the
    operand takes part in few, or where the result has few channels."""
    if result == "weight" or g.taps == 1 or is_patchify(g):
        return None
    moved = channels_moved(g, setting.one_device)
    if result == "output":
        few = _few_to_output(g, c, o, setting.one_device, moved)
        return few or by_sums(result, g, c, o, setting)
    few = _few_to_input(g, c, o, setting.one_device, moved)
    return few or by_sums(result, g, c, o, setting) or _product_to_input(g, c, moved)


def _few_to_output(g: Geometry, c: int, o: int, one_device: bool, moved: Plan) -> Plan | None:
    in_all = c * o * g.taps
    if in_all > FEW_PRODUCTS_IN_ALL and (c > 1 or o > CHANNEL_TILE):
        return None
    several = 1 < c < SHORT_ROW and in_all > FEWER_PRODUCTS_IN_ALL
    slow = (several and not takes_few_along_rows(g, c)) or lacks_vectors(g, c, o)
    if slow and g.num_spatial_dims < 3 and one_device:
        by_product = ("blocks", *moved, "fit", "taps_to_channels", "canonical")
        return _along_moved_rows(g, c, o, one_device) or by_product
    return _multiply_adds(g, c, o, one_device, moved)


def _few_to_input(g: Geometry, c: int, o: int, one_device: bool, moved: Plan) -> Plan | None:
    few = c * o * g.taps <= FEW_PRODUCTS_IN_ALL and set(g.stride) == {1}
    if not few or g.num_spatial_dims == 3:
        return None
    along_rows = _along_moved_rows(g, o, c, one_device) if lacks_vectors(g, o, c) else None
    return along_rows or _multiply_adds(g, o, c, one_device, moved)


def _product_to_input(g: Geometry, c: int, moved: Plan) -> Plan | None:
    if c * g.taps > FEW_PRODUCTS or g.num_spatial_dims == 3:
        return None
    phases = () if g.num_spatial_dims == 1 else ("phases",)
    return (*phases, *moved, "taps_to_channels", "canonical")


def by_sums(
    result: str, g: Geometry, c: int, o: int, setting: Setting, by_onednn: bool = False
) -> Plan | None:
    """Where a result has few channels, sums of one product, of the operand with all taps.

    For oneDNN, the operand is left as it lies. Its convolutions of so few channels are slower than
    XLA's, so that rows of taps one by one still pay for images of which too much would be written
    down at once."""
    if result == "weight" or g.taps == 1 or set(g.stride) != {1}:
        return None
    moved = () if by_onednn else channels_moved(g, setting.one_device)
    to_output, channels_last = result == "output", g.channels_last or bool(moved)
    form, summed, channels = (g, c, o) if to_output else (g.exchanged(), o, c)
    if not _pays_by_sums(form, summed, channels, WRITTEN_LAST if channels_last else WRITTEN_FIRST):
        return None
    written = g.taps * channels * math.prod(form.input_size)
    by_rows, by_blocks = written > SMALL_COPIES, setting.images * written > SMALL_COPIES
    axis = -1 if channels_last else 0
    added = g.taps // (g.kernel_size[axis] if by_rows else 1)
    if added > MOST_ADDED or (by_rows and not by_onednn):
        return None
    many_cores = cores() >= MANY_CORES
    if channels_last and (by_rows or many_cores) and pays_by_xla(result, g, c, o):
        return None
    if many_cores and (by_blocks or not by_onednn):
        return None
    most = max(1, SMALL_COPIES // written)
    blocks = (f"blocks:{most}",) if by_blocks and setting.one_device else ()
    once = ("once",) if setting.one_device else ()
    exchange = ("exchange",) if to_output else ()
    taps = (f"taps_to_channels:{axis}", "sum_over_taps") if by_rows else ("taps_to_channels",)
    return (*blocks, *once, *moved, *exchange, *taps, "canonical")


def pays_by_sums_in_phases(g: Geometry, c: int, o: int, images: int) -> bool:
    """Whether sums of products, of y with the taps of a phase, give an x of few channels in less
    time than convolutions; not if they are so many that their memory is fresh."""
    written = images * c * g.taps * math.prod(g.output_size)
    return 4 * written <= FRESH_BYTES and c * (o + WRITTEN_IN_PHASES) < CHANNELS_AT_ONCE * o


def _pays_by_sums(g: Geometry, summed: int, channels: int, written: int) -> bool:
    """Whether it takes less time than a convolution that gives y of so many channels, and as many
    more as it computes at once. Its own sums take `written` products to write down."""
    if cores() >= MANY_CORES:
        written *= TIMES_WRITTEN
    positions = math.prod(g.input_size)
    windows = min(math.prod(g.output_size), positions)  # Others have much padding.
    return channels * (summed + written) * positions < CHANNELS_AT_ONCE * summed * windows


def pays_by_xla(result: str, g: Geometry, c: int, o: int) -> bool:
    """Whether XLA's convolution takes half the time of oneDNN's."""
    if set(g.stride) != {1} or g.num_spatial_dims == 3:
        return False
    form, summed, channels = (g, c, o) if result == "output" else (g.exchanged(), o, c)
    larger = any(o > i for o, i in zip(form.output_size, form.input_size, strict=True))
    in_vectors = summed > SHORT_OPERAND and summed % PACKET == 0
    return channels <= COLUMNS and in_vectors and not larger


def _multiply_adds(
    g: Geometry, summed: int, channels: int, one_device: bool, moved: Plan
) -> Plan | None:
    """For a result of `channels`, if each is a sum over few taps of `summed` others."""
    if summed * g.taps > FEW_PRODUCTS:
        return _along_moved_rows(g, summed, channels, one_device)
    return ("fit", "taps") if lies_along_rows(g) else (*moved, "fit", "taps_in_steps")


def _along_moved_rows(g: Geometry, summed: int, channels: int, one_device: bool) -> Plan | None:
    """Multiply-adds along rows, for which the channels make way."""
    may_move = fits_rows(g) and channels <= SHORT_ROW and set(g.stride) == {1} and one_device
    return ("first_in_memory", "fit", "taps") if may_move and summed * g.taps <= UNROLLED else None


def lacks_vectors(g: Geometry, summed: int, channels: int) -> bool:
    """Whether multiply-adds for a result of `channels`, each a sum over `summed` others, are no
    vectors, neither of channels nor along rows."""
    is_power_of_2 = channels & (channels - 1) == 0
    many = summed > 1 and summed * channels * g.taps >= WITHOUT_VECTORS
    return many and not is_power_of_2 and not lies_along_rows(g)


def takes_few_along_rows(g: Geometry, summed: int) -> bool:
    """Whether an element of a result takes few multiply-adds, along rows that lie so already."""
    few = summed * g.taps <= FEW_PRODUCTS
    return few and lies_along_rows(g) and set(g.stride) == {1}


def lies_along_rows(g: Geometry) -> bool:
    """Whether rows of an image are vectors as they lie."""
    return fits_rows(g) and not g.channels_last


def fits_rows(g: Geometry) -> bool:
    return min(g.input_size[-1], g.output_size[-1]) >= SHORT_ROW
