"""Why a layer or a network misses its target: what the report says beside its number.

The measurements behind each are in `NOTES.md`. The first cause that fits a number is its cause.
"""

import re
from typing import NamedTuple


class Miss(NamedTuple):
    """Where a ratio is above its target."""

    platform: str
    contestant: str
    kind: str
    name: str
    """Of the layer or the network."""
    other: str
    """What it is a ratio to."""


class Cause(NamedTuple):
    """A reason, and for which numbers; an empty pattern fits all."""

    text: str
    platform: str
    name: str = ""
    kinds: tuple[str, ...] = ("f", "f+b")
    contestant: str = ""
    other: str = "torch"

    def fits(self, miss: Miss) -> bool:
        return (
            miss.platform == self.platform
            and miss.kind in self.kinds
            and bool(re.search(self.name, miss.name))
            and bool(re.search(self.contestant, miss.contestant))
            and miss.other == self.other
        )


CAUSES = [
    # CPU.
    Cause(
        "Images that lie channels first are copied to channels last and back, for oneDNN has no "
        "code of its own for all layers otherwise; torch keeps either layout from layer to layer",
        "cpu",
        kinds=("f", "f+b", "step"),
        contestant="first",
    ),
    Cause(
        "These weight gradients add up too few channels for a convolution or a matrix product; "
        "XLA's loop reads two numbers for each product, where torch has code of its own",
        "cpu",
        r"depthwise (3x3|x2)|groups 32",
        ("f+b",),
    ),
    Cause(
        "XLA's convolution, and oneDNN's for the weight gradient, with x copied so that batch is "
        "channels",
        "cpu",
        r"^1d k3",
    ),
    Cause(
        "oneDNN's code takes 1.0 to 1.45 times as long in XLA's threads as in torch's, and a call "
        "costs some microseconds more",
        "cpu",
        r"depthwise|groups 32",
        ("f",),
    ),
    Cause(
        "XLA has no call for oneDNN's transposed convolutions: these are computed by phases of the "
        "stride, or as one product, whose results are then woven together, a copy more",
        "cpu",
        r"^T .*s2",
    ),
    Cause(
        "A product of some elements of the image, or of its patches, which are copied first",
        "cpu",
        r"1x1 s2|patchify",
    ),
    Cause(
        "The weight gradient is a convolution whose kernel is y; its copies of x and y, with the "
        "images of a batch for channels, are more than one pass over memory",
        "cpu",
        r"^(dense|stem|dilated|3d)",
        ("f+b",),
    ),
    Cause(
        "Batch norms, the optimizer and the memory that XLA allocates anew in each step take as "
        "long again as the convolutions; torch's are single kernels, in memory that it keeps",
        "cpu",
        kinds=("step",),
    ),
    Cause(
        "Along one axis, lax is given its kernel as it likes it; torch's has to be moved. The "
        "rest, of weight gradients, is within what runs differ by",
        "cpu",
        r"^1d",
        other="lax",
    ),
    Cause(
        "oneDNN's code, which takes 1.0 to 1.45 times as long in XLA's threads as in torch's, "
        "where XLA has a convolution of its own that is as fast",
        "cpu",
        r"^(T 3x3|stem|1x1|dense [35]x[35]|dilated|patchify)",
        other="lax",
    ),
    Cause(
        "Depth taps become channels, which are copies of the image",
        "cpu",
        r"^T 3d k3",
        ("memory",),
        other="lax",
    ),
    Cause(
        "What the phases of the stride or a product give lies beside the result, which it is woven "
        "into",
        "cpu",
        r"^T ",
        ("memory",),
        other="lax",
    ),
    Cause(
        "Copies of x and y for the weight gradient, with the images of a batch for channels",
        "cpu",
        r"^1d",
        ("memory",),
        other="lax",
    ),
    Cause(
        "Copies of x and y, with the images of a batch for channels, and of a stride's phases",
        "cpu",
        r"s2",
        ("memory",),
        other="lax",
    ),
    # GPU.
    Cause(
        "Two rows of 31 taps are written out, and the last one once more, for y and for x; the "
        "float32 sums lie in memory between rows",
        "cuda",
        r"31x31",
        ("compilation", "memory"),
        other="lax",
    ),
    Cause(
        "Each slice of the kernel gives images of its own, in float32 if they are half precision, "
        "which are added up last; f+b of 7x7x7 writes out 49 sums of a slice's weight",
        "cuda",
        r"^3d depthwise",
        ("compilation", "memory"),
        other="lax",
    ),
    Cause(
        "Patches, or the windows that lie a dilation apart, are copied to lie together",
        "cuda",
        r"^patchify|^dilated",
        ("memory",),
        other="lax",
    ),
    Cause(
        "Calling any program takes JAX some 45 microseconds, and this layer's 85, of which 34 are "
        "the GPU's; torch's 40",
        "cuda",
        r"batch 1",
        ("f",),
    ),
    Cause(
        "Tied: runs differ by more than that",
        "cuda",
        kinds=("step",),
        other="torch compiled",
    ),
    Cause(
        "XLA gives cuDNN images over three axes with channels first, so planes become channels, "
        "which are copies; torch calls cuDNN for the images as they are, as XLA does with a flag: "
        "see NHWC below",
        "cuda",
        r"3d",
    ),
    Cause(
        "cuDNN's code for dilated convolutions that XLA chooses is slower than the one that torch "
        "does; plain lax takes as long",
        "cuda",
        r"dilated",
    ),
    Cause(
        "cuDNN has no code for depthwise kernels of this size; torch has a kernel of its own",
        "cuda",
        r"depthwise 31x31",
        ("f",),
    ),
    Cause(
        "The weight gradient as one product of every second element of the image; plain lax's, by "
        "cuDNN, is faster here and slower in other layers",
        "cuda",
        r"1x1 s2",
        ("f+b",),
        other="lax",
    ),
    Cause(
        "Groups one by one are slower here, but faster for gradients, of which f+b has two",
        "cuda",
        r"groups",
        ("f",),
        other="lax",
    ),
    Cause(
        "Of few channels, depth taps become channels, which is slower here, but faster in bfloat16 "
        "and for gradients",
        "cuda",
        r"3d stem",
        ("f",),
        other="lax",
    ),
    Cause(
        "At most 0.3 ms, of which calling takes a good part: from run to run either is faster",
        "cuda",
        r"^(dense 3x3|depthwise 3x3|dilated|T dcgan|1d k|1x1)",
        other="lax",
    ),
]


def cause_of(miss: Miss) -> str | None:
    return next((cause.text for cause in CAUSES if cause.fits(miss)), None)
