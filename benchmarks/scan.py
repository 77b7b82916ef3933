"""Time layers drawn at random, for what no list foresees: `python -m benchmarks.scan --seed 7`.

Layers are of all ranks, kinds and sizes, and timed as `benchmarks.run` times its own. They are
printed with ratios to torch, until `--minutes` are over.
"""

import random
import time
from collections.abc import Iterator

from benchmarks import floors, run
from benchmarks.workloads import Workload

OURS = "jaxconv last"
SIZES = {
    1: (16, 64, 256, 1000, 4096),
    2: (2, 4, 7, 8, 14, 28, 32, 56, 112),
    3: (2, 4, 8, 12, 16, 28),
}
KERNELS = (1, 2, 3, 3, 3, 4, 5, 7, 9)
CHANNELS = (1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256)
BATCHES = {"cpu": (1, 2, 4, 8, 16), "cuda": (1, 8, 32, 128, 512)}
MOST_CHANNELS = 1024
FLOORS = {"cpu": (1e-4, 1e-2), "cuda": (3e-5, 3e-4)}
"""Between these seconds lies a layer's least time: below, a call's own cost would be timed."""


def draw(chance: random.Random, batches: tuple[int, ...]) -> Workload:
    """A layer, maybe one that cannot be."""
    n = chance.choice((1, 2, 2, 2, 3))
    transposed = chance.random() < 0.3
    groups = chance.choice((1, 1, 1, 2, 4, 8, 16, 32, 64))
    depthwise = groups > 4 and chance.random() < 0.4
    in_per_group, out_per_group = (
        (1, chance.choice((1, 1, 2))) if depthwise else chance.choices(CHANNELS, k=2)
    )
    groups *= chance.choice((1, 3, 4)) if depthwise else 1
    size = tuple(chance.choice(SIZES[n]) for _ in range(n))
    kernel_size = tuple(chance.choices(KERNELS, k=n))
    if chance.random() < 0.7:
        size, kernel_size = size[:1] * n, kernel_size[:1] * n
    stride, dilation = chance.choice((1, 1, 1, 2, 3)), chance.choice((1, 1, 1, 2, 4))
    padding = tuple(dilation * (k - 1) // 2 for k in kernel_size)
    batch = chance.choice(batches)
    first, second = (
        (in_per_group * groups, out_per_group)
        if transposed
        else (out_per_group * groups, in_per_group)
    )
    return Workload(
        f"{'T ' if transposed else ''}{batch}x{in_per_group * groups}x{size} {kernel_size} "
        f"to {out_per_group * groups} s{stride} d{dilation} g{groups}",
        batch, batch, (in_per_group * groups, *size), (first, second, *kernel_size),
        dict(stride=stride, padding=padding, dilation=dilation, groups=groups), transposed,
    )  # fmt: skip


def layers(seed: int, device: str, dtype: str, rates: dict[str, float]) -> Iterator[Workload]:
    """Without end, and the same for a seed and the same rates."""
    chance = random.Random(seed)
    least, most = FLOORS[device]
    while True:
        layer = draw(chance, BATCHES[device])
        try:
            work = floors.work(layer, layer.batch, dtype)["f"]
        except ValueError:
            continue  # A window larger than the image.
        channels = layer.input[0], layer.out_channels
        # Of groups with few channels, a product takes many times as long.
        work["flops"] *= max(1, 16 * layer.groups // min(channels))
        if max(channels) <= MOST_CHANNELS and least < floors.floor(work, rates) < most:
            yield layer


def main() -> None:
    parser = run.arguments(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=5)
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    run.prepare_torch()
    rates = floors.measure_rates(args.device, args.dtype, args.seconds)
    endless = layers(args.seed, args.device, args.dtype, rates)
    rows = []
    while time.monotonic() < end:
        some = [next(endless) for _ in range(8)]
        for w, times, failed in run.contests(some, args.dtype, args.device, [OURS], args.seconds):
            ratios = {kind: run.ratios(times[kind]) for kind in run.KINDS}
            rows.append(ratios)
            cells = [
                f"{kind} {1e3 * times[kind][OURS]:.2f} ms {ratios[kind][OURS]:5.2f}"
                for kind in run.KINDS
                if OURS in ratios[kind]
            ]
            print(f"{w.name:60}", " | ".join(cells), failed or "", flush=True)
    for kind in run.KINDS:
        print(kind, run.geometric_means(row[kind] for row in rows))


if __name__ == "__main__":
    main()
