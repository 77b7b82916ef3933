"""A training step of `examples.train` on two GPUs of one host, against one GPU.

    python -m benchmarks.two_gpus --output two_gpus.txt
    python -m benchmarks.two_gpus 3-D                      # workloads that a pattern finds
    python -m benchmarks.two_gpus --platform cpu --tiny    # on two virtual devices, as a check

A U-Net with its batch split over both, and a 3-D U-Net with the depth of its volumes split, where
the devices exchange halos. The global batch is the same on one GPU and on two. Each configuration
runs in a process of its own, so that its peak of memory is its own. Tells the speed-up, the memory,
the collectives in the compiled step, and how far loss and gradients on two GPUs are from those on
one. Writes what it prints, and the same numbers as JSON beside it.
"""

import argparse
import collections
import dataclasses
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from examples import train


@dataclasses.dataclass(frozen=True)
class Workload:
    batch: int
    sizes: tuple[int, ...]
    channels: tuple[int, ...]
    image_channels: int
    split: str  # The mesh axis with two devices: "data" or "space".


_UNET = Workload(32, (256, 256), (64, 128, 256, 512), 3, "data")
WORKLOADS = {
    "U-Net, data parallel": _UNET,
    "U-Net, data parallel, four times the batch": dataclasses.replace(_UNET, batch=128),
    "3-D U-Net, depth partitioned": Workload(2, (128, 128, 128), (32, 64, 128, 256), 1, "space"),
}
# The same networks with less to do, for the comparison in float32 and for `--tiny`.
SMALL = {
    "U-Net, data parallel": {"batch": 4, "sizes": (64, 48)},
    "U-Net, data parallel, four times the batch": {"batch": 4, "sizes": (64, 48)},
    "3-D U-Net, depth partitioned": {"sizes": (32, 24, 16)},
}
TINY_CHANNELS = (4, 8, 12, 16)
STEPS = 10  # Between two looks at the loss, as in the script.
REPEATS = 5


class Run:
    """A model in training on some devices."""

    def __init__(self, workload: Workload, devices: int, dtype: str):
        self.mesh = train.make_mesh(**{"data": 1, "space": 1, workload.split: devices})
        shape = (*workload.sizes, workload.image_channels)
        self.images = train.make_batch(
            lambda rng: rng.random(shape, np.float32),
            (0,), (workload.batch, *shape), train.image_sharding(self.mesh, "channels_last"), True,
        )  # fmt: skip
        model = train.UNet(workload.channels, len(workload.sizes), "channels_last", np.dtype(dtype))
        self.state: Any = train.create_state(model, shape, self.mesh, 0, 1e-3)
        start = time.perf_counter()
        step = train.make_train_step(self.mesh, "channels_last", 0)
        self.compiled = step.lower(self.state, self.images).compile()
        self.compile_seconds = time.perf_counter() - start

    def step(self) -> jax.Array:
        self.state, loss = self.compiled(self.state, self.images)
        return loss

    def steps(self, count: int) -> float:
        return float([self.step() for _ in range(count)][-1])

    def first_step(self) -> tuple[float, dict[str, np.ndarray]]:
        """Loss and gradients: after one step, Adam's first moment is a tenth of the gradient."""
        loss = self.steps(1)
        moments = jax.tree_util.tree_leaves_with_path(self.state.opt_state[0].mu)
        return loss, {jax.tree_util.keystr(path): np.asarray(mu) * 10 for path, mu in moments}

    def median_seconds(self, count: int) -> float:
        """A step's, of `count` between two looks at the loss."""
        times = []
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            self.steps(count)
            times.append((time.perf_counter() - start) / count)
        return statistics.median(times[1:])


def difference(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> dict[str, float]:
    """|one - two| / |one|, in the Euclidean norm, over all gradients and for the worst of them."""
    squares = {name: (np.sum((g - two[name]) ** 2), np.sum(g**2)) for name, g in one.items()}
    total, norm = map(sum, zip(*squares.values(), strict=True))
    return {
        "all": float(np.sqrt(total / norm)),
        "worst": float(np.sqrt(max(d / max(n, 1e-30) for d, n in squares.values()))),
    }


# Collectives.

_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_ARRAY = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\]")


def collectives(hlo: str) -> list[tuple[str, int, str]]:
    """Kind, bytes of the result on one device, and types of each collective in a compiled step."""
    found = []
    for line in hlo.splitlines():
        match = _COLLECTIVE.search(line)
        if match:
            arrays = [array for array in _ARRAY.findall(match[1]) if array[2] or not match[3]]
            if match[3] and match[2] != "all-reduce":
                arrays = arrays[len(arrays) // 2 :]  # Behind the operands come the results.
            types = " ".join(f"{kind}{bits}[{shape}]" for kind, bits, shape in arrays)
            found.append((match[2], sum(map(_num_bytes, arrays)), types))
    return found


def _num_bytes(array: tuple[str, str, str]) -> int:
    _, bits, shape = array
    return int(np.prod([int(size) for size in shape.split(",") if size])) * int(bits or 8) // 8


# One configuration, in a process of its own.


def measure(name: str, devices: int, tiny: bool, gradients_file: Path) -> dict[str, Any]:
    workload, small = WORKLOADS[name], dataclasses.replace(WORKLOADS[name], **SMALL[name])
    if tiny:
        workload = small = dataclasses.replace(small, channels=TINY_CHANNELS)
    run = Run(workload, devices, "bfloat16")
    loss, gradients = run.first_step()
    np.savez(gradients_file, allow_pickle=False, **gradients)
    planned = run.compiled.memory_analysis()
    result = {
        "loss": loss,
        "seconds": run.median_seconds(STEPS),
        "seconds_alone": run.median_seconds(1),
        "compile_seconds": run.compile_seconds,
        "planned_bytes": planned.temp_size_in_bytes + planned.argument_size_in_bytes,
        "peak_bytes": [
            (device.memory_stats() or {}).get("peak_bytes_in_use")
            for device in run.mesh.devices.flat
        ],
        "collectives": collectives(run.compiled.as_text()),
        "device": jax.devices()[0].device_kind,
    }
    if devices > 1:
        with jax.default_matmul_precision("highest"):
            small = dataclasses.replace(small, channels=small.channels[:3])
            one, two = (Run(small, count, "float32").first_step() for count in (1, devices))
        half = Run(small, 1, "bfloat16").first_step()
        result["float32_loss_difference"] = abs(one[0] - two[0]) / one[0]
        result["float32_difference"] = difference(one[1], two[1])
        result["bfloat16_error"] = difference(one[1], half[1])
    return result


def measure_in_process(name: str, devices: int, args: argparse.Namespace, folder: Path) -> Any:
    env = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if args.platform == "cpu":
        flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
        env |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    output = folder / f"{devices}.json"
    command = [sys.executable, "-m", "benchmarks.two_gpus", "--worker", name, str(devices)]
    command += ["--output", str(output), *(["--tiny"] if args.tiny else [])]
    subprocess.run(command, env=env, check=True)
    return json.loads(output.read_text()), dict(np.load(output.with_suffix(".npz")))


def report(name: str, one: dict[str, Any], two: dict[str, Any], bfloat16: dict[str, float]) -> str:
    def gigabytes(*sizes):
        return " and ".join("unknown" if n is None else f"{n / 2**30:.2f} GiB" for n in sizes)

    lines = [
        f"{name}; {two['device']}",
        f"  step: {one['seconds'] * 1e3:.1f} ms on one, {two['seconds'] * 1e3:.1f} ms on two: "
        f"speed-up {one['seconds'] / two['seconds']:.2f}",
        f"    if the host waits for every step: {one['seconds_alone'] * 1e3:.1f} ms, "
        f"{two['seconds_alone'] * 1e3:.1f} ms, {one['seconds_alone'] / two['seconds_alone']:.2f}",
        f"  peak memory: {gigabytes(*one['peak_bytes'])} on one, "
        f"{gigabytes(*two['peak_bytes'])} on two",
        f"  memory the step needs, by XLA: {gigabytes(one['planned_bytes'])} on one, "
        f"{gigabytes(two['planned_bytes'])} on each of two",
        f"  compilation: {one['compile_seconds']:.0f} s and {two['compile_seconds']:.0f} s",
        f"  loss, bfloat16: {one['loss']:.7g} and {two['loss']:.7g}",
        f"  relative difference of gradients, bfloat16: {bfloat16['all']:.1e} (all as one vector), "
        f"{bfloat16['worst']:.1e} (worst parameter)",
        "  relative difference, float32 at highest precision, a smaller one: "
        f"loss {two['float32_loss_difference']:.1e}, gradients "
        f"{two['float32_difference']['all']:.1e}, {two['float32_difference']['worst']:.1e}",
        "    (what bfloat16 itself does to that one's gradients, on one: "
        f"{two['bfloat16_error']['all']:.1e}, {two['bfloat16_error']['worst']:.1e})",
        f"  collectives on one: {len(one['collectives']) or 'none'}; on two, by kind:",
    ]
    by_kind = collections.defaultdict(list)
    for kind, size, types in two["collectives"]:
        by_kind[kind].append((size, types))
    for kind, found in by_kind.items():
        total, (largest, types) = sum(size for size, _ in found), max(found)
        types = types if len(types) < 60 else types[:60] + "..."
        lines.append(
            f"    {kind}: {len(found)}, {total:,} bytes in all, largest {largest:,}: {types}"
        )
    # Parameters are whole on every device, so there is nothing else to gather.
    gathers = by_kind["all-gather"] + by_kind["all-to-all"]
    lines.append(f"  ACTIVATIONS GATHERED: {gathers}" if gathers else "  no activations gathered")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step on two GPUs against one.")
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--output", type=Path, default=Path("two_gpus.txt"))
    parser.add_argument("--platform", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--tiny", action="store_true", help="small sizes, as a check")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, devices = args.worker
        result = measure(name, int(devices), args.tiny, args.output.with_suffix(".npz"))
        args.output.write_text(json.dumps(result))
        return
    date = datetime.date.today().isoformat()
    results: dict[str, Any] = {"date": date, "jax": jax.__version__}
    text = f"{date}, jax {jax.__version__}, jaxlib {metadata.version('jaxlib')}\n"
    for name in (name for name in WORKLOADS if re.search(args.pattern, name)):
        with tempfile.TemporaryDirectory() as folder:
            (one, gradients_one), (two, gradients_two) = (
                measure_in_process(name, devices, args, Path(folder)) for devices in (1, 2)
            )
        bfloat16 = difference(gradients_one, gradients_two)
        results[name] = {"one": one, "two": two, "bfloat16_difference": bfloat16}
        part = report(name, one, two, bfloat16)
        text += part + "\n"
        args.output.write_text(text)
        args.output.with_suffix(".json").write_text(json.dumps(results, indent=1))
        print(part, flush=True)


if __name__ == "__main__":
    main()
