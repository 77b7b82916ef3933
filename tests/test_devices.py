"""Layers divided over eight devices give one device's numbers, and send only what they must."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests import oracle
from tests.cases import Case

TOLERANCE = 1e-12
CASES = [
    Case("dense", (8, 6, 16, 5), (4, 6, 3, 2), {"padding": (1, 0)}),
    Case("valid", (8, 6, 16, 5), (4, 6, 3, 2)),
    Case("depthwise", (8, 4, 16, 5), (8, 1, 5, 3), {"groups": 4, "padding": (2, 1)}),
    Case("groups", (8, 8, 16, 6), (12, 2, 3, 3), {"groups": 4, "padding": 1, "stride": 2}),
    Case("transposed", (8, 6, 16, 5), (6, 4, 4, 3), {"stride": 2, "padding": 1}, transposed=True),
    Case(
        "transposed-groups", (8, 8, 16, 5), (8, 3, 3, 2),
        {"groups": 4, "stride": 2, "padding": (2, 1), "output_padding": 1, "dilation": (2, 1)},
        transposed=True,
    ),
    Case("3d", (8, 2, 16, 5, 4), (4, 2, 3, 3, 2), {"padding": (1, 1, 0), "stride": (2, 1, 1)}),
    Case("reflect", (8, 6, 16, 5), (4, 6, 3, 3), {"padding": 1, "padding_mode": "reflect"}),
    Case("circular", (8, 2, 16, 5), (4, 2, 3, 3), {"padding": 1, "padding_mode": "circular"}),
]  # fmt: skip
BY_NAME = {case.name: case for case in CASES}
both_types = pytest.mark.parametrize(
    "axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda t: t.name
)
FITTING = ["dense", "depthwise", "groups", "transposed", "transposed-groups", "3d"]


def cases(*names):
    chosen = [BY_NAME[name] for name in names]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


def loss(case, x, w, b):
    """And the output beside it."""
    y = oracle.run_jaxconv(case, x, w, b)
    return jnp.sum(jnp.sin(y)), y


def step(case):
    """Value, output and gradients."""
    return jax.value_and_grad(functools.partial(loss, case), (0, 1, 2), has_aux=True)


def divided(case, mesh, image, weight=None, dtype="float64", tolerance=TOLERANCE):
    """Runs `step` on the mesh. Checks its numbers; returns the output and the compiled program."""
    arrays = case.arrays(dtype)
    specs = (image, weight or P(), P())
    shards = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip(arrays, specs, strict=True)
    ]
    compiled = jax.jit(step(case)).lower(*shards).compile()
    result = compiled(*shards)
    assert_close(result, step(case)(*arrays), tolerance)
    return result[0][1], compiled.as_text()


def assert_close(actual, expected, tolerance=TOLERANCE):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        oracle.assert_close(a, e, tolerance)


def collectives(program: str) -> set[str]:
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    return set(re.findall(rf" ({kinds})(?:-start)?\(", program))


def make_mesh(axis_type=AxisType.Explicit, **axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), (axis_type,) * len(axes))


@both_types
@cases("groups", "depthwise", "transposed", "3d", "circular")
def test_data_parallel(case, axis_type):
    """Gradients of weights are added up, and nothing else is sent."""
    y, program = divided(case, make_mesh(axis_type, data=8), P("data"))
    assert y.sharding.spec[0] == "data"
    assert collectives(program) == {"all-reduce"}


@cases("dense", "groups", "transposed-groups", "reflect")
def test_data_parallel_by_shard_map(case):
    """With its check of what varies over the mesh."""
    mesh = make_mesh(AxisType.Auto, data=8)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    @jax.shard_map(mesh=mesh, in_specs=(P("data"), P(), P()), out_specs=(P(), P("data")))
    def sharded(x, w, b):
        total, y = loss(case, x, w, b)
        return jax.lax.psum(total, "data"), y

    arrays = case.arrays()
    assert_close(sharded(*arrays), step(case)(*arrays))
    program = sharded.lower(*arrays).compile().as_text()
    assert collectives(program) == {"all-reduce"}
    # The bias is not spread over the image before its gradients are added up.
    sizes = re.findall(r"f64\[([\d,]+)\]\S* all-reduce\(", program)
    assert all(np.prod(list(map(int, size.split(",")))) <= arrays[1].size for size in sizes)


@cases("depthwise", "dense")
def test_shard_map_exported_for_any_batch(case):
    """As one convolution: in most other operations JAX fails to put in the batch's size, or ends
    the process."""
    x, w, _ = case.arrays()
    mesh = make_mesh(AxisType.Auto, data=2)
    run = functools.partial(oracle.run_jaxconv, case)
    specs = (P("data"), P())
    shards = [
        jax.device_put(array, NamedSharding(mesh, spec))
        for array, spec in zip((x, w), specs, strict=True)
    ]
    (batch,) = jax.export.symbolic_shape("2*n")
    mapped = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=P("data")))
    any_batch = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = jax.export.export(mapped)(any_batch, w)
    assert exported.mlir_module().count("stablehlo.convolution") == 1
    oracle.assert_close(jax.jit(exported.call)(*shards), run(x, w), TOLERANCE)


@cases(*FITTING)
def test_space_on_explicit_axes(case):
    """Devices exchange halos, and the gradient counts no device twice: one mesh axis is idle."""
    mesh = make_mesh(data=2, space=2, idle=2)
    y, program = divided(case, mesh, P("data", None, "space"))
    assert y.sharding.spec[:3] == ("data", None, "space")
    assert collectives(program) == {"all-reduce", "collective-permute"}


@cases(*FITTING)
def test_single_precision_on_explicit_axes(case):
    """Which the CPU has other ways to compute."""
    divided(case, make_mesh(data=2, space=4), P("data", None, "space"), None, "float32", 1e-5)


@cases("valid", "reflect")
def test_space_that_does_not_fit_is_gathered(case):
    """16 rows that give 14, or that are padded by something else than zeros."""
    y, _ = divided(case, make_mesh(space=4), P(None, None, "space"))
    assert y.sharding.spec[2] is None


@cases("dense", "transposed", "reflect", "3d")
def test_space_on_auto_axes(case):
    mesh = make_mesh(AxisType.Auto, data=2, space=4)
    _, program = divided(case, mesh, P("data", None, "space"))
    assert "collective-permute" in collectives(program)


@both_types
@cases("dense", "groups", "transposed", "transposed-groups")
def test_output_channels(case, axis_type):
    """Each device has the weights of its own output channels, and of their groups."""
    mesh = make_mesh(axis_type, data=2, model=4)
    weight = P(None, "model") if case.name == "transposed" else P("model")
    y, _ = divided(case, mesh, P("data"), weight)
    if axis_type == AxisType.Explicit:
        assert tuple(y.sharding.spec)[:2] == ("data", "model")


def test_a_mesh_axis_in_use_does_not_split_channels():
    """Weights spread over the devices that share the batch are gathered, as in FSDP."""
    y, program = divided(BY_NAME["dense"], make_mesh(data=4), P("data"), P("data"))
    assert tuple(y.sharding.spec)[:2] == ("data", None)
    assert "all-gather" in collectives(program)


@both_types
@pytest.mark.parametrize("batch", [(), (2,)], ids=["unbatched", "batched"])
@cases("dense", "depthwise", "transposed-groups")
def test_gradients_by_example(case, batch, axis_type):
    """jax-ml/jax#32157: `vmap` of a gradient over an axis that is split; and what it multiplies."""
    x, w, _ = case.arrays()
    x = np.random.default_rng(0).normal(size=(8, *batch, *x.shape[1:]))

    def loss(w, x):
        return jnp.sum(jnp.sin(oracle.run_jaxconv(case, x, w)))

    def product(w, x):
        return jax.jvp(jax.grad(functools.partial(loss, x=x)), (w,), (w,))[1]

    mesh = make_mesh(axis_type, data=4, model=2)
    with jax.set_mesh(mesh):
        shards = jax.device_put(x, NamedSharding(mesh, P("data")))
        weight = jax.device_put(w, NamedSharding(mesh, P("model")))
        for function in (jax.grad(loss, (0, 1)), product):
            by_example = jax.jit(jax.vmap(function, (None, 0)))
            actual = jax.tree.leaves(by_example(weight, shards))
            expected = jax.tree.leaves(by_example(w, x))
            for gradient, value in zip(actual, expected, strict=True):
                oracle.assert_close(gradient, value, TOLERANCE)
                if axis_type == AxisType.Explicit:
                    assert gradient.sharding.spec[0] == "data"
