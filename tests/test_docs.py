"""The pages tell the truth: their programs run and print what they say, and names are complete."""

import ast
import contextlib
import inspect
import io
import os
import pathlib
import re
from unittest import mock

import jax
import pytest

import jaxconv
from jaxconv import functional

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(program: str, filename: str, names: dict) -> None:
    """A statement that prints has, as the comment at its end, what it prints each time."""
    lines = program.splitlines()
    for statement in ast.parse(program).body:
        code = compile(ast.Module([statement], []), filename, "exec")
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(code, names)
        for line in output.getvalue().splitlines():
            said = lines[statement.end_lineno - 1].partition("  # ")[2]
            assert line == said, f"{filename}: {ast.unparse(statement)}"


def programs(path):
    return PROGRAM.findall(path.read_text())


@pytest.mark.parametrize("path", [p for p in PAGES if programs(p)], ids=lambda path: path.name)
def test_programs_run_and_print_what_they_say(path):
    """Those of one page together, under JAX's own settings."""
    names = {}
    with (
        mock.patch.dict(os.environ),
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for program in programs(path):
            run(program, path.name, names)


def test_a_wrong_comment_is_found():
    run("print(3)  # 3", "page", {})
    with pytest.raises(AssertionError, match="page: print"):
        run("print(3)  # 4", "page", {})


def test_the_page_for_pytorch_has_every_name_and_argument():
    text = (ROOT / "docs" / "pytorch.md").read_text()
    functions = [getattr(functional, name) for name in functional.__all__]
    layers = [getattr(jaxconv, name) for name in jaxconv.__all__ if name[0].isupper()]
    arguments = {a for thing in functions + layers for a in inspect.signature(thing).parameters}
    # Those of every Linen module.
    expected = arguments - {"parent", "name"} | {*jaxconv.__all__}
    assert expected <= {*re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", text)))}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_and_files_exist(path):
    text = path.read_text()
    targets = {*re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)}
    assert {*re.findall(r"(?:^    |`)make (?:\w+=\S+ )*([\w-]+)", text, re.MULTILINE)} <= targets
    if path.parent == ROOT:  # The site's own links are checked when it is built.
        links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
        assert [link for link in links if not (ROOT / link).exists()] == []
    files = re.findall(r"\b(?:jaxconv|examples|benchmarks|tests|docs)/[\w/]+\.\w+", text)
    assert [file for file in files if not (ROOT / file).exists()] == []
    modules = re.findall(r"python -m (benchmarks\.\w+)", text)
    assert [m for m in modules if not (ROOT / f"{m.replace('.', '/')}.py").exists()] == []
