"""The same layer in jaxconv, plain lax, flax.linen, Equinox and torch: forward and gradients.

A contestant is a pair of functions without arguments, (forward, forward and backward), ready to be
timed; each returns what must be waited for. `f+b` returns the output and all three gradients for a
random cotangent: without the output, XLA would drop the forward pass and flatter JAX.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxconv
from benchmarks.timing import reason
from benchmarks.workloads import Workload

Pair = tuple[Callable[[], Any], Callable[[], Any]]
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


class Jitted:
    """A function of JAX with its arguments, compiled by `compile` or else by the first call."""

    def __init__(self, function: Callable, *arguments: Any):
        self.arguments = arguments
        self._function: Any = jax.jit(function)

    def compile(self) -> jax.stages.Compiled:
        self._function = compiled = self._function.lower(*self.arguments).compile()
        return compiled

    def __call__(self) -> Any:
        return self._function(*self.arguments)


def compile_together(jobs: Mapping[Any, Any]) -> dict[Any, str]:
    """Call `compile()` of all, in as many threads as there are cores; the failures, by key.

    XLA holds neither Python's lock nor more than one core, mostly. For a GPU they are compiled one
    by one: XLA times what it could call, and beside other compilations chooses badly at times.
    """

    def failure(job: Any) -> str | None:
        try:
            job.compile()
        except Exception as error:
            return reason(error)
        return None

    threads = 1 if jax.default_backend() == "gpu" else os.cpu_count()
    with ThreadPoolExecutor(threads) as pool:
        failures = zip(jobs, pool.map(failure, jobs.values()), strict=True)
        return {key: text for key, text in failures if text is not None}


def arrays(workload: Workload, batch: int) -> tuple[np.ndarray, ...]:
    """Input, weight and bias, channels first, float32."""
    rng = np.random.default_rng(0)
    shapes = ((batch, *workload.input), workload.weight, (workload.out_channels,))
    fan_in = np.prod(workload.weight[1:])
    scales = (1, 1 / np.sqrt(fan_in), 1)
    return tuple(
        (rng.normal(size=shape) * scale).astype(np.float32)
        for shape, scale in zip(shapes, scales, strict=True)
    )


def _jax_pair(layer: Callable, operands: tuple[jax.Array, ...]) -> Pair:
    def backward(cotangent, *operands):
        output, vjp = jax.vjp(layer, *operands)
        return output, vjp(cotangent)

    shape = jax.eval_shape(layer, *operands)
    cotangent = jax.random.normal(jax.random.key(1), shape.shape, jnp.float32)
    return Jitted(layer, *operands), Jitted(backward, cotangent.astype(shape.dtype), *operands)


def _operands(workload: Workload, batch: int, dtype: str, channels_last: bool) -> tuple:
    x, w, b = arrays(workload, batch)
    if channels_last:
        x = np.moveaxis(x, 1, -1)
    return tuple(jnp.asarray(a).astype(DTYPES[dtype]) for a in (x, w, b))


def jaxconv_pair(workload: Workload, batch: int, dtype: str, data_format: str) -> Pair:
    function = getattr(jaxconv, workload.function)

    def layer(x, w, b):
        return function(x, w, b, **workload.kwargs, data_format=data_format)

    return _jax_pair(
        layer, _operands(workload, batch, dtype, channels_last=data_format == "channels_last")
    )


def spread(workload: Workload, name: str, default: int) -> tuple[int, ...]:
    value = workload.kwargs.get(name, default)
    return (value,) * workload.num_spatial_dims if isinstance(value, int) else tuple(value)


def _transposed_pads(workload: Workload) -> list[tuple[int, int]]:
    """Padding of the convolution of stride 1 over the dilated input."""
    return [
        (d * (k - 1) - p, d * (k - 1) - p + op)
        for k, d, p, op in zip(
            workload.weight[2:],
            spread(workload, "dilation", 1),
            spread(workload, "padding", 0),
            spread(workload, "output_padding", 0),
            strict=True,
        )
    ]


def lax_pair(workload: Workload, batch: int, dtype: str) -> Pair:
    """Channels last, and the kernel in lax's favourite layout: (*k, in, out)."""
    n = workload.num_spatial_dims
    x, w, b = _operands(workload, batch, dtype, channels_last=True)
    spatial = "DHW"[-n:]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    stride, dilation = spread(workload, "stride", 1), spread(workload, "dilation", 1)
    groups = workload.groups
    if workload.transposed:
        i, o, *k = w.shape
        w = jnp.flip(w, range(2, n + 2)).reshape(groups, i // groups, o, *k)
        w = jnp.moveaxis(w, 0, 1).reshape(i // groups, groups * o, *k)
        w = jnp.moveaxis(w, (0, 1), (-2, -1))

        def layer(x, w, b):
            return b + lax.conv_general_dilated(
                x, w, (1,) * n, _transposed_pads(workload), lhs_dilation=stride,
                rhs_dilation=dilation, dimension_numbers=numbers, feature_group_count=groups,
            )  # fmt: skip

    else:
        w = jnp.moveaxis(w, (0, 1), (-1, -2))
        pads = [(p, p) for p in spread(workload, "padding", 0)]

        def layer(x, w, b):
            return b + lax.conv_general_dilated(
                x, w, stride, pads, rhs_dilation=dilation, dimension_numbers=numbers,
                feature_group_count=groups,
            )  # fmt: skip

    return _jax_pair(layer, (x, w, b))


def linen_pair(workload: Workload, batch: int, dtype: str) -> Pair | None:
    """flax.linen, which has no groups on transposed convolutions."""
    from flax import linen as nn

    if workload.transposed and workload.groups > 1:
        return None
    x, _, _ = _operands(workload, batch, dtype, channels_last=True)
    k, stride = tuple(workload.weight[2:]), spread(workload, "stride", 1)
    if workload.transposed:
        module = nn.ConvTranspose(
            workload.out_channels, k, strides=stride, padding=_transposed_pads(workload),
            dtype=DTYPES[dtype], param_dtype=DTYPES[dtype],
        )  # fmt: skip
    else:
        module = nn.Conv(
            workload.out_channels, k, strides=stride, dtype=DTYPES[dtype],
            padding=[(p, p) for p in spread(workload, "padding", 0)], param_dtype=DTYPES[dtype],
            kernel_dilation=spread(workload, "dilation", 1), feature_group_count=workload.groups,
        )  # fmt: skip
    params = jax.jit(module.init)(jax.random.key(0), x)["params"]

    def layer(x, kernel, bias):
        return module.apply({"params": {"kernel": kernel, "bias": bias}}, x)

    return _jax_pair(layer, (x, params["kernel"], params["bias"]))


def equinox_pair(workload: Workload, batch: int, dtype: str) -> Pair:
    """Equinox, which has no batches: under vmap, channels first."""
    import equinox as eqx

    n = workload.num_spatial_dims
    x, _, _ = _operands(workload, batch, dtype, channels_last=False)
    kwargs = {
        name: spread(workload, name, default)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    }
    if workload.transposed:
        kwargs["output_padding"] = spread(workload, "output_padding", 0)
    module = getattr(eqx.nn, f"Conv{'Transpose' if workload.transposed else ''}{n}d")(
        workload.input[0], workload.out_channels, workload.weight[2:], groups=workload.groups,
        key=jax.random.key(0), dtype=DTYPES[dtype], **kwargs,
    )  # fmt: skip

    def layer(x, weight, bias):
        filled = eqx.tree_at(lambda m: (m.weight, m.bias), module, (weight, bias))
        return jax.vmap(filled)(x)

    return _jax_pair(layer, (x, module.weight, module.bias))


def torch_pair(
    workload: Workload, batch: int, dtype: str, device: str, channels_last: bool
) -> Pair:
    """torch, eager; 1-D tensors have no channels-last format."""
    import torch
    import torch.nn.functional as F

    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    tensors = [
        torch.from_numpy(a).to(device, getattr(torch, dtype)) for a in arrays(workload, batch)
    ]
    if channels_last:
        memory_format = formats[tensors[0].ndim]
        tensors[:2] = [t.to(memory_format=memory_format) for t in tensors[:2]]
    function = getattr(F, workload.function)
    with torch.no_grad():
        cotangent = torch.randn_like(function(*tensors, **workload.kwargs))
    leaves = [t.detach().requires_grad_() for t in tensors]

    def forward():
        with torch.no_grad():
            return function(*tensors, **workload.kwargs)

    def backward():
        output = function(*leaves, **workload.kwargs)
        return output, torch.autograd.grad(output, leaves, cotangent)

    return forward, backward
