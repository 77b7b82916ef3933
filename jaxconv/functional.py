"""Convolutions as functions, with the signatures of `torch.nn.functional`.

Here arguments are checked, inputs are padded and biases added; the numbers are made in
`jaxconv.contractions`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv import contractions
from jaxconv.geometry import (
    Geometry,
    IntOrTuple,
    Padding,
    check_data_format,
    check_groups,
    check_input_rank,
    check_output_padding,
    check_padding_mode,
    conv_output_size,
    conv_transpose_output_size,
    pad_amounts,
    requested_output_size,
    to_int,
    to_padding,
    to_tuple,
    transposed_output_size,
    window_output_size,
)
from jaxconv.padding import Array, check_not_empty, pad, pad_axes, to_array
from jaxconv.sharding import by_sharding

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_output_size",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "conv_transpose_output_size",
    "pad",
]


def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Slide `weight` over the two spatial axes of `input`, as `torch.nn.functional.conv2d`.

    Args:
      input: `(N, C_in, H, W)`, or `(C_in, H, W)` without a batch; floating or complex.
      weight: `(C_out, C_in/groups, kH, kW)`, of the same dtype, for either `data_format`.
      bias: `(C_out,)`, of the same dtype, or None.
      stride, dilation: one int, or one per spatial axis, height first.
      padding: as `stride`, applied to both sides; or "valid" (none) or "same" (stride 1 only; an
        odd total puts the extra element at the end).
      groups: number of independent channel groups; divides `C_in` and `C_out`.
      padding_mode: what padding holds: "zeros"; "reflect" (`1234` is padded to `32 1234 32`);
        "replicate" (`11 1234 44`); "circular" (`34 1234 12`).
      data_format: "channels_first", or "channels_last" for `(N, H, W, C)` or `(H, W, C)` in
        input and output.
      precision: as in `jax.lax.conv_general_dilated`.
      preferred_element_type: dtype of the output; by default that of the input.

    Returns:
      `(N, C_out, H_out, W_out)`, where
      `H_out = (H + 2*padding - dilation*(kH - 1) - 1) // stride + 1`
      (arXiv 1603.07285, relationship 6 and section 5.1).

    Raises:
      TypeError: if the arrays differ in dtype or hold integers, or an argument is of a wrong type.
      ValueError: if shapes or arguments do not fit. torch raises RuntimeError for most of these.

    >>> conv2d(jnp.ones((1, 3, 8, 9)), jnp.ones((4, 3, 3, 3)), stride=2, padding=1).shape
    (1, 4, 4, 5)
    """
    return _conv(
        2, input, weight, bias, stride, padding, dilation, groups, padding_mode, data_format,
        precision, preferred_element_type,
    )  # fmt: skip


def conv1d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Slide `weight` over the last axis of `input`, as `torch.nn.functional.conv1d`.

    `input` is `(N, C_in, L)` or `(C_in, L)`, `weight` is `(C_out, C_in/groups, k)`. Arguments are
    as in `conv2d`.

    >>> conv1d(jnp.ones((1, 3, 8)), jnp.ones((4, 3, 3)), dilation=2).shape
    (1, 4, 4)
    """
    return _conv(
        1, input, weight, bias, stride, padding, dilation, groups, padding_mode, data_format,
        precision, preferred_element_type,
    )  # fmt: skip


def conv3d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Slide `weight` over the last three axes of `input`, as `torch.nn.functional.conv3d`.

    `input` is `(N, C_in, D, H, W)` or `(C_in, D, H, W)`, `weight` is
    `(C_out, C_in/groups, kD, kH, kW)`. Arguments are as in `conv2d`.

    >>> conv3d(jnp.ones((1, 3, 4, 8, 8)), jnp.ones((4, 3, 1, 3, 3)), padding="same").shape
    (1, 4, 4, 8, 8)
    """
    return _conv(
        3, input, weight, bias, stride, padding, dilation, groups, padding_mode, data_format,
        precision, preferred_element_type,
    )  # fmt: skip


def conv_transpose2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    output_size: Sequence[int] | None = None,
    data_format: str = "channels_first",
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """The transpose of a convolution, as `torch.nn.functional.conv_transpose2d`.

    It is the linear map whose matrix is the transpose of that of `conv2d` with the same `weight`,
    stride, padding, dilation and groups: what that convolution's gradient applies.

    Args:
      input: `(N, C_in, H, W)`, or `(C_in, H, W)` without a batch; floating or complex.
      weight: `(C_in, C_out/groups, kH, kW)`, of the same dtype, for either `data_format`. It is the
        weight of the convolution from `C_out` to `C_in` channels that is transposed.
      bias: `(C_out,)`, of the same dtype, or None.
      stride, dilation: one int, or one per spatial axis, height first.
      padding: as `stride`: what the transposed convolution padded by, so it is cut off here.
      output_padding: as `stride`: how much longer than the least size the output is; smaller than
        stride or dilation.
      groups: number of independent channel groups; divides `C_in` and `C_out`.
      output_size: the output's spatial sizes, or its full shape, in which only the spatial entries
        count; overrides `output_padding`. From the least size up to `stride - 1` more.
      data_format: "channels_first", or "channels_last" for `(N, H, W, C)` or `(H, W, C)` in
        input and output.
      precision: as in `jax.lax.conv_general_dilated`.
      preferred_element_type: dtype of the output; by default that of the input.

    Returns:
      `(N, C_out, H_out, W_out)`, where
      `H_out = (H - 1)*stride - 2*padding + dilation*(kH - 1) + output_padding + 1`
      (arXiv 1603.07285, relationship 14).

    Raises:
      TypeError: if the arrays differ in dtype or hold integers, or an argument is of a wrong type.
      ValueError: if shapes or arguments do not fit. torch raises RuntimeError for most of these.

    >>> x, w = jnp.ones((1, 4, 5, 5)), jnp.ones((4, 3, 3, 3))
    >>> conv_transpose2d(x, w, stride=2, padding=1).shape
    (1, 3, 9, 9)
    >>> conv_transpose2d(x, w, stride=2, padding=1, output_size=(10, 9)).shape
    (1, 3, 10, 9)
    """
    return _conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation, output_size,
        data_format, precision, preferred_element_type,
    )  # fmt: skip


def conv_transpose1d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    output_size: Sequence[int] | None = None,
    data_format: str = "channels_first",
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """The transpose of a convolution, as `torch.nn.functional.conv_transpose1d`.

    `input` is `(N, C_in, L)` or `(C_in, L)`, `weight` is `(C_in, C_out/groups, k)`. Arguments are
    as in `conv_transpose2d`.

    >>> conv_transpose1d(jnp.ones((1, 4, 5)), jnp.ones((4, 3, 16)), stride=8, padding=4).shape
    (1, 3, 40)
    """
    return _conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation, output_size,
        data_format, precision, preferred_element_type,
    )  # fmt: skip


def conv_transpose3d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: IntOrTuple = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    *,
    output_size: Sequence[int] | None = None,
    data_format: str = "channels_first",
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """The transpose of a convolution, as `torch.nn.functional.conv_transpose3d`.

    `input` is `(N, C_in, D, H, W)` or `(C_in, D, H, W)`, `weight` is
    `(C_in, C_out/groups, kD, kH, kW)`. Arguments are as in `conv_transpose2d`.

    >>> conv_transpose3d(jnp.ones((1, 4, 2, 3, 4)), jnp.ones((4, 3, 2, 2, 2)), stride=2).shape
    (1, 3, 4, 6, 8)
    """
    return _conv_transpose(
        3, input, weight, bias, stride, padding, output_padding, groups, dilation, output_size,
        data_format, precision, preferred_element_type,
    )  # fmt: skip


def _conv(
    n, input, weight, bias, stride, padding, dilation, groups, padding_mode, data_format,
    precision, preferred_element_type,
) -> jax.Array:  # fmt: skip
    """The convolution over `n` spatial axes."""
    s = to_tuple(stride, n, "stride", minimum=1)
    check_padding_mode(padding_mode)
    p = to_padding(padding, s, n, padding_mode)
    d = to_tuple(dilation, n, "dilation", minimum=1)
    groups = to_int(groups, "groups", minimum=1)
    check_data_format(data_format)
    input, weight, bias = _to_arrays(n, input, weight, bias)
    channels_last = data_format == "channels_last"
    x, batch_shape = _to_batched(input, n)
    in_channels, input_size = _split_shape(x, channels_last)
    out_channels, in_per_group, *kernel_size = weight.shape
    k = _to_kernel_size(kernel_size)
    _check_out_channels(out_channels, groups, weight)
    check_groups(groups, in_channels, out_channels)
    if in_channels != in_per_group * groups:
        raise ValueError(
            f"`input` must have {in_per_group * groups} channels for a weight of shape "
            f"{weight.shape} with groups={groups}, got {in_channels} in shape {input.shape}"
        )
    _check_bias(bias, out_channels)

    pads = pad_amounts(p, k, d)
    output_size = window_output_size(input_size, k, s, pads, d)
    _check_has_pixels(x, in_channels, input_size)
    zeros = padding_mode == "zeros"
    if not zeros:
        check_not_empty(x.shape[1:], padding_mode)
        input_size = tuple(i + low + high for i, (low, high) in zip(input_size, pads, strict=True))
    geometry = Geometry(
        input_size=input_size,
        kernel_size=k,
        output_size=output_size,
        stride=s,
        padding_low=tuple(low for low, _ in pads) if zeros else (0,) * n,
        dilation=d,
        groups=groups,
        channels_last=channels_last,
    )

    def compute(x, weight, bias, geometry):
        x = x if zeros else pad_axes(x, geometry.spatial_axes, pads, padding_mode)
        if in_channels == 0:
            # torch gives an output without channels, whatever the weight says.
            shape = _join_shape(x.shape[0], 0, geometry.output_size, channels_last)
            return jnp.zeros(shape, preferred_element_type or x.dtype)
        return contractions.conv(
            x, weight, geometry, bias, precision=precision,
            preferred_element_type=preferred_element_type,
        )  # fmt: skip

    y = by_sharding(compute, x, weight, bias, geometry, exchange_halos=zeros)
    return _unbatched(y, batch_shape)


def _conv_transpose(
    n, input, weight, bias, stride, padding, output_padding, groups, dilation, output_size,
    data_format, precision, preferred_element_type,
) -> jax.Array:  # fmt: skip
    """The transposed convolution over `n` spatial axes.

    It is `conv_input`: what is called input here is the y of the form, and the output is its x.
    """
    s = to_tuple(stride, n, "stride", minimum=1)
    p = to_tuple(padding, n, "padding", minimum=0)
    op = to_tuple(output_padding, n, "output_padding", minimum=0)
    d = to_tuple(dilation, n, "dilation", minimum=1)
    groups = to_int(groups, "groups", minimum=1)
    check_data_format(data_format)
    input, weight, bias = _to_arrays(n, input, weight, bias)
    channels_last = data_format == "channels_last"
    y, batch_shape = _to_batched(input, n)
    in_channels, input_size = _split_shape(y, channels_last)
    weight_in, out_per_group, *kernel_size = weight.shape
    k = _to_kernel_size(kernel_size)
    out_channels = out_per_group * groups
    _check_out_channels(weight_in, groups, weight)
    _check_out_channels(out_per_group, 1, weight)
    check_groups(groups, in_channels, out_channels)
    if in_channels != weight_in:
        raise ValueError(
            f"`input` must have {weight_in} channels for a weight of shape {weight.shape}, "
            f"got {in_channels} in shape {input.shape}"
        )
    _check_bias(bias, out_channels)
    _check_has_pixels(y, in_channels, input_size)

    if output_size is None:
        check_output_padding(op, s, d)
        size = transposed_output_size(input_size, k, s, p, op, d)
    else:
        size = requested_output_size(
            output_size, batch_shape, channels_last, input_size, k, s, p, d
        )
    geometry = Geometry(
        input_size=size,
        kernel_size=k,
        output_size=input_size,
        stride=s,
        padding_low=p,
        dilation=d,
        groups=groups,
        channels_last=channels_last,
    )

    def compute(y, weight, bias, geometry):
        if _known_empty(geometry.output_size):
            # Of an empty batch, or no channels: the output may have elements, and none has a sum.
            channels = weight.shape[1] * geometry.groups
            shape = _join_shape(y.shape[0], channels, geometry.input_size, channels_last)
            x = jnp.zeros(shape, preferred_element_type or y.dtype)
            return contractions.add_bias(x, bias, geometry)
        return contractions.conv_input(
            y, weight, geometry, bias, precision=precision,
            preferred_element_type=preferred_element_type,
        )  # fmt: skip

    x = by_sharding(compute, y, weight, bias, geometry, transposed=True)
    return _unbatched(x, batch_shape)


# Checks.


def _to_arrays(
    n: int, input: Any, weight: Any, bias: Any
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The three as arrays of one floating or complex dtype; input and weight of the right rank."""
    arrays = {"input": input, "weight": weight} | ({} if bias is None else {"bias": bias})
    for name, value in arrays.items():
        arrays[name] = to_array(value, name)
        if not jnp.issubdtype(arrays[name].dtype, jnp.inexact):
            raise TypeError(f"`{name}` must be floating or complex, got {arrays[name].dtype}")
    dtypes = {name: str(value.dtype) for name, value in arrays.items()}
    if len(set(dtypes.values())) > 1:
        found = ", ".join(f"{name}: {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"`input`, `weight` and `bias` must have one dtype, got {found}")
    check_input_rank(arrays["input"].shape, n)
    if arrays["weight"].ndim != n + 2:
        raise ValueError(f"`weight` must have rank {n + 2}, got shape {arrays['weight'].shape}")
    return arrays["input"], arrays["weight"], arrays.get("bias")


def _to_kernel_size(kernel_size: Sequence[int]) -> tuple[int, ...]:
    if any(k < 1 for k in kernel_size):
        raise ValueError(f"`weight` must have a kernel of at least 1, got {tuple(kernel_size)}")
    return tuple(kernel_size)


def _check_out_channels(channels: int, groups: int, weight: jax.Array) -> None:
    if channels < groups:
        raise ValueError(
            f"`weight` must have at least one channel per group, got shape {weight.shape} "
            f"with groups={groups}"
        )


def _check_bias(bias: jax.Array | None, out_channels: int) -> None:
    if bias is not None and bias.shape != (out_channels,):
        raise ValueError(f"`bias` must have shape ({out_channels},), got {bias.shape}")


def _check_has_pixels(x: jax.Array, channels: int, spatial_size: tuple[int, ...]) -> None:
    """An image must have pixels, unless the batch is empty or there are no channels."""
    if channels and _known_empty(spatial_size) and not _known_empty(x.shape[:1]):
        raise ValueError(f"`input` must have spatial sizes of at least 1, got {spatial_size}")


def _known_empty(sizes: Sequence[int]) -> bool:
    return any(isinstance(size, int) and size == 0 for size in sizes)


# Layout.


def _to_batched(input: jax.Array, n: int) -> tuple[jax.Array, tuple[int, ...]]:
    """`input` with a batch axis, and its batch shape: `(N,)`, or `()` if it had none."""
    if input.ndim == n + 1:
        return input[None], ()
    return input, input.shape[:1]


def _unbatched(output: jax.Array, batch_shape: tuple[int, ...]) -> jax.Array:
    return output if batch_shape else output.reshape(output.shape[1:])


def _split_shape(x: jax.Array, channels_last: bool) -> tuple[int, tuple[int, ...]]:
    """Channels and spatial sizes."""
    _, *shape = x.shape
    channels = shape.pop(-1 if channels_last else 0)
    return channels, tuple(shape)


def _join_shape(
    batch: int, channels: int, size: tuple[int, ...], channels_last: bool
) -> tuple[int, ...]:
    return (batch, *size, channels) if channels_last else (batch, channels, *size)
