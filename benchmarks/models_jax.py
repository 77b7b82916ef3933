"""The networks of `architectures` in Flax Linen, and their training steps.

The convolutions are those of jaxconv or, for comparison, those of flax.linen itself.
"""

import functools
import itertools
import operator
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

import jaxconv
from benchmarks import architectures as a
from benchmarks.contestants import DTYPES

CONV = {1: jaxconv.Conv1d, 2: jaxconv.Conv2d, 3: jaxconv.Conv3d}
CONV_TRANSPOSE = {
    1: jaxconv.ConvTranspose1d,
    2: jaxconv.ConvTranspose2d,
    3: jaxconv.ConvTranspose3d,
}
ACTIVATIONS = {
    "relu": nn.relu,
    "leaky_relu": functools.partial(nn.leaky_relu, negative_slope=a.LEAK),
    "gelu": functools.partial(nn.gelu, approximate=False),
    "silu": nn.silu,
    "tanh": nn.tanh,
}


class Network(nn.Module):
    """`input` is of `data_format`; parameters of the i-th leaf are those of `layer{i:03}`."""

    layer: a.Layer
    num_spatial_dims: int
    library: str  # "jaxconv" or "linen", for the convolutions.
    data_format: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, input: jax.Array) -> jax.Array:
        names = (f"layer{i:03}" for i in itertools.count())
        return self._apply(self.layer, input, names)

    @property
    def channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def _apply(self, layer: a.Layer, x: jax.Array, names: Iterator[str]) -> jax.Array:
        apply = functools.partial(self._apply, names=names)
        match layer:
            case a.Conv():
                return self._conv(layer, next(names))(x)
            case a.Norm():
                return self._norm(layer, x, next(names))
            case a.Activation():
                return ACTIVATIONS[layer.name](x)
            case a.Gate():
                p, q = jnp.split(x, 2, self.channel_axis)
                return (nn.tanh(p) if layer.tanh else p) * nn.sigmoid(q)
            case a.MaxPool():
                return self._max_pool(layer, x)
            case a.Classifier():
                axes = [i for i in range(1, x.ndim) if i != self.channel_axis % x.ndim]
                return nn.Dense(layer.out_channels, **self._dtypes, name=next(names))(x.mean(axes))
            case a.Chain():
                return functools.reduce(lambda x, inner: apply(inner, x), layer.layers, x)
            case a.Sum():
                return functools.reduce(operator.add, [apply(b, x) for b in layer.branches])
            case a.Concat():
                return jnp.concatenate([apply(b, x) for b in layer.branches], self.channel_axis)
            case a.Skips():
                skips = []
                for block in layer.blocks:
                    residual, skip = jnp.split(apply(block, x), 2, self.channel_axis)
                    x = x + residual
                    skips.append(skip)
                return functools.reduce(operator.add, skips)
        raise TypeError(f"`layer` must be one of `architectures`, got {layer!r}")

    @property
    def _dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def _conv(self, c: a.Conv, name: str) -> nn.Module:
        n = self.num_spatial_dims
        if self.library == "jaxconv":
            return (CONV_TRANSPOSE if c.transposed else CONV)[n](
                c.in_channels, c.out_channels, c.kernel_size, c.stride, c.padding,
                dilation=c.dilation, groups=c.groups, bias=c.bias,
                data_format=self.data_format, **self._dtypes, name=name,
            )  # fmt: skip
        common: dict[str, Any] = {
            "features": c.out_channels, "kernel_size": (c.kernel_size,) * n,
            "strides": (c.stride,) * n, "kernel_dilation": (c.dilation,) * n,
            "use_bias": c.bias, **self._dtypes, "name": name,
        }  # fmt: skip
        if not c.transposed:
            padding = [(c.padding, c.padding)] * n
            return nn.Conv(**common, padding=padding, feature_group_count=c.groups)
        pad = c.dilation * (c.kernel_size - 1) - c.padding
        return nn.ConvTranspose(**common, padding=[(pad, pad)] * n)

    def _norm(self, norm: a.Norm, x: jax.Array, name: str) -> jax.Array:
        common: dict[str, Any] = {"epsilon": a.EPSILON, **self._dtypes, "name": name}
        axis = self.channel_axis
        if norm.kind == "batch":
            return nn.BatchNorm(use_running_average=False, axis=axis, momentum=0.9, **common)(x)
        if norm.kind == "layer":
            return nn.LayerNorm(reduction_axes=axis, feature_axes=axis, **common)(x)
        # Flax's knows no axis but the last.
        x = nn.GroupNorm(a.GROUPS, **common)(jnp.moveaxis(x, axis, -1))
        return jnp.moveaxis(x, -1, axis)

    def _max_pool(self, pool: a.MaxPool, x: jax.Array) -> jax.Array:
        def window(inside: Any, outside: Any) -> list:
            sizes = [outside] + [inside] * self.num_spatial_dims
            sizes.insert(self.channel_axis % x.ndim, outside)
            return sizes

        return lax.reduce_window(
            x, -jnp.inf, lax.max, window(pool.kernel_size, 1), window(pool.stride, 1),
            window((pool.padding, pool.padding), (0, 0)),
        )  # fmt: skip


class Training:
    """A call is one step of Adam, and returns the loss before it and the state after it.

    Parameters are float32 (float64 for that dtype); every layer brings them to the dtype that it
    computes in, and norms take their means in float32 or wider.
    """

    def __init__(
        self, model: a.Model, x: np.ndarray, target: np.ndarray, *,
        dtype: str, library: str = "jaxconv", data_format: str = "channels_last",
        compiler_options: dict[str, Any] | None = None,
    ):  # fmt: skip
        self.model, self.library, self.data_format = model, library, data_format
        compute = DTYPES[dtype]
        self.dtype = jnp.promote_types(compute, jnp.float32)
        self.network = Network(
            model.network, model.num_spatial_dims, library, data_format, compute, self.dtype
        )
        self.optimizer = optax.adam(a.LEARNING_RATE)
        if data_format == "channels_last":
            x = np.moveaxis(x, 1, -1)
            target = np.moveaxis(target, 1, -1) if target.ndim == x.ndim else target
        # A test's float64 is JAX's only with `jax_enable_x64`.
        self.batch = jnp.asarray(x, compute), jnp.asarray(target)
        self.shapes = jax.eval_shape(self.network.init, jax.random.key(0), self.batch[0])
        self._step: Any = jax.jit(self._update, donate_argnums=0, compiler_options=compiler_options)

    def _loss(self, params, statistics, x, target):
        outputs, changed = self.network.apply(
            {"params": params, "batch_stats": statistics}, x, mutable=["batch_stats"]
        )
        outputs = outputs.astype(self.dtype)
        if self.model.loss == "cross_entropy":
            loss = optax.softmax_cross_entropy_with_integer_labels(
                outputs, target, axis=self.network.channel_axis
            ).mean()
        else:
            loss = jnp.square(outputs - target).mean()
        return loss, changed.get("batch_stats", {})

    def _update(self, state, x, target):
        params, statistics, memory = state
        (loss, statistics), gradients = jax.value_and_grad(self._loss, has_aux=True)(
            params, statistics, x, target
        )
        updates, memory = self.optimizer.update(gradients, memory, params)
        return loss, (optax.apply_updates(params, updates), statistics, memory)

    def compile(self) -> None:
        """Only shapes are needed, so this may go on in a thread while others compile too."""
        state = jax.eval_shape(self._state, self.shapes["params"])
        self._step = self._step.lower(state, *self.batch).compile()

    def _state(self, params):
        statistics = {
            name: {
                "mean": jnp.zeros(leaf["mean"].shape, self.dtype),
                "var": jnp.ones(leaf["var"].shape, self.dtype),
            }
            for name, leaf in self.shapes.get("batch_stats", {}).items()
        }
        return params, statistics, self.optimizer.init(params)

    def start(self, weights: list[dict[str, np.ndarray]]) -> None:
        """Take the weights that `models_torch.weights` gives."""
        leaves = a.leaves(self.model.network)
        params = {
            f"layer{i:03}": {
                name: jnp.array(value, self.dtype)
                for name, value in _flax_names(leaf, own, self.library).items()
            }
            for i, (leaf, own) in enumerate(zip(leaves, weights, strict=True))
        }
        if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, self.shapes["params"]):
            raise ValueError(f"the weights of {self.model.name} are not those of torch")
        self.state = self._state(params)

    def __call__(self) -> tuple:
        loss, self.state = self._step(self.state, *self.batch)
        return loss, self.state


def _flax_names(leaf: a.Layer, own: dict[str, np.ndarray], library: str) -> dict[str, np.ndarray]:
    """The parameters of one layer of torch, as Flax names and lays them out."""
    if isinstance(leaf, a.Conv) and library == "jaxconv":
        return own
    others = dict(own)
    weight = others.pop("weight")
    if isinstance(leaf, a.Norm):
        return {"scale": weight, **others}
    if isinstance(leaf, a.Classifier):
        return {"kernel": weight.T, **others}
    if isinstance(leaf, a.Conv) and leaf.transposed:
        flipped = np.flip(weight, tuple(range(2, weight.ndim)))
        return {"kernel": np.moveaxis(flipped, (0, 1), (-2, -1)), **others}
    return {"kernel": np.moveaxis(weight, (0, 1), (-1, -2)), **others}
