"""Which plan XLA:CPU runs fastest, by shape. The measurements are in `benchmarks/NOTES.md`.

XLA:CPU has a fast matrix product and a fast dense convolution over one or two axes, of one form
(see `canonical`). Neither takes groups; all else is a naive loop. So groups are taken apart, three
axes become two, strides of transposed convolutions become phases (which saves multiplying zeros),
and few channels per group become plain arithmetic across the groups, or along the rows of an image.
"""

import math

import jax

from jaxconv.geometry import Geometry
from jaxconv.lowerings.few_channels import COLUMNS, few_products, fits_rows
from jaxconv.lowerings.plans import (
    CHANNEL_TILE,
    STACKED_PLANES,
    Plan,
    channels_moved,
    divides,
    is_patchify,
)
from jaxconv.lowerings.setting import Setting

FEW_CHANNELS = 16
"""Channels, or products of a group's channel counts, up to which a matrix product is too small."""

FEW_WEIGHTS, SOME_WEIGHTS, MANY_WEIGHTS = 32, 64, 144
"""Products of a group's channel counts up to which sums over windows give the weight: in general;
for more than `FEW_GROUPS` groups; and for up to `SEVERAL_GROUPS`, if the images together have at
most `FEW_WINDOWS` windows."""

FEW_WINDOWS = 1 << 12
"""See above. With more, oneDNN's calls for parts of them pay."""

SEVERAL_GROUPS = 16
"""Of more, the weight takes too many calls of oneDNN, if each takes several."""

FEW_GROUPS = 32
"""Groups up to this many are taken apart one by one, and twice as many where an image results."""

SLOW_IF_STRIDED = 36
"""Taps from which a stride does not help XLA's convolutions that give a weight group by group."""

SOME_GROUPS = 8
"""As many take long to compile where each takes several products or convolutions."""

MANY_CHANNELS = 128
"""Channels from which a matrix product keeps all cores busy even for a whole batch of images."""

FEW_TAPS = 64
"""Kernels up to this many taps are taken apart tap by tap."""

SMALL_KERNEL = 9
"""A kernel of up to this many taps is small: what is done tap by tap pays."""

FEW_GATHERS = 16
"""Up to this many taps, a depthwise image is not copied for its padding, but gathered."""

MANY_GATHERED = 32
"""Channels that share each look into the tables, from which gathers pay; half as many suffice where
they save phases."""

FEW_ELEMENTS = 1 << 22
"""Copies of an image, one for each tap, of up to this many elements stay in the cache."""

FEW_COPIES = 4
"""Copies of a 3-D image, one for each depth tap, that are fewer than sums of images would be."""

ARITHMETIC = ("taps", "taps_in_steps", "gathers")
"""Computations that XLA fuses into whatever reads their results."""

KERNEL_IN_PLACE = ("windows_to_channels", "canonical")
"""One product, of all that windows meet with the kernel as it lies in memory."""

SUMMED_PLANES = ("phases:0", "sum_over_taps:0", "axis_to_batch")
"""As `STACKED_PLANES`, with a sum over depth taps."""

ROWS_OF_TAPS = ("taps_to_channels:0", "axis_to_batch", "canonical")
"""Two axes as one, with taps of rows as channels."""

SUM_OF_ROWS = ("sum_over_taps:0", "axis_to_batch", "canonical")
"""Two axes as one, with a sum over rows of taps."""

PRODUCTS_OF_ROWS = 16
"""Products of channels, to an element of x or y that is copied or added up, from which two axes as
one pay. Where a convolution keeps all cores busy, and for large images, it takes twice as many."""

SUMMED_ROWS = 3
"""Rows of taps at most, for `SUM_OF_ROWS`."""

COLUMNS_OF_TAPS = ("taps_to_channels:-1", "sum_over_taps", "matrix_product")
"""A matrix product for each row of taps."""

TAPS_TO_A_LINE = 64
"""To a line of windows, up to which sums over windows, of two lines, take no more memory than eight
images."""

SPLITS_COLUMNS_ONLY = jax.__version_info__ < (0, 11)
"""Whether XLA:CPU divides a convolution between cores only along the last axis and the channels,
in tiles of 4096 numbers or so. One tile keeps one core busy."""

COPIES_UNPADDED_WINDOWS = jax.__version_info__ < (0, 11)
"""Whether XLA:CPU copies all windows of a convolution over two axes that has no padding. Then one
column of zeros, and of results to drop, makes it faster."""

MANY_COPIES = 1 << 14
"""Elements of an image's windows from which that pays."""

SLOW_IF_ODD = (*range(17, 33), *range(65, 81))
"""Channels of a result for which the same versions take up to ten times as long if the operand's
channels are odd, as three are."""

FEW_COLUMNS = 6144
"""Columns times channels up to which a core is idle, so that images are laid side by side; unless
channels are so few that to copy them takes longer."""

MANY_TILES = 256
"""Channels from which they are divided themselves, and images stay as they are."""

MANY_PRODUCTS = 288
"""Products to a result, below which they are done before the other core has begun."""

SOME_PADDING = 1 / 5
"""Padding over an image, from which a product for each tap takes less time if channels are many."""

MOSTLY_PADDING = 1 / 3
"""From which, with fewer channels, dilated taps are taken apart, each for the windows it meets."""

NOTHING_BUT_PADDING = 2 / 3
"""From which they are along both axes."""

LARGE_IMAGE = 5 << 17
"""An image of more elements, in x and y, is not worth copying to keep all cores busy."""

MUCH_LARGER = {1: 1, 2: 4, 3: 4}
"""By axes: times as large as all that windows meet, a kernel is better left where it is."""

VECTOR = 16
"""A tile of channels that lacks fewer than this is computed in slow pieces, and better filled."""


def choose(result: str, g: Geometry, in_channels: int, out_channels: int, setting: Setting) -> Plan:
    """The plan for the contraction giving `result`, of x with `in_channels` and y with
    `out_channels`."""
    one_device = setting.one_device
    layout = () if g.channels_last else ("last",)
    moved = channels_moved(g, one_device)
    c, o = in_channels // g.groups, out_channels // g.groups
    if g.groups == 1 and _is_kernel_much_larger(g, c, o, setting.images):
        return (*moved, *KERNEL_IN_PLACE)
    if g.groups == 1 and _lies_in_padding(g, c, o):
        return moved + _by_met_taps(result, g)
    if g.groups == 1:
        few = few_products(result, g, c, o, setting)
        return few or layout + _dense(result, g, c, o, one_device)
    if result == "weight":
        return _grouped_weight(g, c, o, setting, layout)
    if c * o <= FEW_CHANNELS:
        return _few_per_group(result, g, c, o, one_device, moved)
    if g.groups <= 2 * FEW_GROUPS:
        return (*layout, "groups", *_dense(result, g, c, o, one_device))
    if g.taps <= FEW_TAPS:
        return (*layout, "phases", "sum_over_taps", "canonical")
    return (*layout, "phases", *STACKED_PLANES, "canonical")


def _is_kernel_much_larger(g: Geometry, c: int, o: int, images: int) -> bool:
    """Whether it is so much larger than what all windows meet that one pass over it takes most of
    the time."""
    if g.taps == 1 or g.taps > FEW_TAPS or c < FEW_CHANNELS:
        return False
    return MUCH_LARGER[g.num_spatial_dims] * windows_of_all(g, images) <= o


def _grouped_weight(g: Geometry, c: int, o: int, setting: Setting, layout: Plan) -> Plan:
    one_device = setting.one_device
    blocks = ("blocks",) if one_device else ()
    if (
        c * o <= _most_by_window_sums(g, setting.images)
        and one_device
        and g.taps <= TAPS_TO_A_LINE * g.output_size[0]
    ):
        moved = () if g.channels_last else ("blocks", "last_in_memory")
        return (*moved, "window_sums")
    if c * o == 1 or (c * o <= FEW_CHANNELS and g.groups > FEW_GROUPS):
        return (*blocks, *layout, "fit", "taps")
    some_narrow = g.groups >= SOME_GROUPS and c <= FEW_CHANNELS and set(g.stride) != {1}
    rows_of_taps = g.taps // g.kernel_size[-1]
    if (some_narrow or g.groups > FEW_GROUPS) and rows_of_taps <= FEW_TAPS:
        # As products of all groups at once.
        return (*blocks, *layout, "phases", "taps_to_channels:-1", "sum_over_taps", "canonical")
    if g.groups <= FEW_GROUPS:
        return (*layout, "groups", *_dense("weight", g, c, o, one_device))
    return (*layout, "phases", *STACKED_PLANES, "canonical")


def _most_by_window_sums(g: Geometry, images: int) -> int:
    if g.groups > FEW_GROUPS:
        return SOME_WEIGHTS if g.taps > 1 else FEW_WEIGHTS
    many = is_slow_by_groups(g) and windows_of_all(g, images) <= FEW_WINDOWS
    return MANY_WEIGHTS if many else FEW_WEIGHTS


def windows_of_all(g: Geometry, images: int) -> int:
    """The windows of all images together."""
    return images * math.prod(g.output_size)


def is_slow_by_groups(g: Geometry) -> bool:
    """Whether XLA's convolutions, group by group, are slow at the weight of few channels."""
    slow = g.taps >= (2 if set(g.stride) == {1} else SLOW_IF_STRIDED)
    return slow and g.num_spatial_dims > 1 and g.groups <= SEVERAL_GROUPS


def _few_per_group(result: str, g: Geometry, c: int, o: int, one_device: bool, moved: Plan) -> Plan:
    """Multiply-adds over whole images. Rows of an image are the better vectors, if they are long
    enough: a weight is one number for all of a row. But to bring them there takes as long."""
    # A single window, and patches side by side, are products: what else there is would be padding,
    # or a phase to each tap.
    if result == "output" and math.prod(g.output_size) == 1 and g.taps > FEW_GATHERS:
        return (*moved, *(("taps_to_channels",) if c * o > 1 else ()), "canonical")
    if result == "input" and is_patchify(g) and g.taps > FEW_GATHERS:
        return (*moved, "stride_to_channels", "canonical")
    phases = ("phases",) if result == "input" else ()
    by_rows = fits_rows(g) and g.taps * (c if result == "output" else o) <= FEW_TAPS
    strided = set(g.stride) != {1}
    looked_up = result == "output" and strided and c * o == 1 and g.taps <= SMALL_KERNEL
    if not g.channels_last and looked_up and one_device:
        return ("gathers",)
    if not g.channels_last and by_rows and not (phases and strided and g.taps > FEW_GATHERS):
        return (*phases, "fit", "taps")
    several = min(c, o) > 1 or (c * o > 1 and set(g.dilation) != {1})
    if by_rows and not strided and several and g.taps > 1 and one_device:
        return ("first_in_memory", "fit", "taps")
    if c * o == 1 and one_device and _gathers_pay(result, g):
        return (*moved, "gathers")
    return (*moved, *phases, "fit", "taps_in_steps")


def _gathers_pay(result: str, g: Geometry) -> bool:
    """Whether for a depthwise layer, a padded copy of the image, one for each phase of a stride,
    takes longer than a look into tables for each tap and place."""
    strided = set(g.stride) != {1}
    if strided and result == "output":
        return g.groups >= MANY_GATHERED // 2 and g.taps <= FEW_TAPS
    return g.groups >= MANY_GATHERED and g.taps <= (SMALL_KERNEL if strided else FEW_GATHERS)


def _elements(g: Geometry, c: int, o: int) -> int:
    """Elements of an image, in x and y together."""
    return c * math.prod(g.input_size) + o * math.prod(g.output_size)


def _dense(result: str, g: Geometry, c: int, o: int, one_device: bool) -> Plan:
    if math.prod(g.output_size) == 1 or (g.taps == 1 and set(g.stride) != {1}):
        return ("taps_to_channels", "canonical")  # One window, or single elements: a product.
    if result == "weight":
        form = _narrow_weight if 2 * o <= c and g.taps > 1 else _wide_weight
        return form(g, c, o, one_device)
    if _covers_image(result, g) or _saves_products(g, c, o):
        return _by_products(g, c, o)
    if g.num_spatial_dims == 3:
        return _dense_3d(result, g, c, o, one_device)
    convolution = _convolution(result, g, c, o, one_device)
    if result == "output":
        return _dense_output(g, c, convolution)
    return _dense_input(g, c, convolution)


def _convolution(result: str, g: Geometry, c: int, o: int, one_device: bool) -> Plan:
    """A convolution by XLA giving y, or x if of stride 1, with all its cores at work."""
    padded = ("extend_output",) if _copies_windows(result, g, c) and one_device else ()
    if g.groups > SOME_GROUPS:
        return (*padded, "canonical")
    if result == "output":
        operand_channels, channels, columns = c, o, g.output_size[-1]
    else:
        operand_channels, channels, columns = o, c, g.input_size[-1]
    filled = ("fill_channels",) if 0 < -channels % CHANNEL_TILE < VECTOR else ()
    if not SPLITS_COLUMNS_ONLY:
        return (*filled, "canonical")
    if operand_channels % 2 and channels in SLOW_IF_ODD:
        filled = ("fill_operand",)
    few = COLUMNS < channels < MANY_TILES and channels * columns < FEW_COLUMNS
    few = few and 3 * g.reach[-1] <= columns  # Else the padding in between is too much.
    # Of three axes, an output's depth taps are channels by now; an input's are yet to be summed.
    taps = g.taps if result == "input" else math.prod(g.kernel_size[-2:])
    many = operand_channels * taps >= MANY_PRODUCTS
    if one_device and g.num_spatial_dims == 2:
        rows = _by_rows(result, g, c, o, few, many)
        if rows:
            return (*filled, *rows) if result == "output" else rows
    wide = ("batch_to_last_axis",) if few and many and one_device else ()
    return (*filled, *(wide or padded), "canonical")


def _by_rows(result: str, g: Geometry, c: int, o: int, few: bool, many: bool) -> Plan | None:
    """A convolution over two axes by ones over the last, if that pays, where `few` columns leave a
    core idle, and `many` products make that matter."""
    idle = few and _elements(g, c, o) <= LARGE_IMAGE
    pays = c * o >= (1 if idle else 2) * PRODUCTS_OF_ROWS * (c + o)
    if result == "input" and (pays or (idle and many)):
        return ROWS_OF_TAPS
    if pays and g.kernel_size[0] <= SUMMED_ROWS and g.kernel_size[-1] > 1:
        return SUM_OF_ROWS
    return None


def _copies_windows(result: str, g: Geometry, c: int) -> bool:
    """Whether a convolution, being without padding, would copy windows that overlap before it
    computes."""
    if not COPIES_UNPADDED_WINDOWS or result != "output" or g.num_spatial_dims == 1:
        return False
    taps = math.prod(g.kernel_size[-2:])
    copies = c * taps * math.prod(g.output_size[-2:])
    return taps > math.prod(g.stride[-2:]) and copies >= MANY_COPIES


def _lies_in_padding(g: Geometry, c: int, o: int) -> bool:
    """Whether a kernel, being dilated far, meets much padding, and has enough channels to be taken
    apart."""
    if g.num_spatial_dims != 2 or set(g.stride) != {1} or 1 in g.dilation or g.taps > FEW_TAPS:
        return False
    return _padding_over_image(g) >= MOSTLY_PADDING and min(c, o) >= FEW_CHANNELS


def _padding_over_image(g: Geometry) -> float:
    """Along the axis that has less."""
    axes = zip(g.padding_low, g.padding_high, g.input_size, strict=True)
    return min((low + high) / i for low, high, i in axes)


def _by_met_taps(result: str, g: Geometry) -> Plan:
    if result == "weight":
        return ("sum_over_met_taps", "matrix_product")
    if _padding_over_image(g) < NOTHING_BUT_PADDING:
        return ("sum_over_met_taps:0", "axis_to_batch", "canonical")
    return ("sum_over_met_taps", "canonical")


def _covers_image(result: str, g: Geometry) -> bool:
    """Whether the kernel is larger than the image that it moves over. XLA makes the image the
    kernel then, and computes that up to a hundred times as slowly."""
    image, kernel = g.input_size, g.kernel_size
    if result == "input":  # By then, the stride has divided the kernel.
        image, kernel = g.output_size, [-(-k // s) for k, s in zip(kernel, g.stride, strict=True)]
    return math.prod(kernel[-2:]) > math.prod(image[-2:])


def _saves_products(g: Geometry, c: int, o: int) -> bool:
    """Whether products as large as a convolution can be had without those with padding."""
    large = g.num_spatial_dims == 2 and min(c, o) >= MANY_TILES and 1 < g.taps <= FEW_TAPS
    return large and _padding_over_image(g) >= SOME_PADDING


def _by_products(g: Geometry, c: int, o: int) -> Plan:
    """A matrix product for each tap, of the windows that meet something there, or one of copies."""
    if min(c, o) >= MANY_CHANNELS and g.taps <= FEW_TAPS:
        return ("sum_over_met_taps", "canonical")
    if g.num_spatial_dims == 1 or g.taps * c * math.prod(g.output_size) <= FEW_ELEMENTS:
        return ("taps_to_channels", "canonical")
    return ("sum_over_met_taps:0", "taps_to_channels", "canonical")


def _dense_3d(result: str, g: Geometry, c: int, o: int, one_device: bool) -> Plan:
    """Two axes at a time: depth taps as channels, or where that takes too many copies, a sum over
    them."""
    if is_patchify(g):
        return ("stride_to_channels", "canonical")
    depth = g.kernel_size[0]
    if result == "input" and set(g.stride) != {1}:
        planes = SUMMED_PLANES if depth > SMALL_KERNEL else STACKED_PLANES
        return (*planes, *_strided_input(g, first=1))
    if c >= FEW_CHANNELS and depth > FEW_COPIES:
        return (*SUMMED_PLANES, *_convolution(result, g, c, o, one_device))
    return (*STACKED_PLANES, *_convolution(result, g, c * depth, o, one_device))


def _dense_output(g: Geometry, c: int, convolution: Plan) -> Plan:
    run = c * g.kernel_size[-1]  # How much of x is contiguous in a window.
    if run < 32 and is_patchify(g):
        return ("stride_to_channels", "canonical")
    return convolution


def _dense_input(g: Geometry, c: int, convolution: Plan) -> Plan:
    if set(g.stride) == {1}:
        return convolution
    if c == 1 or (c < 8 and not divides(g)):
        return ("phases", "taps_to_channels", "canonical")
    return _strided_input(g)


def _strided_input(g: Geometry, first: int = 0) -> Plan:
    """A transposed convolution over the axes from `first` on, one or two."""
    if divides(g, first):
        return ("stride_to_channels", "canonical")
    return ("canonical",) if g.groups > SOME_GROUPS else ("phases", "canonical")


def _narrow_weight(g: Geometry, c: int, o: int, one_device: bool) -> Plan:
    """With fewer channels in y than in x, so that copies had better be made of y."""
    strided = set(g.stride) != {1}
    if strided and (g.num_spatial_dims < 3 or o >= FEW_CHANNELS or divides(g)):
        return _wide_weight(g, c, o, one_device)
    planes = STACKED_PLANES if g.num_spatial_dims == 3 else ()
    blocks = ("blocks",) if one_device else ()
    if strided:
        return (*blocks, "phases", "exchange", *planes, *COLUMNS_OF_TAPS)
    plan = (*planes, "canonical") if planes else _dense_weight(g.exchanged(), o, c, one_device)
    if plan[-1] == "canonical" and _is_kernel_larger(g.exchanged()):
        plan = (*blocks, *planes, *COLUMNS_OF_TAPS)
    return ("exchange", *plan)


def _is_kernel_larger(g: Geometry) -> bool:
    """Whether y, which is the kernel in a convolution over x giving w, is larger than x."""
    return math.prod(g.output_size[-2:]) > math.prod(g.input_size[-2:])


def _wide_weight(g: Geometry, c: int, o: int, one_device: bool) -> Plan:
    if g.num_spatial_dims == 3:
        return _weight_3d(g, c)
    return _dense_weight(g, c, o, one_device)


def _weight_3d(g: Geometry, c: int) -> Plan:
    if is_patchify(g):
        return ("stride_to_channels", "canonical")
    if set(g.stride) != {1} and c >= FEW_CHANNELS and g.taps <= FEW_TAPS:
        return ("phases", "sum_over_taps", "canonical")
    planes = SUMMED_PLANES if c >= FEW_CHANNELS else STACKED_PLANES
    return (*planes, *_weight_convolution(g))


def _dense_weight(g: Geometry, c: int, o: int, one_device: bool) -> Plan:
    """Matrix products, of columns of taps as channels where a single tap makes them too narrow."""
    if g.taps == 1:
        return ("sum_over_taps", "matrix_product")
    blocks = ("blocks",) if one_device and g.num_spatial_dims > 1 else ()
    if set(g.stride) != {1} and divides(g):
        return (*blocks, "stride_to_channels", *COLUMNS_OF_TAPS)
    if g.num_spatial_dims == 1 or g.taps > FEW_TAPS:
        return _weight_convolution(g)
    if set(g.stride) != {1} and c >= FEW_CHANNELS:
        return ("phases", "sum_over_taps", "canonical")
    if min(c, o) >= MANY_CHANNELS:
        return ("sum_over_taps", "canonical")
    if max(c, o) <= FEW_CHANNELS:
        return _weight_convolution(g)
    if not one_device or (set(g.stride) == {1} and g.taps > SMALL_KERNEL):
        return _weight_convolution(g)
    if max(c, o) >= MANY_CHANNELS:
        return ("blocks", "sum_over_taps", "canonical")
    if g.groups > 1:
        return ("blocks", "sum_over_taps", "matrix_product")
    # Padding beforehand pays as long as all copies of an image are small.
    fit = ("fit",) if g.taps * c * math.prod(g.input_size) <= FEW_ELEMENTS else ()
    return ("blocks", *fit, *COLUMNS_OF_TAPS)


def _weight_convolution(g: Geometry) -> Plan:
    """A convolution by XLA of x, with y for its kernel, or the other way round."""
    exchange = set(g.stride[-2:]) == {1} and _is_kernel_larger(g)
    return ("exchange", "canonical") if exchange else ("canonical",)
