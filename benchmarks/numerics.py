"""How far rounding goes, beside torch's: `python -m benchmarks.numerics docs/numerics.md`.

Input, weight and cotangent are normal, rounded to a dtype; output and gradients in that dtype are
compared with those that torch finds in float64 for the same rounded numbers.
"""

import argparse
import functools
import pathlib
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxconv
from benchmarks.workloads import Workload

LAYERS = [
    Workload("dense 3x3", 2, 2, (64, 28, 28), (64, 64, 3, 3), {"padding": 1}),
    Workload("dense 3x3, 256 channels", 2, 2, (256, 14, 14), (256, 256, 3, 3), {"padding": 1}),
    Workload("dense 3x3, stride 2", 2, 2, (64, 28, 28), (128, 64, 3, 3), {"stride": 2}),
    Workload("dilated", 2, 2, (64, 28, 28), (64, 64, 3, 3), {"padding": 2, "dilation": 2}),
    Workload("1x1", 2, 2, (256, 28, 28), (128, 256, 1, 1)),
    Workload("patchify 16", 2, 2, (3, 112, 112), (192, 3, 16, 16), {"stride": 16}),
    Workload("8 groups", 2, 2, (128, 28, 28), (128, 16, 3, 3), {"padding": 1, "groups": 8}),
    Workload("depthwise 3x3", 2, 2, (64, 56, 56), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    Workload("depthwise 7x7", 2, 2, (64, 28, 28), (64, 1, 7, 7), {"padding": 3, "groups": 64}),
    Workload("1-D, 31 taps, depthwise", 2, 2, (64, 512), (64, 1, 31), {"groups": 64}),
    Workload("3-D 3x3x3", 2, 2, (32, 8, 14, 14), (32, 32, 3, 3, 3), {"padding": 1}),
    Workload("3-D 3x3x3, stride 2", 2, 2, (32, 8, 14, 14), (32, 32, 3, 3, 3), {"stride": 2}),
    Workload("transposed 4x4, stride 2", 2, 2, (64, 14, 14), (64, 32, 4, 4),
             {"stride": 2, "padding": 1}, transposed=True),
    Workload("transposed 3x3, stride 2", 2, 2, (64, 14, 14), (64, 32, 3, 3),
             {"stride": 2, "padding": 1}, transposed=True),
    Workload("transposed 3-D 2x2x2, stride 2", 2, 2, (32, 4, 7, 7), (32, 16, 2, 2, 2),
             {"stride": 2}, transposed=True),
]  # fmt: skip
DTYPES = ["float32", "bfloat16", "float16"]
RESULTS = ["output", "input gradient", "weight gradient"]

HEADER = """# Rounding, beside torch's

Written by `python -m benchmarks.numerics docs/numerics.md`, with jax {jax} and torch {torch} on
the CPU ({machine}).

Each number is the root mean square error, relative to the root mean square of the exact result,
in units of the dtype's eps: rounding the exact result once gives about 0.2 to 0.3. jaxconv's comes
first, torch's second. Input, weight and cotangent are normal; exact is what torch finds in float64
for the same numbers, rounded to the dtype. **Bold**: more than twice torch's.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=pathlib.Path, help="where to write the tables")
    path = parser.parse_args().path
    parts = [
        HEADER.format(
            jax=jax.__version__, torch=torch.__version__.partition("+")[0],
            machine=platform.machine(),
        )
    ]  # fmt: skip
    for dtype in DTYPES:
        rows = [_row(layer, dtype) for layer in LAYERS]
        head = f"| {dtype} | {' | '.join(RESULTS)} |\n| --- |{' ---: |' * len(RESULTS)}"
        parts.append("\n".join([head, *rows]) + "\n")
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(parts))


def _row(layer: Workload, dtype: str) -> str:
    arrays = _operands(layer, dtype)
    exact = _torchs(layer, arrays, torch.float64)
    eps = float(jnp.finfo(dtype).eps)
    ours = [_error(a, e) / eps for a, e in zip(_ours(layer, arrays), exact, strict=True)]
    theirs = [
        _error(a, e) / eps
        for a, e in zip(_torchs(layer, arrays, getattr(torch, dtype)), exact, strict=True)
    ]
    shown = [_shown(*pair) for pair in zip(ours, theirs, strict=True)]
    return f"| {layer.name} | {' | '.join(shown)} |"


def _shown(ours: float, theirs: float) -> str:
    pair = f"{ours:.2f} / {theirs:.2f}"
    return f"**{pair}**" if ours > 2 * theirs else pair


def _error(actual: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(actual - exact) / np.linalg.norm(exact))


def _operands(layer: Workload, dtype: str) -> list[jax.Array]:
    """Input, weight and cotangent."""
    rng = np.random.default_rng(0)

    def normal(shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape).astype(np.float32), dtype)

    x, w = normal((layer.batch, *layer.input)), normal(layer.weight)
    return [x, w, normal(jax.eval_shape(_function(layer), x, w).shape)]


def _function(layer: Workload) -> Any:
    return functools.partial(getattr(jaxconv, layer.function), **layer.kwargs)


def _ours(layer: Workload, arrays: list[jax.Array]) -> list[np.ndarray]:
    """Output and gradients, in the arrays' dtype."""

    @jax.jit
    def run(x, w, cotangent):
        y, vjp = jax.vjp(_function(layer), x, w)
        return y, *vjp(cotangent)

    return [np.asarray(array.astype(jnp.float32), np.float64) for array in run(*arrays)]


def _torchs(layer: Workload, arrays: list[jax.Array], dtype: torch.dtype) -> list[np.ndarray]:
    """Likewise, in `dtype`."""
    tensors = [torch.from_numpy(np.array(a.astype(jnp.float32))).to(dtype) for a in arrays]
    x, w = (tensor.requires_grad_() for tensor in tensors[:2])
    y = getattr(torch.nn.functional, layer.function)(x, w, **layer.kwargs)
    gradients = torch.autograd.grad(y, (x, w), tensors[2])
    return [tensor.detach().double().numpy() for tensor in (y, *gradients)]


if __name__ == "__main__":
    main()
