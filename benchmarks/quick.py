"""Compare a few workloads quickly: `python -m benchmarks.quick depthwise`, a regular expression."""

import argparse
import re

import numpy as np

from benchmarks import contestants
from benchmarks.timing import median_times
from benchmarks.workloads import WORKLOADS, Workload


def contest(workload: Workload, batch: int, dtype: str, device: str, names: list[str]) -> dict:
    makers = {
        "last": lambda: contestants.jaxconv_pair(workload, batch, dtype, "channels_last"),
        "first": lambda: contestants.jaxconv_pair(workload, batch, dtype, "channels_first"),
        "lax": lambda: contestants.lax_pair(workload, batch, dtype),
    }
    pairs = {name: makers[name]() for name in names}
    pairs["torch"] = contestants.torch_pair(workload, batch, dtype, device, False)
    if workload.num_spatial_dims > 1:
        pairs["torch last"] = contestants.torch_pair(workload, batch, dtype, device, True)
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--names", nargs="*", default=["last", "first", "lax"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seconds", type=float, default=0.4)
    args = parser.parse_args()
    import torch

    torch.backends.cudnn.benchmark = True
    logs = {}
    for workload in WORKLOADS:
        if not re.search(args.pattern, workload.name):
            continue
        batch = workload.gpu_batch if args.device == "cuda" else workload.batch
        pairs = contest(workload, batch, args.dtype, args.device, args.names)
        line = f"{workload.name:20}"
        for kind, label in ((0, "f"), (1, "f+b")):
            times = median_times({k: p[kind] for k, p in pairs.items()}, args.seconds, 5)
            best = min(v for k, v in times.items() if k.startswith("torch"))
            line += f" | {label:3} torch {best * 1e3:7.2f} ms"
            for name in args.names:
                line += f" {name} {times[name] / best:6.2f}"
                logs.setdefault((label, name), []).append(np.log(times[name] / best))
        print(line, flush=True)
    for (label, name), values in logs.items():
        print(f"geomean {label} {name}: {np.exp(np.mean(values)):.2f}")


if __name__ == "__main__":
    main()
