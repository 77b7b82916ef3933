"""The training script as a user runs it: killed and started again, and on two hosts.

Each run is a process of its own. What they compile they share, and it isn't optimised: that would
take longer than running it.
"""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEPS = 12
OPTIONS = ["--batch", "2", "--size", "16", "--channels", "2,3", "--log-every", "1"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    cache = tmp_path_factory.mktemp("compiled")
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(environment, *options):
    command = [sys.executable, "examples/train.py", *OPTIONS, *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, text=True)


def losses(output: str) -> dict[int, float]:
    """The loss of each step, to all digits of float32."""
    return {int(step): float(loss) for step, loss in re.findall(r"step (\d+): loss (\S+)", output)}


def run(environment, *options) -> dict[int, float]:
    process = start(environment, *options)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return losses(output)


@pytest.fixture(scope="module")
def undisturbed(environment):
    result = run(environment, "--steps", str(STEPS))
    assert sorted(result) == list(range(1, STEPS + 1))
    assert result[STEPS] < result[1]
    return result


def test_a_killed_run_goes_on_to_the_same_losses(environment, undisturbed, tmp_path):
    checkpoint = ["--checkpoint", str(tmp_path), "--save-every", "2"]
    with start(environment, "--steps", "1000000", *checkpoint) as killed:
        for line in killed.stdout:
            if losses(line) and (tmp_path / "4").exists():
                killed.kill()
                break
    last_saved = max(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    resumed = run(environment, "--steps", str(STEPS), *checkpoint)
    assert resumed == {step: loss for step, loss in undisturbed.items() if step > last_saved}
    assert resumed


def test_two_processes_train_as_one(environment, undisturbed):
    """Joined over the loopback, each with half of the batch."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    options = ["--steps", "3", "--distributed", "--coordinator", address, "--num-processes", "2"]
    processes = [start(environment, *options, "--process-id", str(i)) for i in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "2 of 2 devices" in outputs[0]
    assert losses(outputs[1]) == {}, "only one of them reports"
    expected = {step: undisturbed[step] for step in (1, 2, 3)}
    assert losses(outputs[0]) == pytest.approx(expected, rel=1e-6)
