"""JAX's transformations: each gives what plain evaluation gives."""

import functools

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv
from tests import oracle
from tests.cases import CASES, few_cases, fewest_cases

BY_NAME = {case.name: case for case in CASES}


@few_cases
def test_jit_equals_eager(case):
    arrays = case.arrays()
    function = functools.partial(oracle.run_jaxconv, case)
    oracle.assert_close(jax.jit(function)(*arrays), function(*arrays), 1e-14)


@fewest_cases
@pytest.mark.parametrize("mapped", ["input", "weight", "both", "nested"])
def test_vmap_equals_a_loop(case, mapped):
    """Values and gradients, with the mapped axis in the middle."""
    examples = [case.arrays(seed=seed)[:2] for seed in range(3)]
    function = functools.partial(oracle.run_jaxconv, case)

    def value_and_gradients(x, w):
        y, vjp = jax.vjp(function, x, w)
        return y, *vjp(jnp.sin(y))

    xs, ws = (np.stack(arrays, axis=1) for arrays in zip(*examples, strict=True))
    if mapped == "nested":
        inner = jax.vmap(value_and_gradients, (None, 1))
        actual = jax.vmap(inner, (1, None))(xs, ws)
        pairs = [[value_and_gradients(x, w) for _, w in examples] for x, _ in examples]
        expected = jax.tree.map(lambda *a: jnp.stack(a), *[_stack(row) for row in pairs])
    else:
        x_axis, w_axis = {"input": (1, None), "weight": (None, 1), "both": (1, 1)}[mapped]
        arguments = xs if x_axis == 1 else examples[0][0], ws if w_axis == 1 else examples[0][1]
        actual = jax.vmap(value_and_gradients, (x_axis, w_axis))(*arguments)
        expected = _stack(
            [
                value_and_gradients(
                    x if x_axis == 1 else examples[0][0], w if w_axis == 1 else examples[0][1]
                )
                for x, w in examples
            ]
        )
    for a, e in zip(actual, expected, strict=True):
        oracle.assert_close(a, e, 1e-12)


def _stack(trees):
    return jax.tree.map(lambda *a: jnp.stack(a), *trees)


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


@fewest_cases
def test_hessian_vector_product_equals_reverse_over_reverse(case):
    arrays, vectors = case.arrays(seed=1), case.arrays(seed=2)

    def loss(arrays):
        return jnp.sum(jnp.sin(oracle.run_jaxconv(case, *arrays)))

    forward_over_reverse = jax.jvp(jax.grad(loss), (arrays,), (vectors,))[1]
    reverse_over_reverse = jax.grad(
        lambda arrays: sum(
            jnp.vdot(g, v) for g, v in zip(jax.grad(loss)(arrays), vectors, strict=True)
        )
    )(arrays)
    for a, b in zip(forward_over_reverse, reverse_over_reverse, strict=True):
        oracle.assert_close(a, b, 1e-12)


def test_jacobians_and_hessian_agree():
    case = BY_NAME["T-1d-groups"]
    x, w, b = case.arrays()

    def function(w):
        return jnp.tanh(oracle.run_jaxconv(case, x, w, b))

    oracle.assert_close(jax.jacfwd(function)(w), jax.jacrev(function)(w), 1e-13)
    hessian = jax.hessian(lambda w: function(w).sum())(w)
    oracle.assert_close(hessian, jax.jacrev(jax.jacrev(lambda w: function(w).sum()))(w), 1e-12)


@fewest_cases
def test_linearize_checkpoint_scan_and_eval_shape(case):
    arrays = case.arrays()
    function = functools.partial(oracle.run_jaxconv, case)
    output, linear = jax.linearize(function, *arrays)
    tangents = case.arrays(seed=5)
    oracle.assert_close(linear(*tangents), jax.jvp(function, arrays, tangents)[1], 1e-12)

    def loss(arrays, function):
        return jnp.sum(jnp.sin(function(*arrays)))

    plain = jax.grad(loss)(arrays, function)
    saved = jax.jit(jax.grad(lambda a: loss(a, jax.checkpoint(function))))(arrays)
    for a, b in zip(saved, plain, strict=True):
        oracle.assert_close(a, b, 1e-13)

    def step(total, scale):
        return total + function(scale * arrays[0], *arrays[1:]), None

    scales = jnp.arange(1.0, 4.0)
    total, _ = jax.lax.scan(step, jnp.zeros_like(output), scales)
    oracle.assert_close(total, sum(function(s * arrays[0], *arrays[1:]) for s in scales), 1e-12)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(function, *arrays), output)


def test_a_geometry_is_traced_once():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def function(x, w):
        return jaxconv.conv_transpose2d(x, w, stride=2, output_size=(9, 9))

    for seed in range(3):
        x, w = (np.random.default_rng(seed).normal(size=s) for s in ((1, 2, 4, 4), (2, 3, 3, 3)))
        function(x, w)


def test_eager_calls_compile_once(caplog):
    x, w = np.ones((1, 2, 5, 7)), np.ones((3, 2, 2, 3))
    jaxconv.conv2d(x, w, stride=2)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for _ in range(5):
            jaxconv.conv2d(x, w, stride=2)
        assert not caplog.records
        jaxconv.conv2d(x, w, stride=3)
    assert any("ompiling" in record.getMessage() for record in caplog.records)


def test_default_matmul_precision_is_read_when_traced():
    x, w = jnp.ones((1, 2, 5, 5)), jnp.ones((3, 2, 2, 2))
    with jax.default_matmul_precision("highest"):
        jaxpr = str(jax.make_jaxpr(jaxconv.conv2d)(x, w))
    assert "precision=highest" in jaxpr
    assert "precision=None" in str(jax.make_jaxpr(jaxconv.conv2d)(x, w))


# Export.


EXPORTED = {
    "conv-stride": (
        lambda x, w: jaxconv.conv2d(x, w, stride=2, padding=1),
        (4, 3, 3, 2),
    ),
    "conv-dilated-groups": (
        lambda x, w: jaxconv.conv2d(x, w, dilation=2, padding=1, groups=3),
        (6, 1, 3, 2),
    ),
    "conv-reflect": (
        lambda x, w: jaxconv.conv2d(x, w, stride=3, padding=2, padding_mode="reflect"),
        (4, 3, 3, 2),
    ),
    "conv-circular": (
        lambda x, w: jaxconv.conv2d(x, w, padding=2, padding_mode="circular"),
        (4, 3, 3, 2),
    ),
    "conv-same": (lambda x, w: jaxconv.conv2d(x, w, padding="same"), (4, 3, 2, 4)),
    "depthwise": (lambda x, w: jaxconv.conv2d(x, w, padding=1, groups=3), (3, 1, 3, 3)),
    "1x1": (lambda x, w: jaxconv.conv2d(x, w), (5, 3, 1, 1)),
    "transposed": (
        lambda x, w: jaxconv.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1),
        (3, 4, 3, 3),
    ),
    "transposed-groups": (
        lambda x, w: jaxconv.conv_transpose2d(x, w, stride=(2, 3), groups=3),
        (3, 2, 4, 3),
    ),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_export_with_symbolic_sizes(name):
    """Values and gradients, for cpu, cuda and tpu; serialised, and run again on two sizes."""
    function, weight = EXPORTED[name]

    def value_and_gradients(x, w):
        y, vjp = jax.vjp(function, x, w)
        return y, *vjp(y)

    n, h, w_ = jax.export.symbolic_shape("n, h, w", constraints=["h >= 6", "w >= 6"])
    exported = jax.export.export(jax.jit(value_and_gradients), platforms=("cpu", "cuda", "tpu"))(
        jax.ShapeDtypeStruct((n, 3, h, w_), jnp.float64),
        jax.ShapeDtypeStruct(weight, jnp.float64),
    )
    again = jax.export.deserialize(exported.serialize())
    for shape in ((2, 3, 8, 11), (1, 3, 7, 6)):
        rng = np.random.default_rng(0)
        x, w = rng.normal(size=shape), rng.normal(size=weight)
        for actual, expected in zip(again.call(x, w), value_and_gradients(x, w), strict=True):
            oracle.assert_close(actual, expected, 1e-12)


# Several devices.


SHARDED = ["2d-winograd-like", "2d-groups-many", "2d-depthwise-7x7", "2d-circular", "T-2d-k4s2",
           "T-2d-groups-many", "1d-dilated-same", "3d-same"]  # fmt: skip


def _batch_of_eight(case, seed=0):
    rng = np.random.default_rng(seed)
    _, *shape = case.input
    return rng.normal(size=(8, *shape)), *case.arrays()[1:]


def _loss(case, x, w, b):
    return jnp.sum(jnp.sin(oracle.run_jaxconv(case, x, w, b)))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("name", SHARDED)
def test_data_parallel_jit_equals_one_device(name, axis_type):
    case = BY_NAME[name]
    arrays = _batch_of_eight(case)
    expected = jax.value_and_grad(functools.partial(_loss, case), (0, 1, 2))(*arrays)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        x = jax.device_put(arrays[0], NamedSharding(mesh, P("data")))
        params = [jax.device_put(a, NamedSharding(mesh, P())) for a in arrays[1:]]
        step = jax.jit(jax.value_and_grad(functools.partial(_loss, case), (0, 1, 2)))
        actual = step(x, *params)
        text = step.lower(x, *params).compile().as_text()
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        oracle.assert_close(a, e, 1e-12)
    assert "all-reduce" in text
    if axis_type == AxisType.Auto:
        assert "all-gather" not in text


@pytest.mark.parametrize("name", SHARDED)
def test_shard_map_equals_one_device(name):
    """With its check of varying axes, forward and in gradients."""
    case = BY_NAME[name]
    arrays = _batch_of_eight(case)
    expected = jax.value_and_grad(functools.partial(_loss, case), (0, 1, 2))(*arrays)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    @jax.shard_map(mesh=mesh, in_specs=(P("data"), P(), P()), out_specs=P())
    def loss(x, w, b):
        return jax.lax.psum(_loss(case, x, w, b), "data")

    actual = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*arrays)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        oracle.assert_close(a, e, 1e-12)


@pytest.mark.parametrize("name", ["2d-winograd-like", "2d-depthwise-7x7", "2d-circular", "3d-same"])
def test_spatially_partitioned_jit_equals_one_device(name):
    """XLA exchanges the halos."""
    case = BY_NAME[name]
    rng = np.random.default_rng(0)
    shape = list(case.input)
    shape[2] = 16
    x, (w, b) = rng.normal(size=shape), case.arrays()[1:]
    expected = jax.value_and_grad(functools.partial(_loss, case), (0, 1, 2))(x, w, b)
    mesh = jax.make_mesh((8,), ("space",), axis_types=(AxisType.Auto,))
    x = jax.device_put(x, NamedSharding(mesh, P(None, None, "space")))
    actual = jax.jit(jax.value_and_grad(functools.partial(_loss, case), (0, 1, 2)))(x, w, b)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        oracle.assert_close(a, e, 1e-12)


def test_vmap_of_the_gradient_under_a_mesh():
    """jax-ml/jax#32157."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x = np.random.default_rng(0).normal(size=(8, 1, 3, 6, 7))
    w = np.random.default_rng(1).normal(size=(4, 3, 3, 2))

    def loss(w, x):
        return jnp.sum(jaxconv.conv2d(x, w) ** 2)

    expected = jax.vmap(jax.grad(loss), (None, 0))(w, x)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
        actual = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(w, sharded)
    oracle.assert_close(actual, expected, 1e-12)
