"""The three contractions of the trilinear form in `geometry.Geometry`: where numbers are made.

    conv(x, w)         -> y    the convolution
    conv_input(y, w)   -> x    its transpose in x: the transposed convolution
    conv_weight(x, y)  -> w    its transpose in w: the weight gradient

The form is linear in each argument, so the derivative of each contraction in each of its operands
is again one of the three, with the same geometry. Each is therefore one bilinear primitive, and
what it computes stays what it is through any number of derivatives. How it is computed is for
`jaxconv.lowerings` to say, per platform and shape.

`conv` and `conv_input` may add a bias to what they give, which a platform may then do as it
computes. That is a primitive of its own, as it is not bilinear; its derivatives are those of the
contraction and of the sum.

Layouts: x is `(N, C, *input_size)` and y `(N, O, *output_size)`, or channels last; w is
`(O, C/groups, *kernel_size)`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxconv import lowerings
from jaxconv.dtypes import of_sums
from jaxconv.geometry import Geometry
from jaxconv.sharding import by_mapped_axis
from jaxconv.varying import vary_alike

INPUT, WEIGHT, OUTPUT = "input", "weight", "output"


class Contraction(NamedTuple):
    """A contraction takes two of the three roles and gives the third."""

    primitive: Primitive
    with_bias: Primitive
    operands: tuple[str, str]
    result: str
    direct: Callable[..., jax.Array]


def conv(
    x: jax.Array, w: jax.Array, geometry: Geometry, bias: jax.Array | None = None, **options: Any
) -> jax.Array:
    """y, from x and w. Options: `precision`, `preferred_element_type`."""
    return _contract(_conv, x, w, geometry, bias, **options)


def conv_input(
    y: jax.Array, w: jax.Array, geometry: Geometry, bias: jax.Array | None = None, **options: Any
) -> jax.Array:
    """x, from y and w: the transpose of `conv` in x."""
    return _contract(_conv_input, y, w, geometry, bias, **options)


def conv_weight(x: jax.Array, y: jax.Array, geometry: Geometry, **options: Any) -> jax.Array:
    """w, from x and y: the transpose of `conv` in w."""
    return _contract(_conv_weight, x, y, geometry, **options)


def _contract(
    contraction: Contraction,
    a: jax.Array,
    b: jax.Array,
    geometry: Geometry,
    bias: jax.Array | None = None,
    *,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    if precision is None:
        # The default is read now, as lax does, not when a trace is lowered or transposed.
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(precision, list):  # Parameters are hashed.
        precision = tuple(precision)
    if preferred_element_type is not None:
        preferred_element_type = jnp.dtype(preferred_element_type)
    params = {
        "geometry": geometry,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
    }
    if bias is None:
        return contraction.primitive.bind(*vary_alike(a, b), **params)
    return contraction.with_bias.bind(*vary_alike(a, b, _widened(bias)), **params)


def add_bias(result: jax.Array, bias: jax.Array | None, geometry: Geometry) -> jax.Array:
    """Adds a bias to what has been computed already, as the contractions do."""
    if bias is None:
        return result
    return lowerings.add_bias(*vary_alike(result, _widened(bias)), geometry=geometry)


def _widened(bias: jax.Array) -> jax.Array:
    """Half-precision biases are spread in float32, so that their gradient is summed in float32."""
    return bias.astype(of_sums(bias.dtype))


# Types.


@functools.lru_cache(maxsize=1024)
def _direct_form(result: str, params: tuple[tuple[str, Any], ...]) -> Callable:
    """The direct form with these parameters: the same function each time, so that JAX traces it
    once for each type of its operands."""
    options = dict(params)

    def form(a, b, *bias):
        array = _CONTRACTIONS[result].direct(a, b, **options)
        return lowerings.add_bias(array, *bias, geometry=options["geometry"])

    return form


def _abstract_eval(result: str, a: Any, b: Any, *bias: Any, **params: Any) -> Any:
    """The type of the direct form: shape, dtype and varying axes, whatever the version of JAX calls
    them."""
    form = _direct_form(result, tuple(sorted(params.items())))
    return jax.make_jaxpr(form)(a, b, *bias).out_avals[0]


# Derivatives.


def _transpose_rule(contraction: Contraction, open_role: str, cotangent, a, b, **params):
    """The cotangent of one operand: the contraction that gives its role."""
    rule = _CONTRACTIONS[open_role]
    known = b if contraction.operands[0] == open_role else a
    roles = {role: known for role in contraction.operands if role != open_role}
    # `preferred_element_type` may have made the cotangent wider than the operands: the backward
    # contractions then run in the operands' dtype, and so does what is returned.
    roles[contraction.result] = cotangent.astype(known.dtype)
    params |= {"preferred_element_type": None}
    return _contract(rule, *(roles[role] for role in rule.operands), **params)


def _jvp_rule_with_bias(contraction: Contraction, primals, tangents, **params):
    """The tangents of the contraction, in each operand, and of the bias; one at least changes."""
    a, b, bias = primals
    result = contraction.with_bias.bind(a, b, bias, **params)
    change_of_a, change_of_b, change_of_bias = tangents
    changes = []
    if not isinstance(change_of_a, ad.Zero):
        changes.append(_contract(contraction, change_of_a, b, **params))
    if not isinstance(change_of_b, ad.Zero):
        changes.append(_contract(contraction, a, change_of_b, **params))
    if not isinstance(change_of_bias, ad.Zero):
        changes.append(lowerings.spread(change_of_bias, result, params["geometry"]))
    return result, functools.reduce(jnp.add, changes)


def _transpose_rule_with_bias(contraction: Contraction, cotangent, a, b, bias, **params):
    """Of the sum, in the bias and in one operand of the contraction, or in either alone. What is
    known of the sum is a constant then."""
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(x.aval) if ad.is_undefined_primal(x) else None for x in (a, b, bias)]
    cotangents: list[Any] = [
        _transpose_rule(contraction, role, cotangent, a, b, **params)
        if ad.is_undefined_primal(operand)
        else None
        for role, operand in zip(contraction.operands, (a, b), strict=True)
    ]
    if ad.is_undefined_primal(bias):
        return [*cotangents, lowerings.summed(cotangent, bias.aval.dtype, params["geometry"])]
    return [*cotangents, None]


# Batching.


def _batch_rule(contraction: Contraction, operands, axes, **params):
    """Fold the mapped axis into one that all the mapped roles share.

    Both operands mapped, so all three roles are: each example is a group of its own. Otherwise
    two roles are mapped, and they share one index of the form: x and y share n (the batch), w
    and y share o (the output channels), x and w share c (the input channels).
    """

    def compute(*operands):
        return _batched(contraction, operands, axes, params)

    return by_mapped_axis(compute, operands, axes), 0


def _batch_rule_with_bias(contraction: Contraction, operands, axes, **params):
    """As the contraction and then the sum."""

    def compute(a, b, bias):
        return add_bias(_contract(contraction, a, b, **params), bias, params["geometry"])

    return jax.vmap(compute, in_axes=axes)(*operands), 0


def _batched(contraction: Contraction, operands, axes, params) -> jax.Array:
    """The contraction with the mapped axis first."""
    geometry: Geometry = params["geometry"]
    size = next(
        operand.shape[axis]
        for operand, axis in zip(operands, axes, strict=True)
        if axis is not None
    )
    if isinstance(size, int) and size == 0:
        return _empty_batch(contraction, operands, axes, params)
    mapped = {
        role for role, axis in zip(contraction.operands, axes, strict=True) if axis is not None
    } | {contraction.result}
    places = _fold_places(mapped, geometry)
    first, second = [
        operand if axis is None else _fold(jnp.moveaxis(operand, axis, 0), *places[role])
        for role, operand, axis in zip(contraction.operands, operands, axes, strict=True)
    ]
    if len(mapped) == 3:
        params = params | {"geometry": dataclasses.replace(geometry, groups=geometry.groups * size)}
    result = _contract(contraction, first, second, **params)
    return _unfold(result, size, *places[contraction.result])


def _fold_places(mapped: set[str], g: Geometry) -> dict[str, tuple[int, int]]:
    """For each mapped role the axis to fold into, and the blocks (groups) that it consists of."""
    if len(mapped) == 3:
        return {INPUT: (g.channel_axis, 1), WEIGHT: (0, 1), OUTPUT: (g.channel_axis, 1)}
    if WEIGHT not in mapped:
        return {INPUT: (0, 1), OUTPUT: (0, 1)}
    if INPUT not in mapped:
        return {WEIGHT: (0, g.groups), OUTPUT: (g.channel_axis, g.groups)}
    return {WEIGHT: (1, 1), INPUT: (g.channel_axis, g.groups)}


def _fold(array: jax.Array, axis: int, blocks: int) -> jax.Array:
    """`(B, ..., blocks*m, ...)` to `(..., blocks*B*m, ...)`."""
    size, *shape = array.shape
    if blocks > 1:
        shape[axis : axis + 1] = blocks, shape[axis] // blocks
        axis += 1
        array = array.reshape(size, *shape)
    shape[axis] *= size
    array = jnp.moveaxis(array, 0, axis).reshape(shape)
    return lax.collapse(array, axis - 1, axis + 1) if blocks > 1 else array


def _unfold(array: jax.Array, size: int, axis: int, blocks: int) -> jax.Array:
    """`(..., blocks*B*m, ...)` to `(B, ..., blocks*m, ...)`: the inverse of `_fold`."""
    before, after = array.shape[:axis], array.shape[axis + 1 :]
    inner = array.shape[axis] // (blocks * size)
    if blocks == 1:
        return jnp.moveaxis(array.reshape(*before, size, inner, *after), axis, 0)
    array = jnp.moveaxis(array.reshape(*before, blocks, size, inner, *after), axis + 1, 0)
    return lax.collapse(array, axis + 1, axis + 3)


def _empty_batch(contraction: Contraction, operands, axes, params) -> jax.Array:
    single = [
        operand
        if axis is None
        else jnp.zeros(operand.shape[:axis] + operand.shape[axis + 1 :], operand.dtype)
        for operand, axis in zip(operands, axes, strict=True)
    ]
    result = jax.eval_shape(functools.partial(_contract, contraction, **params), *single)
    return jnp.zeros((0, *result.shape), result.dtype)


# The primitives.


def _define(name: str, operands: tuple[str, str], result: str, direct: Callable) -> Contraction:
    primitive, with_bias = _primitive(name, result), _primitive(f"{name}_with_bias", result)
    contraction = Contraction(primitive, with_bias, operands, result, direct)
    ad.defbilinear(
        primitive,
        functools.partial(_transpose_rule, contraction, operands[0]),
        functools.partial(_transpose_rule, contraction, operands[1]),
    )
    ad.primitive_transposes[with_bias] = functools.partial(_transpose_rule_with_bias, contraction)
    ad.primitive_jvps[with_bias] = functools.partial(_jvp_rule_with_bias, contraction)
    batching.primitive_batchers[primitive] = functools.partial(_batch_rule, contraction)
    batching.primitive_batchers[with_bias] = functools.partial(_batch_rule_with_bias, contraction)
    return contraction


def _primitive(name: str, result: str) -> Primitive:
    """Of the contraction giving `result`, with a bias to add or without."""
    primitive = Primitive(name)

    @functools.partial(
        jax.jit,
        static_argnames=("geometry", "precision", "preferred_element_type"),
    )
    def run(*arrays, **params):
        return primitive.bind(*arrays, **params)

    def evaluate(*arrays, **params):
        # Also where a user has jit disabled: unjitted, `run` would come back here for ever.
        with jax.disable_jit(False):
            return run(*arrays, **params)

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(functools.partial(_abstract_eval, result))
    for platform, form in lowerings.platform_forms(result).items():
        mlir.register_lowering(primitive, functools.partial(_lower, form), platform=platform)
    return primitive


def _lower(form: Callable, context: mlir.LoweringRuleContext, *arrays, **params):
    form = functools.partial(form, context=context)
    return mlir.lower_fun(form, multiple_results=False)(context, *arrays, **params)


_conv = _define("conv", (INPUT, WEIGHT), OUTPUT, lowerings.direct.conv)
_conv_input = _define("conv_input", (OUTPUT, WEIGHT), INPUT, lowerings.direct.conv_input)
_conv_weight = _define("conv_weight", (INPUT, OUTPUT), WEIGHT, lowerings.direct.conv_weight)
_CONTRACTIONS = {c.result: c for c in (_conv, _conv_input, _conv_weight)}
