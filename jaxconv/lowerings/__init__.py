"""How a contraction is computed: one lax convolution, and the faster ways a platform needs.

A platform has a rule (`cpu.choose`) that reads the geometry and the channel counts and gives a
plan: names of changes of variables (`changes`), then of a computation. `plans` carries it out.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import mlir

from jaxconv.dtypes import is_half, of_sums
from jaxconv.geometry import Geometry
from jaxconv.lowerings import changes, cpu, direct, gpu, plans, setting
from jaxconv.lowerings.bias import add_bias, spread, summed

__all__ = ["add_bias", "direct", "platform_forms", "spread", "summed"]


def _choose_elsewhere(*_: Any) -> plans.Plan:
    return ("convolution",)


_RULES = {None: _choose_elsewhere, "cpu": cpu.choose, "cuda": gpu.choose}


def platform_forms(result: str) -> dict[str | None, Callable[..., jax.Array]]:
    """The form of the contraction giving `result` by platform; None stands for all others."""
    return {
        platform: functools.partial(_planned, choose, result) for platform, choose in _RULES.items()
    }


def _planned(
    choose: Callable[..., plans.Plan],
    result: str,
    a: jax.Array,
    b: jax.Array,
    bias: jax.Array | None = None,
    *,
    geometry: Geometry,
    context: mlir.LoweringRuleContext,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """The contraction by the plan that `choose` gives, and the bias added to it."""
    geometry = geometry.simplified()
    options = {"precision": precision, "preferred_element_type": preferred_element_type}
    dtype = jnp.dtype(preferred_element_type or a.dtype)
    plan = ("convolution",)
    if _is_known(result, a, b, geometry) and _has_images(a.shape[0], context):
        if changes.meets_nothing(geometry):
            like = jax.eval_shape(functools.partial(plans.DIRECT[result], geometry=geometry), a, b)
            return add_bias(jnp.zeros(like.shape, dtype), bias, geometry=geometry)
        channels = plans.channels_of(result, a, b, geometry)
        cropped = changes.crop_kernel(geometry).parts[0]
        plan = ("crop_kernel", *choose(result, cropped, *channels, setting.read(context, a)))
    if setting.is_exported(context):
        plan = plans.without_layouts(plan)
    if plans.adds_results(plan, result) and is_half(dtype):
        options["preferred_element_type"] = of_sums(dtype)  # Rounded once, when all is added.
    if plans.takes_bias(plan, result):
        options["bias"], bias = bias, None
    y = plans.carry_out(plan, result, a, b, geometry, **options).astype(dtype)
    return add_bias(y, bias, geometry=geometry)


def _is_known(result: str, a: jax.Array, b: jax.Array, g: Geometry) -> bool:
    """Whether all sizes are known, but for the number of images, and none is 0."""
    others = b.shape[1:] if result == "weight" else b.shape
    sizes = (*a.shape[1:], *others, *g.input_size, *g.output_size)
    return all(isinstance(size, int) and size > 0 for size in sizes)


def _has_images(images: Any, context: mlir.LoweringRuleContext) -> bool:
    """Whether there are images for certain; if their number is a symbol, one that JAX can put in
    for what a plan does."""
    if isinstance(images, int):
        return images > 0
    try:
        return setting.refines_sizes(context) and images >= 1
    except jax.errors.InconclusiveDimensionOperation:
        return False
