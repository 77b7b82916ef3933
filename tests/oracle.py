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


def run_jaxconv(case: Case, *arrays: Any, **extra: Any) -> jax.Array:
    return getattr(jaxconv, case.function)(*arrays, **case.kwargs, **extra)


def run_torch(case: Case, *tensors: torch.Tensor) -> torch.Tensor:
    kwargs = dict(case.kwargs)
    input, weight, *bias = tensors
    if case.transposed:
        kwargs["output_padding"] = _torch_output_padding(case, input, kwargs)
        kwargs.pop("output_size", None)
    elif kwargs.pop("padding_mode", "zeros") != "zeros":
        mode = case.kwargs["padding_mode"]
        input = F.pad(input, _torch_pad(case), mode=mode)
        kwargs["padding"] = 0
    return getattr(F, case.function)(input, weight, *bias, **kwargs)


def _torch_pad(case: Case) -> list[int]:
    """The argument of `F.pad` that does what torch's layer does before a convolution."""
    module = getattr(torch.nn, f"Conv{case.num_spatial_dims}d")(
        1, 1, case.weight[2:], padding=case.kwargs["padding"],
        dilation=case.kwargs.get("dilation", 1),
    )  # fmt: skip
    return list(module._reversed_padding_repeated_twice)


def _torch_output_padding(case: Case, input: torch.Tensor, kwargs: dict) -> Any:
    if "output_size" not in kwargs:
        return kwargs.get("output_padding", 0)
    n = case.num_spatial_dims
    module = getattr(torch.nn, f"ConvTranspose{n}d")(1, 1, case.weight[2:])
    spread = {name: _spread(kwargs.get(name, default), n) for name, default in
              (("stride", 1), ("padding", 0), ("dilation", 1))}  # fmt: skip
    return module._output_padding(
        input, list(kwargs["output_size"]), spread["stride"], spread["padding"],
        list(case.weight[2:]), n, spread["dilation"],
    )  # fmt: skip


def _spread(value: Any, n: int) -> list[int]:
    return [value] * n if isinstance(value, int) else list(value)


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
