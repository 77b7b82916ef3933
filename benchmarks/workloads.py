"""The layers that are measured: every kind, of every rank, where the plain form is good and bad."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Workload:
    """A layer with a bias; shapes have channels first."""

    name: str
    batch: int  # On the CPU.
    gpu_batch: int
    input: tuple[int, ...]
    weight: tuple[int, ...]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    transposed: bool = False

    @property
    def num_spatial_dims(self) -> int:
        return len(self.weight) - 2

    @property
    def groups(self) -> int:
        return self.kwargs.get("groups", 1)

    @property
    def out_channels(self) -> int:
        return self.weight[1] * self.groups if self.transposed else self.weight[0]

    @property
    def function(self) -> str:
        return f"conv{'_transpose' if self.transposed else ''}{self.num_spatial_dims}d"


def conv(name, batch, gpu_batch, input, weight, **kwargs) -> Workload:
    return Workload(name, batch, gpu_batch, input, weight, kwargs)


def transposed(name, batch, gpu_batch, input, weight, **kwargs) -> Workload:
    return Workload(f"T {name}", batch, gpu_batch, input, weight, kwargs, transposed=True)


WORKLOADS = [
    # Dense.
    conv("dense 3x3", 8, 128, (64, 56, 56), (64, 64, 3, 3), padding=1),
    conv("dense 3x3 c256", 8, 1024, (256, 14, 14), (256, 256, 3, 3), padding=1),
    conv("dense 3x3 batch 1", 1, 1, (64, 112, 112), (64, 64, 3, 3), padding=1),
    conv("dense 3x3 odd", 8, 128, (37, 41, 43), (51, 37, 3, 3), padding=1),
    conv("dense 5x5", 8, 512, (32, 28, 28), (64, 32, 5, 5), padding=2),
    conv("dense 3x3 s2", 8, 256, (64, 56, 56), (128, 64, 3, 3), stride=2, padding=1),
    conv("stem 7x7 s2", 8, 128, (3, 224, 224), (64, 3, 7, 7), stride=2, padding=3),
    conv("1x1", 8, 512, (256, 28, 28), (128, 256, 1, 1)),
    conv("1x1 s2", 8, 1024, (128, 28, 28), (256, 128, 1, 1), stride=2),
    conv("patchify 16", 8, 128, (3, 224, 224), (192, 3, 16, 16), stride=16),
    conv("patchify 4", 8, 128, (3, 224, 224), (96, 3, 4, 4), stride=4),
    conv("dilated 2", 8, 256, (64, 56, 56), (64, 64, 3, 3), padding=2, dilation=2),
    conv("dilated 12", 4, 256, (128, 32, 32), (64, 128, 3, 3), padding=12, dilation=12),
    # Depthwise.
    conv("depthwise 3x3", 8, 128, (128, 56, 56), (128, 1, 3, 3), padding=1, groups=128),
    conv("depthwise 3x3 s2", 8, 128, (128, 56, 56), (128, 1, 3, 3),
        padding=1, groups=128, stride=2),
    conv("depthwise 5x5", 8, 512, (96, 28, 28), (96, 1, 5, 5), padding=2, groups=96),
    conv("depthwise 7x7", 8, 512, (96, 28, 28), (96, 1, 7, 7), padding=3, groups=96),
    conv("depthwise x2", 8, 256, (64, 28, 28), (128, 1, 3, 3), padding=1, groups=64),
    conv("depthwise 31x31", 1, 16, (64, 32, 32), (64, 1, 31, 31), padding=15, groups=64),
    # Grouped.
    conv("groups 32", 8, 512, (128, 28, 28), (128, 4, 3, 3), padding=1, groups=32),
    conv("groups 4", 8, 512, (128, 28, 28), (128, 32, 3, 3), padding=1, groups=4),
    conv("groups 2 s2", 8, 512, (96, 28, 28), (192, 48, 5, 5), padding=2, groups=2, stride=2),
    # One axis.
    conv("1d k3", 8, 256, (128, 1024), (128, 128, 3), padding=1),
    conv("1d k10 s5 stem", 8, 64, (1, 16000), (256, 1, 10), stride=5),
    conv("1d dilation 16", 4, 128, (64, 4096), (64, 64, 3), padding=16, dilation=16),
    conv("1d depthwise k31", 8, 64, (256, 512), (256, 1, 31), padding=15, groups=256),
    # Three axes.
    conv("3d 3x3x3", 2, 64, (32, 16, 28, 28), (32, 32, 3, 3, 3), padding=1),
    conv("3d stem", 1, 8, (3, 16, 112, 112), (32, 3, 3, 7, 7),
        stride=(1, 2, 2), padding=(1, 3, 3)),
    conv("3d s2", 2, 64, (32, 16, 28, 28), (64, 32, 3, 3, 3), stride=2, padding=1),
    conv("3d depthwise", 2, 64, (64, 8, 28, 28), (64, 1, 3, 3, 3), padding=1, groups=64),
    conv("3d depthwise 7x7x7", 1, 16, (32, 12, 20, 20), (32, 1, 7, 7, 7), padding=3, groups=32),
    # Transposed.
    transposed("k4 s2", 8, 128, (128, 28, 28), (128, 64, 4, 4), stride=2, padding=1),
    transposed("k2 s2", 8, 128, (128, 28, 28), (128, 64, 2, 2), stride=2),
    transposed("k3 s2 op1", 8, 128, (128, 28, 28), (128, 64, 3, 3),
        stride=2, padding=1, output_padding=1),
    transposed("3x3 s1", 8, 256, (64, 28, 28), (64, 64, 3, 3), padding=1),
    transposed("dcgan k4 s1", 16, 1024, (100, 1, 1), (100, 512, 4, 4)),
    transposed("depthwise k4 s2", 8, 128, (96, 28, 28), (96, 1, 4, 4),
        stride=2, padding=1, groups=96),
    transposed("groups 4 k4 s2", 8, 512, (128, 14, 14), (128, 32, 4, 4),
        stride=2, padding=1, groups=4),
    transposed("1d k16 s8", 4, 128, (256, 256), (256, 128, 16), stride=8, padding=4),
    transposed("1d k4 s2", 4, 128, (128, 2048), (128, 64, 4), stride=2, padding=1),
    transposed("3d k2 s2", 1, 64, (64, 8, 16, 16), (64, 32, 2, 2, 2), stride=2),
    transposed("3d k4 s2", 1, 64, (64, 8, 16, 16), (64, 32, 4, 4, 4), stride=2, padding=1),
    transposed("3d k3 s2 op1", 1, 64, (64, 8, 16, 16), (64, 32, 3, 3, 3),
        stride=2, padding=1, output_padding=1),
]  # fmt: skip
