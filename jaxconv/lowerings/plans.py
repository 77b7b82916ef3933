"""Carrying out a plan: changes of variables one after the other, then one way to compute."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.geometry import Geometry
from jaxconv.lowerings import (
    blocks,
    canonical,
    changes,
    channel_changes,
    direct,
    gathers,
    onednn,
    onednn_products,
    products,
    taps,
    window_sums,
)
from jaxconv.lowerings.bias import add_bias
from jaxconv.lowerings.changes import Change
from jaxconv.lowerings.copies import MOST_READS, as_arithmetic
from jaxconv.lowerings.once import computed_once

OPERANDS = {
    "output": ("input", "weight"),
    "input": ("output", "weight"),
    "weight": ("input", "output"),
}
EXCHANGED = {"output": "input", "input": "output", "weight": "weight"}
"""What each result is with x and y in each other's place."""

CHANNEL_TILE = 64
"""To a multiple of it `fill_channels` fills: XLA:CPU computes so many channels at once."""

OPERAND_TILE = 4
"""To a multiple of it `fill_operand` fills: an odd number of channels can be slow there."""

Plan = tuple[str, ...]
"""Names of changes, each applied to every part that it fits, and last the name of a computation.

Some stand for more than a change of variables: `BLOCKS`, `GROUP_BLOCKS`, `FINISHES`, `COPIES`,
`exchange` and `unfused`."""

BLOCKS = {"blocks": 1, "large_blocks": 8}
"""Names for a loop over blocks of the batch, and images that those should have; `blocks:2` are of
two images at most."""

FINISHES = {
    "once": lambda y, reads: computed_once(as_arithmetic(y, min(reads, MOST_READS))),
    "as_arithmetic": lambda y, reads: as_arithmetic(y),
}
"""Names for what is done with the result, after a bias is added to it."""

COPIES = ("copied", "both_copied")
"""Names for arithmetic with the first operand, or both, where they are copied in any case."""

GROUP_BLOCKS = {"blocks_of_groups": 16, "pairs_of_groups": 2}
"""Names for a loop over blocks of groups, and how many those have at most: each takes time to
compile."""

STACKED_PLANES: Plan = ("taps_to_channels:0", "axis_to_batch")
"""Three axes as two, with depth taps as channels."""

WHOLE_STRIDES: Plan = ("whole_strides", "stride_to_channels")
"""Without phases, two parts at most to an axis of dilation 1, of stride 1."""

MOST_PHASES = 30
"""So many are written down in a program, each with a few operations of its own."""


def carry_out(
    plan: Plan, result: str, a: jax.Array, b: jax.Array, g: Geometry, **options: Any
) -> jax.Array:
    """The contraction giving `result`, computed as `plan` says.

    Options are those of `lax.conv_general_dilated`, and `bias` for a plan that takes one."""
    for position, name in enumerate(plan[:-1]):
        kind, _, most = name.partition(":")
        if kind in BLOCKS:
            form = functools.partial(carry_out, plan[position + 1 :], result, g=g, **options)
            return blocks.by_block(form, result, a, b, BLOCKS[kind], int(most or 0))
        if name in GROUP_BLOCKS:
            most = GROUP_BLOCKS[name]
            return _by_blocks_of_groups(plan[position + 1 :], a, b, g, options, most)
        if name in FINISHES:
            y = carry_out(plan[position + 1 :], result, a, b, g, **_of_lax(options))
            reads = g.taps * max(channels_of(result, a, b, g)) // g.groups
            return FINISHES[name](add_bias(y, options.get("bias"), geometry=g), reads)
        if name in COPIES:
            # Where some are copied, XLA counts all as read; and padding adds elements.
            a = as_arithmetic(a, reads=8)
            b = as_arithmetic(b, reads=8) if name == "both_copied" else b
            return carry_out(plan[position + 1 :], result, a, b, g, **options)
        if name == "unfused":
            # What follows, a bias above all, XLA:GPU would have cuDNN compute in the same call.
            y = carry_out(plan[position + 1 :], result, a, b, g, **options)
            return lax.optimization_barrier(y)
        if name == "exchange":
            if set(g.stride) == {1}:
                return _exchanged(plan[position + 1 :], result, a, b, g, options)
            continue
        change = _change(name, result, a, b, g)
        if change is not None:
            return _changed(change, plan[position:], result, a, b, g, options)
    return _COMPUTATIONS[plan[-1]](result, a, b, g, options)


_ADDING = {
    **dict.fromkeys(BLOCKS, ("weight",)),
    "repeat_channels": ("input",),
    "phases": ("output",),
    "whole_strides": ("output", "input"),
    "sum_over_taps": ("output", "input"),
    "sum_over_met_taps": ("output", "input"),
    "taps_to_channels": ("input",),
    "windows_to_channels": ("input",),
    "taps": ("output", "input", "weight"),
    "taps_in_steps": ("output", "input"),
    "rows_together": ("output", "input"),
    "gathers": ("output", "input"),
    "window_sums": ("weight",),
}
"""For which results a name adds up several arrays, so that half precision has to wait."""


def channels_of(result: str, a: jax.Array, b: jax.Array, g: Geometry) -> tuple[int, int]:
    """Channels of x and of y."""
    if result == "weight":
        return a.shape[g.channel_axis], b.shape[g.channel_axis]
    w = b.shape
    return w[1] * g.groups, w[0]


IN_MEMORY = {
    "first_in_memory": "first",
    "last_in_memory": "last",
    "y_last_in_memory": "last",
}
"""Names for what says how an image lies in memory, and for the same change without."""


def without_layouts(plan: Plan) -> Plan:
    """The plan for a program that is exported: StableHLO has no lasting word for a layout."""
    return tuple(IN_MEMORY.get(name, name) for name in plan)


def adds_results(plan: Plan, result: str) -> bool:
    """Whether a plan adds up several results of its computation, rather than rearrange them."""
    for name in plan:
        if name == "exchange":
            result = EXCHANGED[result]
        if result in _ADDING.get(name.partition(":")[0], ()):
            return True
    return False


def takes_bias(plan: Plan, result: str) -> bool:
    """Whether a plan adds a bias, once to each element of what results."""
    names = {*plan[:-1]}
    if not names.isdisjoint(FINISHES):
        return True
    return plan[-1] in _BY_ONEDNN and names <= _KEEPING_RESULTS.get(result, set())


_BY_ONEDNN = ("onednn", "onednn_in_parts")


_KEEPING_RESULTS = {
    "output": {
        "copied", "crop_kernel", "last_in_memory", "repeat_channels", "stride_to_channels",
        "taps_to_channels",
    },
    "input": {"crop_kernel", "last_in_memory"},
}  # fmt: skip
"""Changes that leave each element of the result as it is, if there are no others."""


def _exchanged(
    plan: Plan, result: str, a: jax.Array, b: jax.Array, g: Geometry, options: Any
) -> jax.Array:
    """A contraction of the form of stride 1 with x and y in each other's place.

    The transposed convolution is a convolution then, and the copies of x that a weight gradient
    makes are copies of y.
    """
    if result == "weight":
        w = carry_out(plan, result, b, a, g.exchanged(), **options)
        return taps.reversed_kernel(w, g.groups)
    # Without the barrier, XLA:GPU recognises the reversed kernel and asks cuDNN for the code of a
    # transposed convolution, which is slower.
    w = lax.optimization_barrier(taps.reversed_kernel(b, g.groups))
    return carry_out(plan, EXCHANGED[result], a, w, g.exchanged(), **options)


def _by_blocks_of_groups(
    plan: Plan, a: jax.Array, b: jax.Array, g: Geometry, options: Any, most: int
) -> jax.Array:
    """A weight gradient, in a loop."""
    size = blocks.largest_divisor(g.groups, most)
    form = functools.partial(
        carry_out, plan, "weight", g=dataclasses.replace(g, groups=size), **options
    )
    return blocks.by_groups(form, a, b, g.channel_axis, g.groups // size)


def _changed(change: Change, plan: Plan, result: str, a, b, g: Geometry, options) -> jax.Array:
    maps = {"input": change.x, "weight": change.w, "output": change.y}
    first, second = OPERANDS[result]
    results = [
        carry_out(plan, result, part_a, part_b, part, **options)
        for part_a, part_b, part in zip(maps[first](a), maps[second](b), change.parts, strict=True)
    ]
    like = jax.eval_shape(lambda a, b: DIRECT[result](a, b, g, **_of_lax(options)), a, b)
    return jax.linear_transpose(maps[result], like)(results)[0]


def _of_lax(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "bias"}


def _change(name: str, result: str, a: jax.Array, b: jax.Array, g: Geometry) -> Change | None:
    """The change of that name along the first axis that it fits, or None."""
    name, _, which = name.partition(":")
    n = g.num_spatial_dims
    axes = [int(which) % n] if which else list(range(n))
    for axis in axes:
        change = _CHANGES[name](g, axis, result=result, a=a, b=b)
        if change is not None:
            return change
    return None


def channels_moved(g: Geometry, one_device: bool) -> Plan:
    """Channels last, in memory too, unless XLA is to divide the image between devices."""
    if g.channels_last:
        return ()
    return ("last_in_memory",) if one_device else ("last",)


def divides(g: Geometry, first: int = 0) -> bool:
    """Whether stride can go into the channels along every axis that has one, from `first` on."""
    divided = divided_axes(g)
    return all(s == 1 or n in divided for n, s in enumerate(g.stride[first:], first))


def divided_axes(g: Geometry) -> list[int]:
    """The axes with a stride that can go into the channels."""
    axes = zip(g.kernel_size, g.stride, g.dilation, strict=True)
    return [n for n, (k, s, d) in enumerate(axes) if s > 1 and d == 1 and k % s == 0]


def number_of_phases(g: Geometry, axes: slice = slice(None)) -> int:
    """How many phases of the strides along these axes have any taps."""
    of_axes = zip(g.kernel_size[axes], g.stride[axes], g.dilation[axes], strict=True)
    return math.prod(min(k, s // math.gcd(s, d)) for k, s, d in of_axes)


def takes_whole_strides(g: Geometry) -> bool:
    """Whether `WHOLE_STRIDES` rid it of phases that are too many to write down."""
    is_either = all(s == 1 or d == 1 for s, d in zip(g.stride, g.dilation, strict=True))
    return is_either and number_of_phases(g) > MOST_PHASES


def is_patchify(g: Geometry) -> bool:
    """Whether the windows lie side by side."""
    return g.kernel_size == g.stride and g.taps > 1 and divides(g)


def _phases(g: Geometry, axis: int, padded: bool = True, **_) -> Change | None:
    return changes.phases(g, axis, padded) if g.stride[axis] > 1 else None


def _stride_to_channels(g: Geometry, axis: int, **_) -> Change | None:
    """Along all axes that it fits."""
    axes = divided_axes(g)
    return None if axis or not axes else changes.stride_to_channels(g, axes)


def _whole_strides(g: Geometry, axis: int, **_) -> Change | None:
    s, k, d = g.stride[axis], g.kernel_size[axis], g.dilation[axis]
    return changes.whole_strides(g, axis) if d == 1 and k % s else None


def _taps_to_channels(g: Geometry, axis: int, **_) -> Change | None:
    return None if g.is_pointwise(axis) else changes.taps_to_channels(g, axis)


def _windows_to_channels(g: Geometry, axis: int, **_) -> Change | None:
    return None if products.fits(g) else changes.windows_to_channels(g)


def _sum_over_taps(g: Geometry, axis: int, **_) -> Change | None:
    return None if g.is_pointwise(axis) else changes.sum_over_taps(g, axis)


def _sum_over_met_taps(g: Geometry, axis: int, **_) -> Change | None:
    return None if g.is_pointwise(axis) else changes.sum_over_met_taps(g, axis)


def _axis_to_batch(g: Geometry, axis: int, **_) -> Change | None:
    if axis or g.num_spatial_dims == 1 or not g.is_pointwise(0):
        return None
    return changes.first_axis_to_batch(g)


def _join_last_axes(g: Geometry, axis: int, **_) -> Change | None:
    n = g.num_spatial_dims
    if axis or n == 1 or not (g.is_pointwise(n - 2) and g.is_pointwise(n - 1)):
        return None
    return changes.join_last_axes(g)


def _dilation_to_batch(g: Geometry, axis: int, **_) -> Change | None:
    return changes.dilation_to_batch(g, axis) if g.dilation[axis] > 1 else None


def _image_to_halves(g: Geometry, axis: int, a: jax.Array, **_) -> Change | None:
    """A single image as two, where oneDNN takes no kernel over one for a weight gradient."""
    if a.shape[0] > 1 or onednn.takes_one_channel(onednn.for_dense_weight(g, 1).kernel_size):
        return None
    return changes.windows_to_batch(g, g.output_size.index(max(g.output_size)), 2)


def _batch_to_last_axis(g: Geometry, axis: int, a: jax.Array, **_) -> Change | None:
    batch = a.shape[0]
    return changes.batch_to_last_axis(g, batch) if isinstance(batch, int) and batch > 1 else None


def _extend_output(g: Geometry, axis: int, result: str, **_) -> Change | None:
    """Along the last axis, if there is no padding along any."""
    padded = any(low > 0 for low in g.padding_low) or any(high > 0 for high in g.padding_high)
    if result != "output" or axis < g.num_spatial_dims - 1 or padded:
        return None
    return changes.extend_output(g, axis)


def _fill_channels(g: Geometry, axis: int, result: str, b: jax.Array, **_) -> Change | None:
    return None if result == "weight" else _filled(g, result, b, CHANNEL_TILE)


def _fill_operand(g: Geometry, axis: int, result: str, b: jax.Array, **_) -> Change | None:
    return None if result == "weight" else _filled(g, OPERANDS[result][0], b, OPERAND_TILE)


def _filled(g: Geometry, role: str, w: jax.Array, tile: int) -> Change | None:
    """The channels of y or x filled up to a multiple of `tile`, if they are none."""
    channels = w.shape[0 if role == "output" else 1]
    filled = -(-channels // tile) * tile
    if g.groups > 1 or filled == channels:
        return None
    return channel_changes.fill_channels(g, role, filled)


def _repeat_channels(
    g: Geometry, axis: int, result: str, a: jax.Array, b: jax.Array, **_
) -> Change | None:
    """If x has one channel to a group, and y several."""
    in_channels, out_channels = channels_of(result, a, b, g)
    if not 1 < g.groups == in_channels < out_channels:
        return None
    return channel_changes.repeat_channels(g, out_channels // g.groups)


def _groups(g: Geometry, axis: int, **_) -> Change | None:
    return channel_changes.each_group(g) if g.groups > 1 else None


def _first(g: Geometry, axis: int, **_) -> Change | None:
    return channel_changes.first(g) if g.channels_last else None


def _first_in_memory(g: Geometry, axis: int, **_) -> Change | None:
    return channel_changes.first_in_memory(g) if g.channels_last else None


def _last(g: Geometry, axis: int, **_) -> Change | None:
    return None if g.channels_last else channel_changes.last(g)


def _last_in_memory(g: Geometry, axis: int, **_) -> Change | None:
    return None if g.channels_last else channel_changes.last_in_memory(g)


def _y_last_in_memory(g: Geometry, axis: int, **_) -> Change | None:
    return None if g.channels_last else channel_changes.y_last_in_memory(g)


def _crop_kernel(g: Geometry, axis: int, **_) -> Change | None:
    change = changes.crop_kernel(g)
    return change if change.parts[0].kernel_size != g.kernel_size else None


def _fit(g: Geometry, axis: int, result: str, **_) -> Change | None:
    # If x is the result, what padding adds to it need not be computed.
    if result == "input" or not (any(g.padding_low) or any(g.padding_high)):
        return None
    return changes.fit_input(g)


_CHANGES: dict[str, Callable[..., Change | None]] = {
    "phases": _phases,
    "unpadded_phases": functools.partial(_phases, padded=False),
    "stride_to_channels": _stride_to_channels,
    "whole_strides": _whole_strides,
    "taps_to_channels": _taps_to_channels,
    "windows_to_channels": _windows_to_channels,
    "sum_over_taps": _sum_over_taps,
    "sum_over_met_taps": _sum_over_met_taps,
    "axis_to_batch": _axis_to_batch,
    "join_last_axes": _join_last_axes,
    "dilation_to_batch": _dilation_to_batch,
    "image_to_halves": _image_to_halves,
    "batch_to_last_axis": _batch_to_last_axis,
    "extend_output": _extend_output,
    "fill_channels": _fill_channels,
    "fill_operand": _fill_operand,
    "repeat_channels": _repeat_channels,
    "groups": _groups,
    "crop_kernel": _crop_kernel,
    "first": _first,
    "first_in_memory": _first_in_memory,
    "last": _last,
    "last_in_memory": _last_in_memory,
    "y_last_in_memory": _y_last_in_memory,
    "fit": _fit,
}


# Computations.


DIRECT = {
    "output": direct.conv,
    "input": direct.conv_input,
    "weight": direct.conv_weight,
}
_PRODUCTS = {
    "output": products.conv,
    "input": products.conv_input,
    "weight": products.conv_weight,
}


def _compute_convolution(
    result: str, a, b, g: Geometry, options, is_canonical: bool = False
) -> jax.Array:
    if result == "input" and _may_abort_xla(g):
        apart = WHOLE_STRIDES if takes_whole_strides(g) else ("phases",)
        name = "canonical" if is_canonical else "convolution"
        return carry_out((*apart, name), result, a, b, g, **options)
    if is_canonical and g.groups == 1:  # XLA:CPU has no fast code for others.
        options = {**options, "convolution": canonical.convolution}
    return DIRECT[result](a, b, g, **options)


def _may_abort_xla(g: Geometry) -> bool:
    """Whether XLA swaps the operands of the direct form, as it may where the kernel is the larger
    one: if one has been dilated, a check of its own can then end the process."""
    is_static = all(isinstance(size, int) for size in g.output_size)
    return is_static and 0 < math.prod(g.output_size) <= g.taps and set(g.stride) != {1}


def _compute_direct(
    result: str, a, b, g: Geometry, options, is_canonical: bool = False
) -> jax.Array:
    if products.fits(g):
        return _PRODUCTS[result](a, b, g, **options)
    return _compute_convolution(result, a, b, g, options, is_canonical)


_compute_canonical = functools.partial(_compute_direct, is_canonical=True)


def _compute_matrix_product(result: str, a, b, g: Geometry, options) -> jax.Array:
    w = products.weight_by_matrices(a, b, **options)
    return w.reshape(*w.shape, *g.kernel_size)


def _compute_taps(result: str, a, b, g: Geometry, options, **how: bool) -> jax.Array:
    dtype = options.get("preferred_element_type")
    if result == "weight":
        return taps.conv_weight(a, b, g, preferred_element_type=dtype)
    if result == "input":
        b, g = taps.reversed_kernel(b, g.groups), g.exchanged()
        a, g = _fitted(a, g)
    return taps.conv(a, b, g, **how, preferred_element_type=dtype)


def _compute_gathers(result: str, a, b, g: Geometry, options) -> jax.Array:
    form = {"output": gathers.conv, "input": gathers.conv_input}[result]
    return form(a, b, g, preferred_element_type=options.get("preferred_element_type"))


def _compute_window_sums(result: str, a, b, g: Geometry, options) -> jax.Array:
    form = functools.partial(window_sums.conv_weight, geometry=g, **options)
    if isinstance(a.shape[0], int):
        return form(a, b)
    return blocks.by_block(form, result, a, b, images=1)


def _compute_onednn(result: str, a, b, g: Geometry, options, in_parts: bool = False) -> jax.Array:
    bias = options.get("bias")
    dtypes = {a.dtype, b.dtype, jnp.dtype(options.get("preferred_element_type") or a.dtype)}
    if dtypes == {jnp.dtype(jnp.float32)}:
        if products.fits(g) and (g.groups == 1 or not g.channels_last):
            if onednn_products.pays(result, a, bias, g):
                return onednn_products.FORMS[result](a, b, g, bias=bias)
        elif g.channels_last and onednn.fits_result(result, a, b, g):
            return onednn.FORMS[result](a, b, g, bias=bias, in_parts=in_parts)
    y = _compute_canonical(result, a, b, g, _of_lax(options))
    return add_bias(y, bias, geometry=g)


def _fitted(x: jax.Array, g: Geometry) -> tuple[jax.Array, Geometry]:
    """What the windows cover, with its padding."""
    change = changes.fit_input(g)
    return change.x(x)[0], change.parts[0]


_COMPUTATIONS = {
    "convolution": _compute_convolution,
    "direct": _compute_direct,
    "canonical": _compute_canonical,
    "matrix_product": _compute_matrix_product,
    "taps": _compute_taps,
    "taps_in_steps": functools.partial(_compute_taps, in_steps=True),
    "rows_together": functools.partial(_compute_taps, together=True),
    "gathers": _compute_gathers,
    "window_sums": _compute_window_sums,
    "onednn": _compute_onednn,
    "onednn_in_parts": functools.partial(_compute_onednn, in_parts=True),
}
