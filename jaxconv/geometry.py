"""Sizes and windows of convolutions: plain ints in, frozen hashable values out. No arrays here.

The letters inside size arithmetic are those of "A guide to convolution arithmetic for deep
learning" (arXiv 1603.07285): input size `i`, kernel size `k`, output size `o`, stride `s`,
padding `p`; `d` is the dilation. A size may also be a symbolic dimension of `jax.export`: it is
not an `int`, supports the same arithmetic, and is exempt from the checks that need its value.
"""

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

IntOrTuple = SupportsIndex | Sequence[SupportsIndex]
Padding = str | IntOrTuple


# Reading arguments.


def to_int(value: Any, name: str, minimum: int | None = None) -> int:
    """`value` as an int; bools and floats are refused."""
    # `operator.index` accepts bool, which is a subclass of int.
    if isinstance(value, bool):
        raise TypeError(f"`{name}` must be an int, got {value!r}")
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an int, got {value!r}") from None
    if minimum is not None and result < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value!r}")
    return result


def to_tuple(
    value: Any, n: int, name: str, minimum: int | None = None, *, repeat_single: bool = True
) -> tuple[int, ...]:
    """`value` as a tuple of `n` ints: an int is repeated, and so is a tuple of one."""
    entries = to_ints(value, name, minimum)
    if entries is None:
        return (to_int(value, name, minimum),) * n
    if len(entries) == 1 and repeat_single:
        return entries * n
    if len(entries) != n:
        raise ValueError(
            f"`{name}` must be an int or a tuple of {n} ints, got {_shown(value)} "
            f"of length {len(entries)}"
        )
    return entries


# Iterable, but never meant as a tuple of ints.
_TEXT_OR_UNORDERED = str | bytes | dict | set | frozenset


def to_ints(value: Any, name: str, minimum: int | None = None) -> tuple[int, ...] | None:
    """`value` as a tuple of ints of any length, or None if it is a single thing."""
    if isinstance(value, _TEXT_OR_UNORDERED):
        raise TypeError(f"`{name}` must be an int or a tuple of ints, got {value!r}")
    try:
        entries = tuple(value)
    except TypeError:
        return None
    for entry in entries:
        try:
            to_int(entry, name, minimum)
        except TypeError:
            raise TypeError(f"`{name}` must hold ints only, got {_shown(value)}") from None
        except ValueError:
            raise ValueError(f"`{name}` must be at least {minimum}, got {_shown(value)}") from None
    return tuple(operator.index(entry) for entry in entries)


def _shown(value: Any) -> str:
    return repr(tuple(value)) if isinstance(value, Sequence) else repr(value)


def to_padding(
    padding: Any, stride: tuple[int, ...], n: int, padding_mode: str = "zeros"
) -> str | tuple[int, ...]:
    """`padding` as "valid", "same" (which needs stride 1) or a tuple of `n` ints.

    A tuple of one is repeated for zeros alone, as in torch, which otherwise refuses it or pads only
    the last axis.
    """
    if not isinstance(padding, str):
        zeros = padding_mode == "zeros"
        return to_tuple(padding, n, "padding", minimum=0, repeat_single=zeros)
    if padding not in ("valid", "same"):
        raise ValueError(
            f"`padding` must be an int, a tuple of {n} ints, 'valid' or 'same', got {padding!r}"
        )
    if padding == "same" and any(s != 1 for s in stride):
        raise ValueError(f"`padding` must not be 'same' when strided, got stride={stride}")
    return padding


PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def check_padding_mode(padding_mode: Any, allowed: Sequence[str] = PADDING_MODES) -> None:
    if not isinstance(padding_mode, str) or padding_mode not in allowed:
        options = ", ".join(repr(mode) for mode in allowed)
        rule = f"one of {options}" if len(allowed) > 1 else options
        raise ValueError(f"`padding_mode` must be {rule}, got {padding_mode!r}")


DATA_FORMATS = ("channels_first", "channels_last")


def check_data_format(data_format: Any) -> None:
    if not isinstance(data_format, str) or data_format not in DATA_FORMATS:
        options = " or ".join(repr(name) for name in DATA_FORMATS)
        raise ValueError(f"`data_format` must be {options}, got {data_format!r}")


def check_input_rank(shape: Sequence[int], num_spatial_dims: int) -> None:
    n = num_spatial_dims
    if len(shape) not in (n + 1, n + 2):
        raise ValueError(
            f"`input` must have rank {n + 1} (unbatched) or {n + 2} (batched), "
            f"got shape {tuple(shape)}"
        )


def check_groups(groups: int, in_channels: int, out_channels: int) -> None:
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels % groups:
            raise ValueError(
                f"`groups` must divide {name}, got groups={groups} and {name}={channels}"
            )


def check_output_padding(
    output_padding: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> None:
    if any(op >= max(s, d) for op, s, d in zip(output_padding, stride, dilation, strict=True)):
        raise ValueError(
            "`output_padding` must be smaller than stride or dilation, "
            f"got output_padding={output_padding}, stride={stride}, dilation={dilation}"
        )


# Sizes.


def pad_amounts(
    padding: str | tuple[int, ...], kernel_size: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """(low, high) for each axis; an odd total of "same" puts the extra element at the end."""
    if padding == "valid":
        return ((0, 0),) * len(kernel_size)
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((int(p), int(p)) for p in padding)


def window_output_size(
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """How often a window fits: relationship 6 of the guide, `o = floor((i + 2p - k) / s) + 1`.

    The dilated kernel covers `d(k - 1) + 1` elements (section 5.1 of the guide).
    """
    output_size = []
    for i, k, s, (low, high), d in zip(
        input_size, kernel_size, stride, pads, dilation, strict=True
    ):
        free = i + low + high - d * (k - 1) - 1
        if isinstance(free, int) and free < 0:
            raise ValueError(
                "`kernel_size` must not exceed the padded input, got "
                f"kernel_size={kernel_size} with dilation={dilation}, which covers "
                f"{d * (k - 1) + 1}, and an input of size {input_size}, padded to {i + low + high}"
            )
        output_size.append(free // s + 1)
    return tuple(output_size)


def transposed_output_size(
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """`(i - 1)s - 2p + d(k - 1) + 1 + output_padding`: relationship 14 of the guide, inverted."""
    output_size = tuple(
        (i - 1) * s - 2 * p + d * (k - 1) + 1 + op
        for i, k, s, p, op, d in zip(
            input_size, kernel_size, stride, padding, output_padding, dilation, strict=True
        )
    )
    if any(isinstance(o, int) and o < 1 for o in output_size):
        raise ValueError(
            "`padding` must leave an output of at least 1 element, "
            f"got padding={padding}, which leaves an output of size {output_size}"
        )
    return output_size


def requested_output_size(
    output_size: Any,
    batch_shape: tuple[int, ...],
    channels_last: bool,
    input_size: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """The spatial part of `output_size`, if a transposed convolution can produce it.

    A strided convolution sends up to `s` input sizes to one output size, so its transpose may
    produce any of those `s` sizes.
    """
    n = len(input_size)
    sizes = _to_sizes(output_size)
    rank = len(batch_shape) + 1 + n
    if len(sizes) == rank:
        sizes = sizes[len(batch_shape) : -1] if channels_last else sizes[-n:]
    elif len(sizes) != n:
        raise ValueError(
            f"`output_size` must have {n} or {rank} elements for an input of rank {rank}, "
            f"got {sizes}"
        )
    smallest = tuple(
        (i - 1) * s - 2 * p + d * (k - 1) + 1
        for i, k, s, p, d in zip(input_size, kernel_size, stride, padding, dilation, strict=True)
    )
    largest = tuple(o + s - 1 for o, s in zip(smallest, stride, strict=True))
    if any(
        isinstance(low, int) and isinstance(o, int) and not max(low, 1) <= o <= high
        for low, o, high in zip(smallest, sizes, largest, strict=True)
    ):
        raise ValueError(
            f"`output_size` must be between {smallest} and {largest} (and at least 1) "
            f"for an input of size {input_size}, got {sizes}"
        )
    return sizes


def _to_sizes(output_size: Any) -> tuple[int, ...]:
    """`output_size` as a tuple; its entries may be symbolic."""
    try:
        sizes = None if isinstance(output_size, _TEXT_OR_UNORDERED) else tuple(output_size)
    except TypeError:
        sizes = None
    if sizes is None:
        raise TypeError(
            "`output_size` must be a tuple of the spatial sizes, or the full shape, "
            f"got {output_size!r}"
        )
    # Its scope tells a symbolic dimension from anything else that is no int.
    return tuple(
        size if hasattr(size, "scope") else to_int(size, f"output_size[{axis}]")
        for axis, size in enumerate(sizes)
    )


def conv_output_size(
    input_size: IntOrTuple,
    kernel_size: IntOrTuple,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
) -> tuple[int, ...]:
    """The spatial size of a convolution's output.

    Along each axis it is `(i + 2*padding - dilation*(k - 1) - 1) // stride + 1`
    (arXiv 1603.07285, relationship 6 and section 5.1).

    Args:
      input_size: spatial sizes of the input, without batch and channels; an int for one axis.
      kernel_size, stride, dilation: one int for all axes, or one per axis.
      padding: as `stride`, or "valid" or "same".

    Returns:
      One size per spatial axis.

    Raises:
      TypeError: if an argument is not made of ints.
      ValueError: if an argument is out of range or of a wrong length, or if the kernel is
        larger than the padded input.

    >>> conv_output_size((32, 20), 3, stride=2, padding=1)
    (16, 10)
    >>> conv_output_size(32, 3, padding="same")
    (32,)
    """
    i = to_input_size(input_size)
    n = len(i)
    k = to_tuple(kernel_size, n, "kernel_size", minimum=1)
    s = to_tuple(stride, n, "stride", minimum=1)
    d = to_tuple(dilation, n, "dilation", minimum=1)
    return window_output_size(i, k, s, pad_amounts(to_padding(padding, s, n), k, d), d)


def conv_transpose_output_size(
    input_size: IntOrTuple,
    kernel_size: IntOrTuple,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
) -> tuple[int, ...]:
    """The spatial size of a transposed convolution's output.

    Along each axis it is `(i - 1)*stride - 2*padding + dilation*(k - 1) + output_padding + 1`.

    Args:
      input_size: spatial sizes of the input, without batch and channels; an int for one axis.
      kernel_size, stride, padding, output_padding, dilation: one int for all axes, or one per
        axis.

    Returns:
      One size per spatial axis.

    Raises:
      TypeError: if an argument is not made of ints.
      ValueError: if an argument is out of range or of a wrong length, or if nothing is left
        of the output.

    >>> conv_transpose_output_size((16, 10), 3, stride=2, padding=1, output_padding=1)
    (32, 20)
    """
    i = to_input_size(input_size)
    n = len(i)
    k = to_tuple(kernel_size, n, "kernel_size", minimum=1)
    s = to_tuple(stride, n, "stride", minimum=1)
    p = to_tuple(padding, n, "padding", minimum=0)
    op = to_tuple(output_padding, n, "output_padding", minimum=0)
    d = to_tuple(dilation, n, "dilation", minimum=1)
    check_output_padding(op, s, d)
    return transposed_output_size(i, k, s, p, op, d)


def to_input_size(input_size: Any) -> tuple[int, ...]:
    """Spatial sizes; an int is that of a single axis."""
    sizes = to_ints(input_size, "input_size", minimum=1)
    if sizes is None:
        sizes = (to_int(input_size, "input_size", minimum=1),)
    return sizes


# The geometry of one convolution.


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What is fixed in the trilinear form that this library is built on:

        T(x, w, y) = sum over n, o, c, q, t of
                     y[n, o, q] * w[o, c, t] * x[n, c, q*stride + t*dilation - padding_low]

    with `q` in `output_size`, `t` in `kernel_size`, and `x` zero outside `input_size`.
    """

    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    output_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding_low: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    channels_last: bool = False

    def simplified(self) -> "Geometry":
        """The same form, with stride 1 where there is but one window, and dilation 1 where there is
        but one tap. So a stride is no longer than an image with its padding."""

        def ones(values, counts):
            pairs = zip(values, counts, strict=True)
            return tuple(1 if isinstance(n, int) and n == 1 else value for value, n in pairs)

        return dataclasses.replace(
            self,
            stride=ones(self.stride, self.output_size),
            dilation=ones(self.dilation, self.kernel_size),
        )

    def exchanged(self) -> "Geometry":
        """Of a form of stride 1, that with `x` and `y` in each other's place, and `w` reversed."""
        return dataclasses.replace(
            self,
            input_size=self.output_size,
            output_size=self.input_size,
            padding_low=tuple(
                reach - low for reach, low in zip(self.reach, self.padding_low, strict=True)
            ),
        )

    def is_pointwise(self, axis: int) -> bool:
        """Whether along an axis, an element of `y` meets just the element of `x` at its place.

        Sizes alone do not tell: padding may move `x`, and output_padding make up for its size.
        """
        return (
            self.kernel_size[axis] == 1
            and self.stride[axis] == 1
            and self.padding_low[axis] == 0
            and self.input_size[axis] == self.output_size[axis]
        )

    @property
    def num_spatial_dims(self) -> int:
        return len(self.kernel_size)

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """Where the spatial axes of `x` and `y` are."""
        first = 1 if self.channels_last else 2
        return tuple(range(first, first + self.num_spatial_dims))

    @property
    def channel_axis(self) -> int:
        """Where the channel axis of `x` and `y` is."""
        return 1 + self.num_spatial_dims if self.channels_last else 1

    @property
    def taps(self) -> int:
        return math.prod(self.kernel_size)

    @property
    def reach(self) -> tuple[int, ...]:
        """How far the last tap of a window lies from its first: `d(k - 1)`."""
        return tuple(d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True))

    @property
    def padding_high(self) -> tuple[int, ...]:
        """What the last window needs beyond the input's end; negative if it ends before that."""
        return tuple(
            (o - 1) * s + reach + 1 - i - low
            for i, o, s, low, reach in zip(
                self.input_size,
                self.output_size,
                self.stride,
                self.padding_low,
                self.reach,
                strict=True,
            )
        )
