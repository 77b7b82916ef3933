"""One table of named cases, reused by every property test.

Shapes are such that a wrong formula cannot pass by accident: unequal sides, unequal and even
kernels, `C_in != C_out`, `1 < groups < channels`, padding beyond the kernel, stride beyond it.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest


@dataclasses.dataclass(frozen=True)
class Case:
    """A call: shapes with channels first, and keyword arguments in torch's words."""

    name: str
    input: tuple[int, ...]
    weight: tuple[int, ...]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    transposed: bool = False
    bias: bool = True

    @property
    def num_spatial_dims(self) -> int:
        return len(self.weight) - 2

    @property
    def batched(self) -> bool:
        return len(self.input) == len(self.weight)

    @property
    def function(self) -> str:
        """The function's name, here and in `torch.nn.functional`."""
        return f"conv{'_transpose' if self.transposed else ''}{self.num_spatial_dims}d"

    @property
    def out_channels(self) -> int:
        if self.transposed:
            return self.weight[1] * self.kwargs.get("groups", 1)
        return self.weight[0]

    def arrays(self, dtype: str = "float64", seed: int = 0) -> tuple[np.ndarray, ...]:
        """Input, weight and bias (if the case has one), normally distributed."""
        rng = np.random.default_rng(seed)
        shapes = (self.input, self.weight, *([(self.out_channels,)] if self.bias else []))
        return tuple(normal(rng, shape, dtype) for shape in shapes)


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    values = rng.normal(size=shape)
    if dtype.startswith("complex"):
        values = values + 1j * rng.normal(size=shape)
    return np.asarray(values).astype(dtype)


def _conv(name: str, input, weight, bias=True, **kwargs) -> Case:
    return Case(name, input, weight, kwargs, bias=bias)


def _transposed(name: str, input, weight, bias=True, **kwargs) -> Case:
    return Case(f"T-{name}", input, weight, kwargs, transposed=True, bias=bias)


CONV_CASES = [
    # Two axes: each argument, then mixtures.
    _conv("2d-plain", (2, 3, 7, 9), (5, 3, 3, 2)),
    _conv("2d-no-bias", (2, 3, 7, 9), (5, 3, 3, 2), bias=False),
    _conv("2d-unbatched", (3, 7, 9), (5, 3, 2, 3), padding=1),
    _conv("2d-1x1", (2, 6, 5, 7), (4, 6, 1, 1)),
    _conv("2d-1x1-stride", (2, 6, 5, 7), (4, 6, 1, 1), stride=(2, 3)),
    _conv("2d-1x1-groups", (2, 6, 5, 7), (4, 3, 1, 1), groups=2),
    _conv("2d-1x1-padded", (2, 3, 5, 4), (4, 3, 1, 1), padding=(2, 1)),
    _conv("2d-stride", (2, 3, 9, 12), (4, 3, 3, 4), stride=(2, 3), padding=(1, 2)),
    _conv("2d-stride-leftover", (2, 3, 10, 11), (4, 3, 3, 3), stride=(4, 3)),
    _conv("2d-stride-beyond-kernel", (2, 3, 11, 13), (4, 3, 2, 1), stride=(3, 4)),
    _conv("2d-patchify", (2, 3, 8, 12), (6, 3, 4, 3), stride=(4, 3)),
    _conv("2d-patchify-leftover", (2, 3, 11, 13), (6, 3, 4, 3), stride=(4, 3)),
    _conv("2d-patchify-padded", (2, 3, 7, 10), (6, 3, 3, 4), stride=(3, 4), padding=1),
    _conv("2d-dilation", (2, 3, 11, 12), (4, 3, 3, 2), dilation=(2, 3)),
    _conv("2d-dilation-same-size", (2, 4, 9, 8), (4, 4, 3, 3), dilation=2, padding=2),
    _conv("2d-dilation-stride", (2, 3, 12, 13), (4, 3, 3, 2), dilation=(2, 3), stride=(3, 2)),
    _conv("2d-same", (2, 3, 7, 8), (4, 3, 3, 5), padding="same"),
    _conv("2d-same-even", (2, 3, 7, 8), (4, 3, 2, 4), padding="same"),
    _conv("2d-same-even-dilated", (2, 3, 7, 8), (4, 3, 4, 2), padding="same", dilation=(3, 1)),
    _conv("2d-valid", (2, 3, 7, 8), (4, 3, 3, 2), padding="valid", stride=2),
    _conv("2d-padding-beyond-kernel", (2, 3, 4, 5), (4, 3, 2, 3), padding=(4, 3)),
    _conv("2d-one-window-in-padding", (2, 3, 1, 2), (4, 3, 3, 2), padding=(5, 3), stride=(11, 5)),
    _conv(
        "3d-window-in-padding", (1, 9, 3, 1, 6), (9, 3, 1, 2, 2),
        padding=(1, 2, 0), stride=(3, 2, 3), dilation=(3, 3, 2), groups=3,
    ),
    _conv("2d-padding-single", (2, 3, 4, 5), (4, 3, 2, 3), padding=(2,), stride=(2,)),
    _conv("2d-groups", (2, 6, 7, 8), (4, 3, 3, 2), groups=2, padding=1),
    _conv("2d-groups-3", (2, 9, 6, 8), (6, 3, 3, 3), groups=3, stride=2, padding=1),
    _conv("2d-groups-mixed", (2, 8, 9, 10), (12, 2, 3, 2), groups=4, stride=(2, 1), dilation=2),
    _conv("2d-groups-many", (2, 16, 7, 6), (16, 2, 3, 3), groups=8, padding=1),
    _conv("2d-depthwise", (2, 5, 7, 8), (5, 1, 3, 2), groups=5, padding=(1, 0)),
    _conv("2d-depthwise-7x7", (1, 4, 12, 9), (4, 1, 7, 7), groups=4, padding=3),
    _conv("2d-depthwise-stride", (2, 4, 9, 10), (4, 1, 3, 3), groups=4, stride=(2, 3), padding=1),
    _conv("2d-depthwise-multiplier", (2, 3, 7, 8), (6, 1, 3, 2), groups=3, padding=1),
    _conv("2d-depthwise-dilated", (2, 4, 12, 9), (8, 1, 3, 2), groups=4, dilation=(3, 2)),
    _conv(
        "2d-depthwise-many", (2, 33, 7, 6), (33, 1, 3, 2),
        groups=33, padding=(1, 2), dilation=(1, 3),
    ),
    _conv(
        "2d-depthwise-many-stride", (2, 33, 9, 8), (33, 1, 3, 4),
        groups=33, stride=(2, 3), padding=(3, 1), dilation=(1, 2),
    ),
    _conv("2d-depthwise-beyond", (2, 4, 5, 6), (4, 1, 3, 3), groups=4, padding=(4, 3), stride=2),
    _conv("2d-kernel-as-input", (2, 3, 5, 4), (4, 3, 5, 4)),
    _conv("2d-kernel-as-padded", (2, 3, 3, 2), (4, 3, 5, 4), padding=1),
    _conv("2d-one-pixel", (2, 3, 1, 1), (4, 3, 3, 3), padding=1),
    _conv("2d-stem", (2, 3, 17, 18), (8, 3, 7, 7), stride=2, padding=3),
    _conv("2d-beyond-image", (2, 3, 2, 3), (5, 3, 3, 4), padding=(1, 2)),
    _conv("2d-beyond-image-many", (2, 128, 2, 3), (129, 128, 3, 4), padding=(1, 2), stride=(1, 2)),
    _conv("2d-padded-many", (1, 256, 3, 4), (257, 256, 3, 2), padding=1),
    _conv("2d-empty-batch", (0, 3, 7, 8), (4, 3, 3, 2), padding=1),
    _conv("2d-no-channels", (2, 0, 7, 8), (4, 0, 3, 2)),
    _conv("2d-large-kernel", (1, 2, 20, 18), (2, 1, 13, 12), groups=2, padding=6),
    _conv("2d-three-taps", (2, 8, 12, 11), (8, 8, 3, 3), padding=1),
    _conv("2d-many-channels", (1, 128, 4, 5), (130, 128, 2, 3), padding=1),
    _conv("2d-stride-many-channels", (2, 16, 8, 9), (5, 16, 3, 3), stride=2, padding=1),
    _conv("2d-groups-beyond-32", (1, 132, 5, 6), (165, 4, 3, 2), groups=33, stride=(1, 2)),
    # Padding modes.
    _conv("2d-reflect", (2, 3, 6, 7), (4, 3, 3, 4), padding=(2, 3), padding_mode="reflect"),
    _conv("2d-replicate", (2, 3, 4, 5), (4, 3, 3, 3), padding=(6, 2), padding_mode="replicate"),
    _conv("2d-circular", (2, 3, 4, 5), (4, 3, 3, 2), padding=(4, 5), padding_mode="circular"),
    _conv("2d-reflect-same", (2, 3, 6, 7), (4, 3, 4, 2), padding="same", padding_mode="reflect"),
    _conv(
        "2d-circular-stride-groups", (2, 4, 7, 6), (6, 2, 3, 2),
        padding=(2, 1), padding_mode="circular", stride=2, groups=2, dilation=(1, 2),
    ),
    _conv("2d-replicate-unbatched", (3, 5, 6), (4, 3, 3, 3), padding=1, padding_mode="replicate"),
    # One axis.
    _conv("1d-plain", (2, 3, 9), (5, 3, 4)),
    _conv("1d-unbatched", (3, 9), (5, 3, 4), stride=2),
    _conv("1d-wavenet", (2, 4, 40), (6, 4, 2), dilation=16),
    _conv("1d-dilated-same", (2, 4, 33), (4, 4, 3), dilation=4, padding=4),
    _conv("1d-depthwise-many", (2, 33, 9), (33, 1, 4), groups=33, padding=5),
    _conv("1d-depthwise-k31", (2, 4, 40), (4, 1, 31), groups=4, padding=15),
    _conv("1d-stride", (2, 3, 50), (4, 3, 10), stride=5, padding=3),
    _conv("1d-groups", (2, 6, 20), (9, 2, 5), groups=3, padding=2, stride=2),
    _conv("1d-groups-beyond-32-k65", (1, 132, 70), (165, 4, 65), groups=33, padding=2),
    _conv("1d-circular", (2, 3, 9), (5, 3, 4), padding=3, padding_mode="circular"),
    _conv("1d-same-even", (2, 3, 9), (5, 3, 4), padding="same", dilation=3),
    # Three axes.
    _conv("3d-plain", (2, 3, 4, 5, 6), (4, 3, 2, 3, 2)),
    _conv("3d-same", (1, 4, 4, 6, 5), (4, 4, 3, 3, 3), padding="same"),
    _conv("3d-stem", (1, 3, 5, 13, 12), (4, 3, 3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3)),
    _conv("3d-stride", (2, 2, 5, 6, 7), (4, 2, 3, 2, 3), stride=(2, 1, 3), padding=(1, 0, 2)),
    _conv("3d-dilation", (1, 2, 6, 7, 8), (3, 2, 2, 3, 2), dilation=(3, 2, 1), padding=1),
    _conv("3d-groups", (2, 4, 4, 5, 6), (6, 2, 2, 3, 2), groups=2, padding=(0, 1, 1)),
    _conv("3d-depthwise", (1, 3, 4, 6, 5), (3, 1, 3, 3, 3), groups=3, padding=1),
    _conv("3d-patchify", (1, 2, 4, 6, 7), (5, 2, 2, 3, 3), stride=(2, 3, 3)),
    _conv("3d-reflect", (1, 2, 4, 5, 6), (3, 2, 2, 3, 2), padding=(1, 2, 1),
          padding_mode="reflect"),
    _conv("3d-unbatched", (2, 4, 5, 6), (3, 2, 2, 3, 2), padding=1),
]  # fmt: skip

TRANSPOSED_CASES = [
    _transposed("2d-plain", (2, 3, 5, 4), (3, 5, 3, 2)),
    _transposed("2d-no-bias", (2, 3, 5, 4), (3, 5, 3, 2), bias=False),
    _transposed("2d-unbatched", (3, 5, 4), (3, 5, 2, 3), stride=2, output_padding=1),
    _transposed("2d-k4s2", (2, 4, 5, 6), (4, 3, 4, 4), stride=2, padding=1),
    _transposed("2d-k2s2", (2, 4, 5, 3), (4, 3, 2, 2), stride=2),
    _transposed("2d-k3s2", (2, 4, 5, 3), (4, 3, 3, 3), stride=2, padding=1, output_padding=1),
    _transposed("2d-unequal", (2, 3, 4, 5), (3, 4, 3, 5), stride=(2, 3), padding=(1, 0)),
    _transposed("2d-stride-beyond-kernel", (2, 3, 4, 3), (3, 4, 2, 1), stride=(3, 4)),
    _transposed("2d-padding-beyond-kernel", (2, 3, 7, 8), (3, 4, 2, 3), padding=(3, 4)),
    _transposed("2d-padding-beyond-strided", (2, 3, 6, 5), (3, 4, 3, 3), padding=4, stride=3),
    _transposed("2d-dilation", (2, 3, 5, 4), (3, 4, 3, 2), dilation=(2, 3)),
    _transposed("2d-dilation-stride", (2, 3, 5, 4), (3, 4, 3, 2), dilation=(2, 3), stride=(3, 2)),
    _transposed(
        "2d-output-padding-in-dilation", (2, 3, 5, 4), (3, 4, 3, 2), dilation=3, output_padding=2
    ),
    _transposed(
        "2d-output-padding-beyond-stride", (2, 3, 5, 4), (3, 4, 3, 2),
        stride=2, dilation=(4, 3), output_padding=(3, 2), padding=1,
    ),
    _transposed(
        "2d-output-padding-beyond-stride-unpadded", (2, 4, 3, 4), (4, 3, 2, 2),
        stride=(1, 2), dilation=(5, 4), output_padding=(4, 3), groups=2,
    ),
    _transposed("2d-groups", (2, 4, 5, 4), (4, 3, 3, 2), groups=2, stride=2, padding=1),
    _transposed("2d-groups-3", (2, 9, 3, 4), (9, 2, 3, 3), groups=3, stride=(1, 2)),
    _transposed("2d-depthwise", (2, 5, 4, 5), (5, 1, 4, 4), groups=5, stride=2, padding=1),
    _transposed(
        "2d-depthwise-many", (2, 33, 5, 4), (33, 1, 3, 2),
        groups=33, stride=(2, 3), padding=(1, 0), output_padding=(1, 2),
    ),
    _transposed("2d-depthwise-multiplier", (2, 3, 4, 5), (3, 2, 3, 2), groups=3, stride=2),
    _transposed("2d-groups-many", (1, 16, 4, 3), (16, 2, 3, 3), groups=8, stride=2, padding=1),
    _transposed("2d-1x1", (2, 3, 5, 4), (3, 4, 1, 1)),
    _transposed("2d-1x1-stride", (2, 3, 5, 4), (3, 4, 1, 1), stride=2, output_padding=1),
    _transposed(
        "2d-1x1-moved", (2, 3, 5, 4), (3, 4, 1, 1), padding=1, output_padding=2, dilation=3
    ),
    _transposed("2d-one-pixel", (2, 3, 1, 1), (3, 4, 4, 4)),
    _transposed("2d-output-size", (2, 3, 4, 5), (3, 4, 3, 3), stride=3, output_size=(13, 17)),
    _transposed(
        "2d-output-size-full", (2, 3, 4, 5), (3, 4, 3, 2),
        stride=2, padding=1, output_size=(2, 4, 8, 9),
    ),
    _transposed("2d-empty-batch", (0, 3, 5, 4), (3, 4, 3, 2), stride=2),
    _transposed("2d-empty-batch-of-empty-images", (0, 3, 0, 4), (3, 4, 3, 2), stride=2),
    _transposed("1d-plain", (2, 3, 9), (3, 5, 4)),
    _transposed("1d-k16s8", (2, 4, 6), (4, 3, 16), stride=8, padding=4),
    _transposed("1d-unbatched", (3, 9), (3, 5, 4), stride=3, output_padding=2),
    _transposed("1d-groups", (2, 6, 7), (6, 2, 5), groups=3, stride=2, padding=2),
    _transposed("1d-output-size", (2, 4, 6), (4, 3, 5), stride=4, output_size=(28,)),
    _transposed("3d-plain", (1, 3, 3, 4, 2), (3, 4, 2, 3, 2)),
    _transposed("3d-k2s2", (1, 4, 3, 2, 4), (4, 3, 2, 2, 2), stride=2),
    _transposed("3d-k4s2", (1, 3, 2, 3, 4), (3, 4, 4, 4, 4), stride=2, padding=1),
    _transposed(
        "3d-unequal", (2, 3, 3, 4, 2), (3, 4, 3, 2, 3),
        stride=(2, 1, 3), padding=(1, 0, 2), output_padding=(1, 0, 2),
    ),
    # The gradient of this one, written with lhs_dilation, aborts jaxlib 0.10.2.
    _transposed(
        "3d-groups-dilation-stride", (4, 2, 3, 2), (4, 3, 3, 2, 3),
        groups=2, stride=(3, 2, 2), dilation=(3, 1, 3), padding=(1, 1, 2), output_padding=(0, 0, 1),
    ),
]  # fmt: skip

CASES = CONV_CASES + TRANSPOSED_CASES
_NAMES = [case.name for case in CASES]
assert len(set(_NAMES)) == len(_NAMES), "two cases share a name"

all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

# Cases for tests too slow to run on all: of each kind, the ones with the most in them.
FEW = [
    "2d-plain",
    "2d-stride-leftover",
    "2d-groups-mixed",
    "2d-depthwise-stride",
    "2d-depthwise-many-stride",
    "2d-same-even-dilated",
    "2d-padding-beyond-kernel",
    "2d-circular-stride-groups",
    "1d-wavenet",
    "1d-groups",
    "3d-stride",
    "T-2d-groups",
    "T-2d-depthwise-many",
    "T-2d-dilation-stride",
    "T-2d-output-padding-beyond-stride",
    "T-2d-padding-beyond-strided",
    "T-1d-k16s8",
    "T-3d-groups-dilation-stride",
]
FEWEST = [
    "2d-groups-mixed",
    "2d-depthwise-stride",
    "2d-same-even-dilated",
    "1d-groups",
    "3d-stride",
    "T-2d-groups",
    "T-2d-output-padding-beyond-stride",
]
few_cases = pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in FEW], ids=lambda case: case.name
)
fewest_cases = pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in FEWEST], ids=lambda case: case.name
)
assert set(FEW + FEWEST) <= set(_NAMES), "a name in FEW or FEWEST has no case"
