"""What the Linen and the NNX layers share: how arguments are read, and the shapes of weights."""

from typing import Any

from jaxconv import functional
from jaxconv.geometry import (
    check_data_format,
    check_groups,
    check_output_padding,
    check_padding_mode,
    to_int,
    to_padding,
    to_tuple,
)

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
CONV_TRANSPOSE = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def conv_arguments(layer: Any, *, lazy: bool) -> dict[str, Any]:
    """The arguments of a convolution layer, checked, in the form in which torch shows them."""
    n = layer.num_spatial_dims
    arguments = _common_arguments(layer, lazy)
    stride = arguments["stride"]
    arguments["padding"] = to_padding(layer.padding, stride, n)
    check_padding_mode(layer.padding_mode)
    return arguments


def conv_transpose_arguments(layer: Any, *, lazy: bool) -> dict[str, Any]:
    """The arguments of a transposed convolution layer, as those of `conv_arguments`."""
    n = layer.num_spatial_dims
    arguments = _common_arguments(layer, lazy)
    arguments["padding"] = to_tuple(layer.padding, n, "padding", minimum=0)
    output_padding = to_tuple(layer.output_padding, n, "output_padding", minimum=0)
    check_output_padding(output_padding, arguments["stride"], arguments["dilation"])
    arguments["output_padding"] = output_padding
    check_padding_mode(layer.padding_mode, allowed=("zeros",))
    return arguments


def _common_arguments(layer: Any, lazy: bool) -> dict[str, Any]:
    n = layer.num_spatial_dims
    arguments: dict[str, Any] = {
        "out_channels": to_int(layer.out_channels, "out_channels", minimum=0),
        "kernel_size": to_tuple(
            layer.kernel_size, n, "kernel_size", minimum=1, repeat_single=False
        ),
        "stride": to_tuple(layer.stride, n, "stride", minimum=1),
        "dilation": to_tuple(layer.dilation, n, "dilation", minimum=1),
        "groups": to_int(layer.groups, "groups", minimum=1),
    }
    if not lazy:
        arguments["in_channels"] = to_int(layer.in_channels, "in_channels", minimum=0)
    check_groups(arguments["groups"], arguments.get("in_channels", 0), arguments["out_channels"])
    if not isinstance(layer.bias, bool):
        raise TypeError(f"`bias` must be a bool, got {layer.bias!r}")
    check_data_format(layer.data_format)
    return arguments


def input_channels(layer: Any, input: Any) -> int:
    """The channels of a lazy layer's first input."""
    n = layer.num_spatial_dims
    if input.ndim not in (n + 1, n + 2):
        raise ValueError(
            f"`input` must have rank {n + 1} (unbatched) or {n + 2} (batched), "
            f"got shape {input.shape}"
        )
    channels = input.shape[-1 if layer.data_format == "channels_last" else -n - 1]
    check_groups(layer.groups, channels, layer.out_channels)
    return channels


def conv_weight_shape(layer: Any, in_channels: int) -> tuple[int, ...]:
    return (layer.out_channels, in_channels // layer.groups, *layer.kernel_size)


def conv_transpose_weight_shape(layer: Any, in_channels: int) -> tuple[int, ...]:
    return (in_channels, layer.out_channels // layer.groups, *layer.kernel_size)


def apply_conv(layer: Any, input: Any, weight: Any, bias: Any) -> Any:
    return CONV[layer.num_spatial_dims](
        input,
        weight,
        bias,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        padding_mode=layer.padding_mode,
        data_format=layer.data_format,
        precision=layer.precision,
    )


def apply_conv_transpose(layer: Any, input: Any, weight: Any, bias: Any, output_size: Any) -> Any:
    return CONV_TRANSPOSE[layer.num_spatial_dims](
        input,
        weight,
        bias,
        stride=layer.stride,
        padding=layer.padding,
        output_padding=layer.output_padding,
        groups=layer.groups,
        dilation=layer.dilation,
        output_size=output_size,
        data_format=layer.data_format,
        precision=layer.precision,
    )
