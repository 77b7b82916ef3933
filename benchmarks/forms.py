"""Time every plan that fits, for each contraction of each workload: where the rules come from.

`python -m benchmarks.forms depthwise --roles output weight` (a regular expression over names).
"""

import argparse
import functools
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

from benchmarks.contestants import DTYPES, spread
from benchmarks.timing import median_times
from benchmarks.workloads import WORKLOADS, Workload
from jaxconv.geometry import (
    Geometry,
    pad_amounts,
    transposed_output_size,
    window_output_size,
)
from jaxconv.lowerings import plans

PLANS = {
    "direct": ("direct",),
    "last": ("last", "direct"),
    "taps": ("phases", "fit", "taps"),
    "copy taps": ("phases", "fit", "taps_in_steps"),
    "blocks taps": ("blocks", "phases", "fit", "taps_in_steps"),
    "blocks direct": ("blocks", "direct"),
    "blocks groups": ("blocks", "groups", "direct"),
    "blocks groups im2col": ("blocks", "groups", "taps_to_channels", "direct"),
    "blocks im2col": ("blocks", "taps_to_channels", "direct"),
    "blocks phases": ("blocks", "phases", "direct"),
    "blocks rows": ("blocks", "taps_to_channels:0", "axis_to_batch", "direct"),
    "blocks sum": ("blocks", "phases", "sum_over_taps", "direct"),
    "blocks columns": ("blocks", "phases", "taps_to_channels:-1", "sum_over_taps", "direct"),
    "blocks depth sum": ("blocks", "phases:0", "sum_over_taps:0", "axis_to_batch", "direct"),
    "exchange": ("phases", "exchange", "direct"),
    "exchange sum": ("phases", "exchange", "sum_over_taps", "direct"),
    "planes": ("taps_to_channels:0", "axis_to_batch", "phases", "direct"),
    "im2col": ("phases", "taps_to_channels", "direct"),
    "im2col strided": ("taps_to_channels", "direct"),
    "im2col W": ("phases", "taps_to_channels:-1", "sum_over_taps", "direct"),
    "sum of products": ("phases", "sum_over_taps", "direct"),
    "phases": ("phases", "direct"),
    "stride to channels": ("stride_to_channels", "direct"),
    "depth sum": ("phases:0", "sum_over_taps:0", "axis_to_batch", "direct"),
    "depth stack": ("taps_to_channels:0", "axis_to_batch", "direct"),
    "phases depth sum": ("phases", "sum_over_taps:0", "axis_to_batch", "direct"),
    "s2c depth sum": ("stride_to_channels", "sum_over_taps:0", "axis_to_batch", "direct"),
    "s2c depth stack": ("stride_to_channels", "taps_to_channels:0", "axis_to_batch", "direct"),
    "dilation to batch": ("dilation_to_batch", "direct"),
    "dilation im2col": ("dilation_to_batch", "taps_to_channels", "direct"),
    "groups": ("groups", "direct"),
    "groups phases": ("groups", "phases", "direct"),
    "groups s2c": ("groups", "stride_to_channels", "direct"),
    "groups im2col": ("groups", "taps_to_channels", "direct"),
}


def geometry_of(workload: Workload) -> tuple[Geometry, int, int]:
    """The geometry, channels last, and the channels of x and y."""
    size, k = workload.input[1:], workload.weight[2:]
    s, d, p = (spread(workload, a, v) for a, v in (("stride", 1), ("dilation", 1), ("padding", 0)))
    if workload.transposed:
        op = spread(workload, "output_padding", 0)
        x_size, y_size = transposed_output_size(size, k, s, p, op, d), size
        channels = workload.out_channels, workload.input[0]
    else:
        x_size = size
        y_size = window_output_size(size, k, s, pad_amounts(p, k, d), d)
        channels = workload.input[0], workload.out_channels
    return Geometry(x_size, k, y_size, s, p, d, workload.groups, True), *channels


def _worthwhile(name: str, pattern: str, g: Geometry, c: int) -> bool:
    """Whether a plan is asked for, and does not unroll beyond reason."""
    if name == "direct":
        return True
    if pattern and not re.search(pattern, name):
        return False
    if name.endswith("taps"):
        return c // g.groups <= 8 and g.groups > 1
    if "depth" in name:
        return g.kernel_size[0] <= 32
    if "im2col" in name or "sum" in name or "columns" in name:
        return g.taps <= 130
    return "groups" not in name or 1 < g.groups <= 40


def _compile(lowered):
    start = time.perf_counter()
    try:
        return lowered.compile(), time.perf_counter() - start
    except Exception as error:
        return None, str(error)[:100]


def time_forms(workload, batch, dtype, roles, seconds, names):
    g, c, o = geometry_of(workload)
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = {
        "input": jax.random.normal(keys[0], (batch, *g.input_size, c)),
        "output": jax.random.normal(keys[1], (batch, *g.output_size, o)),
        "weight": jax.random.normal(keys[2], (o, c // g.groups, *g.kernel_size)),
    }
    arrays = {role: a.astype(DTYPES[dtype]) for role, a in arrays.items()}
    rows = {}
    for role in roles:
        a, b = (arrays[r] for r in plans.OPERANDS[role])
        lowered, texts = {}, set()
        for name, plan in PLANS.items():
            if not _worthwhile(name, names, g, c):
                continue

            def form(a, b, plan=plan, role=role):
                return plans.carry_out(plan, role, a, b, g)

            candidate = jax.jit(form).lower(a, b)
            if candidate.as_text() not in texts:
                texts.add(candidate.as_text())
                lowered[name] = candidate
        with ThreadPoolExecutor(8) as pool:
            compiled = dict(zip(lowered, pool.map(_compile, lowered.values()), strict=True))
        functions, compile_times = {}, {}
        for name, (executable, seconds_taken) in compiled.items():
            if executable is None:
                print(workload.name, role, name, "failed", seconds_taken)
                continue
            compile_times[name] = seconds_taken
            functions[name] = functools.partial(executable, a, b)
        times = median_times(functions, seconds, 5)
        rows[role] = {k: (v, compile_times[k]) for k, v in times.items()}
        base = times["direct"]
        ranked = sorted(times.items(), key=lambda kv: kv[1])
        print(
            f"{workload.name:18} {role:6} direct {base * 1e3:8.2f} ms | "
            + " | ".join(f"{k} {v / base:.3f}" for k, v in ranked if k != "direct"),
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--roles", nargs="*", default=["output", "input", "weight"])
    parser.add_argument("--plans", default="")
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    gpu = jax.default_backend() == "gpu"
    rows = {}
    for workload in WORKLOADS:
        if re.search(args.pattern, workload.name):
            batch = workload.gpu_batch if gpu else workload.batch
            rows[workload.name] = time_forms(
                workload, batch, args.dtype, args.roles, args.seconds, args.plans
            )
            if args.json:
                args.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
