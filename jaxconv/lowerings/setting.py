"""What a rule may look at besides the geometry: batch, dtype, machine, use of the program."""

import os
from typing import Any, NamedTuple

import jax
from jax.interpreters import mlir


class Setting(NamedTuple):
    """Where a contraction is computed, and in which dtype."""

    dtype: Any
    """That of the operands."""

    one_device: bool = True
    """Whether what is lowered is all for one device, and not for XLA to divide between several."""

    images: int = 1
    """How many make the batch; one, where that is not known."""

    kept: bool = False
    """Whether the program is to be written down: exported, or put into a compilation cache."""


def read(context: mlir.LoweringRuleContext, image: jax.Array) -> Setting:
    """The setting of what is being lowered, of a batch like `image`."""
    module: Any = context.module_context
    one_device = _on_one_device(module.axis_context)
    images = image.shape[0] if isinstance(image.shape[0], int) else 1
    kept = is_exported(context) or _goes_into_cache()
    return Setting(image.dtype, one_device, images, kept)


def cores() -> int:
    """How many XLA:CPU has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _on_one_device(axes: Any) -> bool:
    if _are_of_shard_map(axes):
        return axes.manual_axes == frozenset(axes.mesh.axis_names)
    return getattr(axes, "num_devices", None) == 1


def _are_of_shard_map(axes: Any) -> bool:
    return hasattr(axes, "manual_axes")


def refines_sizes(context: mlir.LoweringRuleContext) -> bool:
    """Whether JAX can put the batch's size into an exported program when it is called: in
    `shard_map` it fails, and can end the process, for most operations but a convolution."""
    module: Any = context.module_context
    return not _are_of_shard_map(module.axis_context)


def is_exported(context: mlir.LoweringRuleContext) -> bool:
    """Whether what is being lowered is for `jax.export`."""
    module: Any = context.module_context
    return module.lowering_parameters.for_export


def _goes_into_cache() -> bool:
    config: Any = jax.config
    return bool(config.jax_enable_compilation_cache and config.jax_compilation_cache_dir)
