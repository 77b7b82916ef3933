"""JAX's transformations: each gives what plain evaluation gives, or what it must be by its meaning.

A convolution is bilinear in input and weight, and adds the bias. So its derivatives are known from
convolutions alone, and the transformations are checked against those.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv
from tests import oracle
from tests.cases import CASES, Case, all_cases, few_cases, fewest_cases

BY_NAME = {case.name: case for case in CASES}
TOLERANCE = 1e-12


# Derivatives. Without jit and without bias, all of a case's run the same few compiled contractions.


class Point(NamedTuple):
    """A function of input and weight, and where to differentiate it."""

    function: Callable[[Any, Any], jax.Array]
    x: jax.Array
    w: jax.Array
    dx: jax.Array
    dw: jax.Array
    cotangent: jax.Array

    @classmethod
    def of(cls, case: Case) -> "Point":
        function = functools.partial(oracle.run_jaxconv, case)
        x, w, *_ = map(jnp.asarray, case.arrays(seed=1))
        dx, dw, *_ = map(jnp.asarray, case.arrays(seed=2))
        shape = jax.eval_shape(function, x, w).shape
        return cls(function, x, w, dx, dw, jnp.asarray(np.random.default_rng(3).normal(size=shape)))

    def pullback(self, x: Any, w: Any) -> tuple[jax.Array, ...]:
        return jax.vjp(self.function, x, w)[1](self.cotangent)


def product_rule(at: Point) -> jax.Array:
    """The derivative along the tangents."""
    return at.function(at.dx, at.w) + at.function(at.x, at.dw)


def mixed_terms(at: Point) -> tuple[jax.Array, ...]:
    """How the pullback changes along the tangents: in each of the two by the other's tangent."""
    return at.pullback(at.dx, at.dw)


def jvp(at):
    return jax.jvp(at.function, (at.x, at.w), (at.dx, at.dw))[1], product_rule(at)


def linearize(at):
    return jax.linearize(at.function, at.x, at.w)[1](at.dx, at.dw), product_rule(at)


def vjp(at):
    """<cotangent, jvp(tangents)> = <vjp(cotangent), tangents>."""
    in_x, in_w = at.pullback(at.x, at.w)
    reverse = np.vdot(in_x, at.dx) + np.vdot(in_w, at.dw)
    return reverse, np.vdot(at.cotangent, product_rule(at))


def linear_transpose(at):
    """Of the convolution as a function of its input, and of its weight."""
    (in_x,) = jax.linear_transpose(lambda x: at.function(x, at.w), at.x)(at.cotangent)
    (in_w,) = jax.linear_transpose(lambda w: at.function(at.x, w), at.w)(at.cotangent)
    return (in_x, in_w), at.pullback(at.x, at.w)


def hessian_vector_product(at):
    """Forward over reverse."""
    return jax.jvp(at.pullback, (at.x, at.w), (at.dx, at.dw))[1], mixed_terms(at)


def grad_of_grad(at):
    """Reverse over reverse; the Hessian is symmetric."""
    return jax.vjp(at.pullback, at.x, at.w)[1]((at.dx, at.dw)), mixed_terms(at)


def checkpoint(at):
    saved = at._replace(function=jax.checkpoint(at.function))
    return saved.pullback(at.x, at.w), at.pullback(at.x, at.w)


def disable_jit(at):
    with jax.disable_jit():
        actual = at.pullback(at.x, at.w)
    return actual, at.pullback(at.x, at.w)


EVERYWHERE = [jvp, vjp, hessian_vector_product, grad_of_grad]
OF_FEW = [linear_transpose, linearize, checkpoint, disable_jit]


def name_of(function):
    return function.__name__


@pytest.mark.parametrize("transformation", EVERYWHERE, ids=name_of)
@all_cases
def test_derivative(case, transformation):
    assert_all_close(*transformation(Point.of(case)))


@pytest.mark.parametrize("transformation", OF_FEW, ids=name_of)
@few_cases
def test_derivative_of_few_cases(case, transformation):
    assert_all_close(*transformation(Point.of(case)))


def assert_all_close(actual: Any, expected: Any) -> None:
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    for a, e in zip(actual, expected, strict=True):
        oracle.assert_close(a, e, TOLERANCE)


def test_jacobians_and_hessian_agree():
    case = BY_NAME["T-1d-groups"]
    x, w, b = case.arrays()

    def function(w):
        return jnp.tanh(oracle.run_jaxconv(case, x, w, b))

    oracle.assert_close(jax.jacfwd(function)(w), jax.jacrev(function)(w), 1e-13)
    hessian = jax.hessian(lambda w: function(w).sum())(w)
    oracle.assert_close(hessian, jax.jacrev(jax.jacrev(lambda w: function(w).sum()))(w), 1e-12)


# Control flow and compilation.


@all_cases
def test_eval_shape(case):
    """In both layouts."""
    arrays = case.arrays()
    expected = oracle.run_torch(case, *map(oracle.to_torch, arrays))
    for channels_last in (False, True):
        run = functools.partial(oracle.run_jaxconv, case, channels_last=channels_last)
        output = jax.eval_shape(run, *arrays)
        assert (output.shape, output.dtype) == (tuple(expected.shape), jnp.float64)


@fewest_cases
def test_scan(case):
    """Over the input, with the gradient of the weight through the loop."""
    x, *params = case.arrays()
    scales = jnp.arange(1.0, 4.0)

    @jax.jit
    @jax.grad
    def looped(params):
        def step(total, scale):
            return total + jnp.sum(jnp.sin(oracle.run_jaxconv(case, scale * x, *params))), None

        return jax.lax.scan(step, 0.0, scales)[0]

    @jax.grad
    def unrolled(params):
        outputs = (oracle.run_jaxconv(case, scale * x, *params) for scale in scales)
        return sum(jnp.sum(jnp.sin(output)) for output in outputs)

    assert_all_close(looped(params), unrolled(params))


@fewest_cases
def test_donated_buffers(case):
    """A training step that gives its parameters away, and one that does not."""
    x, *params = map(jnp.asarray, case.arrays())

    def step(params):
        grads = jax.grad(lambda params: jnp.sum(oracle.run_jaxconv(case, x, *params) ** 2))(params)
        # A power of two: XLA may round another factor to float32 on a GPU (docs/known-issues.md).
        return [param - 0.125 * grad for param, grad in zip(params, grads, strict=True)]

    expected = step(params)
    donated = jax.tree.map(jnp.copy, params)
    assert_all_close(jax.jit(step, donate_argnums=0)(donated), expected)
    assert all(param.is_deleted() for param in donated)


@fewest_cases
def test_a_geometry_compiles_once(case, caplog):
    """Called again with other numbers, jitted or not."""
    at = Point.of(case)
    jitted = jax.jit(at.pullback)

    def compilations(x, w):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            jax.block_until_ready((jitted(x, w), at.pullback(x, w)))
        messages = [record.getMessage() for record in caplog.records]
        return sum(message.startswith("Compiling") for message in messages)

    assert compilations(at.x, at.w)
    assert not compilations(at.dx, at.dw)


def test_default_matmul_precision_is_read_when_traced():
    x, w = jnp.ones((1, 2, 5, 5)), jnp.ones((3, 2, 2, 2))
    with jax.default_matmul_precision("highest"):
        jaxpr = str(jax.make_jaxpr(jaxconv.conv2d)(x, w))
    assert "precision=highest" in jaxpr
    with jax.default_matmul_precision(None):
        assert "precision=None" in str(jax.make_jaxpr(jaxconv.conv2d)(x, w))


# Batching.


@few_cases
@pytest.mark.parametrize("mapped", ["input", "weight", "both", "nested"])
def test_vmap_equals_a_loop(case, mapped):
    """Values and gradients, with the mapped axis in the middle."""
    at = Point.of(case)
    examples = [(at.x, at.w), (at.dx, at.dw), (at.x[::-1], at.w[::-1])]

    def value_and_gradients(x, w):
        y, vjp = jax.vjp(at.function, x, w)
        return y, *vjp(at.cotangent)

    def loop(pairs):
        return jax.tree.map(lambda *a: np.stack(a), *(value_and_gradients(*pair) for pair in pairs))

    xs, ws = (np.stack(arrays, axis=1) for arrays in zip(*examples, strict=True))
    if mapped == "nested":
        run = jax.vmap(jax.vmap(value_and_gradients, (None, 1)), (1, None))
        rows = [loop([(x, w) for _, w in examples]) for x, _ in examples]
        expected = jax.tree.map(lambda *a: np.stack(a), *rows)
    else:
        axes = {"input": (1, None), "weight": (None, 1), "both": (1, 1)}[mapped]
        run = jax.vmap(value_and_gradients, axes)
        xs, ws = xs if axes[0] else at.x, ws if axes[1] else at.w
        expected = loop([(x if axes[0] else at.x, w if axes[1] else at.w) for x, w in examples])
    assert_all_close(jax.jit(run)(xs, ws), expected)


def test_vmap_over_nothing_is_empty():
    x, w = jnp.zeros((0, 2, 3, 5, 6)), jnp.zeros((4, 3, 2, 2))
    assert jax.vmap(jaxconv.conv2d, (0, None))(x, w).shape == (0, 2, 4, 4, 5)
    both = jax.vmap(jaxconv.conv2d)(x, jnp.zeros((0, 4, 3, 2, 2)))
    assert both.shape == (0, 2, 4, 4, 5)


def test_batched_weights_become_groups():
    """One convolution of B groups, not B convolutions."""
    x, w = jnp.ones((8, 2, 3, 9, 9)), jnp.ones((8, 4, 3, 3, 3))
    text = str(jax.make_jaxpr(jax.vmap(jaxconv.conv2d))(x, w))
    assert text.count("conv[") == 1
    assert "groups=8" in text
    assert "while" not in text


@few_cases
def test_linear_transpose_in_input_and_bias_and_in_either(case):
    """A layer is linear in input and bias together. With the other known, JAX leaves that out."""
    x, w, bias = map(jnp.asarray, case.arrays())

    def layer(x, bias):
        return oracle.run_jaxconv(case, x, w, bias)

    y, vjp = jax.vjp(layer, x, bias)
    of_x, of_bias = vjp(y)
    assert_all_close(jax.linear_transpose(layer, x, bias)(y), (of_x, of_bias))
    assert_all_close(jax.linear_transpose(lambda x: layer(x, bias), x)(y), (of_x,))
    assert_all_close(jax.linear_transpose(lambda bias: layer(x, bias), bias)(y), (of_bias,))


# Export.


EXPORTED = [
    "2d-1x1", "2d-stride-leftover", "2d-same-even-dilated", "2d-depthwise", "2d-groups-mixed",
    "2d-reflect", "2d-replicate-unbatched", "2d-circular-stride-groups", "1d-groups", "3d-stride",
    "T-2d-groups", "T-2d-output-padding-beyond-stride", "T-1d-k16s8", "T-3d-k2s2",
]  # fmt: skip


def _value_and_gradients(case, channels_last=False):
    @jax.jit
    def run(x, *params):
        function = functools.partial(oracle.run_jaxconv, case, channels_last=channels_last)
        y, vjp = jax.vjp(function, x, *params)
        return y, *vjp(y)

    return run


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@all_cases
def test_export_with_known_sizes(case, channels_last):
    """For cpu, cuda and tpu, by the plans that each has for these sizes."""
    run = _value_and_gradients(case, channels_last)
    export = jax.export.export(run, platforms=("cpu", "cuda", "tpu"))
    assert export(*case.arrays("float32")).serialize()


def _exported_for_any_batch(run, x, *params, batch="n", platforms=None):
    (images,) = jax.export.symbolic_shape(batch)
    any_batch = jax.ShapeDtypeStruct((images, *x.shape[1:]), x.dtype)
    exported = jax.export.export(run, platforms=platforms)(any_batch, *params)
    return jax.export.deserialize(exported.serialize())


HAS_IMAGES = [case for case in CASES if case.batched and math.prod(case.input) > 0]


@pytest.mark.parametrize("case", HAS_IMAGES, ids=lambda case: case.name)
def test_export_for_any_batch(case):
    """By the same plans, as far as these don't count images."""
    run, platforms = _value_and_gradients(case), ("cpu", "cuda", "tpu")
    assert _exported_for_any_batch(run, *case.arrays("float32"), platforms=platforms)


PLANNED = [
    "2d-depthwise-many", "1d-depthwise-k31", "2d-groups-many", "T-2d-groups-3", "2d-patchify",
    "2d-same-even-dilated", "3d-stride", "T-3d-k4s2",
]  # fmt: skip


@pytest.mark.parametrize("channels_last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("case", [BY_NAME[name] for name in PLANNED], ids=PLANNED)
def test_what_was_exported_gives_the_same(case, channels_last):
    """For known sizes, and for any batch on one of another size."""
    run, (x, *params) = _value_and_gradients(case, channels_last), case.arrays()
    exported = jax.export.deserialize(jax.export.export(run)(x, *params).serialize())
    assert_all_close(exported.call(x, *params), run(x, *params))
    exported = _exported_for_any_batch(run, x, *params)
    more = np.concatenate([x, x[:1] + 1])
    assert_all_close(exported.call(more, *params), run(more, *params))


def test_a_program_for_any_batch_has_the_plans():
    """Of which those of a depthwise layer on a CPU are no convolutions."""
    case = BY_NAME["2d-depthwise-many"]
    run = _value_and_gradients(case)
    for batch, has_convolutions in (("n", False), ("n-1", True)):
        exported = _exported_for_any_batch(run, *case.arrays(), batch=batch, platforms=["cpu"])
        assert ("stablehlo.convolution" in exported.mlir_module()) == has_convolutions


@pytest.mark.parametrize("images", [1, 64, 65, 4096])
def test_weights_of_any_batch_round_little(images):
    """Of which all terms have one sign, so that they would round ten times as much one by one."""
    shape, padding = (images, 8, 4, 4), {"padding": 1, "groups": 8}

    @jax.jit
    def run(x, w, cotangent):
        _, vjp = jax.vjp(lambda w: jaxconv.conv2d(x, w, **padding), w)
        return vjp(cotangent)[0]

    doubles = np.random.default_rng(0).uniform(size=shape), np.ones((8, 1, 3, 3)), np.ones(shape)
    x, w, cotangent = (array.astype(np.float32) for array in doubles)
    (n,) = jax.export.symbolic_shape("n")
    of_any = jax.ShapeDtypeStruct((n, *shape[1:]), np.float32)
    exported = jax.export.export(run)(of_any, w, of_any)
    oracle.assert_close(exported.call(x, w, cotangent), run(*doubles), 4e-7)


@pytest.mark.parametrize(
    "case", [BY_NAME["2d-depthwise"], BY_NAME["2d-patchify"]], ids=lambda case: case.name
)
def test_what_was_exported_may_be_given_no_images(case):
    """If its batch may be empty: a plan's sum over blocks would want a first one."""
    run, (x, *params) = _value_and_gradients(case), case.arrays()
    exported = _exported_for_any_batch(run, x, *params, batch="n-1")
    assert_all_close(exported.call(x[:0], *params), run(x[:0], *params))


@pytest.mark.parametrize("case", [BY_NAME[name] for name in EXPORTED], ids=EXPORTED)
def test_export_with_symbolic_sizes(case):
    """Value and gradients with symbolic batch and spatial sizes, for cpu, cuda and tpu;
    serialised, and run again on sizes of which it knew only that they are no smaller."""
    n = case.num_spatial_dims
    batch, (channels, *sizes) = case.input[: -n - 1], case.input[-n - 1 :]
    names = "dhw"[-n:]

    value_and_gradients = _value_and_gradients(case)
    constraints = [f"{name} >= {size}" for name, size in zip(names, sizes, strict=True)]
    symbols = jax.export.symbolic_shape(", ".join(["n", *names]), constraints=constraints)
    _, *params = case.arrays()
    x = np.random.default_rng(0).normal(
        size=(*(size + 1 for size in batch), channels, *(s + i for i, s in enumerate(sizes, 1)))
    )
    export = jax.export.export(value_and_gradients, platforms=("cpu", "cuda", "tpu"))
    exported = export(
        jax.ShapeDtypeStruct((*symbols[: len(batch)], channels, *symbols[1:]), jnp.float64),
        *(jax.ShapeDtypeStruct(param.shape, param.dtype) for param in params),
    )
    again = jax.export.deserialize(exported.serialize())
    assert_all_close(again.call(x, *params), value_and_gradients(x, *params))
