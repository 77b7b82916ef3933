"""Any call of a convolution is answered as torch answers it, or refused as torch refuses it.

`make test` draws a few calls, always the same; `make fuzz` draws 20,000, each time others.
"""

import math
import os
import re
import time
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings

import jaxconv
from jaxconv import conv1d
from tests import oracle
from tests.cases import Case, normal
from tests.strategies import Call, LayerCall, calls, layer_calls

for name, examples in {"short": 120, "long": 20_000}.items():
    settings.register_profile(
        name,
        max_examples=examples,
        derandomize=name == "short",
        print_blob=name == "long",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
PROFILE = settings.get_profile(os.environ.get("FUZZ_PROFILE", "short"))

TOLERANCES = {"float64": 1e-11, "complex128": 1e-11, "float32": 1e-4, "complex64": 1e-4}
NUMPYS_MOST_ELEMENTS = 2**59  # of 16 bytes; it counts an axis of none as one
TORCH_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    NotImplementedError,
    LookupError,
    OverflowError,
)


Refusal = str
"""The message of the exception."""


def torch_answer(call: Call) -> list[Any] | Refusal:
    """Output and gradients, as arrays of NumPy's where it has such shapes."""
    tensors = [torch.from_numpy(array) for array in call.arrays()]
    try:
        output = oracle.run_torch(call.case, *tensors)
    except TORCH_ERRORS as error:
        return str(error)
    if math.prod(size or 1 for size in output.shape) > NUMPYS_MOST_ELEMENTS:
        return [output]
    if len(set(call.dtypes)) > 1 or call.dtypes[0] not in TOLERANCES:
        return [oracle.to_numpy(output)]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    output = oracle.run_torch(call.case, *tensors)
    gradients = torch.autograd.grad(output, tensors, torch.from_numpy(cotangent(output)))
    return [oracle.to_numpy(output), *map(oracle.to_numpy, gradients)]


def our_answer(call: Call) -> list[jax.Array] | Refusal:
    """Likewise. A refusal comes from types alone, before anything is run."""
    arrays = call.arrays()

    def run(*arrays):
        return oracle.run_jaxconv(call.case, *arrays, channels_last=call.channels_last)

    try:
        output = jax.eval_shape(run, *arrays)
    except (TypeError, ValueError) as error:
        return str(error)

    @jax.jit
    def value_and_gradients(cotangent, *arrays):
        output, vjp = jax.vjp(run, *arrays)
        # JAX's cotangents of complex numbers are torch's, conjugated.
        return [output, *(gradient.conj() for gradient in vjp(cotangent.conj()))]

    return value_and_gradients(cotangent(output), *arrays)


def cotangent(output: Any) -> np.ndarray:
    dtype = str(output.dtype).removeprefix("torch.")
    return normal(np.random.default_rng(1), tuple(output.shape), dtype)


def why_on_purpose(
    refusal: Refusal,
    num_spatial_dims: int,
    shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    output_size: bool,
) -> str | None:
    """Why jaxconv refuses what torch answers with an output of that shape."""
    if re.match("`(weight|kernel_size|dilation)` must .*at least 1", refusal) and 0 in weight_shape:
        return "torch checks no kernel and no dilation of a weight without channels"
    if "must be floating or complex" in refusal:
        return "integers are refused"
    if "must have one dtype" in refusal:
        return "functions take one dtype"
    if re.search(r"must (be|hold) .*int.*got .*(True|False|b'|\{)", refusal):
        return "bools and bytes are no ints, and a dict is no tuple"
    if refusal.startswith("`output_padding` must") and output_size:
        return "output_padding is checked even where output_size overrides it"
    if re.match("`(output_padding|dilation)` must", refusal) and shape[0] == 0:
        return "torch checks no output_padding and no dilation of an empty batch"
    if re.match(r"`padding` must be an int or a tuple of . ints, got \S+ of length 1$", refusal):
        return "of a tuple of one, torch's modes other than zeros pad the last axis alone"
    if refusal.startswith("`padding` must be at least 0"):
        return "torch's modes other than zeros crop by a negative padding"
    if "at least 1" in refusal and 0 in shape[-num_spatial_dims:]:
        # torch answers in float32 and complex64 or for an empty batch, and refuses otherwise.
        return "a transposed convolution leaves at least one element"
    return None


def check(call: Call) -> str:
    """Compare the answers, and say what they were."""
    expected, actual = torch_answer(call), our_answer(call)
    if isinstance(expected, Refusal) and isinstance(actual, Refusal):
        return "refused by both"
    if isinstance(expected, Refusal):
        of_arrays = re.search(r"(not |=)numpy\.ndarray", expected)
        assert of_arrays, f"jaxconv answers; torch refuses: {expected}"
        return "an array of ints will do for a tuple of them"
    if isinstance(actual, Refusal):
        n, output_size = call.case.num_spatial_dims, "output_size" in call.case.kwargs
        shape, weight_shape = expected[0].shape, call.arrays()[1].shape
        reason = why_on_purpose(actual, n, shape, weight_shape, output_size)
        assert reason, f"torch answers; jaxconv refuses: {actual}"
        return reason
    for name, a, e in zip(("output", "input", "weight", "bias"), actual, expected, strict=False):
        oracle.assert_close(a, e, TOLERANCES[call.dtypes[0]], name)
    return "answered by both"


# Layers: whether they answer, and with which shapes. They compute what the functions do.

Shapes = list[tuple[int, ...]]


def torch_layer(call: LayerCall) -> Shapes | Refusal:
    """The shapes of output, weight and bias."""
    try:
        layer = getattr(torch.nn, call.name)(**call.arguments)
        output = layer(torch.zeros(call.input), *call.inputs)
    except TORCH_ERRORS as error:
        return str(error)
    return [tuple(array.shape) for array in (output, *layer.parameters())]


def our_layer(call: LayerCall) -> Shapes | Refusal:
    """Likewise."""

    def run(key, input):
        return layer.init_with_output(key, input, *call.inputs)

    try:
        layer = getattr(jaxconv, call.name)(**call.arguments)
        output, variables = jax.eval_shape(run, jax.random.key(0), np.zeros(call.input, "float32"))
    except (TypeError, ValueError) as error:
        return str(error)
    params = variables["params"]
    return [output.shape, *(params[name].shape for name in ("weight", "bias") if name in params)]


def check_layer(call: LayerCall) -> str:
    """Compare the answers, and say what they were."""
    expected, actual = torch_layer(call), our_layer(call)
    if isinstance(expected, Refusal) and isinstance(actual, Refusal):
        return "refused by both"
    if expected == "tuple index out of range":
        return "torch trips over a tuple of one beside output_size"
    if isinstance(expected, Refusal) and "out of bounds for int32" in expected:
        return "torch computes with an np.int32 as it is given"
    if isinstance(actual, Refusal) and not isinstance(expected, Refusal):
        n, output_size = int(call.name[-2]), bool(call.inputs)
        reason = why_on_purpose(actual, n, *expected[:2], output_size)
        if actual.startswith("`groups` must divide out_channels") and "Lazy" in call.name:
            reason = "torch's lazy transposed layers then give fewer channels than were asked for"
        assert reason, f"torch answers with {expected}; jaxconv refuses: {actual}"
        return reason
    assert actual == expected
    return "answered by both"


# The tests.

pytestmark = pytest.mark.filterwarnings(
    "ignore:Initializing zero-element tensors:UserWarning",
    "ignore:Lazy modules are a new feature:UserWarning",
)


class Budget:
    """Time for a test, from its first example on."""

    def __init__(self, seconds: float):
        self.seconds, self.started = seconds, None

    def left(self) -> bool:
        self.started = self.started or time.monotonic()
        return time.monotonic() - self.started < self.seconds


FOR_FUNCTIONS, FOR_LAYERS = Budget(25 * 60), Budget(5 * 60)


@PROFILE
@given(calls())
def test_functions_answer_or_refuse_as_torch_does(call):
    event(check(call) if FOR_FUNCTIONS.left() else "out of time")


@PROFILE
@given(layer_calls())
def test_layers_answer_or_refuse_as_torch_does(call):
    event(check_layer(call) if FOR_LAYERS.left() else "out of time")


def _refuse(*arrays):
    raise ValueError("`input` must not be")


WRONG = {
    "output: relative": lambda x, w: 1.001 * conv1d(x, w),
    "output: shape": lambda x, w: conv1d(x, w, padding=1),
    "weight: relative": lambda x, w: conv1d(x, jax.lax.stop_gradient(w)),
    "torch answers; jaxconv refuses: `input`": _refuse,
}


@pytest.mark.parametrize("match", WRONG)
def test_check_fails_on_a_wrong_answer(match, monkeypatch):
    shapes = (1, 2, 5), (3, 2, 2)
    call = Call(Case("right", *shapes, bias=False), shapes, ("float64", "float64"))
    assert check(call) == "answered by both"
    monkeypatch.setattr(jaxconv, "conv1d", WRONG[match])
    with pytest.raises(AssertionError, match=match):
        check(call)


def test_check_fails_on_an_answer_that_torch_refuses(monkeypatch):
    shapes = (1, 2, 5), (3, 4, 2)
    call = Call(Case("wrong", *shapes, bias=False), shapes, ("float64", "float64"))
    assert check(call) == "refused by both"
    monkeypatch.setattr(jaxconv, "conv1d", lambda x, w: x)
    with pytest.raises(AssertionError, match="jaxconv answers; torch refuses"):
        check(call)
