"""Time one training step of nine networks in jaxconv with Flax, and in torch.

`python -m benchmarks.models U-Net --device cuda --dtype bfloat16`; the pattern is a regular
expression over names. A step is the forward and the backward pass and an update by Adam: jitted
with its state donated, against torch eager in either memory format and, on a GPU, through
torch.compile. All start from the same weights. `--check` trains tiny forms of all contestants in
float64 instead, and compares their losses.
"""

import functools
import gc
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import torch

from benchmarks import architectures, models_jax, models_torch, records, run
from benchmarks.architectures import Model
from benchmarks.contestants import compile_together
from benchmarks.timing import median_times

JAX_CONTESTANTS: dict[str, Any] = {
    "jaxconv last": {"library": "jaxconv", "data_format": "channels_last"},
    "jaxconv first": {"library": "jaxconv", "data_format": "channels_first"},
    "linen": {"library": "linen", "data_format": "channels_last"},
}
TORCH_CONTESTANTS = {
    "torch": {"channels_last": False},
    "torch last": {"channels_last": True},
    "torch compiled": {"channels_last": True, "compiled": True},
}
KIND = "step"
SMALL_HEAPS = {"xla_multiheap_size_constraint_per_heap": 16 << 20}
"""Options for jit: a step's temporaries in heaps small enough, below 32 MiB, for glibc to keep."""


def batch_for(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """A random input, and a target of the shape of the output."""
    with torch.device("meta"):
        module = models_torch.build(model.network, model.num_spatial_dims)
        shape = tuple(module(torch.empty(model.input)).shape)
    rng = np.random.default_rng(0)
    x = rng.normal(size=model.input).astype(np.float32)
    if model.loss == "cross_entropy":
        return x, rng.integers(shape[1], size=(shape[0], *shape[2:]))
    return x, rng.normal(size=shape).astype(np.float32)


def torch_contestants(model: Model, device: str) -> dict[str, dict[str, bool]]:
    """What there is of torch: one-dimensional tensors have no channels-last format."""
    contestants = dict(TORCH_CONTESTANTS)
    if model.num_spatial_dims == 1:
        del contestants["torch last"]
        contestants["torch compiled"] = {"channels_last": False, "compiled": True}
    if device != "cuda":
        del contestants["torch compiled"]
    return contestants


def contests(
    models: Sequence[Model], dtype: str, device: str, names: Sequence[str], seconds: float,
    compiler_options: dict[str, Any] | None = None,
) -> Iterator[tuple[Model, dict[str, float], run.Failures]]:  # fmt: skip
    """Median seconds of a step, and reasons for what is missing; `compiler_options` are JAX's."""
    jax_names = [name for name in names if name in JAX_CONTESTANTS]
    torch_names = [name for name in names if name in TORCH_CONTESTANTS]
    for model in models:
        batch, failed = batch_for(model), {}
        contestants = _compiled(model, batch, dtype, jax_names, compiler_options, failed)
        module = models_torch.initial(model)
        for training in contestants.values():
            training.start(models_torch.weights(module))
        options = torch_contestants(model, device)
        builders = {
            name: functools.partial(
                models_torch.Training, model, module, *batch,
                dtype=dtype, device=device, **options[name],
            )
            for name in torch_names
            if name in options
        }  # fmt: skip
        contestants |= run.attempt(builders, failed)
        yield model, median_times(contestants, seconds, 5, failed), failed
        contestants.clear()
        if device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def _compiled(
    model: Model, batch: tuple, dtype: str, names: Sequence[str],
    compiler_options: dict[str, Any] | None, failed: run.Failures,
) -> dict[str, Any]:  # fmt: skip
    """The contestants of JAX; the reasons for what is missing go to `failed`."""
    builders = {
        name: functools.partial(
            models_jax.Training, model, *batch, dtype=dtype,
            compiler_options=compiler_options, **JAX_CONTESTANTS[name],
        )
        for name in names
    }  # fmt: skip
    trainings = run.attempt(builders, failed)
    failed |= (failures := compile_together(trainings))
    return {name: training for name, training in trainings.items() if name not in failures}


def check(model: Model, names: Sequence[str] = tuple(JAX_CONTESTANTS), steps: int = 3) -> None:
    """Raise unless all contestants, from the same weights, have the same losses in float64."""
    x, target = batch_for(model)
    module = models_torch.initial(model)
    losses = {}
    for name, options in torch_contestants(model, "cpu").items():
        step = models_torch.Training(
            model, module, x, target, dtype="float64", device="cpu", **options
        )
        losses[name] = [float(step()) for _ in range(steps)]
    with jax.enable_x64(True):
        for name in names:
            training = models_jax.Training(
                model, x, target, dtype="float64", **JAX_CONTESTANTS[name]
            )
            training.start(models_torch.weights(module))
            losses[name] = [float(training()[0]) for _ in range(steps)]
    for name, values in losses.items():
        np.testing.assert_allclose(
            values, losses["torch"], rtol=1e-12, err_msg=f"{model.name}: {name}"
        )
    for earlier, later in itertools.pairwise(losses["torch"]):
        if later == earlier:
            raise AssertionError(f"{model.name} does not learn: its loss stays {later}")


def main() -> None:
    parser = run.arguments(__doc__)
    names = [*JAX_CONTESTANTS, *TORCH_CONTESTANTS]
    parser.add_argument(
        "--names", nargs="*", choices=names, default=[name for name in names if name != "linen"]
    )
    parser.add_argument("--size", choices=architectures.SIZES, help="by default the device's")
    parser.add_argument("--small-heaps", action="store_true", help="for the temporaries of JAX")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        for model in run.selected(args.pattern, architectures.models("tiny")):
            check(model)
            print(f"{model.name}: the losses agree", flush=True)
        return
    size = args.size or ("gpu" if args.device == "cuda" else "cpu")
    if args.json and size == "tiny":
        parser.error("--json is for the report, which knows nothing of tiny networks")
    run.prepare_torch()
    record = records.new("models", args.device, args.dtype, size=size)
    if args.small_heaps:
        record["setting"] = "small heaps"
    options = SMALL_HEAPS if args.small_heaps else None
    print(record["environment"], flush=True)
    models = run.selected(args.pattern, architectures.models(size))
    for model, times, failed in contests(
        models, args.dtype, args.device, args.names, args.seconds, options
    ):
        record["seconds"][model.name] = {KIND: times}
        if failed:
            record["failed"][model.name] = failed
        cells = [f"{name} {seconds * 1e3:.1f} ms" for name, seconds in times.items()]
        cells += [f"{name} n/a" for name in failed]
        print(f"{model.name:22} | " + " | ".join(cells), failed or "", flush=True)
        records.save(args.json, record)
    rows = [run.ratios(times[KIND]) for times in record["seconds"].values()]
    for name, mean in run.geometric_means(rows).items():
        print(f"geometric mean against torch: {name}: {mean:.2f}")


if __name__ == "__main__":
    main()
