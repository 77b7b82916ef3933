"""A pytest plugin that writes what passed into a table: `-p tests.conformance --conformance FILE`.

A cell counts tests that ran on cases of `tests.cases`. What a case is about is read from the case,
what a test is about from its name and its parameters.
"""

import collections
import pathlib
from typing import Any

import jax
import pytest
import torch

from tests.cases import Case

Cell = tuple[str, str, str]
"""Table, row, column."""

TABLES = ["Arguments", "Transformations and comparisons", "Dtypes"]
COLUMNS = [f"Conv{t}{n}d" for t in ("", "Transpose") for n in (1, 2, 3)]

HEADER = f"""# What was tested

Written by `make conformance`, with torch {torch.__version__} and jax {jax.__version__} on the CPU.
A cell says how many tests passed, on calls with that argument (or dtype) to that layer's function.
A cell in bold has tests that did not pass; an empty one has no test.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance", metavar="FILE", help="write a table of what passed")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--conformance"):
        config.pluginmanager.register(Recorder(pathlib.Path(config.getoption("--conformance"))))


class Recorder:
    """Counts what passed and what did not. With xdist, workers send it their reports."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.passed: collections.Counter[Cell] = collections.Counter()
        self.run: collections.Counter[Cell] = collections.Counter()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if isinstance(params.get("case"), Case):
            name = item.nodeid.rpartition("::")[2].partition("[")[0]
            cells = _cells(name, params)
            item.user_properties.append(("cells", cells))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A test has run if its call was reached; else only a failure counts.
        if report.when != "call" and not report.failed:
            return
        for cell in dict(report.user_properties).get("cells", []):
            self.run[tuple(cell)] += 1
            self.passed[tuple(cell)] += report.passed

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):
            return
        parts = [HEADER, *(self._table(title) for title in TABLES)]
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text("\n".join(parts))

    def _table(self, title: str) -> str:
        rows = sorted({row for table, row, _ in self.run if table == title})
        lines = [
            f"## {title}\n",
            f"| | {' | '.join(COLUMNS)} |",
            f"| --- |{' ---: |' * len(COLUMNS)}",
        ]
        for row in rows:
            cells = [self._shown((title, row, column)) for column in COLUMNS]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"

    def _shown(self, cell: Cell) -> str:
        passed, run = self.passed[cell], self.run[cell]
        if passed == run:
            return str(passed or "")
        return f"**{passed} of {run}**"


def _cells(test: str, params: dict[str, Any]) -> list[Cell]:
    """What a test of a case says something about."""
    case = params["case"]
    column = f"Conv{'Transpose' if case.transposed else ''}{case.num_spatial_dims}d"
    what = params.get("transformation", params.get("mapped"))
    name = test.removeprefix("test_").replace("_", " ")
    if what is not None:
        name = f"{name}: {getattr(what, '__name__', what).replace('_', ' ')}"
    rows = {
        "Arguments": _arguments(case),
        "Transformations and comparisons": [name],
        "Dtypes": [params.get("dtype", "float64")],
    }
    return [(table, row, column) for table in TABLES for row in rows[table]]


def _arguments(case: Case) -> list[str]:
    """The arguments that a case gives, and what its shapes are cases of."""
    named = []
    for name, value in case.kwargs.items():
        named.append(f"{name} = {value}" if isinstance(value, str) else name)
    if case.kwargs.get("groups", 1) == case.input[-case.num_spatial_dims - 1]:
        named.append("groups = channels (depthwise)")
    if not case.bias:
        named.append("no bias")
    if not case.batched:
        named.append("unbatched input")
    if 0 in case.input:
        named.append("empty input")
    return named or ["defaults"]
