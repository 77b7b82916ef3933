"""What the Linen and the NNX layers share: torch's arguments, and what follows from them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxconv import functional, init
from jaxconv.geometry import (
    IntOrTuple,
    Padding,
    check_data_format,
    check_groups,
    check_input_rank,
    check_output_padding,
    check_padding_mode,
    to_int,
    to_padding,
    to_tuple,
)

Initializer = Callable[..., Any]

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
CONV_TRANSPOSE = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


# The fields are the constructor, so their order is that of torch's arguments. It is another one
# in a transposed layer, so the two kinds cannot inherit it from a common base.


@dataclasses.dataclass(eq=False, repr=False)
class Conv:
    """A convolution layer, but for its parameters."""

    in_channels: int | None
    out_channels: int
    kernel_size: IntOrTuple
    stride: IntOrTuple = 1
    padding: Padding = 0
    dilation: IntOrTuple = 1
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"
    _: dataclasses.KW_ONLY
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    data_format: str = "channels_first"
    weight_init: Initializer = init.torch_weight
    bias_init: Initializer | None = None

    num_spatial_dims: ClassVar[int]
    lazy: ClassVar[bool] = False

    def _checked_arguments(self) -> dict[str, Any]:
        """The arguments, in the form in which torch shows them (`3` as `(3, 3)`)."""
        arguments = _common_arguments(self)
        stride, n = arguments["stride"], self.num_spatial_dims
        check_padding_mode(self.padding_mode)
        return arguments | {"padding": to_padding(self.padding, stride, n, self.padding_mode)}

    def _weight_shape(self: Any, in_channels: int) -> tuple[int, ...]:
        return (self.out_channels, in_channels // self.groups, *self.kernel_size)

    def _in_channels_of(self, weight: Any) -> int:
        return weight.shape[1] * self.groups

    def _compute(self, input: Any, weight: Any, bias: Any) -> jax.Array:
        return CONV[self.num_spatial_dims](
            *promote_dtype(input, weight, bias, dtype=self.dtype),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
            data_format=self.data_format,
            precision=self.precision,
        )


@dataclasses.dataclass(eq=False, repr=False)
class ConvTranspose:
    """A transposed convolution layer, but for its parameters; methods are as in `Conv`."""

    in_channels: int | None
    out_channels: int
    kernel_size: IntOrTuple
    stride: IntOrTuple = 1
    padding: IntOrTuple = 0
    output_padding: IntOrTuple = 0
    groups: int = 1
    bias: bool = True
    dilation: IntOrTuple = 1
    padding_mode: str = "zeros"
    _: dataclasses.KW_ONLY
    dtype: Any = None
    param_dtype: Any = jnp.float32
    precision: Any = None
    data_format: str = "channels_first"
    weight_init: Initializer = init.torch_weight
    bias_init: Initializer | None = None

    num_spatial_dims: ClassVar[int]
    lazy: ClassVar[bool] = False

    def _checked_arguments(self) -> dict[str, Any]:
        n = self.num_spatial_dims
        arguments = _common_arguments(self)
        padding = to_tuple(self.padding, n, "padding", minimum=0)
        output_padding = to_tuple(self.output_padding, n, "output_padding", minimum=0)
        check_output_padding(output_padding, arguments["stride"], arguments["dilation"])
        check_padding_mode(self.padding_mode, allowed=("zeros",))
        return arguments | {"padding": padding, "output_padding": output_padding}

    def _weight_shape(self: Any, in_channels: int) -> tuple[int, ...]:
        return (in_channels, self.out_channels // self.groups, *self.kernel_size)

    def _in_channels_of(self, weight: Any) -> int:
        return weight.shape[0]

    def _compute(
        self, input: Any, weight: Any, bias: Any, output_size: Sequence[int] | None
    ) -> jax.Array:
        return CONV_TRANSPOSE[self.num_spatial_dims](
            *promote_dtype(input, weight, bias, dtype=self.dtype),
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            groups=self.groups,
            dilation=self.dilation,
            output_size=output_size,
            data_format=self.data_format,
            precision=self.precision,
        )


@dataclasses.dataclass(eq=False, repr=False)
class Lazy:
    """Before a layer among a class's bases: `in_channels` is no argument but the first input's."""

    in_channels: int | None = dataclasses.field(default=None, init=False)

    lazy: ClassVar[bool] = True


Layer = Conv | ConvTranspose


def _common_arguments(layer: Layer) -> dict[str, Any]:
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
    if not layer.lazy:
        arguments["in_channels"] = to_int(layer.in_channels, "in_channels", minimum=0)
    check_groups(arguments["groups"], arguments.get("in_channels", 0), arguments["out_channels"])
    if not isinstance(layer.bias, bool):
        raise TypeError(f"`bias` must be a bool, got {layer.bias!r}")
    check_data_format(layer.data_format)
    _check_dtype(layer.param_dtype, "param_dtype")
    if layer.dtype is not None:
        _check_dtype(layer.dtype, "dtype")
    return arguments


def _check_dtype(dtype: Any, name: str) -> None:
    try:
        known = jnp.issubdtype(jnp.dtype(dtype), jnp.inexact)
    except TypeError:
        known = False
    if not known:
        raise TypeError(f"`{name}` must be a floating or complex dtype, got {dtype!r}")


def input_channels(layer: Layer, shape: tuple[int, ...]) -> int:
    """The channels of a lazy layer's first input, which has this shape."""
    n = layer.num_spatial_dims
    check_input_rank(shape, n)
    channels = shape[-1 if layer.data_format == "channels_last" else -n - 1]
    check_groups(layer.groups, channels, layer.out_channels)
    return channels


def parameters(layer: Layer, in_channels: int) -> dict[str, tuple[Initializer, tuple[int, ...]]]:
    """The initialiser and the shape of `weight` and of `bias`, for a layer that has both."""
    shape = layer._weight_shape(in_channels)
    bias_init = layer.bias_init or init.torch_bias(shape)
    return {"weight": (layer.weight_init, shape), "bias": (bias_init, (layer.out_channels,))}
