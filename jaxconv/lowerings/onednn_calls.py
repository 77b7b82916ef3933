"""The calls of oneDNN that XLA:CPU has.

jaxlib for x86 contains oneDNN, and XLA:CPU custom calls for it, which XLA itself makes under an
experimental flag only. Here they are made without the flag.

- The calls belong to XLA, not to JAX's public interface. So they are made only in versions of JAX
  that they have been tried with, on machines where they compute what they should.
- XLA can neither write down a program that has them, nor divide them between devices.

The environment variable `JAXCONV_ONEDNN=0` turns all of it off.
"""

import functools
import json
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxconv.crop import crop
from jaxconv.geometry import Geometry
from jaxconv.varying import vary_alike

UNTRIED = (0, 13)
"""The first version of JAX that the calls have not been tried with."""


def convolution(
    x: jax.Array,
    w: jax.Array,
    kernel_axes: Sequence[int],
    g: Geometry,
    bias: jax.Array | None = None,
    added: jax.Array | None = None,
) -> jax.Array:
    """y, and what is added to it: a bias, or another y, whose memory this one takes.

    The axes of the kernel are those of its output channels, input channels, and space."""
    low, high = g.padding_low, g.padding_high
    for axis, before, after, s in zip(g.spatial_axes, low, high, g.stride, strict=True):
        surplus = max(-after, 0)  # What does not make another window may stay.
        x = crop(x, axis, max(-before, 0), surplus - surplus % s)
    image = {
        "dims": x.ndim,
        "data": {"batch_dim": 0, "feature_dim": x.ndim - 1, "spatial_dims": g.spatial_axes},
    }
    out_axis, in_axis, *spatial_axes = kernel_axes
    config = {
        "dims": x.ndim,
        "input": image,
        "kernel": {
            "dims": x.ndim,
            "filter": {
                "output_feature_dim": out_axis,
                "input_feature_dim": in_axis,
                "spatial_dims": spatial_axes,
            },
        },
        "output": image,
        "window": {
            "size": g.kernel_size,
            "pad_left": [max(p, 0) for p in low],
            "pad_right": [max(p, 0) for p in high],
            "strides": g.stride,
            "window_dilations": g.dilation,
        },
        "fusions": {"ops": ["BIAS"] * (bias is not None) + ["SUM"] * (added is not None)},
        "feature_groups": g.groups,
    }
    shape = (x.shape[0], *g.output_size, w.shape[out_axis])
    more = [array for array in (bias, added) if array is not None]
    in_place = None if added is None else 1 + len(more)
    config = {"onednn_conv_config": config}
    return _call("convolution", config, shape, x, w, *more, in_place=in_place)


def matmul(
    a: jax.Array,
    b: jax.Array,
    bias: jax.Array | None = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> jax.Array:
    """The product of two matrices, or of several pairs, of which one side may be the same.

    A bias is `(1, columns)` of a single product, `(1, rows, 1)` or `(1, groups, rows, 1)` of
    several.
    """
    rows, columns = a.shape[-1 if transpose_a else -2], b.shape[-2 if transpose_b else -1]
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), rows, columns)
    more = [] if bias is None else [bias]
    ops = ["BIAS" if array.ndim == 2 else "BINARY_ADD" for array in more]
    config = {"transpose_a": transpose_a, "transpose_b": transpose_b, "fusions": {"ops": ops}}
    return _call("matmul", {"onednn_matmul_config": config}, shape, a, b, *more)


def _call(
    name: str,
    config: dict[str, Any],
    shape: Sequence[int],
    *operands: jax.Array,
    in_place: int | None = None,
) -> jax.Array:
    """An array of that shape, which may take the place of one of the operands."""
    call = jax.ffi.ffi_call(
        f"__onednn${name}",
        jax.ShapeDtypeStruct(tuple(shape), jnp.float32),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(config),
        input_output_aliases={} if in_place is None else {in_place: 0},
    )
    return vary_alike(call(*operands), *operands)[0]  # A call's type says nothing of `shard_map`.


# Whether the calls can be made.


@functools.cache
def is_available() -> bool:
    """Whether this process has them: found out once, by making them."""
    if os.environ.get("JAXCONV_ONEDNN") == "0" or jax.__version_info__ >= UNTRIED:
        return False
    if platform.system() != "Linux" or not _has_avx2():
        return False
    try:
        # In a thread of its own, which nothing that is being traced here reaches.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(_compute_what_they_should).result()
    except Exception:
        return False  # A jaxlib that has been built without oneDNN.


def _has_avx2() -> bool:
    """Without AVX2, oneDNN computes by matrix products."""
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _compute_what_they_should() -> bool:
    """A convolution of which every number differs from the next, added to itself, and products."""
    g = Geometry((9, 7), (3, 2), (3, 7), (2, 1), (1, 2), (2, 3), 2, channels_last=True)
    rng = np.random.default_rng(0)
    shapes = ((2, *g.input_size, 4), (6, 2, *g.kernel_size), (6,), (5, 4), (6, 4), (2, 4, 7))
    x, w, bias, a, b, images = arrays = [
        rng.integers(-9, 10, shape).astype(np.float32) for shape in shapes
    ]
    on_cpu = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])

    @jax.jit
    def compute(x, w, bias, a, b, images):
        once = convolution(x, w, (0, 1, 2, 3), g, bias)
        y = matmul(b[None], images, bias[None, :, None])
        of_groups = b.reshape(1, 2, 3, 4), jnp.stack([images, images], 1)
        y_of_groups = matmul(*of_groups, bias.reshape(1, 2, 3, 1))
        return (
            convolution(x, w, (0, 1, 2, 3), g, added=once),
            matmul(a, b, bias[None], transpose_b=True),
            matmul(a, a, transpose_a=True),
            y,
            matmul(b[None], y, transpose_a=True),
            matmul(y, images, transpose_b=True),
            y_of_groups.reshape(y.shape),
            matmul(of_groups[0], y_of_groups, transpose_a=True).sum(1),
            matmul(y_of_groups, of_groups[1], transpose_b=True).reshape(2, 6, 4),
        )

    y = b @ images + bias[:, None]
    expected = (
        2 * _by_sums(x, w, g) + bias,
        a @ b.T + bias,
        a.T @ a,
        *2 * (y, b.T @ y, y @ images.swapaxes(1, 2)),
    )
    return all(map(np.array_equal, compute(*jax.device_put(arrays, on_cpu)), expected))


def _by_sums(x: np.ndarray, w: np.ndarray, g: Geometry) -> np.ndarray:
    """The convolution in NumPy, from the definition; exact, for integers."""
    pads = [(low, max(high, 0)) for low, high in zip(g.padding_low, g.padding_high, strict=True)]
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
    y = np.zeros((x.shape[0], *g.output_size, w.shape[0]), x.dtype)
    for tap in np.ndindex(*g.kernel_size):
        places = [
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, g.dilation, g.output_size, g.stride, strict=True)
        ]
        met = x[:, *places].reshape(*y.shape[:3], g.groups, -1)
        of_group = w[:, :, *tap].reshape(g.groups, -1, met.shape[-1])
        y += np.einsum("nhwgc,goc->nhwgo", met, of_group).reshape(y.shape)
    return y
