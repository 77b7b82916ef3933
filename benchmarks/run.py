"""Time the workloads in jaxconv, plain lax and torch: `python -m benchmarks.run depthwise`.

The pattern is a regular expression over names; without one, all run. Prints ratios to torch, the
better of its two memory formats, and with `--json FILE` writes times, device, versions and date.
"""

import argparse
import datetime
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import torch

from benchmarks import contestants
from benchmarks.timing import median_times
from benchmarks.workloads import WORKLOADS, Workload

CONTESTANTS = {
    "jaxconv last": lambda w, n, t: contestants.jaxconv_pair(w, n, t, "channels_last"),
    "jaxconv first": lambda w, n, t: contestants.jaxconv_pair(w, n, t, "channels_first"),
    "lax": contestants.lax_pair,
    "linen": contestants.linen_pair,
    "equinox": contestants.equinox_pair,
}
KINDS = ("f", "f+b")


def contest(
    workload: Workload, batch: int, dtype: str, device: str, names: list[str], seconds: float
) -> dict[str, dict[str, float]]:
    """Median seconds by kind and contestant."""
    pairs = {name: CONTESTANTS[name](workload, batch, dtype) for name in names}
    pairs["torch"] = contestants.torch_pair(workload, batch, dtype, device, False)
    if workload.num_spatial_dims > 1:
        pairs["torch last"] = contestants.torch_pair(workload, batch, dtype, device, True)
    pairs = {name: pair for name, pair in pairs.items() if pair is not None}
    return {
        kind: median_times({name: pair[place] for name, pair in pairs.items()}, seconds, 5)
        for place, kind in enumerate(KINDS)
    }


def ratios(times: dict[str, float]) -> dict[str, float]:
    """Each contestant's time over torch's, the better of its memory formats."""
    best = min(value for name, value in times.items() if name.startswith("torch"))
    return {name: value / best for name, value in times.items() if not name.startswith("torch")}


def environment(device: str) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "date": datetime.date.today().isoformat(),
        "device": gpu or f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "jax": jax.__version__,
        "flax": flax.__version__,
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--names", nargs="*", default=["jaxconv last", "lax"], choices=CONTESTANTS)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=contestants.DTYPES)
    parser.add_argument("--seconds", type=float, default=0.2, help="for each function timed")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    results: dict[str, Any] = {"environment": environment(args.device), "dtype": args.dtype}
    print(results["environment"])
    seconds = results["seconds"] = {}
    for workload in WORKLOADS:
        if not re.search(args.pattern, workload.name):
            continue
        batch = workload.gpu_batch if args.device == "cuda" else workload.batch
        times = contest(workload, batch, args.dtype, args.device, args.names, args.seconds)
        seconds[workload.name] = times
        cells = [
            f"{kind:3} " + " ".join(f"{name} {r:7.2f}" for name, r in ratios(times[kind]).items())
            for kind in KINDS
        ]
        print(f"{workload.name:20} | " + " | ".join(cells), flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))
    for kind in KINDS:
        rows = [ratios(times[kind]) for times in seconds.values()]
        for name in args.names:
            values = [row[name] for row in rows if name in row]
            mean = np.exp(np.mean(np.log(values)))
            print(f"geometric mean, {kind}, {name}: {mean:.2f}")


if __name__ == "__main__":
    main()
