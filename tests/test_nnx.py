"""The twelve NNX modules: the Linen ones' numbers and arguments, in the way of NNX."""

import copy
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import torch
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

import jaxconv
import jaxconv.nnx
from jaxconv import init
from jaxconv.nnx import Conv2d, ConvTranspose2d, LazyConv2d
from tests.oracle import assert_close, to_numpy, to_torch
from tests.test_modules import (
    CONFIGURATIONS,
    EXTRAS,
    LAZY,
    PLAIN,
    all_names,
    arguments,
    drawn,
    image,
    plain_names,
    torch_layer,
)

two_names = pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
two_lazy_names = pytest.mark.parametrize("name", ["LazyConv2d", "LazyConvTranspose2d"])


def build(name, seed=0, **kwargs):
    return getattr(jaxconv.nnx, name)(**arguments(name, **kwargs), rngs=nnx.Rngs(seed))


def filled(name, params, **kwargs):
    """A layer with these parameters."""
    inits = {f"{key}_init": lambda *_, value=value: value for key, value in params.items()}
    return build(name, **inits, **kwargs)


def state_of(module):
    return nnx.to_pure_dict(nnx.state(module))


def equal_states(a, b):
    jax.tree.map(np.testing.assert_array_equal, state_of(a), state_of(b))


def loss_of(layer, x):
    return jnp.sum(jnp.sin(layer(x)))


# Numbers and parameters.


@pytest.mark.parametrize("kwargs", [{}, {"groups": 2}, {"bias": False}], ids=str)
@all_names
def test_parameters_have_torchs_names_and_shapes(name, kwargs):
    x = image(name)
    layer = getattr(torch.nn, name)(**arguments(name, **kwargs))
    layer(torch.from_numpy(x))

    def called():
        module = build(name, **kwargs)
        module(x)
        return module

    module = nnx.eval_shape(called)
    found = {key: (p.shape, p.dtype) for key, p in state_of(module).items()}
    assert found == {k: (tuple(v.shape), jnp.float32) for k, v in layer.named_parameters()}
    assert type(module.weight) is nnx.Param
    assert module.bias is None if kwargs.get("bias") is False else type(module.bias) is nnx.Param


@pytest.mark.parametrize(("name", "kwargs"), CONFIGURATIONS)
def test_values_are_torchs(name, kwargs):
    layer, variables = torch_layer(name, **kwargs)
    x = image(name, "float64")
    module = filled(name, variables["params"], **kwargs)
    assert_close(module(x), to_numpy(layer(to_torch(x))), 1e-13)


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("name", ["Conv2d", "LazyConvTranspose2d"])
def test_values_are_those_of_the_linen_twin(name, data_format):
    kwargs = {"stride": 2, "data_format": data_format, "dtype": jnp.bfloat16}
    args = [image(name) if data_format == "channels_first" else np.moveaxis(image(name), 1, -1)]
    if "Transpose" in name:
        args.append((15, 17))
    twin = getattr(jaxconv, name)(**arguments(name, **kwargs))
    variables = drawn(twin, args[0])
    output = filled(name, variables["params"], **kwargs)(*args)
    assert output.dtype == jnp.bfloat16
    np.testing.assert_array_equal(output, twin.apply(variables, *args))


@two_names
def test_initial_parameters_are_drawn_by_torchs_rule_from_the_stream_params(name):
    module = build(name, groups=2, param_dtype=jnp.float64)
    rngs = nnx.Rngs(0)
    shape = module.weight.shape
    weight = init.torch_weight(rngs.params(), shape, jnp.float64)
    bias = init.torch_bias(shape)(rngs.params(), (6,), jnp.float64)
    np.testing.assert_array_equal(module.weight[...], weight, strict=True)
    np.testing.assert_array_equal(module.bias[...], bias, strict=True)
    only_params = getattr(jaxconv.nnx, name)(
        **arguments(name, groups=2, param_dtype=jnp.float64), rngs=nnx.Rngs(params=0, dropout=1)
    )
    equal_states(only_params, module)


@pytest.mark.parametrize(
    ("input", "param_dtype", "dtype", "computed"),
    [
        ("bfloat16", "float32", None, "float32"),
        ("float32", "bfloat16", "bfloat16", "bfloat16"),
        ("uint8", "complex64", None, "complex64"),
        ("float32", "float64", "float32", "float32"),
    ],
)
@pytest.mark.parametrize("name", ["Conv2d", "LazyConvTranspose2d"])
def test_all_three_are_brought_to_dtype(name, input, param_dtype, dtype, computed):
    x = jax.ShapeDtypeStruct(image(name).shape, jnp.dtype(input))

    def called(x):
        module = build(name, param_dtype=param_dtype, dtype=dtype)
        return module(x), module

    with jax.numpy_dtype_promotion("standard"):
        output, module = nnx.eval_shape(called, x)
    assert {p.dtype for p in state_of(module).values()} == {jnp.dtype(param_dtype)}
    assert output.dtype == jnp.dtype(computed)


# Arguments.


def parameters(function, kind):
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.kind is kind and p.name != "self"}


@all_names
def test_arguments_are_those_of_the_linen_twin_and_rngs(name):
    """Those of a constructor: Flax's metaclass hides the signature of the class."""
    theirs, ours = getattr(jaxconv, name), getattr(jaxconv.nnx, name).__init__
    positional, keyword = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    expected = list(parameters(theirs, positional).items())[:-2]  # Linen's parent and name
    assert list(parameters(ours, positional).items()) == expected
    expected = [*parameters(theirs, keyword).items(), ("rngs", inspect.Parameter.empty)]
    assert list(parameters(ours, keyword).items()) == expected
    assert inspect.signature(getattr(jaxconv.nnx, name).__call__) == inspect.signature(
        theirs.__call__
    )


@pytest.mark.parametrize(("name", "kwargs"), CONFIGURATIONS)
def test_attributes_are_those_that_torch_shows(name, kwargs):
    layer = getattr(torch.nn, name)(**arguments(name, **kwargs))
    kwargs = {k: [v] * int(name[-2]) if k == "stride" else v for k, v in kwargs.items()}
    module = nnx.eval_shape(lambda: build(name, **kwargs))
    shown = [k for k in inspect.signature(type(layer)).parameters if k not in EXTRAS]
    assert {k: getattr(module, k) for k in shown} == {k: getattr(layer, k) for k in shown}


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("Conv2d", {"groups": 3}),
        ("Conv2d", {"kernel_size": (3, 3, 3)}),
        ("Conv1d", {"padding": "same", "stride": 2}),
        ("Conv3d", {"padding_mode": "circle"}),
        ("ConvTranspose2d", {"padding": "same"}),
        ("ConvTranspose2d", {"output_padding": 1}),
        ("LazyConv2d", {"bias": 1}),
        ("LazyConvTranspose1d", {"data_format": "NCHW"}),
    ],
)
def test_refusals_are_those_of_the_linen_twin(name, kwargs):
    with pytest.raises((ValueError, TypeError)) as theirs:
        getattr(jaxconv, name)(**arguments(name, **kwargs))
    with pytest.raises(theirs.type) as ours:
        build(name, **kwargs)
    assert str(ours.value) == str(theirs.value)


def test_names_are_those_of_linen():
    assert jaxconv.nnx.__all__ == jaxconv.linen.__all__


@all_names
def test_docstring_begins_with_a_sentence_and_has_an_example(name):
    first, blank, *rest = inspect.getdoc(getattr(jaxconv.nnx, name)).splitlines()
    assert first.endswith(".")
    assert not blank
    assert any(line.startswith(">>> ") for line in rest)


# Laziness.


@plain_names
def test_a_lazy_class_is_its_plain_class(name):
    assert issubclass(getattr(jaxconv.nnx, f"Lazy{name}"), getattr(jaxconv.nnx, name))


@pytest.mark.parametrize("bias", [True, False])
@two_lazy_names
def test_a_lazy_layer_becomes_its_plain_twin_at_the_first_input(name, bias):
    """And so does what is built after it: the keys are drawn when it is built."""
    x = image(name)

    def two(name):
        rngs = nnx.Rngs(0)
        layer = getattr(jaxconv.nnx, name)(**arguments(name, groups=2, bias=bias), rngs=rngs)
        return layer, nnx.Linear(2, 3, rngs=rngs)

    lazy, lazy_next = two(name)
    plain, plain_next = two(name.removeprefix("Lazy"))
    assert lazy.in_channels is lazy.weight is lazy.bias is None
    assert not nnx.state(lazy, nnx.Param)
    np.testing.assert_array_equal(lazy(x), plain(x))
    assert lazy.in_channels == plain.in_channels == 4
    assert jax.tree.structure(nnx.state(lazy)) == jax.tree.structure(nnx.state(plain))
    equal_states(lazy, plain)
    equal_states(lazy_next, plain_next)


@pytest.mark.parametrize("kwargs", [{}, {"groups": 2}], ids=str)
@pytest.mark.parametrize("name", LAZY)
def test_a_later_input_with_other_channels_is_refused(name, kwargs):
    def called(x, y):
        module = build(name, **kwargs)
        return module(x), module(y)

    x = image(name)
    with pytest.raises(ValueError, match=r"`input` must have 4 channels.* got 8"):
        nnx.eval_shape(called, x, np.concatenate([x, x], axis=1))


@pytest.mark.parametrize(
    ("shape", "kwargs", "match"),
    [
        ((4, 7), {}, r"`input` must have rank 3 .* or 4 .*, got shape \(4, 7\)"),
        ((2, 3, 7, 8), {"groups": 2}, r"`groups` must divide in_channels, got .*in_channels=3"),
    ],
)
def test_a_first_input_that_is_refused_leaves_a_lazy_layer_as_it_was(shape, kwargs, match):
    module = build("LazyConv2d", **kwargs)
    with pytest.raises(ValueError, match=match):
        module(np.zeros(shape, "float32"))
    assert module.in_channels is module.weight is None
    assert module(image("Conv2d")).shape == (2, 6, 5, 7)


def in_jit(module, x):
    return nnx.jit(lambda module, x: module(x))(module, x)


def in_grad(module, x):
    nnx.grad(loss_of)(module, x)
    return module(x)


def in_vmap(module, x):
    return nnx.vmap(lambda module, x: module(x), in_axes=(None, 0))(module, x)


@pytest.mark.parametrize("transformed", [in_jit, in_grad, in_vmap])
def test_a_first_input_may_come_in_a_transformation_of_nnx(transformed):
    module, twin, x = build("LazyConv2d"), build("Conv2d"), image("Conv2d")
    assert_close(transformed(module, x), twin(x), 1e-6)
    equal_states(module, twin)


@pytest.mark.parametrize("transform", [jax.jit, nnx.jit, jax.grad])
def test_a_first_input_where_the_parameters_would_be_lost_is_refused(transform):
    module, x = build("LazyConv2d"), image("Conv2d")
    match = r"`input` must reach a LazyConv2d for the first time outside .* got the first input"
    with pytest.raises(ValueError, match=match):
        transform(lambda x: loss_of(module, x))(x)
    assert module.weight is None
    module(x)
    transform(lambda x: loss_of(module, x))(x)


# Transformations.


def small(cls=Conv2d, seed=0, **kwargs):
    """From 4 to 4 channels, of the same size."""
    return cls(4, 4, 3, padding=1, param_dtype=jnp.float64, rngs=nnx.Rngs(seed), **kwargs)


X = image("Conv2d", "float64")
two_classes = pytest.mark.parametrize("cls", [Conv2d, ConvTranspose2d])


@two_classes
def test_jit_and_gradient_are_those_of_the_function(cls):
    module = small(cls)
    function = jaxconv.conv2d if cls is Conv2d else jaxconv.conv_transpose2d

    @jax.jit
    def expected(params, x):
        def loss(params, x):
            return jnp.sum(jnp.sin(function(x, params["weight"], params["bias"], padding=1)))

        return jax.value_and_grad(loss)(params, x)

    value, grads = nnx.jit(nnx.value_and_grad(loss_of))(module, X)
    expected_value, expected_grads = expected(state_of(module), X)
    assert_close(value, expected_value, 1e-13)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-13), nnx.to_pure_dict(grads), expected_grads)


@two_classes
def test_split_and_merge_round_trip(cls):
    module = small(cls)
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    assert set(params) == {"weight", "bias"}
    assert not rest
    assert graphdef == nnx.graphdef(small(cls, seed=1))
    assert hash(graphdef) == hash(nnx.graphdef(small(cls, seed=1)))
    merged = nnx.merge(graphdef, params)
    assert type(merged) is cls
    np.testing.assert_array_equal(merged(X), module(X))


@pytest.mark.parametrize("lazy", [False, True])
def test_vmap_is_an_ensemble_of_layers(lazy):
    def one(rngs):
        kwargs = {"out_channels": 4, "kernel_size": 3, "param_dtype": jnp.float64, "rngs": rngs}
        return LazyConv2d(**kwargs) if lazy else Conv2d(4, **kwargs)

    ensemble = nnx.vmap(one)(nnx.Rngs(0).split(3))
    outputs = nnx.vmap(lambda module, x: module(x), in_axes=(0, None))(ensemble, X)
    state = state_of(ensemble)
    assert state["weight"].shape == (3, 4, 4, 3, 3)
    assert len(np.unique(state["weight"])) == state["weight"].size
    each = [jaxconv.conv2d(X, state["weight"][i], state["bias"][i]) for i in range(3)]
    assert_close(outputs, np.stack(each), 1e-13)


def test_scan_and_remat_over_depth_are_a_loop_over_layers():
    stack = nnx.vmap(lambda rngs: Conv2d(4, 4, 3, padding=1, param_dtype=jnp.float64, rngs=rngs))(
        nnx.Rngs(0).split(3)
    )

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    @nnx.remat
    def deep(x, module):
        return jnp.sin(module(x))

    state, expected = state_of(stack), X
    for i in range(3):
        y = jaxconv.conv2d(expected, state["weight"][i], state["bias"][i], padding=1)
        expected = jnp.sin(y)
    assert_close(deep(X, stack), expected, 1e-13)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.down = LazyConv2d(6, 3, stride=2, param_dtype=jnp.float64, rngs=rngs)
        self.up = ConvTranspose2d(6, 4, 3, stride=2, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, x):
        return self.up(nnx.relu(self.down(x)), output_size=x.shape)


def test_an_optimizer_trains_a_net_as_torchs_does():
    """Three steps of gradient descent with momentum, from the same parameters."""
    net = Net(nnx.Rngs(0))
    net(X)
    # Exact in float32, to which XLA may round them on a GPU (docs/known-issues.md).
    optimizer = nnx.Optimizer(net, optax.sgd(0.125, momentum=0.875), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer, x):
        def loss_fn(net):
            return jnp.mean((net(x) - x) ** 2)

        loss, grads = nnx.value_and_grad(loss_fn)(net)
        optimizer.update(net, grads)
        return loss

    twin = torch.nn.ModuleDict(
        {
            "down": torch.nn.Conv2d(4, 6, 3, stride=2),
            "up": torch.nn.ConvTranspose2d(6, 4, 3, stride=2),
        }
    ).double()
    state = state_of(net)
    twin.load_state_dict(
        {f"{layer}.{name}": to_torch(state[layer][name]) for layer, name in
         (name.split(".") for name in twin.state_dict())}
    )  # fmt: skip
    twin_optimizer = torch.optim.SGD(twin.parameters(), 0.125, momentum=0.875)
    x = to_torch(X)
    for _ in range(3):
        loss = step(net, optimizer, X)
        twin_optimizer.zero_grad()
        y = twin["up"](torch.relu(twin["down"](x)), output_size=x.shape)
        twin_loss = torch.mean((y - x) ** 2)
        twin_loss.backward()
        twin_optimizer.step()
        assert_close(loss, to_numpy(twin_loss), 1e-12)
    trained = state_of(net)
    for name, value in twin.state_dict().items():
        layer, parameter = name.split(".")
        assert_close(trained[layer][parameter], to_numpy(value), 1e-12, name)


# Sharding, profiles, copies.


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
@pytest.mark.parametrize("name", ["Conv2d", "LazyConvTranspose2d"])
def test_partitioned_parameters_are_spread_over_the_mesh(name):
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    axis = 1 if "Transpose" in name else 0
    names = tuple("model" if i == axis else None for i in range(4))
    with jax.set_mesh(mesh):
        module = build(
            name,
            weight_init=nnx.with_partitioning(init.torch_weight, names),
            bias_init=nnx.with_partitioning(nnx.initializers.zeros, ("model",)),
        )
        x = image(name)
        output = nnx.jit(lambda module, x: module(x))(module, x)
    specs = nnx.to_pure_dict(nnx.get_partition_spec(nnx.state(module)))
    assert specs == {"weight": PartitionSpec(*names), "bias": PartitionSpec("model")}
    for key, parameter in state_of(module).items():
        expected = NamedSharding(mesh, specs[key])
        assert parameter.sharding.is_equivalent_to(expected, parameter.ndim)
    twin = build(name.removeprefix("Lazy"), bias_init=nnx.initializers.zeros)
    assert_close(output, twin(x), 1e-5)


@two_names
def test_a_profile_shows_the_layer(name):
    module, x = build(name), image(name)
    compiled = nnx.jit(lambda module, x: module(x)).lower(module, x).compile()
    assert f"/{name}/" in compiled.as_text()


def test_tabulate_counts_the_parameters():
    table = nnx.tabulate(
        build("Conv2d"), image("Conv2d"), console_kwargs={"force_terminal": False, "width": 200}
    )
    assert f"Total Parameters: {6 * 4 * 3 * 2 + 6}" in table


@pytest.mark.parametrize(
    "copied",
    [
        pytest.param(nnx.clone, id="clone"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(lambda module: pickle.loads(pickle.dumps(module)), id="pickle"),
    ],
)
@pytest.mark.parametrize("name", ["ConvTranspose2d", "LazyConv2d"])
def test_a_copy_is_its_own_module_with_equal_parameters(name, copied):
    module, x = build(name, stride=2), image(name)
    other = copied(module)
    assert other is not module
    assert nnx.graphdef(other) == nnx.graphdef(module)
    np.testing.assert_array_equal(other(x), module(x))
    module.weight[...] += 1
    assert not np.array_equal(other(x), module(x))


@pytest.mark.parametrize("name", PLAIN[:1] + LAZY[-1:])
def test_repr_reads_as_its_arguments_and_parameters(name):
    module = build(name)
    module(image(name))
    shown = repr(module)
    assert shown.startswith(name)
    assert f"kernel_size={module.kernel_size}" in shown
    assert "weight=Param(" in shown
    assert "_keys" not in shown


def test_parameters_survive_a_checkpoint(tmp_path):
    net, other = Net(nnx.Rngs(0)), Net(nnx.Rngs(1))
    expected = net(X)
    other(X)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "net", nnx.state(net))
        checkpointer.wait_until_finished()
        nnx.update(other, checkpointer.restore(tmp_path / "net", nnx.state(other)))
    np.testing.assert_array_equal(other(X), expected)
