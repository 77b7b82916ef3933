"""The twelve Linen modules: torch's parameters, arguments and initialisation in Flax's way."""

import copy
import functools
import inspect
import math
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from flax import serialization
from scipy import stats

import jaxconv
from jaxconv import Conv1d, Conv2d, ConvTranspose2d, LazyConv2d, LazyConvTranspose2d
from tests.oracle import assert_close, to_numpy, to_torch

PLAIN = [f"Conv{kind}{n}d" for kind in ("", "Transpose") for n in (1, 2, 3)]
LAZY = [f"Lazy{name}" for name in PLAIN]

KEY = jax.random.key(0)

plain_names = pytest.mark.parametrize("name", PLAIN)
all_names = pytest.mark.parametrize("name", PLAIN + LAZY)


def arguments(name, **kwargs):
    """Those of a layer from 4 to 6 channels with unequal kernel sides."""
    n = int(name[-2])
    own = {} if name.startswith("Lazy") else {"in_channels": 4}
    return own | {"out_channels": 6, "kernel_size": (3, 2, 4)[:n]} | kwargs


def build(library, name, **kwargs):
    return getattr(library, name)(**arguments(name, **kwargs))


def image(name, dtype="float32"):
    """A batch of 2 with 4 channels, normally distributed."""
    shape = (2, 4, *(7, 8, 6)[: int(name[-2])])
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def drawn(module, *inputs):
    """Variables for the module, normally distributed; quicker than to compile its `init`."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, KEY, *inputs)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def shapes_of(tree):
    """Shapes and dtypes alone."""
    return jax.tree.map(lambda leaf: (leaf.shape, jnp.dtype(leaf.dtype)), tree)


# Parameters.


@pytest.mark.parametrize("kwargs", [{}, {"groups": 2}, {"bias": False}], ids=str)
@all_names
def test_parameters_have_torchs_names_and_shapes(name, kwargs):
    x = image(name)
    layer = build(torch.nn, name, **kwargs)
    layer(torch.from_numpy(x))
    expected = {k: (tuple(v.shape), jnp.dtype("float32")) for k, v in layer.named_parameters()}
    variables = jax.eval_shape(build(jaxconv, name, **kwargs).init, KEY, x)
    assert shapes_of(variables) == {"params": expected}


CONV_KWARGS = [
    {"stride": 2, "padding": 1, "groups": 2},
    {"padding": "same", "dilation": 2, "bias": False},
    {"padding": 2, "padding_mode": "reflect", "stride": 3},
]
TRANSPOSED_KWARGS = [
    {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
    {"dilation": 3, "output_padding": 2, "bias": False},
]
CONFIGURATIONS = [
    pytest.param(name, kwargs, id=f"{name}-{'-'.join(kwargs)}")
    for name in PLAIN
    for kwargs in (TRANSPOSED_KWARGS if "Transpose" in name else CONV_KWARGS)
]


def torch_layer(name, **kwargs):
    """A layer of torch's, and its state as our variables."""
    layer = build(torch.nn, name, dtype=torch.float64, **kwargs)
    return layer, {"params": {k: to_numpy(v) for k, v in layer.state_dict().items()}}


@pytest.mark.parametrize(("name", "kwargs"), CONFIGURATIONS)
def test_a_state_dict_drops_in(name, kwargs):
    layer, variables = torch_layer(name, **kwargs)
    x = image(name, "float64")
    output = build(jaxconv, name, **kwargs).apply(variables, x)
    assert_close(output, to_numpy(layer(to_torch(x))), 1e-13)


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("name", [name for name in PLAIN if "Transpose" in name])
def test_output_size_is_torchs(name, extra):
    layer, variables = torch_layer(name, stride=3, padding=1)
    x = image(name, "float64")
    size = [
        3 * (i - 1) - 2 + k + extra for i, k in zip(x.shape[2:], layer.kernel_size, strict=True)
    ]
    output = build(jaxconv, name, stride=3, padding=1).apply(variables, x, size)
    assert_close(output, to_numpy(layer(to_torch(x), size)), 1e-13)
    assert list(output.shape[2:]) == size


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_channels_last_changes_the_layout_and_no_parameter(name):
    layer, variables = torch_layer(name, stride=2)
    x = image(name, "float64")
    module = build(jaxconv, name, stride=2, data_format="channels_last", param_dtype=jnp.float64)
    x_last = np.moveaxis(x, 1, -1)
    output = module.apply(variables, x_last)
    assert_close(np.moveaxis(output, -1, 1), to_numpy(layer(to_torch(x))), 1e-13)
    assert shapes_of(jax.eval_shape(module.init, KEY, x_last)) == shapes_of(variables)


# Initialisation.


def wide(library, name, **kwargs):
    """A layer with many weights and many biases, and a fan_in that no other formula gives."""
    return build(library, name, in_channels=6, out_channels=2048, groups=2, **kwargs)


@functools.cache
def initial(name, dtype="float32"):
    x = jnp.zeros((1, 6, *(7, 8, 6)[: int(name[-2])]), dtype)
    return jax.jit(wide(jaxconv, name, param_dtype=dtype).init)(KEY, x)["params"]


def like_torchs(ours, torchs, bound):
    """Within the bound, filling it, and spread as torch's are (Kolmogorov and Smirnov)."""
    ours, torchs = np.ravel(ours), np.ravel(torchs)
    largest = np.abs(ours).max()
    same = stats.ks_2samp(ours, torchs, method="asymp").pvalue > 1e-3
    return 0.99 * bound < largest <= bound and np.abs(torchs).max() <= bound and same


@pytest.mark.parametrize("parameter", ["weight", "bias"])
@plain_names
def test_initial_parameters_are_distributed_as_torchs(name, parameter):
    """The weight's fan_in counts for both; of a transposed layer it is that of its axis 1."""
    torch.manual_seed(0)
    layer = wide(torch.nn, name)
    fan_in, _ = torch.nn.init._calculate_fan_in_and_fan_out(layer.weight)
    expected = to_numpy(getattr(layer, parameter))
    assert like_torchs(initial(name)[parameter], expected, 1 / math.sqrt(fan_in))


@pytest.mark.parametrize("part", [np.real, np.imag])
def test_both_parts_of_complex_parameters_are_distributed_as_torchs(part):
    torch.manual_seed(0)
    layer = wide(torch.nn, "Conv1d", dtype=torch.complex64)
    fan_in, _ = torch.nn.init._calculate_fan_in_and_fan_out(layer.weight)
    ours = initial("Conv1d", "complex64")["weight"]
    assert like_torchs(part(ours), part(to_numpy(layer.weight)), 1 / math.sqrt(fan_in))


@pytest.mark.parametrize("wrong", ["scaled", "normal", "narrow"])
def test_like_torchs_notices_another_distribution(wrong):
    rng = np.random.default_rng(0)
    uniform = rng.uniform(-1, 1, 2048)
    others = {
        "scaled": uniform * 2,
        "normal": np.clip(rng.normal(size=2048) / 2, -1, 1),
        "narrow": uniform * 0.9,
    }
    assert like_torchs(rng.uniform(-1, 1, 2048), uniform, 1)
    assert not like_torchs(others[wrong], uniform, 1)


def test_without_input_channels_the_bias_is_zero():
    """With a fan_in of 0 there is no bound; torch leaves its bias as it was allocated."""
    module = build(jaxconv, "Conv2d", in_channels=0)
    params = jax.jit(module.init)(KEY, np.zeros((2, 0, 7, 8), "float32"))["params"]
    assert params["weight"].shape == (6, 0, 3, 2)
    np.testing.assert_array_equal(params["bias"], np.zeros(6))


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_a_lazy_layer_draws_the_same_parameters_as_its_plain_twin(name):
    x = image(name)
    modules = [build(jaxconv, n, groups=2) for n in (f"Lazy{name}", name)]
    lazy, plain = jax.jit(lambda x: [module.init(KEY, x) for module in modules])(x)
    jax.tree.map(np.testing.assert_array_equal, lazy, plain)


@pytest.mark.parametrize("name", ["Conv2d", "LazyConv2d"])
def test_initialisers_may_be_replaced(name):
    """They are Flax's: called with the key, the shape and the dtype."""
    module = build(
        jaxconv, name, param_dtype=jnp.float64,
        weight_init=nn.initializers.constant(2), bias_init=nn.initializers.ones,
    )  # fmt: skip
    params = jax.jit(module.init)(KEY, image(name, "float64"))["params"]
    np.testing.assert_array_equal(params["weight"], np.full((6, 4, 3, 2), 2.0), strict=True)
    np.testing.assert_array_equal(params["bias"], np.ones(6), strict=True)


@pytest.mark.parametrize("name", ["ConvTranspose2d", "LazyConv2d"])
def test_parameters_may_be_boxed(name):
    """`nn.with_partitioning` names their axes; lazy layers look into the box for channels."""
    module = build(
        jaxconv, name,
        weight_init=nn.with_partitioning(nn.initializers.zeros, ("out", "in", None, None)),
        bias_init=nn.with_partitioning(nn.initializers.zeros, ("out",)),
    )  # fmt: skip
    x = image(name)
    boxed = drawn(module, x)
    spec = nn.get_partition_spec(boxed)["params"]
    assert spec["weight"] == jax.sharding.PartitionSpec("out", "in", None, None)
    assert spec["bias"] == jax.sharding.PartitionSpec("out")
    np.testing.assert_array_equal(module.apply(boxed, x), module.apply(nn.unbox(boxed), x))


# dtypes.


@pytest.mark.parametrize(
    ("input", "param_dtype", "dtype", "computed"),
    [
        pytest.param("float32", "float32", None, "float32", id="plain"),
        pytest.param("float64", "float64", None, "float64", id="double"),
        pytest.param("complex64", "complex64", None, "complex64", id="complex"),
        pytest.param("bfloat16", "float32", None, "float32", id="half-input-is-promoted"),
        pytest.param("float32", "bfloat16", None, "float32", id="half-params-are-promoted"),
        pytest.param("float32", "complex64", None, "complex64", id="real-input-is-promoted"),
        pytest.param("uint8", "float32", None, "float32", id="bytes-are-promoted"),
        pytest.param("float32", "float32", "bfloat16", "bfloat16", id="mixed-precision"),
        pytest.param("float16", "float16", "float32", "float32", id="half-at-rest"),
        pytest.param("float32", "float64", "float32", "float32", id="double-at-rest"),
        pytest.param("uint8", "float32", "float16", "float16", id="bytes"),
    ],
)
@pytest.mark.parametrize("name", ["Conv2d", "LazyConvTranspose2d"])
def test_all_three_are_brought_to_dtype(name, input, param_dtype, dtype, computed):
    """Or, for None, to the promoted type, as in every layer of Flax."""
    module = build(jaxconv, name, param_dtype=param_dtype, dtype=dtype)
    x = jax.ShapeDtypeStruct(image(name).shape, jnp.dtype(input))
    with jax.numpy_dtype_promotion("standard"):
        output, variables = jax.eval_shape(module.init_with_output, KEY, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(param_dtype)}
    assert output.dtype == jnp.dtype(computed)


@pytest.mark.parametrize("name", ["Conv2d", "LazyConvTranspose2d"])
def test_mixed_precision_rounds_input_and_parameters_first(name):
    module, x = build(jaxconv, name, dtype=jnp.bfloat16), image(name)
    variables = drawn(module, x)
    weight, bias = (jnp.asarray(variables["params"][k], jnp.bfloat16) for k in ("weight", "bias"))
    function = jaxconv.conv_transpose2d if "Transpose" in name else jaxconv.conv2d
    expected = function(jnp.asarray(x, jnp.bfloat16), weight, bias)
    np.testing.assert_array_equal(module.apply(variables, x), expected)


def test_without_a_dtype_strict_promotion_stays_strict():
    """Flax's rule asks JAX, and JAX may be told to refuse."""
    module, x = build(jaxconv, "Conv2d", param_dtype=jnp.float64), image("Conv2d")
    with pytest.raises(jax.dtypes.TypePromotionError):
        jax.eval_shape(module.init, KEY, x)


# Arguments.


@pytest.mark.parametrize(("name", "kwargs"), CONFIGURATIONS)
def test_attributes_are_those_that_torch_shows(name, kwargs):
    """Ints are spread over the axes, lists become tuples, strings stay."""
    arguments = {k: [v] * int(name[-2]) if k == "stride" else v for k, v in kwargs.items()}
    module, layer = build(jaxconv, name, **arguments), build(torch.nn, name, **kwargs)
    shown = [k for k in inspect.signature(type(layer)).parameters if k not in EXTRAS]
    assert {k: getattr(module, k) for k in shown} == {k: getattr(layer, k) for k in shown}


# What torch has and we have not, or which is a parameter there.
EXTRAS = ("bias", "device", "dtype")


@pytest.mark.parametrize("size", [np.int64(3), [3, 3], np.array([3, 3]), torch.Size([3, 3])])
def test_sizes_of_any_kind_build_the_same_module(size):
    module = Conv2d(np.int32(4), 6, size)
    assert module == Conv2d(4, 6, 3)
    assert hash(module) == hash(Conv2d(4, 6, 3))
    assert repr(module) == repr(Conv2d(4, 6, 3))


def parameters(cls, kind):
    found = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in found if p.kind is kind}


@all_names
def test_positional_arguments_and_defaults_are_torchs(name):
    """Flax's own two, `parent` and `name`, come after them."""
    expected = parameters(getattr(torch.nn, name), inspect.Parameter.POSITIONAL_OR_KEYWORD)
    expected = {k: v for k, v in expected.items() if k not in ("device", "dtype")}
    found = parameters(getattr(jaxconv, name), inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert list(found)[-2:] == ["parent", "name"]
    assert list(found.items())[:-2] == list(expected.items())


@all_names
def test_our_own_arguments_are_keywords(name):
    found = parameters(getattr(jaxconv, name), inspect.Parameter.KEYWORD_ONLY)
    assert list(found) == [
        "dtype", "param_dtype", "precision", "data_format", "weight_init", "bias_init",
    ]  # fmt: skip
    assert found["dtype"] is None
    assert found["param_dtype"] is jnp.float32
    assert found["precision"] is None
    assert found["data_format"] == "channels_first"


@all_names
def test_a_call_takes_what_torchs_takes(name):
    theirs = inspect.signature(getattr(torch.nn, name).forward).parameters
    ours = inspect.signature(getattr(jaxconv, name).__call__).parameters
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]


PRECISIONS = [
    *[(precision, precision) for precision in ("highest", jax.lax.Precision.HIGHEST)],
    *[(of_both, ("high", "highest")) for of_both in (("high", "highest"), ["high", "highest"])],
]


@pytest.mark.parametrize(("precision", "reaching"), PRECISIONS, ids=str)
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_precision_reaches_the_contraction(name, precision, reaching):
    x = image(name)

    def precisions(module):
        equations = jax.make_jaxpr(lambda x: module.init_with_output(KEY, x)[0])(x).eqns
        return [e.params["precision"] for e in equations if "precision" in e.params]

    with jax.default_matmul_precision(None):
        assert precisions(build(jaxconv, name, precision=precision)) == [reaching]
        assert precisions(build(jaxconv, name)) == [None]


# Modules as values.

SOME = [
    Conv2d(4, 6, 3),
    Conv2d(4, 6, [3, 2], padding="same", dtype=jnp.bfloat16),
    ConvTranspose2d(4, 6, 3, stride=2, output_padding=1),
    LazyConv2d(6, 3, groups=2),
    LazyConvTranspose2d(6, 3, data_format="channels_last"),
    Conv1d(4, 6, 3),
]
some_modules = pytest.mark.parametrize("module", SOME, ids=lambda m: type(m).__name__)


@pytest.mark.parametrize(
    "copied",
    [
        pytest.param(lambda module: module.clone(), id="clone"),
        pytest.param(lambda module: module.clone().clone(), id="clone-of-clone"),
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(lambda module: pickle.loads(pickle.dumps(module)), id="pickle"),
    ],
)
@some_modules
def test_a_copy_is_an_equal_value(module, copied):
    other = copied(module)
    assert other is not module
    assert type(other) is type(module)
    assert other == module
    assert hash(other) == hash(module)
    assert repr(other) == repr(module)


def test_modules_with_other_arguments_are_others():
    assert len(set(SOME)) == len(SOME)
    assert Conv2d(4, 6, 3) != Conv2d(4, 6, 3, stride=2)
    assert Conv2d(4, 6, 3) != LazyConv2d(6, 3)


def test_clone_with_another_argument_is_checked_and_spread_again():
    assert Conv2d(4, 6, 3).clone(stride=2) == Conv2d(4, 6, 3, (2, 2))
    with pytest.raises(ValueError, match="`groups` must divide in_channels"):
        Conv2d(4, 6, 3).clone(groups=3)


@some_modules
def test_repr_reads_as_its_arguments(module):
    shown = repr(module)
    assert shown.startswith(type(module).__name__)
    assert f"kernel_size = {module.kernel_size}" in shown
    assert f"groups = {module.groups}" in shown


def test_a_module_is_a_static_argument_and_equal_ones_compile_once():
    traced = []

    @jax.jit(static_argnums=0)
    def run(module, variables, x):
        traced.append(module)
        return module.apply(variables, x)

    x = image("Conv2d")
    variables = drawn(Conv2d(4, 6, 3), x)
    first, second = run(Conv2d(4, 6, 3), variables, x), run(Conv2d(4, 6, (3, 3)), variables, x)
    np.testing.assert_array_equal(first, second)
    assert len(traced) == 1
    run(Conv2d(4, 6, 3, padding=1), variables, x)
    assert len(traced) == 2


# Inside other modules.


def layer_of(params, i):
    """The variables of layer `i`, of parameters that are stacked."""
    return {"params": jax.tree.map(lambda leaf: leaf[i], params)}


DEEP = [
    pytest.param(Conv2d, {"in_channels": 4, "padding": "same"}, id="Conv2d"),
    pytest.param(LazyConvTranspose2d, {"padding": 1}, id="LazyConvTranspose2d"),
]
deep = pytest.mark.parametrize(("cls", "kwargs"), DEEP)


def from_4_to_4(cls, kwargs, **more):
    return cls(out_channels=4, kernel_size=3, param_dtype=jnp.float64, **kwargs, **more)


@deep
def test_scan_over_depth_is_a_loop_over_layers(cls, kwargs):
    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(
                lambda module, x, _: (module(x), None),
                variable_axes={"params": 0}, split_rngs={"params": True}, length=3,
            )  # fmt: skip
            return scan(from_4_to_4(cls, kwargs), x, None)[0]

    x = image("Conv2d", "float64")
    variables = drawn(Deep(), x)
    output = Deep().apply(variables, x)
    (params,) = variables["params"].values()
    first, second, third = (layer_of(params, i) for i in range(3))
    layer = from_4_to_4(cls, kwargs)
    expected = layer.apply(third, layer.apply(second, layer.apply(first, x)))
    assert_close(output, expected, 1e-13)


@deep
def test_remat_changes_neither_values_nor_gradients(cls, kwargs):
    class Remat(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = from_4_to_4(cls, kwargs, name="layer")
            return nn.remat(lambda module, x: module(x))(layer, x)

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            return from_4_to_4(cls, kwargs, name="layer")(x)

    x = image("Conv2d", "float64")
    variables = drawn(Plain(), x)
    assert shapes_of(jax.eval_shape(Remat().init, KEY, x)) == shapes_of(variables)

    def gradients(module, variables, x):
        def loss(variables, x):
            return jnp.sum(jnp.sin(module.apply(variables, x)))

        return jax.value_and_grad(loss, (0, 1))(variables, x)

    @jax.jit
    def both(variables, x):
        return [gradients(module, variables, x) for module in (Remat(), Plain())]

    jax.tree.map(lambda a, b: assert_close(a, b, 1e-13), *both(variables, x))


@pytest.mark.parametrize("lift", [nn.remat, nn.jit], ids=lambda lift: lift.__name__)
@pytest.mark.parametrize("name", ["Conv2d", "LazyConvTranspose2d"])
def test_a_class_may_be_lifted_too(name, lift):
    module, x = build(jaxconv, name), image(name)
    lifted = lift(type(module))(**arguments(name))
    variables = drawn(module, x)
    np.testing.assert_array_equal(lifted.apply(variables, x), module.apply(variables, x))


@deep
def test_vmap_is_an_ensemble_of_layers(cls, kwargs):
    class Ensemble(nn.Module):
        @nn.compact
        def __call__(self, x):
            vmap = nn.vmap(
                lambda module, x: module(x),
                in_axes=None, axis_size=3,
                variable_axes={"params": 0}, split_rngs={"params": True},
            )  # fmt: skip
            return vmap(from_4_to_4(cls, kwargs), x)

    x = image("Conv2d", "float64")
    variables = drawn(Ensemble(), x)
    outputs = Ensemble().apply(variables, x)
    (params,) = variables["params"].values()
    each = [from_4_to_4(cls, kwargs).apply(layer_of(params, i), x) for i in range(3)]
    assert_close(outputs, np.stack(each), 1e-13)


class Compact(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.relu(LazyConv2d(6, 3, stride=2, name="down")(x))
        return ConvTranspose2d(6, 4, 3, stride=2, name="up")(h, output_size=x.shape)


class Setup(nn.Module):
    def setup(self):
        self.down = LazyConv2d(6, 3, stride=2)
        self.up = ConvTranspose2d(6, 4, 3, stride=2)

    def __call__(self, x):
        return self.up(nn.relu(self.down(x)), output_size=x.shape)


@pytest.mark.parametrize("net", [Compact(), Setup()], ids=lambda net: type(net).__name__)
def test_layers_nest_in_compact_and_in_setup(net):
    x = image("Conv2d")
    variables = drawn(net, x)
    params = variables["params"]
    output = net.apply(variables, x)
    h = nn.relu(jaxconv.conv2d(x, params["down"]["weight"], params["down"]["bias"], stride=2))
    expected = jaxconv.conv_transpose2d(
        h, params["up"]["weight"], params["up"]["bias"], stride=2, output_size=x.shape
    )
    np.testing.assert_array_equal(output, expected)
    assert output.shape == x.shape


def test_layers_chain_in_sequential():
    net = nn.Sequential([LazyConv2d(6, 3), nn.relu, LazyConv2d(5, 1)])
    output, variables = jax.eval_shape(net.init_with_output, KEY, image("Conv2d"))
    assert output.shape[1] == 5
    assert variables["params"]["layers_2"]["weight"].shape == (5, 6, 1, 1)


@all_names
def test_tabulate_counts_the_parameters(name):
    module, x = build(jaxconv, name), image(name)
    params = jax.eval_shape(module.init, KEY, x)["params"]
    table = module.tabulate(KEY, x, console_kwargs={"force_terminal": False, "width": 200})
    assert f"Total Parameters: {sum(math.prod(p.shape) for p in params.values())}" in table


@pytest.mark.parametrize("name", ["Conv2d", "LazyConvTranspose2d"])
def test_parameters_survive_serialisation(name):
    module, x = build(jaxconv, name), image(name)
    variables = drawn(module, x)
    blank = jax.tree.map(jnp.zeros_like, variables)
    restored = serialization.from_bytes(blank, serialization.to_bytes(variables))
    jax.tree.map(np.testing.assert_array_equal, restored, variables)
    np.testing.assert_array_equal(module.apply(restored, x), module.apply(variables, x))


def test_parameters_survive_a_checkpoint(tmp_path):
    variables = drawn(Compact(), image("Conv2d"))
    blank = jax.tree.map(jnp.zeros_like, variables)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "net", variables)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "net", blank)
    jax.tree.map(np.testing.assert_array_equal, restored, variables)


def test_a_profile_shows_the_layers():
    """Under their names in the net, in what is compiled."""
    x = image("Conv2d")
    compiled = jax.jit(Compact().apply).lower(drawn(Compact(), x), x).compile().as_text()
    assert "Compact/down/" in compiled
    assert "Compact/up/" in compiled


# Laziness.


@plain_names
def test_a_lazy_class_is_its_plain_class(name):
    lazy, plain = getattr(jaxconv, f"Lazy{name}"), getattr(jaxconv, name)
    assert issubclass(getattr(torch.nn, f"Lazy{name}"), getattr(torch.nn, name))
    assert issubclass(lazy, plain)
    assert isinstance(build(jaxconv, f"Lazy{name}"), plain)


@plain_names
def test_a_lazy_layer_computes_what_its_plain_twin_does(name):
    """They trace to the same program."""
    x = image(name)
    plain, lazy = build(jaxconv, name), build(jaxconv, f"Lazy{name}")
    variables = drawn(plain, x)
    programs = [str(jax.make_jaxpr(module.apply)(variables, x)) for module in (plain, lazy)]
    assert programs[0] == programs[1]
    assert programs[0] != str(jax.make_jaxpr(plain.clone(bias=False).apply)(variables, x))


@pytest.mark.parametrize("kwargs", [{}, {"groups": 2}], ids=str)
@pytest.mark.parametrize("name", LAZY)
def test_a_later_input_with_other_channels_is_refused(name, kwargs):
    """By a message with both counts, not by Flax's complaint about the parameter's shape."""
    x = image(name)
    module = build(jaxconv, name, **kwargs)
    variables = drawn(module, x)
    other = np.concatenate([x, x], axis=1)
    with pytest.raises(ValueError, match=r"`input` must have 4 channels.* got 8") as info:
        module.apply(variables, other)
    assert info.type is ValueError


def test_one_lazy_layer_called_twice_has_the_channels_of_the_first_input():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, y):
            layer = LazyConv2d(6, 3)
            return layer(x), layer(y)

    x = image("Conv2d")
    assert drawn(Twice(), x, x)["params"]["LazyConv2d_0"]["weight"].shape[1] == 4
    with pytest.raises(ValueError, match=r"`input` must have 4 channels.* got 3"):
        drawn(Twice(), x, x[:, :3])


@pytest.mark.parametrize("name", ["LazyConv2d", "LazyConvTranspose2d", "Conv2d"])
def test_a_bound_module_runs(name):
    module, x = build(jaxconv, name), image(name)
    variables = drawn(module, x)
    np.testing.assert_array_equal(module.bind(variables)(x), module.apply(variables, x))


@pytest.mark.parametrize("shape", [(2, 7, 8, 5), (7, 8, 5)])
@pytest.mark.parametrize("name", ["LazyConv2d", "LazyConvTranspose2d"])
def test_a_lazy_channels_last_layer_takes_the_last_axis(name, shape):
    module = build(jaxconv, name, data_format="channels_last")
    weight = drawn(module, np.zeros(shape, "float32"))["params"]["weight"]
    assert weight.shape[0 if "Transpose" in name else 1] == 5


def test_an_image_is_no_signal():
    """Linen's own `Conv` runs a 1-d convolution over each row of an image, and says nothing."""
    x = np.zeros((2, 8, 9, 3), "float32")
    assert jax.eval_shape(nn.Conv(4, 3).init_with_output, KEY, x)[0].ndim == x.ndim
    with pytest.raises(ValueError, match=r"`input` must have rank 2 .* or 3 .*\(2, 8, 9, 3\)"):
        drawn(Conv1d(3, 4, 3, data_format="channels_last"), x)
