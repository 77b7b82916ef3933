"""Time the workloads in jaxconv, plain lax and torch: `python -m benchmarks.run depthwise`.

The pattern is a regular expression over names; without one, all run. Prints ratios to torch, the
better of its two memory formats. `--json FILE` writes times, rates of the machine, device, versions
and date, after each workload.
"""

import argparse
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import contestants, floors, records
from benchmarks.contestants import compile_together
from benchmarks.network_layers import NETWORK_LAYERS
from benchmarks.timing import median_times, reason
from benchmarks.workloads import WORKLOADS, Workload

CONTESTANTS = {
    "jaxconv last": lambda w, n, t: contestants.jaxconv_pair(w, n, t, "channels_last"),
    "jaxconv first": lambda w, n, t: contestants.jaxconv_pair(w, n, t, "channels_first"),
    "lax": contestants.lax_pair,
    "linen": contestants.linen_pair,
    "equinox": contestants.equinox_pair,
}
KINDS = ("f", "f+b")

Times = dict[str, dict[str, float]]  # By kind and contestant.
Failures = dict[str, str]  # By contestant.


def contests(
    workloads: Sequence[Workload], dtype: str, device: str, names: Sequence[str], seconds: float
) -> Iterator[tuple[Workload, Times, Failures]]:
    """Median seconds of each workload, and reasons for what is missing.

    As many workloads as there are cores for are compiled ahead; nothing is timed meanwhile.
    """
    for chunk in in_chunks(workloads, len(KINDS) * len(names)):
        failed: dict[str, Failures] = {w.name: {} for w in chunk}
        pairs = {
            w.name: attempt(_jax_builders(w, batch_of(w, device), dtype, names), failed[w.name])
            for w in chunk
        }
        failures = compile_together(
            {
                (workload, name, place): pair[place]
                for workload, of_workload in pairs.items()
                for name, pair in of_workload.items()
                for place in range(len(KINDS))
            }
        )
        for (workload, name, _), text in failures.items():
            failed[workload][name] = text
        for w in chunk:
            builders = _torch_builders(w, batch_of(w, device), dtype, device)
            both = pairs.pop(w.name) | attempt(builders, failed[w.name])
            times: Times = {}
            for place, kind in enumerate(KINDS):
                functions = {n: p[place] for n, p in both.items() if n not in failed[w.name]}
                times[kind] = median_times(functions, seconds, 5, failed[w.name])
            yield w, times, failed[w.name]


def attempt(builders: Mapping[str, Callable[[], Any]], failed: Failures) -> dict[str, Any]:
    """What can be built, by name; the reasons why the others cannot go to `failed`."""
    built = {}
    for name, build in builders.items():
        try:
            built[name] = build()
        except Exception as error:
            failed[name] = reason(error)
    return {name: contestant for name, contestant in built.items() if contestant is not None}


def in_chunks(items: Sequence[Any], jobs_each: int) -> Iterator[Sequence[Any]]:
    """Chunks whose jobs keep all cores busy."""
    size = max(1, (os.cpu_count() or 1) // jobs_each)
    for start in range(0, len(items), size):
        yield items[start : start + size]


def batch_of(workload: Workload, device: str) -> int:
    return workload.gpu_batch if device == "cuda" else workload.batch


def _jax_builders(workload: Workload, batch: int, dtype: str, names: Sequence[str]) -> dict:
    return {name: functools.partial(CONTESTANTS[name], workload, batch, dtype) for name in names}


def _torch_builders(workload: Workload, batch: int, dtype: str, device: str) -> dict:
    """One-dimensional tensors have no channels-last format."""
    formats = {"torch": False} | ({"torch last": True} if workload.num_spatial_dims > 1 else {})
    return {
        name: functools.partial(contestants.torch_pair, workload, batch, dtype, device, last)
        for name, last in formats.items()
    }


def ratios(times: dict[str, float]) -> dict[str, float]:
    """Each contestant's time over that of eager torch, the better of its memory formats."""
    eager = [times[name] for name in ("torch", "torch last") if name in times]
    if not eager:
        return {}
    return {
        name: value / min(eager)
        for name, value in times.items()
        if name not in ("torch", "torch last")
    }


def geometric_means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The geometric mean of each contestant's ratios."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, ratio in row.items():
            values.setdefault(name, []).append(ratio)
    return {name: float(np.exp(np.mean(np.log(each)))) for name, each in values.items()}


def selected(pattern: str, items: Sequence[Any]) -> list[Any]:
    return [item for item in items if re.search(pattern, item.name)]


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all the timing programs share."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--seconds", type=float, default=0.2, help="for each function timed")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    return parser


def prepare_torch() -> None:
    """Let torch choose its algorithms by trial, and use TF32 where JAX does."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--names", nargs="*", default=["jaxconv last", "lax"], choices=CONTESTANTS)
    parser.add_argument("--networks", action="store_true", help="time layers of known networks")
    args = parser.parse_args()
    prepare_torch()
    record = records.new("layers", args.device, args.dtype, floor={})
    rates = record["rates"] = floors.measure_rates(args.device, args.dtype, args.seconds)
    print(record["environment"])
    print({name: f"{rate:.3g}/s" for name, rate in rates.items()}, flush=True)
    chosen = selected(args.pattern, NETWORK_LAYERS if args.networks else WORKLOADS)
    for w, times, failed in contests(chosen, args.dtype, args.device, args.names, args.seconds):
        record["seconds"][w.name] = times
        work = floors.work(w, batch_of(w, args.device), args.dtype)
        record["floor"][w.name] = {kind: floors.floor(work[kind], rates) for kind in KINDS}
        if failed:
            record["failed"][w.name] = failed
        cells = [
            f"{kind:3} " + " ".join(f"{n} {r:7.2f}" for n, r in ratios(times[kind]).items())
            for kind in KINDS
        ]
        print(f"{w.name:20} | " + " | ".join(cells), failed or "", flush=True)
        records.save(args.json, record)
    for kind in KINDS:
        rows = [ratios(times[kind]) for times in record["seconds"].values()]
        for name, mean in geometric_means(rows).items():
            print(f"geometric mean, {kind}, {name}: {mean:.2f}")


if __name__ == "__main__":
    main()
