"""What torch refuses is refused, by a message with the argument, the rule and the value."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import jaxconv

TORCH_ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError)
MESSAGE = re.compile(r"`\w+(\[\d+\])?`(, `\w+`)*( and `\w+`)? must .*\bgot\b.+", re.DOTALL)


class Jaxconv:
    """The library under test, in the words of the cases below."""

    functions = modules = jaxconv

    @staticmethod
    def ones(*shape, dtype="float32"):
        return jnp.ones(shape, dtype)

    @staticmethod
    def apply(module, *args):
        """Parameters of zeros: random ones take longer to compile than all else here."""
        zeros = jax.nn.initializers.zeros
        module = module.clone(weight_init=zeros, bias_init=zeros)
        return module.init_with_output(jax.random.key(0), *args)[0]


class Torch:
    """Its original, in the same words."""

    functions, modules = F, torch.nn

    @staticmethod
    def ones(*shape, dtype="float32"):
        return torch.ones(shape, dtype=getattr(torch, dtype))

    @staticmethod
    def apply(module, *args):
        return module(*args)


def refusal(call, exception, match):
    """Check that `call` raises exactly `exception`, with a message of our form."""
    with pytest.raises(exception, match=match) as info:
        call()
    assert info.type is exception
    assert MESSAGE.fullmatch(str(info.value)), f"unclear message: {info.value}"


def torch_refusal(call):
    with pytest.raises(TORCH_ERRORS):
        call()


def call_of(function, input, weight, dtypes=("float32",) * 3, bias=None, **kwargs):
    """A call of `function` on arrays of ones, for either library."""

    def call(lib):
        shapes = (input, weight) if bias is None else (input, weight, bias)
        arrays = [
            lib.ones(*shape, dtype=dtype)
            for shape, dtype in zip(shapes, dtypes[: len(shapes)], strict=True)
        ]
        return getattr(lib.functions, function)(*arrays, **kwargs)

    return call


def conv(input=(2, 4, 7, 8), weight=(6, 4, 3, 3), **kwargs):
    return call_of("conv2d", input, weight, **kwargs)


def conv_transpose(input=(2, 4, 5, 6), weight=(4, 6, 3, 3), **kwargs):
    return call_of("conv_transpose2d", input, weight, **kwargs)


def pad(shape, pad, *args, dtype="float32"):
    return lambda lib: lib.functions.pad(lib.ones(*shape, dtype=dtype), pad, *args)


def refused(name, call, match, exception=ValueError):
    return pytest.param(call, exception, match, id=name)


# The functions. Each case is refused by jaxconv, eagerly and traced, and by torch.

REFUSED = [
    # Ints that are none, or too small.
    refused("stride-0", conv(stride=0), "`stride` must be at least 1, got 0"),
    refused("stride-negative", conv(stride=(1, -2)), r"`stride`.*\(1, -2\)"),
    refused("stride-bool", conv(stride=True), "`stride` must be an int, got True", TypeError),
    refused("stride-bools", conv(stride=(True, 1)), r"`stride`.*ints.*\(True, 1\)", TypeError),
    refused("stride-float", conv(stride=2.0), r"`stride` must be an int, got 2\.0", TypeError),
    refused("stride-floats", conv(stride=[1.0, 2]), r"`stride`.*\(1\.0, 2\)", TypeError),
    refused("stride-str", conv(stride="2"), "`stride`.*'2'", TypeError),
    refused("stride-strs", conv(stride=("1", "2")), r"`stride`.*\('1', '2'\)", TypeError),
    refused("stride-none", conv(stride=None), "`stride`.*None", TypeError),
    refused("stride-dict", conv(stride={1: 1, 2: 2}), "`stride`.*{1: 1, 2: 2}", TypeError),
    refused("stride-nested", conv(stride=((1, 1), (1, 1))), "`stride` must hold", TypeError),
    refused("stride-np-bool", conv(stride=np.bool_(True)), "`stride`.*True", TypeError),
    refused("stride-np-float", conv(stride=np.float32(1)), r"`stride`.*1\.0", TypeError),
    refused("stride-length-3", conv(stride=(1, 1, 1)), "`stride`.*2 ints.*3"),
    refused("stride-length-0", conv(stride=()), "`stride`.*2 ints.*0"),
    refused("dilation-0", conv(dilation=0), "`dilation` must be at least 1, got 0"),
    refused("dilation-float", conv(dilation=1.5), r"`dilation`.*1\.5", TypeError),
    refused("dilation-length", conv(dilation=(1, 1, 1)), "`dilation`.*2 ints"),
    refused("groups-0", conv(groups=0), "`groups` must be at least 1, got 0"),
    refused("groups-negative", conv(groups=-1), "`groups`.*-1"),
    refused("groups-bool", conv(groups=True), "`groups` must be an int, got True", TypeError),
    refused("groups-float", conv(groups=2.0), r"`groups`.*2\.0", TypeError),
    refused("groups-tuple", conv(groups=(1,)), r"`groups`.*\(1,\)", TypeError),
    refused(
        "groups-not-of-in-channels", conv(weight=(6, 1, 3, 3), groups=3),
        "`groups` must divide in_channels, got groups=3 and in_channels=4",
    ),
    refused(
        "groups-not-of-out-channels", conv(weight=(5, 2, 3, 3), groups=2),
        "`groups` must divide out_channels, got groups=2 and out_channels=5",
    ),
    refused("padding-negative", conv(padding=-1), "`padding` must be.* 0, got -1"),
    refused("padding-bool", conv(padding=False), "`padding`.*False", TypeError),
    refused("padding-float", conv(padding=(1, 1.0)), r"`padding`.*\(1, 1\.0\)", TypeError),
    refused("padding-length", conv(padding=(1, 1, 1)), "`padding`.*2 ints"),
    refused("padding-unknown", conv(padding="full"), "'valid' or 'same', got 'full'"),
    refused("padding-capitals", conv(padding="SAME"), "`padding`.*got 'SAME'"),
    refused("same-strided", conv(padding="same", stride=(1, 2)), r"'same'.*\(1, 2\)"),
    # Shapes.
    refused("input-rank-2", conv(input=(4, 4)), r"`input` must.*3.*4.*\(4, 4\)"),
    refused("input-rank-5", conv(input=(1, 2, 4, 7, 8)), "`input` must have rank"),
    refused("input-scalar", conv(input=()), r"`input` must have rank.*\(\)"),
    refused("weight-rank-3", conv(weight=(6, 4, 3)), "`weight` must have rank 4"),
    refused("weight-rank-5", conv(weight=(6, 4, 3, 3, 3)), "`weight`.* rank 4"),
    refused("image-to-1d", call_of("conv1d", (2, 4, 7, 8), (6, 4, 3)), "`input`"),
    refused("channels", conv(input=(2, 5, 7, 8)), "`input` must have 4.*got 5"),
    refused("channels-0", conv(input=(2, 0, 7, 8)), "`input` must have 4.*got 0"),
    refused("unbatched-channels", conv(input=(5, 7, 8)), "`input` must have 4"),
    refused("channels-grouped", conv(groups=2), "`input` must have 8.*got 4"),
    refused("out-channels-0", conv(weight=(0, 4, 3, 3)), r"`weight`.*\(0, 4, 3, 3\)"),
    refused(
        "fewer-out-channels-than-groups", conv(weight=(1, 2, 3, 3), groups=2),
        r"`weight` must have at least one channel per group, got shape \(1, 2.*groups=2",
    ),
    refused("bias-length", conv(bias=(5,)), r"`bias` must.*\(6,\), got \(5,\)"),
    refused("bias-of-1", conv(bias=(1,)), r"`bias` must.*\(6,\), got \(1,\)"),
    refused("bias-scalar", conv(bias=()), r"`bias` must.*\(6,\), got \(\)"),
    refused("bias-broadcastable", conv(bias=(6, 1, 1)), r"`bias`.*\(6, 1, 1\)"),
    refused("kernel-0", conv(weight=(6, 4, 0, 3)), r"`weight`.*kernel.*\(0, 3\)"),
    refused("kernel-0-padded", conv(weight=(6, 4, 3, 0), padding=1), r"\(3, 0\)"),
    refused(
        "kernel-beyond-input", conv(weight=(6, 4, 3, 9)),
        r"`kernel_size` must not exceed the padded input, got kernel_size=\(3, 9\)",
    ),
    refused("kernel-beyond-padded", conv(weight=(6, 4, 10, 3), padding=1), "to 9"),
    refused("kernel-beyond-dilated", conv(dilation=4), r"dilation=\(4, 4\).*9"),
    refused("no-pixels", conv(input=(2, 4, 0, 8)), "`kernel_size`"),
    refused("no-pixels-padded", conv(input=(2, 4, 0, 8), padding=2), r"`input`.*0, 8"),
    # What is no array, and dtypes.
    refused(
        "input-list", lambda lib: lib.functions.conv1d([[1.0, 2.0]], lib.ones(1, 1, 1)),
        "`input` must be an array, got list", TypeError,
    ),
    refused(
        "weight-list", lambda lib: lib.functions.conv1d(lib.ones(1, 2), [[[1.0]]]),
        "`weight` must be an array, got list", TypeError,
    ),
    refused(
        "bias-number", lambda lib: lib.functions.conv1d(lib.ones(1, 2), lib.ones(1, 1, 1), 1.0),
        "`bias` must be an array, got float", TypeError,
    ),
    refused(
        "input-none", lambda lib: lib.functions.conv1d(None, lib.ones(1, 1, 1)),
        "`input` must be an array, got NoneType", TypeError,
    ),
    refused(
        "mixed-weight", conv(dtypes=("float32", "float64")),
        "one dtype, got input: float32, weight: float64", TypeError,
    ),
    refused(
        "mixed-bias", conv(dtypes=("float64", "float64", "float32"), bias=(6,)),
        "one dtype, got input: float64, weight: float64, bias: float32", TypeError,
    ),
    refused("mixed-half", conv(dtypes=("float16", "bfloat16")), "float16.*bfloat16", TypeError),
    refused("mixed-complex", conv(dtypes=("complex64", "float32")), "complex64.*32", TypeError),
    refused("bool-arrays", conv(dtypes=("bool", "bool")), "`input`.*floating.*bool", TypeError),
    refused("int-input", conv(dtypes=("int32", "float32")), "`input`.*int32", TypeError),
    refused("int-weight", conv(dtypes=("float32", "int64")), "`weight`.*int64", TypeError),
    # Transposed.
    refused("T-stride-0", conv_transpose(stride=0), "`stride` must be at least 1"),
    refused("T-dilation-0", conv_transpose(dilation=(1, 0)), r"`dilation`.*\(1, 0\)"),
    refused("T-groups-0", conv_transpose(groups=0), "`groups` must be at least 1"),
    refused("T-padding-negative", conv_transpose(padding=-1), "`padding`.*-1"),
    refused("T-padding-same", conv_transpose(padding="same"), "`padding`.*'same'", TypeError),
    refused("T-padding-valid", conv_transpose(padding="valid"), "`padding`.*'va", TypeError),
    refused("T-padding-length", conv_transpose(padding=(0, 0, 0)), "`padding`.*2 int"),
    refused("T-stride-length", conv_transpose(stride=(1, 1, 1)), "`stride`.*2 ints"),
    refused(
        "T-output-padding", conv_transpose(output_padding=1),
        r"`output_padding` must be smaller than stride or dilation, got.*=\(1, 1\)",
    ),
    refused(
        "T-output-padding-is-stride", conv_transpose(stride=(3, 2), output_padding=2),
        r"output_padding=\(2, 2\), stride=\(3, 2\), dilation=\(1, 1\)",
    ),
    refused(
        "T-output-padding-is-dilation", conv_transpose(dilation=2, output_padding=(0, 2)),
        r"output_padding=\(0, 2\).*dilation=\(2, 2\)",
    ),
    refused(
        "T-output-padding-negative", conv_transpose(stride=2, output_padding=-1),
        "`output_padding` must be at least 0, got -1",
    ),
    refused(
        "T-output-padding-bool", conv_transpose(stride=2, output_padding=True),
        "`output_padding` must be an int, got True", TypeError,
    ),
    refused(
        "T-output-padding-length", conv_transpose(stride=2, output_padding=(1, 1, 1)),
        "`output_padding`.*2 ints",
    ),
    refused(
        "T-no-output", conv_transpose(padding=5),
        r"`padding` must leave an output of at least 1 element, got.*\(-3, -2\)",
    ),
    refused("T-input-rank", conv_transpose(input=(4, 4)), "`input` must have rank"),
    refused("T-weight-rank", conv_transpose(weight=(4, 6, 3)), "`weight`.*rank 4"),
    refused("T-channels", conv_transpose(weight=(3, 6, 3, 3)), "`input` must have 3"),
    refused("T-no-channels", conv_transpose((2, 0, 5, 6), (0, 6, 3, 3)), "`weight`"),
    refused("T-no-out-channels", conv_transpose(weight=(4, 0, 3, 3)), "`weight`"),
    refused("T-groups", conv_transpose(groups=3), "`groups` must divide in_channels"),
    refused("T-bias", conv_transpose(bias=(4,)), r"`bias`.*\(6,\), got \(4,\)"),
    refused("T-bias-grouped", conv_transpose(bias=(6,), groups=2), r"\(12,\), got"),
    refused("T-kernel-0", conv_transpose(weight=(4, 6, 0, 3)), r"`weight`.*\(0, 3\)"),
    refused("T-no-pixels", conv_transpose(input=(2, 4, 0, 6)), "`input`.*at least 1"),
    refused("T-mixed", conv_transpose(dtypes=("float64", "float32")), "one dtype", TypeError),
    # pad.
    refused("pad-int", pad((2, 3), 1), "`pad` must be a tuple of ints, got 1", TypeError),
    refused("pad-bool", pad((2, 3), (True, 1)), r"`pad`.*\(True, 1\)", TypeError),
    refused("pad-float", pad((2, 3), (1.0, 1)), r"`pad`.*\(1\.0, 1\)", TypeError),
    refused("pad-str", pad((2, 3), "11"), "`pad`.*'11'", TypeError),
    refused("pad-odd", pad((2, 3), (1, 1, 1)), r"`pad`.*low, high.*\(1, 1, 1\)"),
    refused("pad-huge", pad((2, 3), (1 << 31, 0, 0, 1 << 32)), r"`pad`.*2\^63.*4294967298"),
    refused("pad-too-many", pad((2,), (1, 1, 1, 1)), "`pad`.*at most 1 axes"),
    refused("pad-mode", pad((2, 3), (1, 1), "edge"), "`mode`.*'constant'.*'edge'"),
    refused("pad-mode-none", pad((2, 3), (1, 1), None), "`mode`.*None"),
    refused("pad-overcrop", pad((2, 3), (-2, -2)), r"`pad`.*\(-2, -2\).*of 3"),
    refused("pad-overcrop-refilled", pad((2, 3), (-4, 2)), "`pad` must not crop"),
    refused("pad-value-mode", pad((2, 3), (1, 1), "reflect", 1.0), r"`value`.*1\.0"),
    refused("pad-value-str", pad((2,), (1, 1), "constant", "1"), "`value`.*'1'"),
    refused("pad-value-list", pad((2,), (1, 1), "constant", [1.0]), "`value`"),
    refused("pad-value-complex", pad((2,), (1, 1), "constant", 1j), "`value`.*1j"),
    refused(
        "pad-value-too-large", pad((2,), (1, 1), "constant", 300, dtype="uint8"),
        "`value` must be a number that uint8 can hold, got 300",
    ),
    refused(
        "pad-value-beyond-half", pad((2,), (1, 1), "constant", 1e6, dtype="float16"),
        "`value` must be a number that float16 can hold",
    ),
    refused("pad-reflect-size", pad((2, 3), (3, 0), "reflect"), r"`pad`.*less.*\(3, 0"),
    refused("pad-circular-size", pad((2, 3), (0, 4), "circular"), "`pad`.*at most"),
    refused("pad-reflect-one-axis", pad((3,), (1, 1), "reflect"), "`pad`.*rank 1"),
    refused("pad-circular-all-axes", pad((2, 3), (1,) * 4, "circular"), "`pad`"),
    refused("pad-replicate-4-axes", pad((1,) * 5, (1,) * 8, "replicate"), "`pad`"),
    refused("pad-reflect-nothing", pad((2, 3), (), "reflect"), r"`pad`.*\(\)"),
    refused("pad-reflect-empty", pad((2, 0), (1, 1), "reflect"), "`input`.*empty"),
    refused("pad-replicate-empty", pad((0, 3), (1, 1), "replicate"), "`input`.*empty"),
    refused("pad-replicate-all", pad((2, 3), (-1, -2), "replicate"), "`pad`.*leave"),
    refused(
        "pad-list", lambda lib: lib.functions.pad([[1.0, 2.0]], (1, 1)),
        "`input` must be an array, got list", TypeError,
    ),
]  # fmt: skip

refused_cases = pytest.mark.parametrize(("call", "exception", "match"), REFUSED)


@refused_cases
def test_function_refuses(call, exception, match):
    refusal(lambda: call(Jaxconv), exception, match)


@refused_cases
def test_function_refuses_while_it_is_traced(call, exception, match):
    """So nothing gets as far as XLA: the arrays are tracers here, and nothing is compiled."""
    refusal(jax.jit(lambda: call(Jaxconv)).trace, exception, match)


@refused_cases
def test_torch_refuses_the_same_call(call, exception, match):
    torch_refusal(lambda: call(Torch))


STRICTER = [
    # torch's CPU convolves integers, slowly; its GPU does not, and neither has gradients.
    refused("ints", conv(dtypes=("int32", "int32")), "`input`.*floating.*int32", TypeError),
    # A wrap reads, in torch, from memory that nothing has written yet.
    refused("pad-circular-cropped", pad((1, 2), (1, -2), "circular"), "`pad`.*leaves"),
    # An argument without effect is a mistake.
    refused("pad-value-0", pad((2, 3), (1, 1), "reflect", 0.0), "`value`"),
]


@pytest.mark.parametrize(("call", "exception", "match"), STRICTER)
def test_function_refuses_what_torch_allows(call, exception, match):
    call(Torch)
    refusal(lambda: call(Jaxconv), exception, match)
    refusal(jax.jit(lambda: call(Jaxconv)).trace, exception, match)


OURS = [
    # Arguments that torch's functions lack.
    refused("data-format", conv(data_format="NCHW"), "`data_format`.*'NCHW'"),
    refused("data-format-none", conv(data_format=None), "`data_format`.*None"),
    refused("T-data-format", conv_transpose(data_format=1), "`data_format`.*1"),
    refused(
        "channels-last-channels", conv(input=(2, 4, 7, 8), data_format="channels_last"),
        "`input` must have 4 channels.*got 8",
    ),
    refused("padding-mode", conv(padding_mode="mirror"), "`padding_mode`.*'mirror'"),
    refused("padding-mode-constant", conv(padding_mode="constant"), "'constant'"),
    refused(
        "channels-last-reflect", conv(
            input=(2, 9, 3, 4), padding=3, padding_mode="reflect", data_format="channels_last"
        ), r"`padding` must be less.*\(3, 3\).*3",
    ),
    refused(
        "T-output-size-channels-last", conv_transpose(
            input=(2, 5, 6, 4), stride=2, output_size=(2, 13, 13, 6),
            data_format="channels_last",
        ), r"`output_size` must.*\(11, 13\).*\(12, 14\).*got \(13, 13\)",
    ),
    refused(
        "T-output-size-channels-first-in-last", conv_transpose(
            input=(5, 6, 4), stride=2, data_format="channels_last", output_size=(6, 11, 13)
        ), r"`output_size` must.*\(11, 13\).*\(12, 14\).*got \(6, 11\)",
    ),
    refused(
        "traced-stride", lambda lib: jax.jit(lambda s: conv(stride=s)(lib)).trace(2),
        "`stride` must be an int", TypeError,
    ),
    refused(
        "traced-padding", lambda lib: jax.jit(lambda p: conv(padding=(p, 1))(lib)).trace(2),
        "`padding` must hold ints only", TypeError,
    ),
    refused(
        "output-size", lambda lib: lib.functions.conv_output_size(5, 7),
        r"`kernel_size` must not exceed.*\(7,\).*\(5,\)",
    ),
    refused(
        "padding-mode-tuple-of-one", conv(padding=(1,), padding_mode="reflect"),
        r"`padding`.*2 ints, got \(1,\) of length 1",
    ),
    refused(
        "output-size-input", lambda lib: lib.functions.conv_output_size((5, 0), 1),
        r"`input_size` must be at least 1, got \(5, 0\)",
    ),
    refused(
        "output-size-input-float", lambda lib: lib.functions.conv_output_size(5.0, 1),
        "`input_size`", TypeError,
    ),
    refused(
        "output-size-lengths", lambda lib: lib.functions.conv_output_size((5, 5), (1, 1, 1)),
        "`kernel_size`.*2 ints",
    ),
    refused(
        "output-size-same-strided",
        lambda lib: lib.functions.conv_output_size(5, 3, 2, padding="same"), "'same'",
    ),
    refused(
        "T-output-size-padding",
        lambda lib: lib.functions.conv_transpose_output_size(5, 3, padding=4), "-1",
    ),
    refused(
        "T-output-size-output-padding",
        lambda lib: lib.functions.conv_transpose_output_size(5, 3, output_padding=1),
        "`output_padding`",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "exception", "match"), OURS)
def test_function_refuses_in_what_torch_lacks(call, exception, match):
    refusal(lambda: call(Jaxconv), exception, match)


ACCEPTED = [
    pytest.param(conv(stride=np.int64(2), groups=np.int8(1)), id="numpy-ints"),
    pytest.param(conv(stride=[2, 1], padding=[1, 0], dilation=[1, 2]), id="lists"),
    pytest.param(conv(stride=(np.int32(2), 1)), id="tuple-of-numpy-ints"),
    pytest.param(conv(stride=(2,), padding=(1,), dilation=(2,)), id="tuples-of-one"),
    pytest.param(conv(input=(0, 4, 7, 8)), id="empty-batch"),
    pytest.param(conv(input=(0, 4, 0, 8), padding=2), id="empty-batch-of-nothing"),
    pytest.param(conv(input=(2, 0, 7, 8), weight=(6, 0, 3, 3), bias=(6,)), id="no-channels"),
    pytest.param(conv(input=(0, 7, 8), weight=(6, 0, 3, 3)), id="no-channels-unbatched"),
    pytest.param(conv(input=(2, 0, 0, 8), weight=(6, 0, 3, 3), padding=2), id="nothing"),
    pytest.param(conv(weight=(6, 4, 7, 8)), id="kernel-as-input"),
    pytest.param(conv_transpose(dilation=3, output_padding=2), id="output-padding-in-dilation"),
    pytest.param(conv_transpose(stride=[2, 3], output_padding=(1,)), id="T-lists"),
    pytest.param(conv_transpose(input=(0, 4, 5, 6)), id="T-empty-batch"),
    pytest.param(conv_transpose(padding=3), id="T-smallest-output"),
    pytest.param(pad((2, 3), ()), id="pad-nothing"),
    pytest.param(pad((2, 3), (-1, -2)), id="pad-crops-all"),
    pytest.param(pad((1, 2, 3), [3, 3], "circular"), id="pad-circular-as-size"),
    pytest.param(pad((1, 2, 3), (2, 2), "reflect"), id="pad-reflect-as-size"),
    pytest.param(pad((0, 2, 3), (1, 1), "reflect"), id="pad-empty-batch"),
    pytest.param(pad((2,), (1, 1), "constant", float("inf")), id="pad-infinity"),
]


@pytest.mark.parametrize("call", ACCEPTED)
def test_function_accepts_what_torch_accepts(call):
    assert call(Jaxconv).shape == tuple(call(Torch).shape)


# The modules. Where torch builds a module that cannot run, ours is refused when it is built.


def arguments(name, kwargs):
    own = {} if name.startswith("Lazy") else {"in_channels": 4}
    return own | {"out_channels": 6, "kernel_size": 3} | kwargs


def built(lib, name, kwargs):
    return getattr(lib.modules, name)(**arguments(name, kwargs))


def refused_module(case, name, match, exception=ValueError, **kwargs):
    return pytest.param(name, kwargs, exception, match, id=case)


BUILT = [
    refused_module("groups-0", "Conv2d", "`groups` must be at least 1, got 0", groups=0),
    refused_module("groups-negative", "Conv2d", "`groups`.*-2", groups=-2),
    refused_module("groups-bool", "Conv2d", "`groups`.*True", TypeError, groups=True),
    refused_module("groups-float", "Conv2d", r"`groups`.*2\.0", TypeError, groups=2.0),
    refused_module(
        "groups-not-of-in-channels", "Conv2d", "divide in_channels, got groups=3 and in_.*=4",
        groups=3,
    ),
    refused_module(
        "groups-not-of-out-channels", "Conv2d", "divide out_channels, got groups=4 and out.*=6",
        groups=4,
    ),
    refused_module("in-channels", "Conv2d", "`in_channels`.*-4", in_channels=-4),
    refused_module("in-channels-float", "Conv2d", r"4\.0", TypeError, in_channels=4.0),
    refused_module("in-channels-str", "Conv2d", "`in_channels`", TypeError, in_channels="4"),
    refused_module("in-channels-none", "Conv2d", "`in_channels`", TypeError, in_channels=None),
    refused_module("out-channels", "Conv2d", "`out_channels`.*-6", out_channels=-6),
    refused_module("out-channels-bool", "Conv2d", "`out", TypeError, out_channels=True),
    refused_module("out-channels-list", "Conv2d", "`out_ch", TypeError, out_channels=[6]),
    refused_module("kernel-0", "Conv2d", "`kernel_size`.*least 1, got 0", kernel_size=0),
    refused_module("kernel-negative", "Conv2d", r"\(3, -1\)", kernel_size=(3, -1)),
    refused_module("kernel-length-1", "Conv2d", "`kernel_size`.*2 ints", kernel_size=(3,)),
    refused_module("kernel-length-3", "Conv2d", "`kernel_size`.*2 ints", kernel_size=(3, 3, 3)),
    refused_module("kernel-length-0", "Conv2d", r"`kernel_size`.*\(\)", kernel_size=()),
    refused_module("kernel-float", "Conv2d", r"`kernel.*3\.0", TypeError, kernel_size=3.0),
    refused_module("kernel-str", "Conv2d", "`kernel_size`.*'3'", TypeError, kernel_size="3"),
    refused_module("kernel-1d", "Conv1d", "`kernel_size`.*1 ints", kernel_size=(3, 3)),
    refused_module("kernel-3d", "Conv3d", "`kernel_size`.*3 ints", kernel_size=(3, 3)),
    refused_module("stride-0", "Conv2d", "`stride` must be at least 1, got 0", stride=0),
    refused_module("stride-length", "Conv2d", "`stride`.*2 ints", stride=(1, 1, 1)),
    refused_module("stride-length-3d", "Conv3d", "`stride`.*3 ints", stride=(1, 1)),
    refused_module("stride-none", "Conv2d", "`stride`.*None", TypeError, stride=None),
    refused_module("dilation-0", "Conv2d", "`dilation` must be at least 1, got 0", dilation=0),
    refused_module("padding-negative", "Conv2d", "`padding`.*-1", padding=-1),
    refused_module("padding-none", "Conv2d", "`padding`.*None", TypeError, padding=None),
    refused_module("padding-unknown", "Conv2d", "'same', got 'full'", padding="full"),
    refused_module(
        "padding-mode-tuple-of-one", "Conv2d", r"`padding`.*2 ints, got \(1,\) of length 1",
        padding=(1,), padding_mode="circular",
    ),
    refused_module("same-strided", "Conv2d", r"'same'.*\(2, 2\)", padding="same", stride=2),
    refused_module(
        "padding-mode", "Conv2d", "one of 'zeros', 'reflect', 'replicate', 'circular', got 'm",
        padding_mode="mirror",
    ),
    refused_module("padding-mode-none", "Conv2d", "`padding_mode`.*None", padding_mode=None),
    refused_module("T-groups-0", "ConvTranspose2d", "`groups` must be at least 1", groups=0),
    refused_module("T-groups-in", "ConvTranspose2d", "divide in_channels", groups=3),
    refused_module("T-groups-out", "ConvTranspose2d", "divide out_channels", groups=4),
    refused_module("T-kernel-0", "ConvTranspose2d", "`kernel_size`.*1, got 0", kernel_size=0),
    refused_module("T-stride-0", "ConvTranspose2d", "`stride`.*1, got 0", stride=0),
    refused_module("T-dilation-0", "ConvTranspose2d", "`dilation`.*1, got 0", dilation=0),
    refused_module("T-padding-negative", "ConvTranspose2d", "`padding`.*-1", padding=-1),
    refused_module("T-padding-same", "ConvTranspose2d", "'same'", TypeError, padding="same"),
    refused_module(
        "T-padding-mode", "ConvTranspose2d", "`padding_mode` must be 'zeros', got 'reflect'",
        padding_mode="reflect",
    ),
    refused_module(
        "T-output-padding", "ConvTranspose2d", "`output_padding` must be smaller",
        stride=2, output_padding=2,
    ),
    refused_module(
        "T-output-padding-negative", "ConvTranspose2d", "`output_padding`.*-1",
        stride=2, output_padding=-1,
    ),
    refused_module(
        "T-output-padding-length", "ConvTranspose3d", "`output_padding`.*3 ints",
        stride=2, output_padding=(1, 1),
    ),
]  # fmt: skip

LAZY_BUILT = [
    pytest.param(f"Lazy{name}", kwargs, exception, match, id=f"lazy-{case.id}")
    for case in BUILT
    for name, kwargs, exception, match in [case.values]
    if "in_channels" not in f"{kwargs} {match}"
]


def image_for(lib, name):
    return lib.ones(2, 4, *(7, 8, 9)[: int(name[-2])])


@pytest.mark.parametrize(("name", "kwargs", "exception", "match"), BUILT + LAZY_BUILT)
def test_module_is_refused_when_it_is_built(name, kwargs, exception, match):
    refusal(lambda: built(Jaxconv, name, kwargs), exception, match)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("name", "kwargs", "exception", "match"), BUILT + LAZY_BUILT)
def test_torch_refuses_the_module_or_its_call(name, kwargs, exception, match):
    torch_refusal(lambda: built(Torch, name, kwargs)(image_for(Torch, name)))


STRICTER_BUILT = [
    # Here True is 1 to torch: a slip more often than a size.
    refused_module("kernel-bool", "Conv2d", "`kernel_size`.*True", TypeError, kernel_size=True),
    # Anything is true or false to torch, an array of biases included.
    refused_module("bias-none", "Conv2d", "`bias` must be a bool", TypeError, bias=None),
    # With zeros, torch refuses it too; in other modes it crops.
    refused_module(
        "padding-mode-negative",
        "Conv2d",
        r"`padding` must be at least 0, got \(0, -1\)",
        padding=(0, -1),
        padding_mode="replicate",
    ),
    refused_module("bias-int", "Conv2d", "`bias` must be a bool, got 1", TypeError, bias=1),
]


@pytest.mark.parametrize(("name", "kwargs", "exception", "match"), STRICTER_BUILT)
def test_module_refuses_what_torch_allows(name, kwargs, exception, match):
    built(Torch, name, kwargs)(image_for(Torch, name))
    refusal(lambda: built(Jaxconv, name, kwargs), exception, match)


def test_module_refuses_an_unknown_data_format():
    refusal(lambda: jaxconv.Conv2d(4, 6, 3, data_format="NHWC"), ValueError, "`data_format`")


@pytest.mark.parametrize("dtype", [jnp.int32, "bool", "no dtype"], ids=str)
@pytest.mark.parametrize("argument", ["dtype", "param_dtype"])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose1d"])
def test_module_refuses_what_is_no_floating_dtype(name, argument, dtype):
    match = f"`{argument}` must be a floating or complex dtype"
    refusal(lambda: getattr(jaxconv, name)(4, 6, 3, **{argument: dtype}), TypeError, match)


@pytest.mark.parametrize("argument", ["padding_mode", "data_format"])
def test_a_name_must_be_a_string(argument):
    names = {argument: np.array(["zeros", "channels_first"])}
    refusal(lambda: jaxconv.Conv2d(4, 6, 3, **names), ValueError, f"`{argument}`")


def refused_call(case, name, match, exception=ValueError, input=None, call=(), **kwargs):
    input = input or (2, 4, 5, 6)
    return pytest.param(name, kwargs, input, call, exception, match, id=case)


def output_size(case, size, match, exception=ValueError, input=(2, 4, 5, 6), **kwargs):
    return refused_call(
        f"output-size-{case}", "ConvTranspose2d", match, exception, input, (size,),
        **{"stride": 2} | kwargs,
    )  # fmt: skip


CALLED = [
    refused_call("channels", "Conv2d", "`input` must have 4.*got 5", input=(2, 5, 7, 8)),
    refused_call("unbatched-channels", "Conv2d", "`input` must have 4", input=(5, 7, 8)),
    refused_call("rank", "Conv2d", "`input` must have rank 3.*or 4", input=(4, 7)),
    refused_call("image-to-1d", "Conv1d", r"`input` must.*\(2, 4, 7, 8\)", input=(2, 4, 7, 8)),
    refused_call("sound-to-2d", "Conv2d", "`input` must have 4", input=(2, 4, 9)),
    refused_call("kernel-beyond-input", "Conv2d", "`kernel_size` must", input=(2, 4, 2, 9)),
    refused_call("no-out-channels", "Conv2d", "`weight`.*channel", out_channels=0),
    refused_call(
        "reflect-size", "Conv2d", r"`padding` must be less.*reflect, got \(5, 5\).*size 5",
        padding=5, padding_mode="reflect",
    ),
    refused_call(
        "reflect-same-size", "Conv2d", r"`padding` must be less.*got \(4, 4\).*size 4",
        input=(2, 4, 4, 6), padding="same", dilation=4, padding_mode="reflect",
    ),
    refused_call(
        "circular-size", "Conv2d", r"`padding` must be at most.*circular, got \(6, 6\).*size 5",
        padding=6, padding_mode="circular",
    ),
    refused_call(
        "reflect-no-channels", "Conv2d", r"`input` must not be empty.*\(0, 5, 6\)",
        input=(2, 0, 5, 6), in_channels=0, padding_mode="reflect",
    ),
    refused_call(
        "replicate-no-pixels", "Conv2d", r"`input` must not be empty.*\(4, 0, 6\)",
        input=(0, 4, 0, 6), padding=2, padding_mode="replicate",
    ),
    refused_call(
        "replicate-huge", "Conv2d", r"`padding` must leave less than 2\^63 elements.*2147483653",
        padding="same", dilation=1 << 31, kernel_size=2, padding_mode="replicate",
    ),
    refused_call("T-channels", "ConvTranspose2d", "`input` must have 4", input=(2, 3, 5, 6)),
    refused_call("T-rank", "ConvTranspose2d", "`input` must have rank", input=(4, 5)),
    refused_call("T-no-output", "ConvTranspose2d", "`padding` must leave", padding=5),
    refused_call("T-no-channels", "ConvTranspose2d", "`w", in_channels=0, input=(2, 0, 5, 6)),
    refused_call("T-no-out-channels", "ConvTranspose2d", "`weight`", out_channels=0),
    refused_call("lazy-rank", "LazyConv2d", "`input` must have rank 3.*or 4", input=(4, 7)),
    refused_call("lazy-groups", "LazyConv2d", "divide in_channels.*3.*4", groups=3),
    refused_call("lazy-T-rank", "LazyConvTranspose2d", "`input` must have rank", input=(4, 7)),
    refused_call("lazy-T-groups", "LazyConvTranspose2d", "divide in_channels", groups=3),
    output_size(
        "too-large", (13, 14),
        r"between \(11, 13\) and \(12, 14\).*input of size \(5, 6\), got \(13, 14\)",
    ),
    output_size("too-small", (11, 12), r"`output_size`.*\(11, 13\).*got \(11, 12\)"),
    output_size("negative", (-1, 13), r"`output_size`.*got \(-1, 13\)"),
    output_size("full-shape", (2, 6, 13, 14), r"\(11, 13\) and \(12, 14\).*got \(13, 14\)"),
    output_size(
        "unbatched", (11, 15), r"\(11, 13\) and \(12, 14\).*of size \(5, 6\), got \(11, 15\)",
        input=(4, 5, 6),
    ),
    output_size("unbatched-full-shape", (6, 11, 15), r"got \(11, 15\)", input=(4, 5, 6)),
    output_size("beyond-dilation", (13, 14), r"\(11, 12\) and \(11,", stride=1, dilation=3),
    output_size("nothing-left", (0, 1), "at least 1", stride=1, padding=4, kernel_size=1),
    output_size("length-0", (), r"`output_size` must have 2 or 4 elements.*got \(\)"),
    output_size("length-1", (11,), r"`output_size` must have 2 or 4 elements.*got \(11,\)"),
    output_size("length-3", (6, 11, 13), "must have 2 or 4 elements for an input of rank 4"),
    output_size("length-5", (1, 2, 6, 11, 13), "must have 2 or 4 elements"),
    output_size("unbatched-length-4", (2, 6, 11, 13), "have 2 or 3 elements", input=(4, 5, 6)),
    output_size("int", 11, "`output_size` must be a tuple.*got 11", TypeError),
    output_size("str", "11", "`output_size` must be a tuple.*got '11'", TypeError),
    output_size("float", (11.0, 13), r"`output_size\[0\]`.*11\.0", TypeError),
    output_size("strs", (11, "13"), r"`output_size\[1\]`.*'13'", TypeError),
    output_size("none", (11, None), r"`output_size\[1\]`.*None", TypeError),
]  # fmt: skip

called_cases = pytest.mark.parametrize(
    ("name", "kwargs", "input", "call", "exception", "match"), CALLED
)


def applied(lib, name, kwargs, input, call):
    return lib.apply(built(lib, name, kwargs), lib.ones(*input), *call)


@called_cases
def test_module_refuses_when_it_is_called(name, kwargs, input, call, exception, match):
    refusal(lambda: applied(Jaxconv, name, kwargs, input, call), exception, match)


@called_cases
def test_module_refuses_while_it_is_traced(name, kwargs, input, call, exception, match):
    f = jax.jit(lambda: applied(Jaxconv, name, kwargs, input, call))
    refusal(f.trace, exception, match)


@called_cases
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_torch_refuses_the_same_module_call(name, kwargs, input, call, exception, match):
    torch_refusal(lambda: applied(Torch, name, kwargs, input, call))


@pytest.mark.parametrize(
    ("input", "size"),
    [
        pytest.param((2, 4, 5, 6), (12, 13), id="tuple"),
        pytest.param((2, 4, 5, 6), [11, 14], id="list"),
        pytest.param((2, 4, 5, 6), (np.int64(12), 13), id="numpy-int"),
        pytest.param((2, 4, 5, 6), torch.Size([12, 14]), id="torch-size"),
        pytest.param((2, 4, 5, 6), (2, 6, 12, 13), id="full-shape"),
        pytest.param((2, 4, 5, 6), (9, 9, 12, 13), id="other-batch-and-channels"),
        pytest.param((4, 5, 6), (12, 13), id="unbatched"),
        pytest.param((4, 5, 6), (6, 12, 13), id="unbatched-full-shape"),
    ],
)
def test_output_size_is_read_as_torch_reads_it(input, size):
    call = ("ConvTranspose2d", {"stride": 2, "output_padding": 1}, input, (size,))
    assert applied(Jaxconv, *call).shape == tuple(applied(Torch, *call).shape)


# The helpers themselves.


def test_refusal_fails_on_a_call_that_is_accepted():
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        refusal(lambda: conv()(Jaxconv), ValueError, "`")


def test_torch_refusal_fails_on_a_call_that_is_accepted():
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        torch_refusal(lambda: conv()(Torch))


def test_refusal_fails_on_a_subclass_of_the_exception():
    def call():
        raise UnicodeError("`x` must be 1, got 2")

    with pytest.raises(AssertionError):
        refusal(call, ValueError, "`x`")


def test_refusal_fails_on_an_unclear_message():
    def call():
        raise ValueError("wrong `x`")

    with pytest.raises(AssertionError, match="unclear message"):
        refusal(call, ValueError, "`x`")
