"""Interleaved timing: every contestant runs in every round, so a slow minute slows them all, and
each round begins with another one, so none always follows the same one."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

PAUSE = 0.02
"""Seconds between two contestants."""


def wait(result: Any) -> None:
    """Until `result`, of JAX or torch, has been computed."""
    leaves = jax.tree.leaves(result)
    if leaves and isinstance(leaves[0], jax.Array):
        jax.block_until_ready(result)
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _run(function: Callable[[], Any], repeats: int) -> float:
    """Seconds a call, over `repeats` calls issued one behind the other."""
    result = None
    start = time.perf_counter()
    for _ in range(repeats):
        result = function()
    wait(result)
    return (time.perf_counter() - start) / repeats


def median_times(
    functions: Mapping[str, Callable[[], Any]],
    seconds: float = 0.5,
    rounds: int = 7,
    failed: dict[str, str] | None = None,
) -> dict[str, float]:
    """Median seconds a call of each function, with about `seconds` for each in all.

    A function too slow for that runs once or more, but in no further round once it has had ten
    times as much. One that raises is left out and, given `failed`, noted there with its reason.
    """
    repeats: dict[str, int] = {}
    for name, function in functions.items():
        try:
            wait(function())
            once = _run(function, 1)
        except Exception as error:
            if failed is None:
                raise
            failed[name] = reason(error)
            continue
        repeats[name] = max(1, min(200, int(seconds / rounds / max(once, 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in repeats}
    names = list(repeats)
    for turn in range(rounds):
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            count = repeats[name]
            if count * sum(times[name]) < 10 * seconds:
                # The threads of the one before, torch's above all, stay awake for a while.
                time.sleep(PAUSE)
                times[name].append(_run(functions[name], count))
    return {name: statistics.median(values) for name, values in times.items()}


def reason(error: Exception) -> str:
    """An error in one line, for tables."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
