"""What a run writes: a JSON file that holds, at any moment, everything measured so far.

    kind          "layers", "models", "sweep" or "compile_cost"
    environment   date, platform, device, versions
    dtype
    setting       what is unusual about the run, if anything
    seconds       {workload: {"f" or "f+b" or "step": {contestant: median seconds}}}
    failed        {workload: {contestant: reason}}
    note          what a reader has to know, if anything

and what else the kind of run has to say.
"""

import datetime
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import torch

from jaxconv.lowerings.gpu import keeps_channels_last

FOLDER = Path(__file__).parent / "results"


def new(kind: str, device: str, dtype: str, **others: Any) -> dict[str, Any]:
    environment = {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "platform": device,
        "device": device_name(device),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "torch": torch.__version__,
    }
    record = {"kind": kind, "environment": environment, "dtype": dtype, **others}
    if keeps_channels_last():
        record["setting"] = "NHWC"
    return {**record, "seconds": {}, "failed": {}}


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def save(path: Path | None, record: dict[str, Any]) -> None:
    """Replace the file in one go, so that a run that is killed leaves a whole one."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(record, indent=1) + "\n")
    beside.replace(path)


def load(kind: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All records of a kind, oldest first, those of one title merged into one.

    Where two have measured the same workload, the later measurement holds.
    """
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    records = [record for record in records if record.get("kind") == kind]
    merged: dict[str, dict[str, Any]] = {}
    for record in sorted(records, key=lambda r: r["environment"]["date"]):
        key = title(record)
        merged[key] = _merge(merged[key], record) if key in merged else record
    return list(merged.values())


def title(record: Mapping[str, Any]) -> str:
    """Device, dtype, and what is unusual."""
    words = [record["environment"]["device"], record["dtype"], record.get("setting")]
    return ", ".join(filter(None, words))


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`new`, with the workloads of `old` that it lacks."""
    result = dict(new)
    for name, value in old.items():
        if isinstance(value, dict) and name not in ("environment", "failed"):
            result[name] = value | new.get(name, {})
    failed = {name: why for name, why in old["failed"].items() if name not in new["seconds"]}
    return {**result, "failed": failed | new["failed"]}
