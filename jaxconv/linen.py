"""torch's twelve convolution layers as Flax Linen modules."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxconv import layers

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
]


class _Conv(layers.Conv, nn.Module):
    def __post_init__(self) -> None:
        _set_arguments(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, input: jax.Array) -> jax.Array:
        return self._compute(input, *_weight_and_bias(self, input))


class _ConvTranspose(layers.ConvTranspose, nn.Module):
    def __post_init__(self) -> None:
        _set_arguments(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, input: jax.Array, output_size: Sequence[int] | None = None) -> jax.Array:
        return self._compute(input, *_weight_and_bias(self, input), output_size)


def _set_arguments(module: Any) -> None:
    """Check the fields and set them to the form in which torch shows them.

    Setting what is set already changes nothing, so `clone()`, which builds anew, is safe.
    """
    for name, value in module._checked_arguments().items():
        object.__setattr__(module, name, value)


def _weight_and_bias(module: Any, input: Any) -> tuple[Any, Any]:
    """The parameters; the bias is None if the layer has none."""
    inits = layers.parameters(module, _in_channels(module, input))
    weight = module.param("weight", *inits["weight"], module.param_dtype)
    bias = module.param("bias", *inits["bias"], module.param_dtype) if module.bias else None
    return weight, bias


def _in_channels(module: Any, input: Any) -> int:
    """`in_channels`; a lazy module's come from its weight, or from its first input."""
    if not module.lazy:
        return module.in_channels
    if module.has_variable("params", "weight"):
        return module._in_channels_of(nn.unbox(module.get_variable("params", "weight")))
    return layers.input_channels(module, jnp.shape(input))


class Conv2d(_Conv):
    """A convolution over two axes, as `torch.nn.Conv2d`.

    Input and output are `(N, C, H, W)` or `(C, H, W)`, or channels last; sizes are those of
    `jaxconv.conv2d`.

    Attributes:
      in_channels: channels of the input.
      out_channels: channels of the output.
      kernel_size: one int, or one per spatial axis, height first.
      stride: as `kernel_size`.
      padding: as `kernel_size`, applied to both sides; or "valid" or "same" (stride 1 only).
      dilation: as `kernel_size`.
      groups: number of independent channel groups; divides both channel counts.
      bias: whether to add a bias.
      padding_mode: "zeros", "reflect", "replicate" or "circular".
      dtype: dtype to compute in; None means the promoted type of input and parameters.
      param_dtype: dtype of the parameters (torch's `dtype`).
      precision: as in `jax.lax.conv_general_dilated`.
      data_format: "channels_first" or "channels_last", of input and output only.
      weight_init: initialiser of the weight; by default torch's U(-b, b),
        `b = 1/sqrt(fan_in)`, `fan_in = in_channels/groups * prod(kernel_size)`.
      bias_init: initialiser of the bias; None means torch's: the same U(-b, b).

    Raises:
      TypeError, ValueError: when the module is built, if the arguments do not fit each other; when
        it is called, if the input does not fit them.

    >>> module = Conv2d(3, 8, (3, 5), stride=2, padding=1)
    >>> x = jnp.ones((1, 3, 16, 16))
    >>> variables = module.init(jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, variables)
    {'params': {'bias': (8,), 'weight': (8, 3, 3, 5)}}
    >>> module.apply(variables, x).shape
    (1, 8, 8, 7)
    """

    num_spatial_dims = 2


class Conv1d(_Conv):
    """A convolution over one axis, as `torch.nn.Conv1d`. Arguments are as in `Conv2d`.

    Input and output are `(N, C, L)` or `(C, L)`, or channels last.

    >>> variables = Conv1d(4, 8, 3, groups=2).init(jax.random.key(0), jnp.ones((1, 4, 16)))
    >>> jax.tree.map(jnp.shape, variables)
    {'params': {'bias': (8,), 'weight': (8, 2, 3)}}
    """

    num_spatial_dims = 1


class Conv3d(_Conv):
    """A convolution over three axes, as `torch.nn.Conv3d`. Arguments are as in `Conv2d`.

    Input and output are `(N, C, D, H, W)` or `(C, D, H, W)`, or channels last.

    >>> module = Conv3d(2, 4, 3, bias=False)
    >>> jax.tree.map(jnp.shape, module.init(jax.random.key(0), jnp.ones((1, 2, 5, 5, 5))))
    {'params': {'weight': (4, 2, 3, 3, 3)}}
    """

    num_spatial_dims = 3


class ConvTranspose2d(_ConvTranspose):
    """A transposed convolution over two axes, as `torch.nn.ConvTranspose2d`.

    Input and output are `(N, C, H, W)` or `(C, H, W)`, or channels last; sizes are those of
    `jaxconv.conv_transpose2d`. Called as `module(input, output_size=None)`: `output_size` gives
    the spatial sizes, or the full shape, and overrides `output_padding`.

    Attributes:
      in_channels: channels of the input.
      out_channels: channels of the output.
      kernel_size: one int, or one per spatial axis, height first.
      stride: as `kernel_size`.
      padding: as `kernel_size`: what is cut off both sides of the output.
      output_padding: as `kernel_size`: how much longer than the least size the output is.
      groups: number of independent channel groups; divides both channel counts.
      bias: whether to add a bias.
      dilation: as `kernel_size`. It comes after `bias`, as in torch.
      padding_mode: "zeros", as in torch.
      dtype: dtype to compute in; None means the promoted type of input and parameters.
      param_dtype: dtype of the parameters (torch's `dtype`).
      precision: as in `jax.lax.conv_general_dilated`.
      data_format: "channels_first" or "channels_last", of input and output only.
      weight_init: initialiser of the weight; by default torch's U(-b, b),
        `b = 1/sqrt(fan_in)`, `fan_in = out_channels/groups * prod(kernel_size)`.
      bias_init: initialiser of the bias; None means torch's: the same U(-b, b).

    Raises:
      TypeError, ValueError: when the module is built, if the arguments do not fit each other; when
        it is called, if the input does not fit them.

    >>> module = ConvTranspose2d(8, 3, 3, stride=2, padding=1)
    >>> h = jnp.ones((1, 8, 5, 5))
    >>> variables = module.init(jax.random.key(0), h)
    >>> jax.tree.map(jnp.shape, variables)
    {'params': {'bias': (3,), 'weight': (8, 3, 3, 3)}}
    >>> module.apply(variables, h).shape
    (1, 3, 9, 9)
    >>> module.apply(variables, h, output_size=(10, 10)).shape
    (1, 3, 10, 10)
    """

    num_spatial_dims = 2


class ConvTranspose1d(_ConvTranspose):
    """A transposed convolution over one axis, as `torch.nn.ConvTranspose1d`.

    Input and output are `(N, C, L)` or `(C, L)`, or channels last. Arguments are as in
    `ConvTranspose2d`.

    >>> module = ConvTranspose1d(4, 6, 4, stride=2, groups=2)
    >>> jax.tree.map(jnp.shape, module.init(jax.random.key(0), jnp.ones((1, 4, 16))))
    {'params': {'bias': (6,), 'weight': (4, 3, 4)}}
    """

    num_spatial_dims = 1


class ConvTranspose3d(_ConvTranspose):
    """A transposed convolution over three axes, as `torch.nn.ConvTranspose3d`.

    Input and output are `(N, C, D, H, W)` or `(C, D, H, W)`, or channels last. Arguments are as in
    `ConvTranspose2d`.

    >>> module = ConvTranspose3d(2, 4, 2, stride=2)
    >>> jax.tree.map(jnp.shape, module.init(jax.random.key(0), jnp.ones((1, 2, 5, 5, 5))))
    {'params': {'bias': (4,), 'weight': (2, 4, 2, 2, 2)}}
    """

    num_spatial_dims = 3


class LazyConv2d(layers.Lazy, Conv2d):
    """A `Conv2d` whose `in_channels` come from the first input, through `init`.

    >>> module = LazyConv2d(8, 3)
    >>> jax.tree.map(jnp.shape, module.init(jax.random.key(0), jnp.ones((1, 5, 9, 9))))
    {'params': {'bias': (8,), 'weight': (8, 5, 3, 3)}}
    """


class LazyConv1d(layers.Lazy, Conv1d):
    """A `Conv1d` whose `in_channels` come from the first input, through `init`.

    >>> module = LazyConv1d(8, 3)
    >>> jax.tree.map(jnp.shape, module.init(jax.random.key(0), jnp.ones((1, 5, 9))))
    {'params': {'bias': (8,), 'weight': (8, 5, 3)}}
    """


class LazyConv3d(layers.Lazy, Conv3d):
    """A `Conv3d` whose `in_channels` come from the first input, through `init`.

    >>> module = LazyConv3d(8, 3)
    >>> jax.tree.map(jnp.shape, module.init(jax.random.key(0), jnp.ones((1, 5, 9, 9, 9))))
    {'params': {'bias': (8,), 'weight': (8, 5, 3, 3, 3)}}
    """


class LazyConvTranspose2d(layers.Lazy, ConvTranspose2d):
    """A `ConvTranspose2d` whose `in_channels` come from the first input, through `init`.

    >>> module = LazyConvTranspose2d(8, 3)
    >>> jax.tree.map(jnp.shape, module.init(jax.random.key(0), jnp.ones((1, 5, 9, 9))))
    {'params': {'bias': (8,), 'weight': (5, 8, 3, 3)}}
    """


class LazyConvTranspose1d(layers.Lazy, ConvTranspose1d):
    """A `ConvTranspose1d` whose `in_channels` come from the first input, through `init`.

    >>> module = LazyConvTranspose1d(8, 3)
    >>> jax.tree.map(jnp.shape, module.init(jax.random.key(0), jnp.ones((1, 5, 9))))
    {'params': {'bias': (8,), 'weight': (5, 8, 3)}}
    """


class LazyConvTranspose3d(layers.Lazy, ConvTranspose3d):
    """A `ConvTranspose3d` whose `in_channels` come from the first input, through `init`.

    >>> module = LazyConvTranspose3d(8, 3)
    >>> jax.tree.map(jnp.shape, module.init(jax.random.key(0), jnp.ones((1, 5, 4, 4, 4))))
    {'params': {'bias': (8,), 'weight': (5, 8, 3, 3, 3)}}
    """
