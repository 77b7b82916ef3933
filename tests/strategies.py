"""Hypothesis strategies: any call of a convolution, legal or with something wrong in it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.cases import Case, normal


@dataclasses.dataclass(frozen=True)
class Call:
    """A case to run, with the shapes and dtypes that its arrays really get."""

    case: Case
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    channels_last: bool = False
    spoiled: str = "nothing"

    def arrays(self) -> list[np.ndarray]:
        """Input, weight and perhaps bias, channels first."""
        rng = np.random.default_rng(0)
        pairs = zip(self.shapes, self.dtypes, strict=True)
        return [normal(rng, shape, dtype) for shape, dtype in pairs]


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Of any rank and either direction. Most are legal; of the others, most have one thing wrong,
    and the rest are made of sizes that do not go together."""
    call = draw(_transposed_calls() if draw(st.booleans()) else _conv_calls())
    if draw(st.integers(0, 9)) < 4:
        name = draw(st.sampled_from(sorted(_SPOILERS)))
        call = dataclasses.replace(_SPOILERS[name](draw, call), spoiled=name)
    return call


# Calls that are meant well.


@st.composite
def _conv_calls(draw: st.DrawFn) -> Call:
    n = draw(st.integers(1, 3))
    stride, dilation, kernel = _windows(draw, n)
    padding = draw(_per_axis(n, 0, 4)) if draw(st.booleans()) else (0,) * n
    kwargs: dict[str, Any] = {}
    if draw(st.integers(0, 4)) == 0:
        kwargs["padding"] = draw(st.sampled_from(["same", "valid"]))
        if kwargs["padding"] == "same" and draw(st.integers(0, 9)):
            stride = (1,) * n
        padding = (0,) * n
    elif any(padding):
        kwargs["padding"] = _spelled(draw, padding)
    if draw(st.integers(0, 2)) == 0:
        mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
        kwargs["padding_mode"] = mode
    outputs = draw(_per_axis(n, 1, 4 if n < 3 else 2))
    size = tuple(
        max((o - 1) * s + d * (k - 1) + 1 - 2 * p + draw(st.integers(0, s - 1)), draw(_LEAST))
        for o, s, d, k, p in zip(outputs, stride, dilation, kernel, padding, strict=True)
    )
    groups, in_channels, out_channels = _channels(draw)
    weight = (out_channels, in_channels // groups, *kernel)
    kwargs |= _common(draw, stride, dilation, groups)
    return _call(draw, False, in_channels, size, weight, out_channels, kwargs)


@st.composite
def _transposed_calls(draw: st.DrawFn) -> Call:
    n = draw(st.integers(1, 3))
    stride, dilation, kernel = _windows(draw, n)
    size = tuple(max(i, draw(_LEAST)) for i in draw(_per_axis(n, 1, 5 if n < 3 else 3)))
    padding = draw(_per_axis(n, 0, 3)) if draw(st.booleans()) else (0,) * n
    groups, in_channels, out_channels = _channels(draw)
    kwargs: dict[str, Any] = {"padding": _spelled(draw, padding)} if any(padding) else {}
    if draw(st.booleans()):
        most = [max(pair) for pair in zip(stride, dilation, strict=True)]
        extra = tuple(draw(st.integers(0, m if draw(_RARELY) else m - 1)) for m in most)
        kwargs["output_padding"] = _spelled(draw, extra)
    call = _call(
        draw, True, in_channels, size, (in_channels, out_channels // groups, *kernel),
        out_channels, kwargs | _common(draw, stride, dilation, groups),
    )  # fmt: skip
    if draw(st.integers(0, 3)):
        return call
    spatial = tuple(
        (i - 1) * s - 2 * p + d * (k - 1) + 1
        + draw(st.integers(-1 if draw(_RARELY) else 0, s if draw(_RARELY) else s - 1))
        for i, s, p, d, k in zip(size, stride, padding, dilation, kernel, strict=True)
    )  # fmt: skip
    if draw(st.booleans()):
        # The full shape, whose other entries do not count.
        others = draw(st.sampled_from([1, out_channels]))
        spatial = (others,) * (len(call.shapes[0]) - n) + spatial
    sizes = list(spatial) if draw(st.booleans()) else spatial
    return _with_kwargs(call, output_size=sizes)


_RARELY = st.integers(0, 9).map(lambda x: x == 0)
_LEAST = st.integers(0, 29).map(lambda x: min(x, 1))
"""The least size of an axis: seldom 0."""


def _per_axis(n: int, least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(least, most)] * n)


def _windows(draw: st.DrawFn, n: int) -> tuple[tuple[int, ...], ...]:
    """Stride, dilation and kernel size."""
    stride = draw(_per_axis(n, 1, 4 if n < 3 else 3)) if draw(st.booleans()) else (1,) * n
    dilation = draw(_per_axis(n, 1, 3)) if draw(st.booleans()) else (1,) * n
    return stride, dilation, draw(_per_axis(n, 1, 4 if n < 3 else 3))


def _channels(draw: st.DrawFn) -> tuple[int, int, int]:
    """Groups, channels of the input and of the output."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    per_group = st.sampled_from([1, 2, 3])
    in_per_group = 0 if draw(st.integers(0, 29)) == 0 else draw(per_group)
    return groups, groups * in_per_group, groups * draw(per_group)


def _common(draw: st.DrawFn, stride, dilation, groups) -> dict[str, Any]:
    kwargs: dict[str, Any] = {}
    if set(stride) != {1} or draw(_RARELY):
        kwargs["stride"] = _spelled(draw, stride)
    if set(dilation) != {1} or draw(_RARELY):
        kwargs["dilation"] = _spelled(draw, dilation)
    if groups != 1 or draw(_RARELY):
        kwargs["groups"] = np.int64(groups) if draw(_RARELY) else groups
    return kwargs


def _spelled(draw: st.DrawFn, value: tuple[int, ...]) -> Any:
    """The same argument as a tuple, list, or int, or a tuple of one, if it is the same for all."""
    ways: list[Callable[[], Any]] = [
        lambda: value,
        lambda: list(value),
        lambda: tuple(np.int32(v) for v in value),
    ]
    if len(set(value)) == 1:
        ways += [lambda: value[0], lambda: value[0], lambda: value[:1], lambda: np.int64(value[0])]
    return draw(st.sampled_from(ways))()


def _call(draw: st.DrawFn, transposed, in_channels, size, weight, out_channels, kwargs) -> Call:
    batch = draw(st.sampled_from([(), (1,), (2,), (2,), (3,)]))
    batch = (0,) if batch and draw(_RARELY) else batch
    input = (*batch, in_channels, *size)
    bias = draw(st.booleans())
    case = Case("drawn", input, weight, kwargs, transposed, bias)
    shapes = (input, weight, *([(out_channels,)] if bias else []))
    dtype = draw(st.sampled_from(["float64"] * 5 + ["complex128"] * 2 + ["float32"]))
    return Call(case, shapes, (dtype,) * len(shapes), channels_last=draw(st.booleans()))


# One thing wrong, mostly.


def _with_kwargs(call: Call, **kwargs: Any) -> Call:
    return dataclasses.replace(
        call, case=dataclasses.replace(call.case, kwargs=call.case.kwargs | kwargs)
    )


def _with_shape(call: Call, which: int, shape: tuple[int, ...]) -> Call:
    shapes = list(call.shapes)
    shapes[which] = shape
    return dataclasses.replace(call, shapes=tuple(shapes))


NO_INTS = [1.0, 2.5, True, False, None, "1", "", b"1", {1: 1}, np.float32(1), np.True_, (1.0, 1),
           ("1", "1"), (None,), (True, True), [[1], [1]], np.array([1.0, 1.0])]  # fmt: skip
BAD_INTS = [0, -1, -2, (0,), (-1,), (), (1,) * 4, [2] * 2, [0, 1], (1, -1), (1, 0, 1), (3, 1, 2),
            np.array([1, 2]), np.int8(-1), 5, 9]  # fmt: skip
HUGE_INTS = [2**31, 2**40]


def _spoil_argument(draw: st.DrawFn, call: Call) -> Call:
    names = ["stride", "padding", "dilation", "groups"]
    names += ["output_padding", "output_size"] if call.case.transposed else []
    name = draw(st.sampled_from(names))
    values = [NO_INTS, BAD_INTS]
    if name not in (["stride", "dilation"] if call.case.transposed else ["padding"]):
        values.append(HUGE_INTS)  # With these names, it would make an output as huge.
    return _with_kwargs(call, **{name: draw(st.sampled_from(draw(st.sampled_from(values))))})


def _spoil_word(draw: st.DrawFn, call: Call) -> Call:
    name = draw(st.sampled_from(["padding", "padding_mode"]))
    if call.case.transposed:
        name = "padding"
    value = draw(st.sampled_from(["SAME", "full", "", "mirror", "Reflect", "constant", "same"]))
    return _with_kwargs(call, **{name: value})


def _spoil_size(draw: st.DrawFn, call: Call) -> Call:
    """One axis of one array has another size."""
    which = draw(st.integers(0, len(call.shapes) - 1))
    shape = list(call.shapes[which]) or [1]
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] = draw(st.sampled_from([0, 1, shape[axis] + 1, 2 * shape[axis]]))
    return _with_shape(call, which, tuple(shape))


def _spoil_rank(draw: st.DrawFn, call: Call) -> Call:
    """One array has an axis more or less."""
    which = draw(st.integers(0, len(call.shapes) - 1))
    shape = call.shapes[which]
    changed = [shape[1:], shape[:-1], (1, *shape), (*shape, 1), (2, *shape), (), (1, 1, *shape)]
    return _with_shape(call, which, draw(st.sampled_from(changed)))


def _spoil_dtype(draw: st.DrawFn, call: Call) -> Call:
    dtypes = list(call.dtypes)
    which = draw(st.integers(0, len(dtypes)))
    dtype = draw(st.sampled_from(["float32", "float64", "complex64", "int32", "int64", "bool"]))
    if which == len(dtypes):
        return dataclasses.replace(call, dtypes=(dtype,) * len(dtypes))
    dtypes[which] = dtype
    return dataclasses.replace(call, dtypes=tuple(dtypes))


def _spoil_two(draw: st.DrawFn, call: Call) -> Call:
    for _ in range(2):
        call = draw(st.sampled_from(_SINGLE))(draw, call)
    return call


_SINGLE = [_spoil_argument, _spoil_word, _spoil_size, _spoil_rank, _spoil_dtype]
_SPOILERS: dict[str, Callable[[st.DrawFn, Call], Call]] = {
    "argument": _spoil_argument,
    "word": _spoil_word,
    "size": _spoil_size,
    "rank": _spoil_rank,
    "dtype": _spoil_dtype,
    "two": _spoil_two,
}


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """A layer by torch's name, its arguments, and what it is called with, channels first."""

    name: str
    arguments: dict[str, Any]
    input: tuple[int, ...]
    inputs: tuple[Any, ...] = ()


@st.composite
def layer_calls(draw: st.DrawFn) -> LayerCall:
    """The calls of `calls`, as layers; in some, the layer's own arguments are wrong instead."""
    call = draw(calls())
    case, (input, weight, *bias) = call.case, call.shapes
    n = case.num_spatial_dims
    lazy = draw(_RARELY)
    kwargs = dict(case.kwargs)
    inputs = (kwargs.pop("output_size"),) if "output_size" in kwargs else ()
    groups = kwargs.get("groups", 1) if call.spoiled == "nothing" else 1
    channels = (*weight, 1, 1)[:2]
    if case.transposed:
        in_channels, out_channels = channels[0], channels[1] * groups
    else:
        in_channels, out_channels = channels[1] * groups, channels[0]
    arguments = {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "kernel_size": _spelled(draw, weight[2:] or (1,)),
        "bias": bool(bias),
        **kwargs,
    }
    if draw(st.integers(0, 5)) == 0:
        wrong = draw(st.sampled_from(NO_INTS if draw(st.booleans()) else BAD_INTS))
        arguments[draw(st.sampled_from(["in_channels", "out_channels", "kernel_size"]))] = wrong
    if lazy:
        arguments.pop("in_channels")
    name = f"{'Lazy' * lazy}Conv{'Transpose' * case.transposed}{n}d"
    return LayerCall(name, arguments, input, inputs)
