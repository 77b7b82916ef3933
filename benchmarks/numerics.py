"""How far rounding goes, beside torch's: `python -m benchmarks.numerics docs/numerics.md`.

Input, weight and cotangent are normal, rounded to a dtype; output and gradients in that dtype are
compared with those that torch finds in float64 for the same rounded numbers. Of each layout, torch
gets the memory format that is like it.
"""

import argparse
import functools
import itertools
import math
import pathlib
import platform
import random
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxconv
from benchmarks import forms, scan
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
LAYOUTS = ["channels_first", "channels_last"]
RESULTS = ["output", "input gradient", "weight gradient"]

RANDOM_LAYERS = 150
PRODUCTS = 1e5, 4e8
"""Of a layer drawn at random, at least and at most."""

HEADER = """# Rounding, beside torch's

Written by `python -m benchmarks.numerics docs/numerics.md`, with jax {jax} and torch {torch} on
the CPU ({machine}).

Each number is the root mean square error, relative to the root mean square of the exact result,
in units of the dtype's eps: rounding the exact result once gives about 0.2 to 0.3. jaxconv's comes
first, torch's second. Input, weight and cotangent are normal; exact is what torch finds in float64
for the same numbers, rounded to the dtype. With channels last, torch's arrays have the memory
format `channels_last` or `channels_last_3d`; along one axis there is none. **Bold**: more than
twice torch's in that format. Those weight gradients round no more than torch's with channels first.
On two cores: from 8 threads on, torch adds up some weight gradients of groups in more parts, and
so does jaxconv.
"""

AT_RANDOM = """## Layers drawn at random

Of {count} results of {layers} layers in float32, drawn as by `benchmarks.scan` and computed with
channels first and last, {same:.1%} round at most twice as much as torch's in the memory format that
is like the layout, and {either:.1%} at most twice as much as torch's in one of its formats. The
others, in units of eps:

| layer | layout | result | jaxconv / torch, its formats |
| --- | --- | --- | ---: |
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
    for dtype, layout in itertools.product(DTYPES, LAYOUTS):
        rows = [_row(layer, dtype, layout) for layer in LAYERS]
        title = f"{dtype}, {layout.replace('_', ' ')}"
        head = f"| {title} | {' | '.join(RESULTS)} |\n| --- |{' ---: |' * len(RESULTS)}"
        parts.append("\n".join([head, *rows]) + "\n")
    parts.append(_at_random())
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(parts))


def _at_random() -> str:
    within, within_either, rows = [], [], []
    for layer in itertools.islice(_random_layers(), RANDOM_LAYERS):
        arrays = _operands(layer, "float32")
        exact = _torchs(layer, arrays, torch.float64, LAYOUTS[0])
        of_torch = {f: _errors(_torchs(layer, arrays, torch.float32, f), exact) for f in LAYOUTS}
        for layout in LAYOUTS:
            of_results = zip(*of_torch.values(), of_torch[layout], strict=True)
            ours = _errors(_ours(layer, arrays, layout), exact)
            for result, error, (*formats, same) in zip(RESULTS, ours, of_results, strict=True):
                within.append(error <= 2 * same)
                within_either.append(error <= 2 * max(formats))
                if not within_either[-1]:
                    eps = float(jnp.finfo(jnp.float32).eps)
                    cells = [f"{value / eps:.2f}" for value in (error, *formats)]
                    shown = f"{cells[0]} / {', '.join(cells[1:])}"
                    rows.append(f"| {layer.name} | {layout.split('_')[1]} | {result} | {shown} |")
    same, either = np.mean(within), np.mean(within_either)
    count = len(within)
    text = AT_RANDOM.format(count=count, layers=RANDOM_LAYERS, same=same, either=either)
    return text + "\n".join(rows) + "\n"


def _random_layers() -> Iterator[Workload]:
    chance = random.Random(0)
    while True:
        layer = scan.draw(chance, (1, 2, 4))
        try:
            g, in_channels, out_channels = forms.geometry_of(layer)
        except ValueError:
            continue  # A window larger than the image.
        windows = layer.batch * math.prod(g.output_size)
        products = windows * out_channels * in_channels // g.groups * g.taps
        channels = max(in_channels, out_channels)
        if PRODUCTS[0] < products < PRODUCTS[1] and channels <= scan.MOST_CHANNELS:
            yield layer


def _row(layer: Workload, dtype: str, layout: str) -> str:
    arrays = _operands(layer, dtype)
    exact = _torchs(layer, arrays, torch.float64, layout)
    eps = float(jnp.finfo(dtype).eps)
    ours = _errors(_ours(layer, arrays, layout), exact)
    theirs = _errors(_torchs(layer, arrays, getattr(torch, dtype), layout), exact)
    shown = [_shown(a / eps, b / eps) for a, b in zip(ours, theirs, strict=True)]
    return f"| {layer.name} | {' | '.join(shown)} |"


def _shown(ours: float, theirs: float) -> str:
    pair = f"{ours:.2f} / {theirs:.2f}"
    return f"**{pair}**" if ours > 2 * theirs else pair


def _errors(results: list[np.ndarray], exact: list[np.ndarray]) -> list[float]:
    return [
        float(np.linalg.norm(a - e) / np.linalg.norm(e))
        for a, e in zip(results, exact, strict=True)
    ]


def _operands(layer: Workload, dtype: str) -> list[jax.Array]:
    """Input, weight and cotangent, channels first."""
    rng = np.random.default_rng(0)

    def normal(shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape).astype(np.float32), dtype)

    x, w = normal((layer.batch, *layer.input)), normal(layer.weight)
    y = jax.eval_shape(functools.partial(_function(layer), **layer.kwargs), x, w)
    return [x, w, normal(y.shape)]


def _function(layer: Workload) -> Any:
    return getattr(jaxconv, layer.function)


def _ours(layer: Workload, arrays: list[jax.Array], layout: str) -> list[np.ndarray]:
    """Output and gradients, in the arrays' dtype, and channels first again."""
    function = functools.partial(_function(layer), data_format=layout, **layer.kwargs)
    last = layout == "channels_last"

    @jax.jit
    def run(x, w, cotangent):
        y, vjp = jax.vjp(function, x, w)
        return y, *vjp(cotangent)

    x, w, cotangent = arrays
    images = [jnp.moveaxis(image, 1, -1) if last else image for image in (x, cotangent)]
    y, of_x, of_w = run(images[0], w, images[1])
    results = [jnp.moveaxis(image, -1, 1) if last else image for image in (y, of_x)]
    return [np.asarray(array.astype(jnp.float32), np.float64) for array in (*results, of_w)]


def _torchs(
    layer: Workload, arrays: list[jax.Array], dtype: torch.dtype, layout: str
) -> list[np.ndarray]:
    """Likewise, in `dtype`."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = formats if layout == "channels_last" else {}
    x, w, cotangent = (
        torch.from_numpy(np.array(a.astype(jnp.float32)))
        .to(dtype)
        .contiguous(memory_format=last.get(a.ndim, torch.contiguous_format))
        for a in arrays
    )
    y = getattr(torch.nn.functional, layer.function)(
        x.requires_grad_(), w.requires_grad_(), **layer.kwargs
    )
    gradients = torch.autograd.grad(y, (x, w), cotangent)
    return [tensor.detach().double().numpy() for tensor in (y, *gradients)]


if __name__ == "__main__":
    main()
