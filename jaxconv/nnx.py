"""torch's twelve convolution layers as Flax NNX modules.

They take the arguments of their namesakes in `jaxconv.linen`, and `rngs`, whose stream "params"
gives the keys of the initial parameters. `weight` and `bias` are `nnx.Param`; a layer without a
bias has None there. The other arguments are attributes, in the form in which torch shows them.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import TraceContextError

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


# Without `eq`: like all NNX modules they are compared by identity.


@nnx.dataclass(eq=False)
class _Conv(layers.Conv, nnx.Module):
    if TYPE_CHECKING:  # Parameters, once the module is made; None where there is none.
        bias: Any = True
        weight: Any = dataclasses.field(init=False)
    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]

    def __post_init__(self, rngs: nnx.Rngs) -> None:
        _set_up(self, rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        with jax.named_scope(type(self).__name__):
            return self._compute(input, *_weight_and_bias(self, input))


@nnx.dataclass(eq=False)
class _ConvTranspose(layers.ConvTranspose, nnx.Module):
    if TYPE_CHECKING:  # Parameters, once the module is made; None where there is none.
        bias: Any = True
        weight: Any = dataclasses.field(init=False)
    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]

    def __post_init__(self, rngs: nnx.Rngs) -> None:
        _set_up(self, rngs)

    def __call__(self, input: jax.Array, output_size: Sequence[int] | None = None) -> jax.Array:
        with jax.named_scope(type(self).__name__):
            return self._compute(input, *_weight_and_bias(self, input), output_size)


def _set_up(module: Any, rngs: nnx.Rngs) -> None:
    """Check the arguments, and make the parameters or keep the keys to make them later.

    A lazy module, too, draws its keys when it is built: so it and all that is built after it get
    the parameters that they would get if it were not lazy.
    """
    for name, value in module._checked_arguments().items():
        setattr(module, name, value)
    keys = {name: rngs.params() for name in (("weight", "bias") if module.bias else ("weight",))}
    module.weight = module.bias = nnx.data(None)
    if module.lazy:
        keys = {name: nnx.RngKey(key, tag="params") for name, key in keys.items()}
        module._keys = nnx.data(keys)
    else:
        _make_parameters(module, keys, module.in_channels)


def _make_parameters(module: Any, keys: dict[str, jax.Array], in_channels: int) -> None:
    inits = layers.parameters(module, in_channels)
    for name, key in keys.items():
        init, shape = inits[name]
        setattr(module, name, nnx.data(nnx.Param(init(key, shape, module.param_dtype))))


def _weight_and_bias(module: Any, input: Any) -> tuple[Any, Any]:
    """The parameters' values; the bias is None if the layer has none."""
    if hasattr(module, "_keys"):
        _take_first_input(module, input)
    return module.weight[...], None if module.bias is None else module.bias[...]


def _take_first_input(module: Any, input: Any) -> None:
    in_channels = layers.input_channels(module, jnp.shape(input))
    try:
        module.in_channels = in_channels
    except TraceContextError:
        raise ValueError(
            f"`input` must reach a {type(module).__name__} for the first time outside of a traced "
            "function, or in one that the module is an argument of (nnx.jit), got the first input "
            "where the new parameters would be lost"
        ) from None
    keys = {name: key[...] for name, key in module._keys.items()}
    _make_parameters(module, keys, in_channels)
    del module._keys


class Conv1d(_Conv):
    """A convolution over one axis, as `torch.nn.Conv1d`; arguments are as in `jaxconv.Conv2d`.

    Input and output are `(N, C, L)` or `(C, L)`, or channels last.

    >>> layer = Conv1d(4, 6, 3, groups=2, rngs=nnx.Rngs(0))
    >>> layer.weight.shape, layer.bias.shape
    ((6, 2, 3), (6,))
    >>> layer(jnp.ones((1, 4, 16))).shape
    (1, 6, 14)
    """

    num_spatial_dims = 1


class Conv2d(_Conv):
    """A convolution over two axes, as `torch.nn.Conv2d`; arguments are as in `jaxconv.Conv2d`.

    Input and output are `(N, C, H, W)` or `(C, H, W)`, or channels last.

    >>> layer = Conv2d(4, 6, 3, groups=2, rngs=nnx.Rngs(0))
    >>> layer.weight.shape, layer.bias.shape
    ((6, 2, 3, 3), (6,))
    >>> layer(jnp.ones((1, 4, 16, 16))).shape
    (1, 6, 14, 14)
    """

    num_spatial_dims = 2


class Conv3d(_Conv):
    """A convolution over three axes, as `torch.nn.Conv3d`; arguments are as in `jaxconv.Conv2d`.

    Input and output are `(N, C, D, H, W)` or `(C, D, H, W)`, or channels last.

    >>> layer = Conv3d(4, 6, 3, groups=2, rngs=nnx.Rngs(0))
    >>> layer.weight.shape, layer.bias.shape
    ((6, 2, 3, 3, 3), (6,))
    >>> layer(jnp.ones((1, 4, 5, 5, 5))).shape
    (1, 6, 3, 3, 3)
    """

    num_spatial_dims = 3


class ConvTranspose1d(_ConvTranspose):
    """A transposed convolution over one axis, as `torch.nn.ConvTranspose1d`.

    Arguments are as in `jaxconv.ConvTranspose2d`. Input and output are
    `(N, C, L)` or `(C, L)`, or channels last.

    >>> layer = ConvTranspose1d(4, 6, 3, stride=2, rngs=nnx.Rngs(0))
    >>> layer.weight.shape, layer.bias.shape
    ((4, 6, 3), (6,))
    >>> layer(jnp.ones((1, 4, 16)), output_size=(34,)).shape
    (1, 6, 34)
    """

    num_spatial_dims = 1


class ConvTranspose2d(_ConvTranspose):
    """A transposed convolution over two axes, as `torch.nn.ConvTranspose2d`.

    Arguments are as in `jaxconv.ConvTranspose2d`. Input and output are
    `(N, C, H, W)` or `(C, H, W)`, or channels last.

    >>> layer = ConvTranspose2d(4, 6, 3, stride=2, rngs=nnx.Rngs(0))
    >>> layer.weight.shape, layer.bias.shape
    ((4, 6, 3, 3), (6,))
    >>> layer(jnp.ones((1, 4, 16, 16)), output_size=(34, 34)).shape
    (1, 6, 34, 34)
    """

    num_spatial_dims = 2


class ConvTranspose3d(_ConvTranspose):
    """A transposed convolution over three axes, as `torch.nn.ConvTranspose3d`.

    Arguments are as in `jaxconv.ConvTranspose2d`. Input and output are
    `(N, C, D, H, W)` or `(C, D, H, W)`, or channels last.

    >>> layer = ConvTranspose3d(4, 6, 3, stride=2, rngs=nnx.Rngs(0))
    >>> layer.weight.shape, layer.bias.shape
    ((4, 6, 3, 3, 3), (6,))
    >>> layer(jnp.ones((1, 4, 5, 5, 5)), output_size=(12, 12, 12)).shape
    (1, 6, 12, 12, 12)
    """

    num_spatial_dims = 3


@nnx.dataclass(eq=False)
class LazyConv1d(layers.Lazy, Conv1d):
    """A `Conv1d` whose `in_channels` come from the first input.

    What `LazyConv2d` says of the first input holds here too.

    >>> layer = LazyConv1d(8, 3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 5, 9))).shape
    (1, 8, 7)
    >>> layer.in_channels, layer.weight.shape
    (5, (8, 5, 3))
    """


@nnx.dataclass(eq=False)
class LazyConv2d(layers.Lazy, Conv2d):
    """A `Conv2d` whose `in_channels` come from the first input.

    It has no parameters before, so give it its first input before an optimizer is made or a
    gradient taken. A later input with other channels is a ValueError.

    >>> layer = LazyConv2d(8, 3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 5, 9, 9))).shape
    (1, 8, 7, 7)
    >>> layer.in_channels, layer.weight.shape
    (5, (8, 5, 3, 3))
    """


@nnx.dataclass(eq=False)
class LazyConv3d(layers.Lazy, Conv3d):
    """A `Conv3d` whose `in_channels` come from the first input.

    What `LazyConv2d` says of the first input holds here too.

    >>> layer = LazyConv3d(8, 3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 5, 4, 4, 4))).shape
    (1, 8, 2, 2, 2)
    >>> layer.in_channels, layer.weight.shape
    (5, (8, 5, 3, 3, 3))
    """


@nnx.dataclass(eq=False)
class LazyConvTranspose1d(layers.Lazy, ConvTranspose1d):
    """A `ConvTranspose1d` whose `in_channels` come from the first input.

    What `LazyConv2d` says of the first input holds here too.

    >>> layer = LazyConvTranspose1d(8, 3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 5, 9))).shape
    (1, 8, 11)
    >>> layer.in_channels, layer.weight.shape
    (5, (5, 8, 3))
    """


@nnx.dataclass(eq=False)
class LazyConvTranspose2d(layers.Lazy, ConvTranspose2d):
    """A `ConvTranspose2d` whose `in_channels` come from the first input.

    What `LazyConv2d` says of the first input holds here too.

    >>> layer = LazyConvTranspose2d(8, 3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 5, 9, 9))).shape
    (1, 8, 11, 11)
    >>> layer.in_channels, layer.weight.shape
    (5, (5, 8, 3, 3))
    """


@nnx.dataclass(eq=False)
class LazyConvTranspose3d(layers.Lazy, ConvTranspose3d):
    """A `ConvTranspose3d` whose `in_channels` come from the first input.

    What `LazyConv2d` says of the first input holds here too.

    >>> layer = LazyConvTranspose3d(8, 3, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((1, 5, 4, 4, 4))).shape
    (1, 8, 6, 6, 6)
    >>> layer.in_channels, layer.weight.shape
    (5, (5, 8, 3, 3, 3))
    """
