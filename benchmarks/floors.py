"""The least time that a layer could take: `max(bytes / bandwidth, FLOPs / matrix-product rate)`.

Bytes: each operand is read once and each result written once. FLOPs: those of windows' elements
inside the input, two for each, not those of padding. A backward pass has twice those of a forward
one. The two rates are measured, with a large copy and a large product of square matrices, and are
the better of those that torch and JAX reach.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import torch

import jaxconv
from benchmarks.contestants import DTYPES, Jitted, spread
from benchmarks.timing import median_times
from benchmarks.workloads import Workload

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**31}


def measure_rates(device: str, dtype: str, seconds: float) -> dict[str, float]:
    """`flops` and `bytes` a second, of this machine now."""
    side = MATRIX_SIDE[device]
    torch_dtype, jax_dtype = getattr(torch, dtype), DTYPES[dtype]
    matrix = torch.randn(side, side, device=device).to(torch_dtype)
    length = COPIED_BYTES[device] // torch_dtype.itemsize
    vector = torch.ones(length, device=device, dtype=torch_dtype)
    target = torch.empty_like(vector)
    jax_matrix = jax.random.normal(jax.random.key(0), (side, side)).astype(jax_dtype)
    products = median_times(
        {"torch": lambda: matrix @ matrix, "jax": Jitted(jnp.dot, jax_matrix, jax_matrix)},
        seconds,
    )
    copies = median_times(
        {
            "torch": lambda: target.copy_(vector),
            "jax": Jitted(lambda x: x + 1, jnp.ones(length, jax_dtype)),
        },
        seconds,
    )
    return {
        "flops": 2 * side**3 / min(products.values()),
        "bytes": 2 * COPIED_BYTES[device] / min(copies.values()),
    }


def work(workload: Workload, batch: int, dtype: str) -> dict[str, dict[str, float]]:
    """`flops` and `bytes` of "f" and "f+b"."""
    stride, padding, dilation = (
        spread(workload, name, default)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    size, kernel_size = workload.input[1:], workload.weight[2:]
    if workload.transposed:
        output_size = jaxconv.conv_transpose_output_size(
            size, kernel_size, stride, padding, spread(workload, "output_padding", 0), dilation
        )
        windowed, windows = output_size, size
    else:
        output_size = jaxconv.conv_output_size(size, kernel_size, stride, padding, dilation)
        windowed, windows = size, output_size
    products = math.prod(
        _inside(*axis)
        for axis in zip(windowed, windows, kernel_size, stride, padding, dilation, strict=True)
    )
    flops = 2 * batch * products * math.prod(workload.weight[:2])
    sizes = {
        "input": batch * math.prod(workload.input),
        "weight": math.prod(workload.weight),
        "bias": workload.out_channels,
        "output": batch * workload.out_channels * math.prod(output_size),
    }
    moved = sum(sizes.values()) * jnp.dtype(DTYPES[dtype]).itemsize
    # f+b reads all three operands and the cotangent, and writes the output and all gradients.
    return {"f": {"flops": flops, "bytes": moved}, "f+b": {"flops": 3 * flops, "bytes": 2 * moved}}


def _inside(size: int, windows: int, k: int, stride: int, padding: int, dilation: int) -> int:
    """How many elements of how many windows lie on one axis, and not in its padding."""
    return sum(
        0 <= q * stride + t * dilation - padding < size
        for q, t in itertools.product(range(windows), range(k))
    )


def floor(work: dict[str, float], rates: dict[str, float]) -> float:
    """Seconds."""
    return max(work["flops"] / rates["flops"], work["bytes"] / rates["bytes"])
