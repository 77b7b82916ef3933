"""Weights from PyTorch and back: `from_state_dict` and `to_state_dict`.

torch itself is not needed, and nothing is unpickled. Names and layouts are translated as follows;
leaves with other names, such as a model's own parameters, keep name and layout.

    Flax                                    torch
    jaxconv's layers: weight, bias          weight, bias
    Dense, Linear: kernel (in, out)         weight (out, in)
    Embed: embedding                        weight
    BatchNorm, LayerNorm, GroupNorm: scale  weight
    BatchNorm: mean, var in batch_stats     running_mean, running_var
    LSTMCell, OptimizedLSTMCell             LSTMCell: weight_ih, weight_hh, bias_ih, bias_hh

torch's num_batches_tracked is ignored, as Flax has none. A module's path, joined by dots, is its
name in torch: `encoder.conv1.weight`.
"""

import collections
import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

__all__ = ["from_state_dict", "to_state_dict"]

Rename = Callable[[str], str] | Mapping[str, str] | None
Like = TypeVar("Like")


def from_state_dict(state_dict: Any, like: Like, *, rename: Rename = None) -> Like:
    """`like` with the weights of a PyTorch `state_dict`.

    Args:
      state_dict: a mapping from names to torch tensors, NumPy arrays or JAX arrays; or the path
        of a `.safetensors` file, which takes `pip install 'jaxconv[interop]'`. Pickle files are
        refused: to read one is to run it.
      like: the variables of a Linen model, a dict with "params" and maybe "batch_stats"; or an NNX
        module. Shapes will do for values: `jax.eval_shape(model.init, ...)`, `nnx.eval_shape(...)`.
      rename: from the names of `like`, in torch's words, to those of the state_dict: a function, or
        a mapping in which a key may also be the beginning of a name, up to a dot. In
        `{"layers_0": "0"}` it takes `layers_0.weight` to `0.weight`. The longest key counts.

    Returns:
      New variables, of the structure of `like`; an NNX module is updated in place, and returned.
      The arrays are JAX arrays with the dtypes of the state_dict; where those of `like` are spread
      over several devices, so are they. The two biases of torch's LSTM become their sum.

    Raises:
      ValueError: for names that are missing or unexpected and for shapes or dtypes that do not
        fit, of which it lists all; for a file that is no well-formed safetensors file. `like` is
        then as it was.
      TypeError: if an argument, or an entry of the state_dict, is of no type named above.
      ImportError: for a file, if the package safetensors is not installed.

    >>> import jaxconv
    >>> state_dict = {"weight": np.ones((8, 3, 5)), "bias": np.zeros(8)}
    >>> state_dict = {name: array.astype("float32") for name, array in state_dict.items()}
    >>> module, x = jaxconv.Conv1d(3, 8, 5), jnp.ones((1, 3, 9))
    >>> like = jax.eval_shape(module.init, jax.random.key(0), x)
    >>> variables = from_state_dict(state_dict, like)
    >>> module.apply(variables, x)[0, 0]
    Array([15., 15., 15., 15., 15.], dtype=float32)
    """
    leaves = _leaves(like, "like")
    entries = _entries(leaves, rename, "like")
    source, arrays = _read(state_dict)
    if misfits := _misfits(entries, leaves, arrays):
        raise ValueError("\n  ".join([f"{source} must fit `like`, got", *misfits]))
    values: dict[Key, np.ndarray] = {}
    for entry in entries:
        for key, value in zip(entry.leaves, entry.split(arrays[entry.name]), strict=True):
            values[key] = values[key] + value if key in values else value
    return _filled(like, {key: _placed(value, leaves[key]) for key, value in values.items()})


def to_state_dict(variables: Any, *, rename: Rename = None) -> dict[str, np.ndarray]:
    """The weights of `variables` under PyTorch's names and in its layouts.

    Args:
      variables: the variables of a Linen model, or an NNX module.
      rename: as in `from_state_dict`.

    Returns:
      NumPy arrays of the same dtypes, copies that may be written to. torch takes them as
      `{name: torch.from_numpy(array) for name, array in ...}`; NumPy knows bfloat16 through
      ml_dtypes only, so that goes by `array.astype("float32")`, without loss.
      `from_state_dict` gets from them what went in, bit by bit. An LSTM's `bias_ih` is zero: all
      of its bias is in `bias_hh`.

    Raises:
      TypeError: if `variables` is neither of the two.
      ValueError: if `rename` gives two entries one name, or for kernels of more than two axes
        outside of jaxconv's layers.

    >>> import jaxconv
    >>> variables = jaxconv.Conv1d(3, 8, 5).init(jax.random.key(0), jnp.ones((1, 3, 9)))
    >>> state_dict = to_state_dict({"params": {"conv": variables["params"]}})
    >>> {name: array.shape for name, array in state_dict.items()}
    {'conv.bias': (8,), 'conv.weight': (8, 3, 5)}
    """
    leaves = _leaves(variables, "variables")
    state_dict, written = {}, set()
    for entry in reversed(_entries(leaves, rename, "variables")):
        array = entry.join([np.asarray(leaves[key]) for key in entry.leaves])
        state_dict[entry.name] = np.zeros_like(array) if entry.leaves in written else array
        written.add(entry.leaves)
    return dict(reversed(state_dict.items()))


# The leaves of a model: Linen's collection first, then the path.

Key = tuple[str, ...]


def _leaves(model: Any, name: str) -> dict[Key, Any]:
    if isinstance(model, nnx.Module):
        return {key: variable.get_value() for key, (_, variable) in _variables(model).items()}
    if isinstance(model, Mapping) and isinstance(model.get("params"), Mapping):
        found = jax.tree_util.tree_leaves_with_path(nn.unbox(model))
        leaves = {_key(path): leaf for path, leaf in found}
        return {key: leaf for key, leaf in leaves.items() if key[0] in ("params", "batch_stats")}
    shown = f"a mapping of {list(model)}" if isinstance(model, Mapping) else type(model).__name__
    raise TypeError(
        f"`{name}` must be a mapping with a mapping 'params', or an NNX module, got {shown}"
    )


def _key(path: tuple[Any, ...]) -> Key:
    return tuple(jax.tree_util.keystr((part,), simple=True) for part in path)


def _variables(module: nnx.Module) -> dict[Key, tuple[tuple[Any, ...], nnx.Variable]]:
    """Paths and variables of an NNX module, by the keys that Linen would give them."""
    found = nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    return {
        (
            "batch_stats" if isinstance(variable, nnx.BatchStat) else "params",
            *map(str, path),
        ): (path, variable)
        for path, variable in found
    }


def _filled(like: Any, values: dict[Key, jax.Array]) -> Any:
    if isinstance(like, nnx.Module):
        variables = _variables(like)
        state = [(path, v.replace(values[key])) for key, (path, v) in variables.items()]
        nnx.update(like, nnx.from_flat_state(state))
        return like
    new = jax.tree_util.tree_map_with_path(
        lambda path, leaf: values.get(_key(path), leaf), nn.unbox(like)
    )
    return nn.meta.replace_boxed(like, new)


def _placed(value: np.ndarray, leaf: Any) -> jax.Array:
    sharding = getattr(leaf, "sharding", None)
    if sharding is not None and len(sharding.device_set) > 1:
        return jax.device_put(value, sharding)
    return jnp.array(value)


# The entries of a state_dict.


@dataclasses.dataclass(frozen=True)
class _Entry:
    """An entry of a state_dict, and the leaves that it is made of.

    There is one, but for an LSTM, whose four gates torch stacks along axis 0. Where two entries
    share their leaves, these are the sum of both.
    """

    name: str
    leaves: tuple[Key, ...]
    transposed: bool = False

    def join(self, leaves: list[np.ndarray]) -> np.ndarray:
        """A copy in C order: safetensors writes the memory as it lies."""
        parts = [leaf.T if self.transposed else leaf for leaf in leaves]
        return np.array(np.concatenate(parts) if len(parts) > 1 else parts[0], order="C")

    def split(self, array: np.ndarray) -> list[np.ndarray]:
        parts = np.split(array, len(self.leaves)) if len(self.leaves) > 1 else [array]
        return [part.T if self.transposed else part for part in parts]

    def shape(self, leaves: dict[Key, Any]) -> tuple[int, ...]:
        shape = leaves[self.leaves[0]].shape
        shape = shape[::-1] if self.transposed else shape
        return (len(self.leaves) * shape[0], *shape[1:]) if len(self.leaves) > 1 else shape


def _entries(leaves: dict[Key, Any], rename: Rename, name: str) -> list[_Entry]:
    """What a state_dict for these leaves has to hold, under its own names."""
    entries = []
    for parent, children in _by_grandparent(leaves).items():
        lstm = _lstm_gates(children)
        entries += _lstm_entries(parent, *lstm) if lstm else map(_entry, children.values())
    kernels = [e.leaves[0] for e in entries if e.transposed and leaves[e.leaves[0]].ndim != 2]
    if kernels:
        found = ", ".join(f"{'.'.join(key[1:])} {leaves[key].shape}" for key in kernels)
        raise ValueError(
            f"`{name}` must hold kernels of two axes only, and jaxconv's layers for convolutions, "
            f"got {found}"
        )
    entries = [dataclasses.replace(e, name=_renamed(e.name, rename)) for e in entries]
    twice = [name for name, n in collections.Counter(e.name for e in entries).items() if n > 1]
    if twice:
        raise ValueError(f"`rename` must give each entry a name of its own, got twice {twice}")
    return entries


def _by_grandparent(leaves: dict[Key, Any]) -> dict[Key, dict[Key, Key]]:
    """The leaves of each module's children, by the last two parts of their paths."""
    found: dict[Key, dict[Key, Key]] = {}
    for key in leaves:
        found.setdefault(key[:-2], {})[key[-2:]] = key
    return found


_NAMES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "embedding"): "weight",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}


def _entry(key: Key) -> _Entry:
    collection, *path, leaf = key
    name = ".".join([*path, _NAMES.get((collection, leaf), leaf)])
    return _Entry(name, (key,), transposed=(collection, leaf) == ("params", "kernel"))


# The modules inside an LSTM cell: those of the input and those of the state, each in torch's
# order of the gates i, f, g, o. The last pair holds all four in one, in that order.
_LSTM_GATES = [
    (("ii", "if", "ig", "io"), ("hi", "hf", "hg", "ho")),
    (("ii", "if_", "ig", "io"), ("hi", "hf", "hg", "ho")),
    (("dense_i",), ("dense_h",)),
]


def _lstm_gates(children: dict[Key, Key]) -> tuple[Any, Any] | None:
    """The gates, if just these are the children: the input's have no bias, the state's do."""
    for of_input, of_state in _LSTM_GATES:
        kernels = {(gate, "kernel") for gate in of_input + of_state}
        if set(children) == kernels | {(gate, "bias") for gate in of_state}:
            return of_input, of_state
    return None


def _lstm_entries(parent: Key, of_input: Key, of_state: Key) -> list[_Entry]:
    def entry(name: str, gates: Key, leaf: str) -> _Entry:
        keys = tuple((*parent, gate, leaf) for gate in gates)
        return _Entry(".".join([*parent[1:], name]), keys, transposed=leaf == "kernel")

    return [
        entry("weight_ih", of_input, "kernel"),
        entry("weight_hh", of_state, "kernel"),
        entry("bias_ih", of_state, "bias"),
        entry("bias_hh", of_state, "bias"),
    ]


def _renamed(name: str, rename: Rename) -> str:
    if rename is None:
        return name
    if callable(rename):
        return rename(name)
    if not isinstance(rename, Mapping):
        raise TypeError(f"`rename` must be a function or a mapping, got {rename!r}")
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        beginning = ".".join(parts[:i])
        if beginning in rename:
            return ".".join([rename[beginning], *parts[i:]])
    return name


def _misfits(
    entries: list[_Entry], leaves: dict[Key, Any], arrays: dict[str, np.ndarray]
) -> list[str]:
    """All that is wrong with the arrays of a state_dict, a line for each of them."""
    expected = {entry.name: entry.shape(leaves) for entry in entries}
    inexact = {e.name for e in entries if jnp.issubdtype(leaves[e.leaves[0]].dtype, jnp.inexact)}
    missing = [f"missing {name} {shape}" for name, shape in expected.items() if name not in arrays]
    unexpected = [f"unexpected {n} {a.shape}" for n, a in arrays.items() if n not in expected]
    wrong = []
    for name, shape in expected.items():
        array = arrays.get(name)
        if array is None:
            continue
        if array.shape != shape:
            wrong.append(f"{name} of shape {array.shape} instead of {shape}")
        if name in inexact and not jnp.issubdtype(array.dtype, jnp.inexact):
            wrong.append(f"{name} of dtype {array.dtype} instead of a floating one")
        elif jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
            wrong.append(f"{name} of dtype {array.dtype} without jax_enable_x64")
    return missing + unexpected + wrong


# Reading.


def _read(state_dict: Any) -> tuple[str, dict[str, np.ndarray]]:
    """What to call the state_dict in a message, and its arrays, which may share its memory."""
    if isinstance(state_dict, str | os.PathLike):
        path = Path(state_dict)
        source, arrays = f"`state_dict` from {path}", _read_file(path)
    elif isinstance(state_dict, Mapping):
        source, arrays = "`state_dict`", state_dict
    else:
        raise TypeError(
            "`state_dict` must be a mapping from names to arrays or the path of a .safetensors "
            f"file, got {type(state_dict).__name__}"
        )
    return source, {
        name: _to_numpy(name, array)
        for name, array in arrays.items()
        if str(name).rpartition(".")[2] != "num_batches_tracked"
    }


def _to_numpy(name: str, value: Any) -> np.ndarray:
    try:
        array = _tensor_to_numpy(value) if hasattr(value, "detach") else np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = None
    numeric = array is not None and (array.dtype == bool or jnp.issubdtype(array.dtype, np.number))
    if array is None or not numeric or not hasattr(value, "dtype"):
        raise TypeError(
            "`state_dict` must hold dense torch tensors, NumPy arrays or JAX arrays of numbers, "
            f"got {type(value).__name__} under {name!r}"
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _tensor_to_numpy(tensor: Any) -> np.ndarray:
    """The array of a torch tensor; of dtypes that NumPy does not know itself, by float32."""
    dtype = jnp.dtype(str(tensor.dtype).removeprefix("torch."))
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    return (tensor if dtype.isbuiltin == 1 else tensor.float()).numpy().astype(dtype, copy=False)


_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def _read_file(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    if path.suffix in _PICKLE_SUFFIXES or _is_pickle_or_zip(data):
        raise ValueError(
            f"`state_dict` must be a mapping or a .safetensors file, got {path}, a pickle or zip "
            "file, which may run any code when it is read. Convert it where it was made: "
            "`safetensors.torch.save_file(module.state_dict(), 'model.safetensors')`"
        )
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            f"{path} can be read with the package safetensors only: pip install 'jaxconv[interop]'"
        ) from error
    try:
        tensors = safetensors.deserialize(data)
        _check_names_differ(data)
        return {name: _from_safetensors(name, tensor) for name, tensor in tensors}
    except (safetensors.SafetensorError, ValueError) as error:
        raise ValueError(
            f"`state_dict` must be a well-formed safetensors file, got {path}: {error}"
        ) from error


_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


def _is_pickle_or_zip(data: bytes) -> bool:
    """By the first bytes. A safetensors file begins with eight of length and then a brace."""
    if data[8:9] == b"{":
        return False
    return data[:2] == b"PK" or (data[:1] == b"\x80" and data[1:2] <= b"\x05")


def _check_names_differ(data: bytes) -> None:
    """safetensors itself lets the last of two equal names in the header count."""

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError("a name occurs twice in its header")
        return dict(pairs)

    size = int.from_bytes(data[:8], "little")
    json.loads(data[8 : 8 + size], object_pairs_hook=checked)


def _from_safetensors(name: str, tensor: Any) -> np.ndarray:
    if tensor["dtype"] not in _SAFETENSORS_DTYPES:
        raise ValueError(f"{name} has dtype {tensor['dtype']}, which has no counterpart in JAX")
    dtype = jnp.dtype(_SAFETENSORS_DTYPES[tensor["dtype"]])
    return np.ndarray(tensor["shape"], dtype, buffer=tensor["data"])
