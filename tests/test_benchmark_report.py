"""What the report says is what was measured, and the floor is the work there is."""

import json

import pytest

from benchmarks import causes, compile_cost, floors, records, report
from benchmarks.workloads import WORKLOADS
from tests import oracle


def _record(date, **seconds):
    return {
        "kind": "layers",
        "environment": {"date": date, "platform": "cpu", "device": "A Box, 2 cores",
            "jax": "1", "flax": "2", "torch": "3"},
        "dtype": "float32",
        "rates": {"flops": 1e12, "bytes": 1e10},
        "seconds": {name: {"f": times, "f+b": times} for name, times in seconds.items()},
        "floor": {name: {"f": 0.5, "f+b": 0.5} for name in seconds},
        "failed": {},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    early = _record(
        "2026-01-01", dense={"jaxconv last": 9.0, "torch": 1.0}, patchify={"torch": 1.0}
    ) | {"failed": {"dense": {"lax": "no memory"}, "patchify": {"jaxconv last": "no memory"}}}
    late = _record(
        "2026-01-02", dense={"jaxconv last": 3.0, "lax": 2.0, "torch": 4.0, "torch last": 2.0}
    )
    for name, record in (("a", late), ("b", early), ("c", {"kind": "something else"})):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    return tmp_path


def test_later_measurements_hold_and_others_stay(folder):
    (record,) = records.load("layers", folder)
    assert record["seconds"]["dense"]["f"]["jaxconv last"] == 3.0
    assert record["seconds"]["patchify"]["f"] == {"torch": 1.0}
    assert record["failed"] == {"patchify": {"jaxconv last": "no memory"}}


def test_runs_with_a_setting_of_their_own_stay_apart(folder):
    record = _record("2026-01-03", dense={"jaxconv last": 2.0, "torch": 2.0})
    record["setting"] = "small heaps"
    (folder / "d.json").write_text(json.dumps(record))
    titles = [report.title(record) for record in records.load("layers", folder)]
    assert titles == ["A Box, 2 cores, float32", "A Box, 2 cores, float32, small heaps"]


@pytest.mark.parametrize(
    ("flags", "setting"),
    [("--xla_a=b", None), ("--xla_a=b --xla_gpu_force_conv_nhwc=true", "NHWC"),
     ("--xla_gpu_force_conv_nhwc=false", None)],
)  # fmt: skip
def test_a_run_says_whether_cudnn_is_given_channels_last(flags, setting, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert records.new("layers", "cpu", "float32").get("setting") == setting


def test_tables_mark_what_misses_its_target(folder):
    text = report.document(folder, ".")
    # Torch's better format has 2 s: 1.5 times that is just allowed, 1.5 times lax is not.
    assert "| dense | 2000 | 1.50 | 1.00 | **1.50** | 6.00 | 4.00 |" in text
    assert "| patchify | 1000 | failed | - | - | - | 2.00 |" in text
    assert "| jaxconv, channels last | **1.50** | 1.50 | **1.50** | 1.50 |" in text
    assert (folder / "layers-a-box-2-cores-float32.png").stat().st_size > 0


def test_what_misses_its_target_is_named_with_its_cause(folder, monkeypatch):
    assert "- Not explained: dense f 1.50 of lax, dense f+b 1.50 of lax.\n" in report.document(
        folder, "."
    )
    known = causes.Cause("It is dense", "cpu", "^dense$", ("f",), other="lax")
    monkeypatch.setattr(causes, "CAUSES", [known])
    text = report.document(folder, ".")
    assert "- It is dense: dense f 1.50 of lax.\n- Not explained: dense f+b 1.50 of lax.\n" in text


def test_programs_of_too_much_memory_are_named_with_their_cause(monkeypatch):
    def row(ours, lax):
        pairs = zip(compile_cost.CONTESTANTS, (ours, lax), strict=True)
        return {name: {"seconds": 0.1, "bytes": size} for name, size in pairs}

    record = _record("2026-01-01") | {
        "costs": {"dense": {"f": row(2, 1), "f+b": row(3, 1)}, "patchify": {"f": row(5, 2)}}
    }
    known = causes.Cause("Patches are copied", "cpu", "^patch", ("memory",), other="lax")
    monkeypatch.setattr(causes, "CAUSES", [known])
    text = report.costs_section(record, "")
    assert "2 of them" in text
    assert text.endswith("\n- Not explained: dense f+b.\n- Patches are copied: patchify f.\n")


def test_all_that_misses_its_target_is_explained():
    assert "Not explained" not in report.DOCUMENT.read_text()


def test_the_table_of_the_readme_is_replaced(folder):
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    new = report.with_table(text, report.summary(folder))
    assert "| jaxconv, channels last | **1.50** (1.50) | **1.50** (1.50) | - |" in new
    assert "old" not in new
    assert new.startswith("before\n")
    assert new.endswith("after\n")
    assert report.with_table(new, report.summary(folder)) == new
    with pytest.raises(ValueError, match="begin"):
        report.with_table("no marks", "")


@pytest.mark.parametrize(
    "name", ["stem 7x7 s2", "dilated 12", "groups 2 s2", "3d s2", "T k3 s2 op1", "T groups 4 k4 s2"]
)
def test_flops_are_the_products_of_a_convolution_of_ones(name):
    workload = next(w for w in WORKLOADS if w.name == name)
    ones = [oracle.torch.ones(shape) for shape in ((1, *workload.input), workload.weight)]
    output = getattr(oracle.F, workload.function)(*ones, **workload.kwargs)
    work = floors.work(workload, 1, "float32")
    assert work["f"]["flops"] == 2 * output.double().sum()
    count = sum(a.numel() for a in (*ones, output)) + workload.out_channels
    assert work["f"]["bytes"] == 4 * count
