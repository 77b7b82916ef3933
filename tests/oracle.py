"""torch as the oracle: runs a case in torch and in jaxconv, and compares."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

import jaxconv
from tests.cases import Case


def to_torch(array: Any) -> torch.Tensor:
    """A torch tensor of the same dtype; NumPy has no bfloat16, so that goes by float32."""
    if jnp.dtype(array.dtype) == jnp.bfloat16:
        return torch.from_numpy(np.asarray(array, np.float32).copy()).bfloat16()
    return torch.from_numpy(np.array(array))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().resolve_conj()
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def run_jaxconv(case: Case, *arrays: Any, channels_last: bool = False, **extra: Any) -> jax.Array:
    """Channels first in and out; with `channels_last`, channels last in between."""
    function = getattr(jaxconv, case.function)
    input, *params = arrays
    kwargs, n = case.kwargs | extra, case.num_spatial_dims
    if not channels_last or input.ndim <= n:
        return function(input, *params, **kwargs)
    size = kwargs.get("output_size")
    if isinstance(size, tuple | list) and len(size) == input.ndim > n:
        kwargs["output_size"] = (*size[: -n - 1], *size[-n:], size[-n - 1])
    output = function(
        jnp.moveaxis(input, -n - 1, -1), *params, **kwargs, data_format="channels_last"
    )
    return jnp.moveaxis(output, -1, -n - 1)


def run_torch(case: Case, *tensors: torch.Tensor) -> torch.Tensor:
    kwargs = dict(case.kwargs)
    input, weight, *bias = tensors
    if "output_size" in kwargs:
        kwargs["output_padding"] = _torch_output_padding(case, input, weight)
        kwargs.pop("output_size")
    if kwargs.pop("padding_mode", "zeros") != "zeros":
        input = F.pad(input, _torch_pad(case, weight), mode=case.kwargs["padding_mode"])
        kwargs["padding"] = 0
    return getattr(F, case.function)(input, weight, *bias, **kwargs)


def _torch_pad(case: Case, weight: torch.Tensor) -> list[int]:
    """The argument of `F.pad` that does what torch's layer does before a convolution."""
    n = case.num_spatial_dims
    # torch's functions repeat a tuple of one; its layers leave it as it is.
    stride, dilation = (_spread(case.kwargs.get(name, 1), n) for name in ("stride", "dilation"))
    module = getattr(torch.nn, f"Conv{n}d")(
        1, 1, tuple(weight.shape[2:]), stride, case.kwargs.get("padding", 0), dilation,
        padding_mode=case.kwargs["padding_mode"],
    )  # fmt: skip
    return list(module._reversed_padding_repeated_twice)


def _torch_output_padding(case: Case, input: torch.Tensor, weight: torch.Tensor) -> list[int]:
    n = case.num_spatial_dims
    module = getattr(torch.nn, f"ConvTranspose{n}d")(1, 1, 1)
    stride, padding, dilation = (
        _spread(case.kwargs.get(name, default), n)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    return module._output_padding(
        input, case.kwargs["output_size"], stride, padding, tuple(weight.shape[2:]), n, dilation
    )


def _spread(value: Any, n: int) -> tuple[int, ...]:
    entries = tuple(value) if np.iterable(value) else (value,)
    return entries * n if len(entries) == 1 else entries


def torch_gradients(case: Case, *arrays: Any) -> tuple[np.ndarray, tuple, tuple[np.ndarray, ...]]:
    """Output, a random cotangent for it, and the gradients for that cotangent."""
    tensors = [to_torch(array).requires_grad_() for array in arrays]
    output = run_torch(case, *tensors)
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    grads = torch.autograd.grad(output, tensors, cotangent)
    return to_numpy(output), to_numpy(cotangent), tuple(map(to_numpy, grads))


def channels_last(x: Any, case: Case) -> Any:
    return jnp.moveaxis(x, -case.num_spatial_dims - 1, -1)


def channels_first(x: Any, case: Case) -> Any:
    return jnp.moveaxis(x, -1, -case.num_spatial_dims - 1)


def assert_close(actual: Any, expected: Any, tolerance: float, name: str = "value") -> None:
    """The largest difference is at most `tolerance` times the largest expected magnitude."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape} != {expected.shape}"
    if not expected.size:
        return
    scale = max(np.abs(expected).max(), 1)
    error = np.abs(actual.astype(expected.dtype) - expected).max() / scale
    assert error <= tolerance, f"{name}: relative error {error:.3g} exceeds {tolerance:.3g}"
