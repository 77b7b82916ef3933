"""Padding by zeros, reflection, replication and wrapping, written with slices and concatenation.

`jnp.pad` is laxer than torch (it reflects and wraps repeatedly), and its wrap mode cannot be
exported with symbolic sizes.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.crop import crop
from jaxconv.geometry import to_ints

MODES = ("constant", "reflect", "replicate", "circular")
Pads = Sequence[tuple[int, int]]
Array = jax.Array | np.ndarray


def pad(
    input: Array, pad: Sequence[int], mode: str = "constant", value: complex | None = None
) -> jax.Array:
    """Pad the last axes of `input`, as `torch.nn.functional.pad`.

    Along an axis that holds `1234`, padding by 2 on both sides gives

        constant    00 1234 00        replicate   11 1234 44
        reflect     32 1234 32        circular    34 1234 12

    Negative amounts crop. In circular mode the cropping comes first, as in torch.

    Args:
      input: an array of any dtype. The modes other than constant take one, two or three padded
        axes, behind one or two others (channels, or batch and channels).
      pad: `(low, high)` of the last axis, then `(low, high)` of the last but one, and so on.
      mode: "constant", "reflect", "replicate" or "circular".
      value: what constant mode fills in, a number that the dtype can hold; None means 0.

    Returns:
      The padded array, of the same dtype.

    Raises:
      TypeError: if `pad` is not made of ints, or `input` is no array.
      ValueError: if the mode is unknown, does not fit the rank, or takes no value; if an amount
        is too large for the mode: reflect needs less than the axis, circular at most what
        cropping leaves of it; if an axis is cropped by more than it has.

    >>> pad(jnp.arange(1, 5), (2, 1)).tolist()
    [0, 0, 1, 2, 3, 4, 0]
    >>> pad(jnp.array([[1, 2, 3, 4]]), (2, 2), mode="reflect").tolist()
    [[3, 2, 1, 2, 3, 4, 3, 2]]
    """
    if mode not in MODES:
        options = ", ".join(repr(name) for name in MODES)
        raise ValueError(f"`mode` must be one of {options}, got {mode!r}")
    input = to_array(input, "input")
    amounts = to_ints(pad, "pad")
    if amounts is None:
        raise TypeError(f"`pad` must be a tuple of ints, got {pad!r}")
    num_axes = len(amounts) // 2
    if len(amounts) % 2 or num_axes > input.ndim:
        raise ValueError(
            f"`pad` must hold (low, high) for at most {input.ndim} axes, got {amounts}"
        )
    if mode != "constant":
        if value is not None:
            raise ValueError(f"`value` must be None unless mode is 'constant', got {value!r}")
        if num_axes not in (1, 2, 3) or input.ndim - num_axes not in (1, 2):
            raise ValueError(
                f"`pad` must cover all axes but one or two, at most three, when mode is "
                f"{mode!r}, got {amounts} for an input of rank {input.ndim}"
            )
    pads = list(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    first = input.ndim - num_axes
    axes = range(first, input.ndim)
    if mode == "constant":
        _check_addressable(input, axes, pads, "pad")
        return pad_constant(input, axes, pads, _to_fill(value, input.dtype))
    check_not_empty(input.shape[first - 1 :], mode)
    _check_output(input.shape[first:], pads, mode)
    return pad_axes(input, axes, pads, mode, "pad")


def to_array(value: Any, name: str) -> jax.Array:
    """`value` as an array; lists and numbers are refused, as torch refuses them."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        raise TypeError(f"`{name}` must be an array, got {type(value).__name__}")
    return jnp.asarray(value)


def _to_fill(value: Any, dtype: Any) -> jax.Array:
    """`value` as a scalar of `dtype`."""
    try:
        with np.errstate(over="raise"):
            fill = jnp.asarray(0 if value is None else value, dtype)
    except (TypeError, ValueError, OverflowError, FloatingPointError):
        fill = None
    if fill is None or fill.ndim or isinstance(value, str | bytes):
        raise ValueError(f"`value` must be a number that {dtype} can hold, got {value!r}")
    return fill


def check_not_empty(unbatched_shape: Sequence[int], mode: str) -> None:
    """Any mode pads an empty batch; only circular pads an empty channel or spatial axis."""
    empty = any(isinstance(size, int) and size == 0 for size in unbatched_shape)
    if empty and mode in ("reflect", "replicate"):
        raise ValueError(
            f"`input` must not be empty, but for its batch axis, when padding by {mode}, "
            f"got channels and sizes {tuple(unbatched_shape)}"
        )


def _check_output(sizes: Sequence[int], pads: Pads, mode: str) -> None:
    """Reflection and replication must leave something of at least one axis, as in torch."""
    left = [size + low + high for size, (low, high) in zip(sizes, pads, strict=True)]
    if mode != "circular" and all(isinstance(size, int) and size < 1 for size in left):
        raise ValueError(
            f"`pad` must leave at least 1 element, got {pads} for axes of {tuple(sizes)}"
        )


def pad_constant(x: jax.Array, axes: Sequence[int], pads: Pads, value: Any = 0) -> jax.Array:
    """Crop by the negative amounts, then fill `value` in for the positive ones."""
    for axis, (low, high) in zip(axes, pads, strict=True):
        x = _cropped(x, axis, low, high)
    config = [(0, 0, 0)] * x.ndim
    for axis, (low, high) in zip(axes, pads, strict=True):
        config[axis] = (max(low, 0), max(high, 0), 0)
    if all(entry == (0, 0, 0) for entry in config):
        return x
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def pad_axes(
    x: jax.Array, axes: Sequence[int], pads: Pads, mode: str, name: str = "padding"
) -> jax.Array:
    """Pad `axes` by `pads`, `(low, high)` each, in one of torch's padding modes.

    `name` is the argument that the amounts come from.
    """
    if mode == "zeros":
        return pad_constant(x, axes, pads)
    _check_addressable(x, axes, pads, name)
    pad_axis = {"reflect": _reflect, "replicate": _replicate, "circular": _circular}[mode]
    for axis, (low, high) in zip(axes, pads, strict=True):
        if (low, high) != (0, 0):
            _check_amounts(low, high, x.shape[axis], mode, name)
            x = pad_axis(x, axis, low, high)
    return x


def _check_addressable(x: jax.Array, axes: Sequence[int], pads: Pads, name: str) -> None:
    """XLA ends the process over an array of more elements than there are numbers for."""
    shape = list(x.shape)
    for axis, (low, high) in zip(axes, pads, strict=True):
        shape[axis] += low + high
    if all(isinstance(size, int) for size in shape) and math.prod(shape) >= 1 << 63:
        raise ValueError(
            f"`{name}` must leave less than 2^63 elements, got {pads}, which leaves an array of "
            f"shape {tuple(shape)}"
        )


def _cropped(x: jax.Array, axis: int, low: int, high: int) -> jax.Array:
    """`x` without as many elements as the negative amounts say."""
    size = x.shape[axis]
    low, high = max(-low, 0), max(-high, 0)
    if isinstance(size, int) and low + high > size:
        raise ValueError(
            f"`pad` must not crop more than there is, got {(-low, -high)} for an axis of {size}"
        )
    return crop(x, axis, low, high)


def _check_amounts(low: int, high: int, size: int, mode: str, name: str) -> None:
    """Reflection and wrapping copy from what is there, once."""
    if not isinstance(size, int):
        return
    cropped = size + min(low, 0) + min(high, 0)
    if mode == "reflect" and max(low, high) >= size:
        rule = "less than the size"
    elif mode == "circular" and max(low, high, 0) > cropped:
        rule = "at most the size that cropping leaves"
    else:
        return
    raise ValueError(
        f"`{name}` must be {rule} when padding by {mode}, got {(low, high)} "
        f"for an axis of size {size}"
    )


def _reflect(x: jax.Array, axis: int, low: int, high: int) -> jax.Array:
    size = x.shape[axis]
    parts = [x]
    if low > 0:
        parts.insert(0, lax.rev(lax.slice_in_dim(x, 1, low + 1, axis=axis), (axis,)))
    if high > 0:
        last = lax.slice_in_dim(x, size - 1 - high, size - 1, axis=axis)
        parts.append(lax.rev(last, (axis,)))
    return _cropped(lax.concatenate(parts, axis), axis, low, high)


def _replicate(x: jax.Array, axis: int, low: int, high: int) -> jax.Array:
    size = x.shape[axis]
    parts = [x]
    if low > 0:
        parts.insert(0, _repeat(lax.slice_in_dim(x, 0, 1, axis=axis), axis, low))
    if high > 0:
        parts.append(_repeat(lax.slice_in_dim(x, size - 1, size, axis=axis), axis, high))
    return _cropped(lax.concatenate(parts, axis), axis, low, high)


def _repeat(edge: jax.Array, axis: int, times: int) -> jax.Array:
    return jnp.broadcast_to(edge, (*edge.shape[:axis], times, *edge.shape[axis + 1 :]))


def _circular(x: jax.Array, axis: int, low: int, high: int) -> jax.Array:
    x = _cropped(x, axis, low, high)
    low, high, size = max(low, 0), max(high, 0), x.shape[axis]
    parts = [x]
    if low > 0:
        parts.insert(0, lax.slice_in_dim(x, size - low, size, axis=axis))
    if high > 0:
        parts.append(lax.slice_in_dim(x, 0, high, axis=axis))
    return lax.concatenate(parts, axis)
