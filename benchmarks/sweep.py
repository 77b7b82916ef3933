"""How cost grows with kernel size, channels and groups: `python -m benchmarks.sweep depthwise`.

The pattern is a regular expression over the names of sweeps. Times jaxconv, plain lax and torch as
`benchmarks.run` does; `--json FILE` writes them after each point, and `make report` draws them.
"""

import dataclasses

from benchmarks import records, run
from benchmarks.workloads import Workload


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Layers by the value of what is varied."""

    name: str
    axis: str
    points: dict[int, Workload]


def _layer(
    name: str, value: int, channels: int, kernel_size: int, groups: int, size: int = 28
) -> Workload:
    return Workload(
        f"{name}: {value}", 4, 128, (channels, size, size),
        (channels, channels // groups, kernel_size, kernel_size),
        {"padding": kernel_size // 2, "groups": groups},
    )  # fmt: skip


def _sweep(name: str, axis: str, values: list[int], arguments) -> Sweep:
    """`arguments(value)` gives channels, kernel size and groups."""
    return Sweep(name, axis, {v: _layer(name, v, *arguments(v)) for v in values})


SWEEPS = [
    _sweep("dense, by kernel", "kernel size", [1, 3, 5, 7, 9], lambda k: (64, k, 1)),
    _sweep("depthwise, by kernel", "kernel size", [1, 3, 5, 7, 11, 15, 31],
        lambda k: (128, k, 128)),
    _sweep("dense, by channels", "channels", [8, 16, 32, 64, 128, 256], lambda c: (c, 3, 1)),
    _sweep("depthwise, by channels", "channels", [16, 64, 256, 1024], lambda c: (c, 3, c)),
    _sweep("128 channels, by groups", "groups", [1, 2, 4, 8, 16, 32, 64, 128],
        lambda g: (128, 3, g)),
]  # fmt: skip


def main() -> None:
    parser = run.arguments(__doc__)
    parser.add_argument(
        "--names", nargs="*", default=["jaxconv last", "lax"], choices=run.CONTESTANTS
    )
    args = parser.parse_args()
    run.prepare_torch()
    record = records.new("sweep", args.device, args.dtype, sweeps={})
    print(record["environment"], flush=True)
    for sweep in run.selected(args.pattern, SWEEPS):
        record["sweeps"][sweep.name] = {
            "axis": sweep.axis,
            "points": {w.name: value for value, w in sweep.points.items()},
        }
        points = list(sweep.points.values())
        for w, times, failed in run.contests(
            points, args.dtype, args.device, args.names, args.seconds
        ):
            record["seconds"][w.name] = times
            if failed:
                record["failed"][w.name] = failed
            cells = [
                f"{kind:3} " + " ".join(f"{n} {t * 1e3:8.3f}" for n, t in times[kind].items())
                for kind in run.KINDS
            ]
            print(f"{w.name:28} ms | " + " | ".join(cells), failed or "", flush=True)
            records.save(args.json, record)


if __name__ == "__main__":
    main()
