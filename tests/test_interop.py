"""Weights from torch and back: nothing is lost, half loaded or run."""

import io
import json
import pickle
import struct
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from flax import nnx
from flax.core import FrozenDict
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

import jaxconv
import jaxconv.nnx
from jaxconv.interop import from_state_dict, to_state_dict
from tests.oracle import assert_close, to_numpy, to_torch
from tests.test_public_api import in_fresh_interpreter

KEY = jax.random.key(0)


# A model with a layer of each kind, three times; its layers are only placed, not chained.

X = np.random.default_rng(0).normal(size=(2, 4, 9))
TOKENS = np.array([[1, 0, 5], [4, 2, 2]])


class Torch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv1d(4, 6, 3, groups=2)
        self.up = torch.nn.ConvTranspose1d(4, 6, 3, stride=2)
        self.batch_norm = torch.nn.BatchNorm1d(4)
        self.group_norm = torch.nn.GroupNorm(2, 4)
        self.layer_norm = torch.nn.LayerNorm(4)
        self.embed = torch.nn.Embedding(7, 4)
        self.dense = torch.nn.Linear(4, 5)
        self.lstm = torch.nn.LSTMCell(4, 3)
        self.offset = torch.nn.Parameter(torch.zeros(4))

    def forward(self, x, tokens):
        last = x.swapaxes(1, 2)
        h, c = self.lstm(last[:, 0])
        return (
            self.conv(x), self.up(x), self.batch_norm(x), self.group_norm(x),
            self.layer_norm(last), self.embed(tokens), self.dense(last), h, c, last + self.offset,
        )  # fmt: skip


def forward(net, x, tokens):
    last = x.swapaxes(1, 2)
    zeros = jnp.zeros((2, 3), x.dtype)
    (c, h), _ = net.lstm((zeros, zeros), last[:, 0])
    offset = jnp.asarray(net.offset)
    return (
        net.conv(x), net.up(x), net.batch_norm(x), net.group_norm(last).swapaxes(1, 2),
        net.layer_norm(last), net.embed(tokens), net.dense(last), h, c, last + offset[None, None],
    )  # fmt: skip


class Linen(nn.Module):
    lstm_cell: type = nn.OptimizedLSTMCell

    def setup(self):
        self.conv = jaxconv.Conv1d(4, 6, 3, groups=2)
        self.up = jaxconv.ConvTranspose1d(4, 6, 3, stride=2)
        self.batch_norm = nn.BatchNorm(use_running_average=True, axis=1)
        self.group_norm = nn.GroupNorm(2, epsilon=1e-5)
        self.layer_norm = nn.LayerNorm(epsilon=1e-5)
        self.embed = nn.Embed(7, 4)
        self.dense = nn.Dense(5)
        self.lstm = self.lstm_cell(3)
        self.offset = self.param("offset", nn.initializers.zeros, (4,))

    __call__ = forward


class NNX(nnx.Module):
    def __init__(self, lstm_cell=nnx.LSTMCell):
        rngs = nnx.Rngs(0)
        self.conv = jaxconv.nnx.Conv1d(4, 6, 3, groups=2, rngs=rngs)
        self.up = jaxconv.nnx.ConvTranspose1d(4, 6, 3, stride=2, rngs=rngs)
        self.batch_norm = nnx.BatchNorm(4, use_running_average=True, axis=1, rngs=rngs)
        self.group_norm = nnx.GroupNorm(4, 2, epsilon=1e-5, rngs=rngs)
        self.layer_norm = nnx.LayerNorm(4, epsilon=1e-5, rngs=rngs)
        self.embed = nnx.Embed(7, 4, dtype=jnp.float64, rngs=rngs)
        self.dense = nnx.Linear(4, 5, rngs=rngs)
        self.lstm = lstm_cell(4, 3, rngs=rngs)
        self.offset = nnx.Param(jnp.zeros(4))

    __call__ = forward


def torch_net():
    """In evaluation, with parameters and running statistics that differ from 0 and 1."""
    net = Torch().double().eval()
    generator = torch.Generator().manual_seed(0)
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 2, generator=generator)
    return net


def shapes(module, *args):
    return jax.eval_shape(module.init, KEY, *args)


def linen_like(**kwargs):
    with jax.numpy_dtype_promotion("standard"):
        return shapes(Linen(**kwargs), X, TOKENS)


def without_counts(state_dict):
    return {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}


LIKES = [
    pytest.param(lambda: linen_like(), id="linen"),
    pytest.param(lambda: linen_like(lstm_cell=nn.LSTMCell), id="linen-LSTMCell"),
    pytest.param(lambda: nnx.eval_shape(NNX), id="nnx"),
    pytest.param(lambda: nnx.eval_shape(lambda: NNX(nnx.OptimizedLSTMCell)), id="nnx-Optimized"),
]


@pytest.mark.parametrize("like", LIKES)
def test_a_ported_model_gives_torchs_numbers(like):
    net, like = torch_net(), like()
    loaded = from_state_dict(net.state_dict(), like)
    with jax.numpy_dtype_promotion("standard"):  # which Flax's own layers need
        if isinstance(like, nnx.Module):
            assert loaded is like
            outputs = nnx.jit(lambda module, x, tokens: module(x, tokens))(loaded, X, TOKENS)
        else:
            outputs = jax.jit(Linen().apply)(loaded, X, TOKENS)
    with torch.no_grad():
        expected = net(to_torch(X), to_torch(TOKENS))
    for ours, theirs in zip(outputs, expected, strict=True):
        assert_close(ours, to_numpy(theirs), 1e-12)


@pytest.mark.parametrize("like", LIKES)
def test_torch_takes_back_what_it_gave(like):
    """Bit by bit, and an LSTM's two biases as their sum."""
    net = torch_net()
    loaded = from_state_dict(net.state_dict(), like())
    state_dict = to_state_dict(loaded)
    with_torchs_values = {name: to_numpy(value) for name, value in net.state_dict().items()}
    biases = with_torchs_values["lstm.bias_ih"], with_torchs_values["lstm.bias_hh"]
    expected = without_counts(with_torchs_values) | {
        "lstm.bias_ih": np.zeros(12), "lstm.bias_hh": biases[0] + biases[1]
    }  # fmt: skip
    assert set(state_dict) == set(expected)
    for name, array in state_dict.items():
        np.testing.assert_array_equal(array, expected[name], strict=True)
    Torch().load_state_dict({name: torch.from_numpy(a) for name, a in state_dict.items()})


@pytest.mark.parametrize("like", LIKES)
def test_a_round_trip_through_a_file_changes_nothing(like, tmp_path):
    first = from_state_dict(torch_net().state_dict(), like())
    state_dict = to_state_dict(first)
    safetensors.numpy.save_file(state_dict, tmp_path / "model.safetensors")
    second = from_state_dict(tmp_path / "model.safetensors", like())
    leaves = [jax.tree.leaves(nnx.state(v, nnx.Param) if isinstance(v, nnx.Module) else v)
              for v in (first, second)]  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, *leaves)


# What a state_dict may be.


def as_file(state_dict, folder):
    path = folder / "model.safetensors"
    safetensors.torch.save_file({k: v.detach().clone() for k, v in state_dict.items()}, path)
    return path


SOURCES = [
    pytest.param(lambda state_dict, folder: state_dict, id="tensors"),
    pytest.param(lambda sd, folder: {k: torch.nn.Parameter(v) for k, v in sd.items()}, id="params"),
    pytest.param(lambda sd, folder: {k: v.mT.contiguous().mT for k, v in sd.items()}, id="strided"),
    pytest.param(as_file, id="path"),
    pytest.param(lambda state_dict, folder: str(as_file(state_dict, folder)), id="str"),
]
DTYPES = ["float32", "float64", "float16", "bfloat16", "complex64", "float8_e4m3fn", "float8_e5m2"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_keeps_values_and_dtype(source, dtype, tmp_path):
    weight = torch.randn((6, 4, 3), generator=torch.Generator().manual_seed(0))
    weight = weight.to(torch.complex64) * (1 + 2j) if dtype == "complex64" else weight
    weight = weight.to(getattr(torch, dtype))
    like = {"params": {"weight": jax.ShapeDtypeStruct((6, 4, 3), "float32")}}
    loaded = from_state_dict(source({"weight": weight}, tmp_path), like)["params"]["weight"]
    assert isinstance(loaded, jax.Array)
    assert loaded.dtype == jnp.dtype(dtype)
    exact = weight.numpy() if dtype != "bfloat16" and "8" not in dtype else weight.float().numpy()
    np.testing.assert_array_equal(np.asarray(loaded).astype(exact.dtype), exact)
    back = to_state_dict({"params": {"weight": loaded}})["weight"]
    np.testing.assert_array_equal(back, np.asarray(loaded), strict=True)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, lambda a: a.astype(">f8")])
def test_numpy_and_jax_arrays_of_any_byte_order_are_taken(convert):
    array = np.random.default_rng(0).normal(size=(6, 4, 3))
    like = {"params": {"weight": np.zeros((6, 4, 3))}}
    loaded = from_state_dict({"weight": convert(array)}, like)["params"]["weight"]
    np.testing.assert_array_equal(loaded, array, strict=True)


def test_a_conjugated_tensor_is_resolved():
    weight = torch.randn((6, 4, 3), dtype=torch.complex64).conj()
    loaded = from_state_dict({"weight": weight}, {"params": {"weight": np.zeros((6, 4, 3))}})
    np.testing.assert_array_equal(loaded["params"]["weight"], weight.resolve_conj().numpy())


def test_neither_side_shares_memory_with_the_other():
    tensor = torch.zeros(5)
    variables = from_state_dict({"bias": tensor}, {"params": {"bias": np.zeros(5)}})
    tensor += 1
    np.testing.assert_array_equal(variables["params"]["bias"], np.zeros(5))
    state_dict = to_state_dict(variables)
    state_dict["bias"] += 1
    np.testing.assert_array_equal(variables["params"]["bias"], np.zeros(5))


@pytest.mark.parametrize(
    "entry",
    [
        [1.0, 2.0],
        "weight",
        None,
        np.array(["a", "b"]),
        np.array([1, None]),
        torch.zeros(2, device="meta"),
        torch.zeros(2).to_sparse(),
    ],
    ids=lambda entry: f"{type(entry).__name__}-{getattr(entry, 'dtype', '')}",
)
def test_an_entry_that_is_no_array_is_refused(entry):
    with pytest.raises(TypeError, match=r"`state_dict` must hold .* got \w+ under 'bias'"):
        from_state_dict({"bias": entry}, {"params": {"bias": np.zeros(2)}})


@pytest.mark.parametrize("state_dict", [torch.nn.Linear(2, 2), None, [("bias", np.zeros(2))]])
def test_what_is_no_state_dict_is_refused(state_dict):
    with pytest.raises(TypeError, match=r"`state_dict` must be a mapping .* or the path .* got"):
        from_state_dict(state_dict, {"params": {"bias": np.zeros(2)}})


# What is filled.


@pytest.mark.parametrize("like", [{"bias": np.zeros(2)}, {"params": np.zeros(2)}, None, Linen])
def test_what_is_no_model_is_refused(like):
    rule = "must be a mapping with a mapping 'params'"
    with pytest.raises(TypeError, match=f"`like` {rule}"):
        from_state_dict({}, like)
    with pytest.raises(TypeError, match=f"`variables` {rule}"):
        to_state_dict(like)


def test_containers_boxes_and_other_collections_stay():
    names = ("out", "in", None)
    boxed = nn.Partitioned(jnp.zeros((6, 4, 3)), names)
    cache = {"step": jnp.array(3)}
    like = FrozenDict({"params": {"conv": {"weight": boxed}}, "cache": cache})
    weight = np.random.default_rng(0).normal(size=(6, 4, 3))
    variables = from_state_dict({"conv.weight": weight}, like)
    assert isinstance(variables, FrozenDict)
    loaded = variables["params"]["conv"]["weight"]
    assert isinstance(loaded, nn.Partitioned)
    assert loaded.names == names
    np.testing.assert_array_equal(loaded.value, weight)
    assert variables["cache"]["step"] == 3
    assert set(to_state_dict(variables)) == {"conv.weight"}
    np.testing.assert_array_equal(like["params"]["conv"]["weight"].value, np.zeros((6, 4, 3)))


def test_arrays_are_spread_as_those_of_the_model():
    sharding = NamedSharding(jax.make_mesh((2,), ("model",)), PartitionSpec("model"))
    like = {"params": {"bias": jax.ShapeDtypeStruct((6,), "float64", sharding=sharding)}}
    variables = from_state_dict({"bias": np.arange(6.0)}, like)
    assert variables["params"]["bias"].sharding == sharding
    np.testing.assert_array_equal(to_state_dict(variables)["bias"], np.arange(6.0))


def test_modules_that_are_called_like_gates_but_are_no_lstm_keep_their_names():
    dense = {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}
    dense_names = ("dense_i", "dense_h")
    variables = {"params": dict.fromkeys(dense_names, dense)}
    names = {f"{module}.{leaf}" for module in dense_names for leaf in ("weight", "bias")}
    assert set(to_state_dict(variables)) == names


def test_a_kernel_of_flaxs_own_convolution_is_refused():
    """Its layout does not tell a convolution from a transposed one."""
    like = shapes(nn.Conv(4, (3,)), jnp.zeros((1, 9, 3), "float32"))
    rule = r"must hold kernels of two axes .* kernel \(3, 3, 4"
    with pytest.raises(ValueError, match=f"`like` {rule}"):
        from_state_dict({}, like)
    with pytest.raises(ValueError, match=f"`variables` {rule}"):
        to_state_dict(like)


# Names.

NESTED = {"params": {"net": {"layers_0": {"bias": np.zeros(2)}, "layers_10": {"bias": np.ones(3)}}}}
RENAMES = [
    pytest.param(lambda name: name.replace("layers_", ""), id="function"),
    pytest.param({"net.layers_0": "net.0", "net.layers_10.bias": "net.10.bias"}, id="mapping"),
    pytest.param(
        {"net": "wrong", "net.layers_0": "net.0", "net.layers_10": "net.10"}, id="longest"
    ),
]


@pytest.mark.parametrize("rename", RENAMES)
def test_rename_leads_to_the_names_of_the_state_dict(rename):
    state_dict = to_state_dict(NESTED, rename=rename)
    assert {name: array.shape for name, array in state_dict.items()} == {
        "net.0.bias": (2,), "net.10.bias": (3,)
    }  # fmt: skip
    loaded = from_state_dict(state_dict, NESTED, rename=rename)
    jax.tree.map(np.testing.assert_array_equal, loaded, NESTED)


def test_two_entries_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"`rename` must give .* got twice \['bias'\]"):
        to_state_dict(NESTED, rename=lambda name: "bias")


def test_a_rename_of_another_type_is_refused():
    with pytest.raises(TypeError, match="`rename` must be a function or a mapping, got 'net'"):
        to_state_dict(NESTED, rename="net")


def misfit():
    state_dict = {k: v for k, v in torch_net().state_dict().items() if k != "dense.bias"}
    return state_dict | {
        "conv.weight": torch.zeros(6, 2, 4),
        "dense.weight": state_dict["dense.weight"].T,
        "lstm.weight_ih": torch.zeros(12, 3),
        "up.bias": torch.zeros(6, dtype=torch.int8),
        "head.weight": torch.zeros(2, 3),
        "head.num_batches_tracked": torch.tensor(3),
    }


MISFITS = [
    "missing dense.bias (5,)",
    "unexpected head.weight (2, 3)",
    "conv.weight of shape (6, 2, 4) instead of (6, 2, 3)",
    "dense.weight of shape (4, 5) instead of (5, 4)",
    "lstm.weight_ih of shape (12, 3) instead of (12, 4)",
    "up.bias of dtype int8 instead of a floating one",
]


def test_all_that_does_not_fit_is_listed_and_nothing_is_loaded():
    module = nnx.eval_shape(NNX)
    from_state_dict(torch_net().state_dict(), module)
    before = to_state_dict(module)
    with pytest.raises(ValueError, match="`state_dict`") as info:
        from_state_dict(misfit(), module)
    first, *lines = str(info.value).splitlines()
    assert first == "`state_dict` must fit `like`, got"
    assert sorted(line.strip() for line in lines) == sorted(MISFITS)
    for name, array in to_state_dict(module).items():
        np.testing.assert_array_equal(array, before[name], strict=True)


def test_a_misfit_of_a_file_names_the_file(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros(2)}, path)
    with pytest.raises(ValueError, match=f"from {path} must fit .*\n  missing bias"):
        from_state_dict(path, {"params": {"bias": np.zeros(2)}})


def test_a_dtype_that_jax_would_cut_down_is_refused():
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64 without jax_enable_x64"):
        from_state_dict({"bias": np.zeros(2)}, {"params": {"bias": np.zeros(2)}})


# Files that are refused.

LIKE = {"params": {"bias": np.zeros(2, "float32")}}
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def packed(header, data=bytes(8)):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def duplicated(*entries):
    pairs = [b'"bias": ' + json.dumps(entry).encode() for entry in entries]
    return packed(b"{" + b", ".join(pairs) + b"}")


VALID = packed({"bias": ENTRY})
MALFORMED = {
    "empty": b"",
    "short": VALID[:5],
    "no-header": VALID[:8],
    "cut-header": VALID[:40],
    "cut-data": VALID[:-1],
    "more-data": VALID + b"\0",
    "huge-header": struct.pack("<Q", 2**63) + VALID[8:],
    "long-header": struct.pack("<Q", len(VALID)) + VALID[8:],
    "not-json": packed(b"{bias}"),
    "not-utf8": packed(b'{"\xff": 1}'),
    "a-list": packed([]),
    "deep": packed(b'{"a":' * 10_000),
    "unknown-dtype": packed({"bias": ENTRY | {"dtype": "Q32"}}),
    "dtype-without-counterpart": packed({"bias": ENTRY | {"dtype": "F8_E8M0", "shape": [8]}}),
    "negative-shape": packed({"bias": ENTRY | {"shape": [-2]}}),
    "shape-beyond-data": packed({"bias": ENTRY | {"shape": [3]}}),
    "overflowing-shape": packed({"bias": ENTRY | {"shape": [2**62, 4]}}),
    "reversed-offsets": packed({"bias": ENTRY | {"data_offsets": [8, 0]}}),
    "offsets-beyond-data": packed({"bias": ENTRY | {"data_offsets": [8, 16]}}),
    "huge-offsets": packed({"bias": ENTRY | {"data_offsets": [0, 2**64 - 1]}}),
    "overlap": packed({"bias": ENTRY, "b": ENTRY | {"data_offsets": [4, 12]}}, bytes(12)),
    "shared-data": packed({"bias": ENTRY, "b": ENTRY}),
    "gap": packed({"bias": ENTRY, "b": ENTRY | {"data_offsets": [12, 20]}}, bytes(20)),
    "same-name": duplicated(ENTRY, ENTRY),
    "same-name-other-entry": duplicated(ENTRY, ENTRY | {"data_offsets": [8, 16]}),
    "same-field": packed(b'{"bias":{"dtype":"F32",' + json.dumps({"bias": ENTRY})[10:].encode()),
    "text": b"torch weights, honestly\n",
}  # fmt: skip


def test_the_file_that_these_are_made_from_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(VALID)
    np.testing.assert_array_equal(from_state_dict(path, LIKE)["params"]["bias"], np.zeros(2))


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_is_refused_by_name(data, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"must be a well-formed safetensors file, got {path}"):
        from_state_dict(path, LIKE)


class Exploit:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def torch_saved(value, **kwargs):
    buffer = io.BytesIO()
    torch.save(value, buffer, **kwargs)
    return buffer.getvalue()


PICKLES = [
    pytest.param(torch_saved, "model.pt", id="torch"),
    pytest.param(torch_saved, "model.safetensors", id="torch-in-disguise"),
    pytest.param(
        lambda value: torch_saved(value, _use_new_zipfile_serialization=False), "model", id="legacy"
    ),
    pytest.param(pickle.dumps, "model.safetensors", id="pickle-in-disguise"),
    pytest.param(lambda value: pickle.dumps(value, 2), "weights", id="pickle-2"),
    pytest.param(lambda value: VALID, "model.bin", id="by-its-name"),
    pytest.param(lambda value: VALID, "model.pth", id="by-its-name-pth"),
]


@pytest.mark.parametrize(("saved", "name"), PICKLES)
def test_a_pickle_is_refused_unread_with_advice(saved, name, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / name
    path.write_bytes(saved({"bias": Exploit(trace)}))
    with pytest.raises(
        ValueError, match=r"got .*, a pickle or zip file.*safetensors.torch"
    ) as info:
        from_state_dict(path, LIKE)
    assert str(path) in str(info.value)
    assert not trace.exists()


def test_a_header_whose_length_begins_like_a_pickle_is_read(tmp_path):
    header = json.dumps({"bias": ENTRY}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(header.ljust(0x0280)))
    assert path.read_bytes()[:2] == b"\x80\x02"
    from_state_dict(path, LIKE)


def test_a_file_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_state_dict(tmp_path / "model.safetensors", LIKE)


def test_without_safetensors_a_file_asks_for_it(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(VALID)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxconv\[interop\]'"):
        from_state_dict(path, LIKE)


SEED_FILE = safetensors.numpy.save(
    {"conv.weight": np.arange(12, dtype="float32").reshape(2, 2, 3), "conv.bias": np.zeros(2)}
)
SEED_LIKE = {"params": {"conv": {"weight": np.zeros((2, 2, 3)), "bias": np.zeros(2)}}}


@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(SEED_FILE) - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.integers(0, len(SEED_FILE)) | st.just(len(SEED_FILE)),
)
def test_a_damaged_file_is_loaded_in_full_or_refused(tmp_path_factory, changes, cut):
    data = bytearray(SEED_FILE)
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(data[:cut])
    refused = None
    try:
        variables = from_state_dict(path, SEED_LIKE)
    except ValueError as error:
        refused = str(error)
    if refused:
        assert str(path) in refused
    else:
        assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, SEED_LIKE)


def test_files_are_read_without_torch(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"bias": torch.ones(2, dtype=torch.bfloat16)}, path)
    program = f"""
import sys
sys.modules["torch"] = None
import jax, numpy as np
from jaxconv.interop import from_state_dict
print("safetensors" in sys.modules)
print(from_state_dict({str(path)!r}, {{"params": {{"bias": np.zeros(2)}}}})["params"]["bias"].dtype)
"""
    assert in_fresh_interpreter(program, JAX_PLATFORMS="cpu") == ["False", "bfloat16"]
