"""Layers drawn at random, by oneDNN and by torch: for what no list of cases would have found.

`python -m tests.fuzz_onednn --minutes 10`, and with `ONEDNN_MAX_CPU_ISA=AVX2` for the code of older
machines. oneDNN may end a process or keep it waiting for ever, so layers are computed in processes
of their own, which say what they are about to do.
"""

import argparse
import functools
import math
import random
import subprocess
import sys
import time

LAYERS_PER_PROCESS = 150
SECONDS_PER_PROCESS = 300
MOST_WORK = 3e8
"""Products to a layer."""

LIMIT, OF_LONG_SUMS = 2e-5, 2e-8
"""Differences from torch in float64, over the largest element, and that for each root of a product
that is summed: rounding is less."""


def draw(rng: random.Random):
    """A geometry, batch and channels of x and y; small ones mostly, and now and then a long one."""
    from jaxconv.geometry import Geometry

    while True:
        n = rng.choice([1, 2, 2, 3])
        longest = rng.choice({1: (40, 9000), 2: (20, 140, 600), 3: (9, 40)}[n])
        size = [rng.randint(1, longest if rng.random() < 0.7 else 12) for _ in range(n)]
        kernel = [rng.choice([1, 2, 3, 3, 4, 5, 7, 12, rng.randint(1, 64)]) for _ in range(n)]
        if rng.random() < 0.15:
            kernel = [1] * n
        stride = [rng.choice([1, 1, 1, 2, 3, 5]) for _ in range(n)]
        dilation = [rng.choice([1, 1, 1, 2, 3, 9]) for _ in range(n)]
        padding = [rng.randint(0, d * (k - 1) + 1) for k, d in zip(kernel, dilation, strict=True)]
        for axis in range(n) if rng.random() < 0.15 else ():
            if rng.random() < 0.7:  # A kernel as long as the image.
                kernel[axis], dilation[axis], padding[axis] = size[axis], 1, 0
        groups = rng.choice([1, 1, 1, 2, 3, 4, 16, 40])
        kind = rng.choice(["dense", "multiplier", "depthwise"])
        per_group = (1, 1) if kind == "depthwise" else (
            1 if kind == "multiplier" else rng.choice([1, 2, 3, 4, 5, 8, 13, 16, 30, 64, 67, 200]),
            rng.choice([1, 2, 3, 4, 7, 8, 16, 17, 32, 50, 70, 130]),
        )  # fmt: skip
        windows = [
            i + 2 * p - d * (k - 1)
            for i, k, p, d in zip(size, kernel, padding, dilation, strict=True)
        ]
        if min(windows) < 1:
            continue
        output = [-(-w // s) for w, s in zip(windows, stride, strict=True)]
        batch = rng.choice([1, 1, 2, 3, 4, 8, 17])
        if batch * groups * math.prod((*output, *kernel, *per_group)) <= MOST_WORK:
            sizes = map(tuple, (size, kernel, output, stride, padding, dilation))
            g = Geometry(*sizes, groups, channels_last=rng.random() < 0.7)
            return g, batch, per_group[0] * groups, per_group[1] * groups


def check(result: str, g, batch: int, c: int, o: int) -> None:
    """One contraction, as it is and as the rules plan it, against torch in float64."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch

    from jaxconv.lowerings import add_bias, cpu, plans
    from jaxconv.lowerings.setting import Setting

    rng = np.random.default_rng(0)
    n = g.num_spatial_dims
    shapes = {
        "input": (batch, c, *g.input_size),
        "weight": (o, c // g.groups, *g.kernel_size),
        "output": (batch, o, *g.output_size),
    }
    arrays = {role: rng.standard_normal(shape) for role, shape in shapes.items()}
    bias = jnp.asarray(rng.standard_normal(o), "f4")
    x, w, y = (torch.from_numpy(arrays[role]) for role in ("input", "weight", "output"))
    arguments = (g.stride, g.padding_low, g.dilation, False, (0,) * n, g.groups)
    operands = [
        jnp.asarray(
            np.moveaxis(arrays[role], 1, -1)
            if role != "weight" and g.channels_last
            else arrays[role],
            "f4",
        )
        for role in plans.OPERANDS[result]
    ]
    short = g.simplified()
    by_rule = cpu.choose(result, short, c, o, Setting(np.float32, images=batch))
    plans_tried = {("onednn",), ("onednn_in_parts",), by_rule}

    def form(plan, a, b):
        if result != "output":
            return plans.carry_out(plan, result, a, b, short)
        if plans.takes_bias(plan, result):
            return plans.carry_out(plan, result, a, b, short, bias=bias)
        return add_bias(plans.carry_out(plan, result, a, b, short), bias, geometry=short)

    lowered = [jax.jit(functools.partial(form, plan)).lower(*operands) for plan in plans_tried]
    lowered = [program for program in lowered if "__onednn$" in program.as_text()]
    if not lowered:
        return
    if result == "output":
        of_bias = torch.from_numpy(np.asarray(bias, "f8"))
        expected = torch.ops.aten.convolution(x, w, of_bias, *arguments).numpy()
    else:
        mask = [result == "input", result == "weight", False]
        gradients = torch.ops.aten.convolution_backward(y, x, w, None, *arguments, mask)
        expected = gradients[0 if result == "input" else 1].numpy()
    products = batch * math.prod((*g.output_size, *g.kernel_size, c // g.groups, o))
    scale = math.sqrt(products / expected.size)  # Of a sum of so many random numbers.
    for program in lowered:
        actual = np.asarray(program.compile()(*operands))
        if result != "weight" and g.channels_last:
            actual = np.moveaxis(actual, -1, 1)
        error = np.abs(actual - expected).max() / max(np.abs(expected).max(), scale)
        if not error <= max(LIMIT, OF_LONG_SUMS * scale):
            raise AssertionError(f"differs by {error:.1e}")


def compute(seed: int) -> None:
    """The layers of one process."""
    rng = random.Random(seed)
    for _ in range(LAYERS_PER_PROCESS):
        layer = draw(rng)
        for result in ("output", "input", "weight"):
            print(result, *layer, flush=True)
            check(result, *layer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=None, help="of one process, to be seen here")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        compute(arguments.seed)
        return
    start, processes, failures = time.monotonic(), 0, 0
    first = random.SystemRandom().randrange(1 << 31)
    while time.monotonic() - start < 60 * arguments.minutes:
        seed = first + processes
        command = [sys.executable, "-m", "tests.fuzz_onednn", "--seed", str(seed)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS_PER_PROCESS
            )
            code, output, error = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as expired:
            code, output, error = "waits", (expired.stdout or b"").decode(), ""
        processes += 1
        if code != 0:
            failures += 1
            last = error.strip().splitlines()[-1:] or [""]
            print(f"seed {seed}: {code}: {output.strip().splitlines()[-1:]} {last[0]}", flush=True)
    print(f"{processes * LAYERS_PER_PROCESS} layers, {failures} processes failed")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
