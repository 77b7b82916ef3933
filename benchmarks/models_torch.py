"""The networks of `architectures` in torch, and their training steps."""

import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import architectures as a

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
BATCH_NORMS = tuple(BATCH_NORM.values())
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class ChannelNorm(nn.LayerNorm):
    """Over the channels, wherever memory has them."""

    def forward(self, input):
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class Gate(nn.Module):
    def __init__(self, tanh: bool):
        super().__init__()
        self.tanh = tanh

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        return (a.tanh() if self.tanh else a) * b.sigmoid()


class Sum(nn.ModuleList):
    def forward(self, x):
        first, *others = [branch(x) for branch in self]
        for other in others:
            first = first + other
        return first


class Concat(nn.ModuleList):
    def forward(self, x):
        return torch.cat([branch(x) for branch in self], dim=1)


class Skips(nn.ModuleList):
    def forward(self, x):
        total = 0
        for block in self:
            residual, skip = block(x).chunk(2, dim=1)
            x, total = x + residual, total + skip
        return total


class Classifier(nn.Linear):
    def forward(self, input):
        return super().forward(input.mean(dim=tuple(range(2, input.ndim))))


def build(layer: a.Layer, n: int) -> nn.Module:
    """The module of a layer over `n` axes."""
    match layer:
        case a.Conv():
            return (CONV_TRANSPOSE if layer.transposed else CONV)[n](
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride,
                layer.padding, dilation=layer.dilation, groups=layer.groups, bias=layer.bias,
            )  # fmt: skip
        case a.Norm(kind="batch"):
            return BATCH_NORM[n](layer.channels, a.EPSILON)
        case a.Norm(kind="layer"):
            return ChannelNorm(layer.channels, a.EPSILON)
        case a.Norm(kind="group"):
            return nn.GroupNorm(a.GROUPS, layer.channels, a.EPSILON)
        case a.Activation(name="leaky_relu"):
            return nn.LeakyReLU(a.LEAK)
        case a.Activation():
            return {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}[
                layer.name
            ]()
        case a.Gate():
            return Gate(layer.tanh)
        case a.MaxPool():
            return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding)
        case a.Classifier():
            return Classifier(layer.in_channels, layer.out_channels)
        case a.Chain():
            return nn.Sequential(*(build(inner, n) for inner in layer.layers))
        case a.Sum():
            return Sum(build(branch, n) for branch in layer.branches)
        case a.Concat():
            return Concat(build(branch, n) for branch in layer.branches)
        case a.Skips():
            return Skips(build(block, n) for block in layer.blocks)
    raise TypeError(f"`layer` must be one of `architectures`, got {layer!r}")


def initial(model: a.Model, seed: int = 0) -> nn.Module:
    """The network with torch's initial weights; every contestant starts from them."""
    torch.manual_seed(seed)
    return build(model.network, model.num_spatial_dims)


def weights(module: nn.Module) -> list[dict[str, np.ndarray]]:
    """The weight and bias of each layer that has them, in the order of `architectures.leaves`."""
    return [
        {name: parameter.detach().numpy() for name, parameter in own}
        for leaf in module.modules()
        if (own := list(leaf.named_parameters(recurse=False)))
    ]


def loss_of(kind: str, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    return (
        F.cross_entropy(outputs, target) if kind == "cross_entropy" else F.mse_loss(outputs, target)
    )


class Training:
    """A call is one step of Adam, and returns the loss before it.

    In bfloat16 the network computes in a bfloat16 copy of its float32 parameters, refreshed after
    each update; batch norms alone keep float32 parameters and statistics. That is what the dtypes
    of Flax mean, and it is faster than autocast, which returns to float32 in the other norms.
    """

    def __init__(
        self, model: a.Model, module: nn.Module, x: np.ndarray, target: np.ndarray, *,
        dtype: str, device: str, channels_last: bool, compiled: bool = False,
    ):  # fmt: skip
        compute = getattr(torch, dtype)
        stored = torch.promote_types(compute, torch.float32)
        module = copy.deepcopy(module).to(device, stored)
        self.input = torch.from_numpy(x).to(device, compute)
        self.target = torch.from_numpy(target).to(device)
        if channels_last:
            memory_format = CHANNELS_LAST[model.num_spatial_dims]
            module = module.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
            self.input = self.input.contiguous(memory_format=memory_format)
        self.working = list(module.parameters())
        self.stored = self.working
        if compute != stored:
            self.stored = [p.detach().clone() for p in self.working]
            for p in self.stored:
                p.grad = torch.empty_like(p)
            for leaf in module.modules():
                if not isinstance(leaf, BATCH_NORMS):
                    for p in leaf.parameters(recurse=False):
                        p.data = p.data.to(compute)
        self.optimizer = torch.optim.Adam(self.stored, a.LEARNING_RATE, fused=True)

        def loss(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return loss_of(model.loss, module(x), target)

        self.loss: Any = torch.compile(loss) if compiled else loss

    def __call__(self) -> torch.Tensor:
        loss = self.loss(self.input, self.target)
        loss.backward()
        if self.stored is not self.working:
            _copy([p.grad for p in self.stored], [p.grad for p in self.working])
        self.optimizer.step()
        if self.stored is not self.working:
            with torch.no_grad():
                _copy(self.working, self.stored)
        for p in self.working:
            p.grad = None
        return loss.detach()


def _copy(targets: Any, sources: Any) -> None:
    """Each source to its target, in one kernel on a GPU."""
    torch._foreach_copy_(targets, sources)  # pyright: ignore[reportPrivateImportUsage]
