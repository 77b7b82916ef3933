"""What the package promises by its names, its signatures and its source."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import jaxconv
import jaxconv.functional
import jaxconv.linen

CLASSES = {name for name in dir(torch.nn) if re.fullmatch(r"(Lazy)?Conv(Transpose)?[123]d", name)}
CONVS = ["conv1d", "conv2d", "conv3d"]
CONV_TRANSPOSES = ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
SIZES = ["conv_output_size", "conv_transpose_output_size"]

ROOT = Path(jaxconv.__file__).parent
all_files = pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)


def test_all_is_sorted_and_is_what_there_is():
    """Submodules aside, every name without an underscore is exported, and nothing else."""
    public = {
        name
        for name, value in vars(jaxconv).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert jaxconv.__all__ == sorted(public)


def test_the_names_are_torchs_and_the_two_sizes():
    assert set(jaxconv.__all__) == CLASSES | {*CONVS, *CONV_TRANSPOSES, *SIZES, "pad"}


def test_the_submodules_export_the_same_objects():
    exported = jaxconv.functional.__all__ + jaxconv.linen.__all__
    assert sorted(exported) == jaxconv.__all__


@pytest.mark.parametrize("module", [jaxconv.functional, jaxconv.linen], ids=lambda m: m.__name__)
def test_a_submodule_exports_sorted_names_that_the_package_has(module):
    assert module.__all__ == sorted(module.__all__)
    assert all(getattr(module, n) is getattr(jaxconv, n) for n in module.__all__)


# Signatures.

EXPECTED = {
    **dict.fromkeys(
        CONVS,
        "(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, "
        "padding_mode='zeros', data_format='channels_first', precision=None, "
        "preferred_element_type=None)",
    ),
    **dict.fromkeys(
        CONV_TRANSPOSES,
        "(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, "
        "dilation=1, *, output_size=None, data_format='channels_first', precision=None, "
        "preferred_element_type=None)",
    ),
    "pad": "(input, pad, mode='constant', value=None)",
    "conv_output_size": "(input_size, kernel_size, stride=1, padding=0, dilation=1)",
    "conv_transpose_output_size": (
        "(input_size, kernel_size, stride=1, padding=0, output_padding=0, dilation=1)"
    ),
}


def signature(function):
    """Without annotations."""
    bare = inspect.signature(function)
    parameters = [p.replace(annotation=p.empty) for p in bare.parameters.values()]
    return str(bare.replace(parameters=parameters, return_annotation=bare.empty))


@pytest.mark.parametrize("name", EXPECTED)
def test_function_has_its_signature(name):
    assert signature(getattr(jaxconv, name)) == EXPECTED[name]


@pytest.mark.parametrize("name", [*CONVS, *CONV_TRANSPOSES])
def test_positional_arguments_are_torchs(name):
    """torch's functions are built in: their signature is the first line of their docstring."""
    (documented,) = re.findall(rf"^{name}(\(.*\)) -> Tensor", getattr(F, name).__doc__, re.M)
    assert signature(getattr(jaxconv, name)).split(", *,")[0] == documented.removesuffix(")")


def test_pad_has_torchs_signature():
    assert signature(jaxconv.pad) == signature(F.pad)


# Documentation.


@pytest.mark.parametrize("name", jaxconv.__all__)
def test_docstring_has_an_example(name):
    doc = inspect.getdoc(getattr(jaxconv, name))
    assert re.search(r"^>>> ", doc, re.M)


@pytest.mark.parametrize("name", jaxconv.__all__)
def test_docstring_begins_with_a_sentence_on_a_line_of_its_own(name):
    first, *rest = inspect.getdoc(getattr(jaxconv, name)).splitlines()
    assert first.endswith(".")
    assert not rest or not rest[0]


# Import.


def in_fresh_interpreter(program, **environment):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_import_brings_no_torch_and_touches_no_configuration_and_no_device():
    """Warnings are errors there, and there is no such platform to be initialised."""
    program = """
import sys
import flax.linen, jax
before = dict(jax.config.values)
import jaxconv
print(dict(jax.config.values) == before)
print({"torch", "matplotlib", "optax", "safetensors"} & set(sys.modules))
"""
    assert in_fresh_interpreter(program, JAX_PLATFORMS="none-such") == ["True", "set()"]


@pytest.mark.parametrize(
    "program",
    ["import sys; sys.exit(1)", "import warnings; warnings.warn('loud')"],
    ids=["exit", "warning"],
)
def test_in_fresh_interpreter_fails_where_the_program_fails(program):
    with pytest.raises(AssertionError):
        in_fresh_interpreter(program)


def test_a_device_would_be_noticed():
    with pytest.raises(AssertionError, match="none-such"):
        in_fresh_interpreter("import jax; jax.devices()", JAX_PLATFORMS="none-such")


# Source.


def imported(source):
    """The names of the modules that `source` imports; `from a import b` gives `a` and `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def uses(source, package):
    return {n for n in imported(source) if n == package or n.startswith(f"{package}.")}


def asserts(source):
    return [n.lineno for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Assert)]


@all_files
@pytest.mark.parametrize("package", ["torch", "jax._src"])
def test_source_imports_no_internals_and_no_torch(path, package):
    assert not uses(path.read_text(), package)


@all_files
def test_source_reaches_into_no_internals_by_attribute(path):
    assert "._src" not in path.read_text()


@all_files
def test_source_has_no_assert(path):
    """Python drops them under -O; what users get wrong is refused by an exception."""
    assert not asserts(path.read_text())


# From the ground up; a file imports from those before its own only.
ORDER = ["geometry", "padding", "lowerings", "contractions", "functional", "init", "layers"]


def layer_of(parts):
    return ORDER.index(parts[0]) if parts and parts[0] in ORDER else len(ORDER)


@all_files
def test_imports_go_down(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = layer_of(parts)
    used = {n.split(".")[1] for n in uses(path.read_text(), "jaxconv") if "." in n}
    above = {n for n in used & {*ORDER, "linen", "nnx"} if layer_of([n]) > own}
    assert not above


@pytest.mark.parametrize(
    "source",
    [
        "import torch.nn",
        "from torch import nn",
        "def f():\n    import torch",
        "import torch as t",
    ],
)
def test_an_import_is_found(source):
    assert uses(source, "torch")
    assert not uses(source.replace("torch", "torchless"), "torch")


def test_an_assert_is_found():
    assert asserts("x = 1\nassert x") == [2]
