"""Compile time and memory of each workload against plain lax: `python -m benchmarks.compile_cost`.

The pattern is a regular expression over names. Memory is what XLA plans for results and scratch
space. An offender compiles longer than both `SLOWER` times lax and `SLOW` seconds, at the best of
three attempts, or takes more than `LARGER` times lax's memory. `--json FILE` writes all.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import records, run
from benchmarks.contestants import Jitted
from benchmarks.workloads import WORKLOADS, Workload

SLOWER, SLOW, LARGER = 1.5, 1.0, 2.0
CONTESTANTS = ("jaxconv last", "lax")

Cost = dict[str, float]  # "seconds" and "bytes".


def cost(job: Any) -> Cost:
    start = time.perf_counter()
    compiled = job.compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    return {
        "seconds": seconds,
        "bytes": memory.temp_size_in_bytes + memory.output_size_in_bytes,
    }


def costs(workload: Workload, device: str, dtype: str) -> dict[str, dict[str, Cost]]:
    """By kind and contestant."""
    result: dict[str, dict[str, Cost]] = {kind: {} for kind in run.KINDS}
    for name in CONTESTANTS:
        pair = run.CONTESTANTS[name](workload, run.batch_of(workload, device), dtype)
        for kind, job in zip(run.KINDS, pair, strict=True):
            result[kind][name] = cost(job)
    return result


def is_slow(ours: Cost, lax: Cost) -> bool:
    return ours["seconds"] > max(SLOWER * lax["seconds"], SLOW)


def is_large(ours: Cost, lax: Cost) -> bool:
    return ours["bytes"] > LARGER * lax["bytes"]


def confirmed(workload: Workload, device: str, dtype: str) -> dict[str, dict[str, Cost]]:
    """Costs; where compilation seems slow, with the least of three times."""
    result = costs(workload, device, dtype)
    for _ in range(2):
        if not any(is_slow(*(row[name] for name in CONTESTANTS)) for row in result.values()):
            break
        again = costs(workload, device, dtype)
        for kind, row in result.items():
            for name, value in row.items():
                value["seconds"] = min(value["seconds"], again[kind][name]["seconds"])
    return result


def main() -> None:
    parser = run.arguments(__doc__)
    args = parser.parse_args()
    record = records.new("compile_cost", args.device, args.dtype, costs={})
    print(record["environment"], flush=True)
    Jitted(jnp.sin, jnp.ones(1)).compile()
    offenders = 0
    for w in run.selected(args.pattern, WORKLOADS):
        record["costs"][w.name] = result = confirmed(w, args.device, args.dtype)
        cells = []
        for kind, row in result.items():
            ours, lax = (row[name] for name in CONTESTANTS)
            words = ["SLOW"] * is_slow(ours, lax) + ["LARGE"] * is_large(ours, lax)
            offenders += bool(words)
            cells.append(
                f"{kind:3} {ours['seconds']:6.2f} s ({lax['seconds']:6.2f})"
                f" {ours['bytes'] / 2**20:8.1f} MiB ({lax['bytes'] / 2**20:8.1f})"
                f" {' '.join(words):10}"
            )
        print(f"{w.name:20} | " + " | ".join(cells), flush=True)
        records.save(args.json, record)
        jax.clear_caches()
    print(f"{offenders} offenders; lax in parentheses")


if __name__ == "__main__":
    main()
