"""The nine networks that are trained, each described once, for `models_jax` and `models_torch`.

A network is a tree of the layers below. Both builders walk it depth first, so their parameters
come in the same order.
"""

import dataclasses
from collections.abc import Callable, Iterator


@dataclasses.dataclass(frozen=True)
class Layer:
    pass


@dataclasses.dataclass(frozen=True)
class Conv(Layer):
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    transposed: bool = False


@dataclasses.dataclass(frozen=True)
class Norm(Layer):
    """Over batch and space ("batch"), over channels ("layer") or over `GROUPS` groups ("group")."""

    kind: str
    channels: int


GROUPS = 4  # Of a group norm.
EPSILON = 1e-5
LEAK = 0.1
LEARNING_RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Activation(Layer):
    name: str


@dataclasses.dataclass(frozen=True)
class Gate(Layer):
    """`a * sigmoid(b)`, of the two halves of the channels; or `tanh(a) * sigmoid(b)`."""

    tanh: bool


@dataclasses.dataclass(frozen=True)
class MaxPool(Layer):
    kernel_size: int
    stride: int
    padding: int


@dataclasses.dataclass(frozen=True)
class Classifier(Layer):
    """A linear layer on the means over space."""

    in_channels: int
    out_channels: int


@dataclasses.dataclass(frozen=True, init=False)
class Chain(Layer):
    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        object.__setattr__(self, "layers", layers)


@dataclasses.dataclass(frozen=True, init=False)
class Sum(Layer):
    branches: tuple[Layer, ...]

    def __init__(self, *branches: Layer) -> None:
        object.__setattr__(self, "branches", branches)


@dataclasses.dataclass(frozen=True, init=False)
class Concat(Layer):
    """Branches joined along the channels."""

    branches: tuple[Layer, ...]

    def __init__(self, *branches: Layer) -> None:
        object.__setattr__(self, "branches", branches)


@dataclasses.dataclass(frozen=True)
class Skips(Layer):
    """Each block gives two halves: one is added to its input, the other to the output of all."""

    blocks: tuple[Layer, ...]


IDENTITY = Chain()
RELU = Activation("relu")
LEAKY_RELU = Activation("leaky_relu")
GELU = Activation("gelu")
SILU = Activation("silu")
TANH = Activation("tanh")


def leaves(layer: Layer) -> Iterator[Conv | Norm | Classifier]:
    """The layers that have parameters, depth first."""
    if isinstance(layer, Conv | Norm | Classifier):
        yield layer
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if isinstance(value, tuple):
            for inner in value:
                yield from leaves(inner)


def _conv_norm(*args, kind: str = "batch", **kwargs) -> Chain:
    conv = Conv(*args, bias=False, **kwargs)
    return Chain(conv, Norm(kind, conv.out_channels))


def resnet18(width: int, classes: int, repeats: int = 2) -> Layer:
    """He et al. 2015: stages of basic blocks."""
    layers: list[Layer] = [_conv_norm(3, width, 7, 2, 3), RELU, MaxPool(3, 2, 1)]
    channels = width
    for stage in range(4):
        out = width * 2**stage
        for repeat in range(repeats):
            stride = 2 if stage > 0 and repeat == 0 else 1
            body = Chain(
                _conv_norm(channels, out, 3, stride, 1), RELU, _conv_norm(out, out, 3, 1, 1)
            )
            shortcut = IDENTITY if out == channels else _conv_norm(channels, out, 1, stride)
            layers += [Sum(body, shortcut), RELU]
            channels = out
    return Chain(*layers, Classifier(channels, classes))


def resnext(channels: int, groups: int, blocks: int, classes: int) -> Layer:
    """Xie et al. 2016: bottleneck blocks whose 3x3 convolutions have groups."""
    width = channels // 2
    block = Sum(
        Chain(
            _conv_norm(channels, width, 1), RELU,
            _conv_norm(width, width, 3, 1, 1, groups=groups), RELU,
            _conv_norm(width, channels, 1),
        ),
        IDENTITY,
    )  # fmt: skip
    return Chain(*[Chain(block, RELU)] * blocks, Classifier(channels, classes))


def convnext(width: int, depths: tuple[int, ...], classes: int) -> Layer:
    """Liu et al. 2022, without layer scale and stochastic depth; linear layers as 1x1."""
    layers: list[Layer] = [Conv(3, width, 4, 4), Norm("layer", width)]
    c = width
    for stage, depth in enumerate(depths):
        if stage > 0:
            layers += [Norm("layer", c), Conv(c, 2 * c, 2, 2)]
            c *= 2
        block = Chain(
            Conv(c, c, 7, 1, 3, groups=c), Norm("layer", c), Conv(c, 4 * c, 1), GELU,
            Conv(4 * c, c, 1),
        )  # fmt: skip
        layers += [Sum(IDENTITY, block)] * depth
    return Chain(*layers, Classifier(c, classes))


def unet(in_channels: int, width: int, levels: int, classes: int, norm: str) -> Layer:
    """Ronneberger et al. 2015, of two or three axes; as in nnU-Net, strides go down and transposed
    convolutions up."""

    def two_convs(i: int, o: int, stride: int = 1) -> Chain:
        return Chain(
            _conv_norm(i, o, 3, stride, 1, kind=norm), RELU,
            _conv_norm(o, o, 3, 1, 1, kind=norm), RELU,
        )  # fmt: skip

    def below(c: int, levels: int) -> Layer:
        """From `c` channels to `c` channels, over coarser grids."""
        if levels == 0:
            return IDENTITY
        return Chain(
            Concat(
                IDENTITY,
                Chain(
                    two_convs(c, 2 * c, 2),
                    below(2 * c, levels - 1),
                    Conv(2 * c, c, 2, 2, transposed=True),
                ),
            ),
            two_convs(2 * c, c),
        )

    return Chain(two_convs(in_channels, width), below(width, levels), Conv(width, classes, 1))


def dcgan_generator(latent: int, width: int) -> Layer:
    """Radford et al. 2015: noise to 64x64 pixels."""
    layers: list[Layer] = []
    channels = latent
    for out, stride, padding in ((8, 1, 0), (4, 2, 1), (2, 2, 1), (1, 2, 1)):
        layers += [
            _conv_norm(channels, out * width, 4, stride, padding, transposed=True),
            RELU,
        ]
        channels = out * width
    return Chain(*layers, Conv(channels, 3, 4, 2, 1, transposed=True), TANH)


def wavenet(channels: int, layers: int, cycles: int, classes: int) -> Layer:
    """Van den Oord et al. 2016, not causal: dilations of 1, 2, 4, ..., gates and skips."""
    blocks = tuple(
        Chain(
            Conv(channels, 2 * channels, 3, 1, 2**i, 2**i),
            Gate(tanh=True),
            Conv(channels, 2 * channels, 1),
        )
        for _ in range(cycles)
        for i in range(layers)
    )
    return Chain(
        Conv(1, channels, 1), Skips(blocks), RELU, Conv(channels, channels, 1), RELU,
        Conv(channels, classes, 1),
    )  # fmt: skip


def hifigan_generator(bands: int, channels: int) -> Layer:
    """Kong et al. 2020, its third version: 256 samples for each frame of a spectrogram."""
    layers: list[Layer] = [Conv(bands, channels, 7, 1, 3)]
    for kernel_size, stride in ((16, 8), (16, 8), (8, 4)):
        half = channels // 2
        padding = (kernel_size - stride) // 2
        layers += [
            LEAKY_RELU,
            Conv(channels, half, kernel_size, stride, padding, transposed=True),
            Sum(
                *(
                    Chain(
                        *(
                            Sum(
                                IDENTITY, Chain(LEAKY_RELU, Conv(half, half, k, 1, d * (k // 2), d))
                            )
                            for d in dilations
                        )
                    )
                    for k, dilations in ((3, (1, 2)), (5, (2, 6)), (7, (3, 12)))
                )
            ),
        ]
        channels = half
    return Chain(*layers, LEAKY_RELU, Conv(channels, 1, 7, 1, 3), TANH)


def conformer_convolutions(channels: int, blocks: int, kernel_size: int) -> Layer:
    """Gulati et al. 2020: the convolution modules of a Conformer, without dropout."""
    c = channels
    module = Chain(
        Norm("layer", c), Conv(c, 2 * c, 1), Gate(tanh=False),
        Conv(c, c, kernel_size, 1, kernel_size // 2, groups=c), Norm("batch", c), SILU,
        Conv(c, c, 1),
    )  # fmt: skip
    return Chain(*[Sum(IDENTITY, module)] * blocks)


@dataclasses.dataclass(frozen=True)
class Model:
    """A network to train; `input` is `(N, C, *spatial)`.

    The loss is the "cross_entropy" of classes along the channels, or the "squared_error".
    """

    name: str
    network: Layer
    input: tuple[int, ...]
    loss: str

    @property
    def num_spatial_dims(self) -> int:
        return len(self.input) - 2


SIZES = ("tiny", "cpu", "gpu")
# Each network with its input and arguments: as small as a test wants it; a step of a few tenths
# of a second on two cores; and some tens of milliseconds on a large GPU.
_MODELS: dict[str, tuple[Callable[..., Layer], str, list[tuple[tuple[int, ...], dict]]]] = {
    "ResNet-18": (resnet18, "cross_entropy", [
        ((2, 3, 33, 40), dict(width=4, classes=5, repeats=1)),
        ((16, 3, 64, 64), dict(width=64, classes=100)),
        ((256, 3, 224, 224), dict(width=64, classes=1000)),
    ]),
    "ResNeXt blocks": (resnext, "cross_entropy", [
        ((2, 16, 7, 6), dict(channels=16, groups=4, blocks=1, classes=5)),
        ((8, 256, 28, 28), dict(channels=256, groups=32, blocks=2, classes=100)),
        ((128, 256, 56, 56), dict(channels=256, groups=32, blocks=4, classes=1000)),
    ]),
    "ConvNeXt": (convnext, "cross_entropy", [
        ((2, 3, 32, 40), dict(width=4, depths=(1, 1), classes=5)),
        ((8, 3, 96, 96), dict(width=48, depths=(1, 1, 2, 1), classes=100)),
        ((64, 3, 224, 224), dict(width=96, depths=(2, 2, 4, 2), classes=1000)),
    ]),
    "U-Net": (unet, "cross_entropy", [
        ((2, 3, 8, 12), dict(in_channels=3, width=4, levels=2, classes=5, norm="batch")),
        ((4, 3, 64, 64), dict(in_channels=3, width=32, levels=3, classes=8, norm="batch")),
        ((16, 3, 256, 256), dict(in_channels=3, width=64, levels=4, classes=8, norm="batch")),
    ]),
    "DCGAN generator": (dcgan_generator, "squared_error", [
        ((3, 5, 1, 1), dict(latent=5, width=2)),
        ((64, 100, 1, 1), dict(latent=100, width=32)),
        ((2048, 100, 1, 1), dict(latent=100, width=64)),
    ]),
    "WaveNet": (wavenet, "cross_entropy", [
        ((2, 1, 40), dict(channels=4, layers=3, cycles=1, classes=5)),
        ((2, 1, 4096), dict(channels=32, layers=8, cycles=1, classes=64)),
        ((16, 1, 16384), dict(channels=64, layers=10, cycles=2, classes=256)),
    ]),
    "HiFi-GAN generator": (hifigan_generator, "squared_error", [
        ((2, 5, 2), dict(bands=5, channels=8)),
        ((4, 80, 32), dict(bands=80, channels=128)),
        ((128, 80, 64), dict(bands=80, channels=256)),
    ]),
    "3-D U-Net": (unet, "cross_entropy", [
        ((2, 1, 4, 6, 8), dict(in_channels=1, width=4, levels=1, classes=3, norm="group")),
        ((1, 1, 16, 32, 32), dict(in_channels=1, width=16, levels=2, classes=3, norm="group")),
        ((4, 1, 64, 96, 96), dict(in_channels=1, width=32, levels=3, classes=3, norm="group")),
    ]),
    "Conformer convolutions": (conformer_convolutions, "squared_error", [
        ((2, 8, 20), dict(channels=8, blocks=1, kernel_size=7)),
        ((8, 144, 250), dict(channels=144, blocks=4, kernel_size=31)),
        ((64, 512, 800), dict(channels=512, blocks=8, kernel_size=31)),
    ]),
}  # fmt: skip


def models(size: str) -> list[Model]:
    """The nine at one of `SIZES`."""
    place = SIZES.index(size)
    return [
        Model(name, build(**sizes[place][1]), sizes[place][0], loss)
        for name, (build, loss, sizes) in _MODELS.items()
    ]
