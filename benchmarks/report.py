"""Tables and charts of what was measured: `python -m benchmarks.report`, or `make report`.

Reads the JSON files in `benchmarks/results` and writes the charts beside them, `docs/speed.md`, and
the table in the README between its two marks. A number in bold misses its target.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import causes, charts, compile_cost, records
from benchmarks.records import title
from benchmarks.run import KINDS, geometric_means, ratios

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "speed.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- speed table: begin -->", "<!-- speed table: end -->"

# The most that a ratio to torch may be: the geometric mean of all layers, and each of them.
MEAN_TARGETS = {"cpu": {"f": 0.9, "f+b": 0.8}, "cuda": {"f": 0.8, "f+b": 0.8}}
LAYER_TARGETS = {"cpu": 1.5, "cuda": 1.25}
STEP_TARGET = 1.0
LAX_TARGET = 1.05  # To plain lax, which has channels last.
OURS = ("jaxconv last", "jaxconv first")
LABELS = {name: label for name, (_, _, label) in charts.STYLES.items()}

Record = Mapping[str, Any]


def cell(value: float | None, target: float | None = None) -> str:
    if value is None:
        return "-"
    text = f"{value:.2f}" if value < 9.95 else f"{value:.0f}"
    return f"**{text}**" if target is not None and value > target else text


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Names to the left, numbers to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def rows_of(record: Record, kind: str) -> dict[str, dict[str, float]]:
    """Ratios to torch by workload and contestant."""
    return {name: ratios(times.get(kind, {})) for name, times in record["seconds"].items()}


def means(record: Record, kind: str) -> dict[str, float]:
    return geometric_means(rows_of(record, kind).values())


def present(record: Record, kind: str, among: Iterable[str]) -> list[str]:
    found = {name for row in rows_of(record, kind).values() for name in row}
    return [name for name in among if name in found]


def file_name(record: Record) -> str:
    words = f"{record['kind']} {title(record)}".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-") + ".png"


def versions(record: Record) -> str:
    e = record["environment"]
    return f"{e['date'][:10]}, jax {e['jax']}, flax {e['flax']}, torch {e['torch']}"


# Sections of the document.


def layers_section(record: Record, picture: str) -> str:
    platform = record["environment"]["platform"]
    remarks = [f"{versions(record)}.", _rates(record), record.get("note", "")]
    parts = [f"## Layers: {title(record)}\n", " ".join(filter(None, remarks)) + "\n"]
    rows = []
    for name in present(record, KINDS[0], (*OURS, "lax", "linen", "equinox")):
        cells = []
        for kind in KINDS:
            target = MEAN_TARGETS[platform][kind] if name in OURS else None
            worst = max(row[name] for row in rows_of(record, kind).values() if name in row)
            cells += [
                cell(means(record, kind)[name], target),
                cell(worst, LAYER_TARGETS[platform] if name in OURS else None),
            ]
        rows.append([LABELS.get(name, name), *cells])
    header = ["time over torch's", "f: mean", "f: worst", "f+b: mean", "f+b: worst"]
    parts += [table(header, rows), f"![{title(record)}]({picture})\n"]
    for kind in KINDS:
        parts += [f"### {charts.TITLES[kind].capitalize()}\n", _layers_table(record, kind)]
    return "\n".join(parts + _explained(record, KINDS, LAYER_TARGETS[platform], LAX_TARGET))


def _rates(record: Record) -> str:
    if "rates" not in record:
        return ""
    rates = record["rates"]
    return (
        f"Measured beside: matrix products {rates['flops'] / 1e12:.3g} TFLOP/s, "
        f"copies {rates['bytes'] / 1e9:.0f} GB/s."
    )


def _layers_table(record: Record, kind: str) -> str:
    target = LAYER_TARGETS[record["environment"]["platform"]]
    names = present(record, kind, (*OURS, "lax", "linen", "equinox"))
    ours = [name for name in names if name in OURS]
    against_lax = "jaxconv last" in names and "lax" in names
    header = ["layer", "torch, ms", *(f"{name} / torch" for name in names)]
    header += ["jaxconv last / lax"] * against_lax
    header += [f"{name} / floor" for name in [*ours[:1], "torch"]]
    rows = []
    for workload, against_torch in rows_of(record, kind).items():
        times = record["seconds"][workload][kind]
        floor = record.get("floor", {}).get(workload, {}).get(kind)
        failed = record["failed"].get(workload, {})
        row = [workload, _milliseconds(times, "torch")]
        for name in names:
            missing = "failed" if name in failed else "-"
            row.append(
                cell(against_torch[name], target if name in OURS else None)
                if name in against_torch
                else missing
            )
        if against_lax:
            row.append(cell(_quotient(times, "jaxconv last", "lax"), LAX_TARGET))
        row += [
            cell(charts.best(times, name) / floor if floor and name in times else None)
            for name in [*ours[:1], "torch"]
        ]
        rows.append(row)
    return table(header, rows)


def _milliseconds(times: Mapping[str, float], name: str) -> str:
    if name not in times:
        return "-"
    value = charts.best(times, name) * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _quotient(times: Mapping[str, float], name: str, other: str) -> float | None:
    return times[name] / times[other] if name in times and other in times else None


def models_section(record: Record, picture: str) -> str:
    names = present(record, "step", (*OURS, "linen", "torch compiled"))
    header = ["network", "torch, ms", *(f"{name} / torch" for name in names)]
    with_compiled = "torch compiled" in names
    ours = [name for name in names if name in OURS]
    header += [f"{name} / torch compiled" for name in ours] * with_compiled
    rows, reasons = [], []
    for model, against_torch in rows_of(record, "step").items():
        times, failed = record["seconds"][model]["step"], record["failed"].get(model, {})
        row = [model, _milliseconds(times, "torch")]
        for name in names:
            missing = "failed" if name in failed else "-"
            target = STEP_TARGET if name in OURS else None
            row.append(cell(against_torch[name], target) if name in against_torch else missing)
        if with_compiled:
            row += [cell(_quotient(times, name, "torch compiled"), STEP_TARGET) for name in ours]
        rows.append(row)
        reasons += [f"- {model}, {name}: {text}" for name, text in failed.items()]
    average = means(record, "step")
    rows.append(
        [
            "geometric mean",
            "",
            *(cell(average[n], STEP_TARGET if n in OURS else None) for n in names),
        ]
        + [""] * (len(header) - 2 - len(names))
    )
    parts = [
        f"## Training steps: {title(record)}\n",
        " ".join(filter(None, [f"{versions(record)}.", record.get("note", "")])) + "\n",
        table(header, rows),
        *(["What failed:\n", "\n".join(reasons) + "\n"] if reasons else []),
        f"![{title(record)}]({picture})\n",
    ]
    return "\n".join(parts + _explained(record, ("step",), STEP_TARGET, STEP_TARGET))


def _explained(record: Record, kinds: Sequence[str], target: float, other: float) -> list[str]:
    """What misses its target against torch, or against plain lax or a compiled torch, and why."""
    platform = record["environment"]["platform"]
    misses = []
    for kind in kinds:
        for name, against_torch in rows_of(record, kind).items():
            times = record["seconds"][name].get(kind, {})
            found = [(ours, "torch", against_torch.get(ours), target) for ours in OURS]
            found += [
                ("jaxconv last", rival, _quotient(times, "jaxconv last", rival), other)
                for rival in ("lax", "torch compiled")
            ]
            for ours, rival, ratio, most in found:
                if ratio is None or ratio <= most:
                    continue
                words = [name, *([kind] if len(kinds) > 1 else []), cell(ratio)]
                words += [f"of {rival}"] * (rival != "torch")
                misses.append((causes.Miss(platform, ours, kind, name, rival), " ".join(words)))
    if not misses:
        return []
    return ["### What misses its target, and why\n", _by_cause(misses)]


def _by_cause(misses: Iterable[tuple[causes.Miss, str]]) -> str:
    """What misses its target, in words, by the cause of it."""
    by_cause: dict[str, list[str]] = {}
    for miss, words in misses:
        by_cause.setdefault(causes.cause_of(miss) or "Not explained", []).append(words)
    return "".join(f"- {text}: {', '.join(cells)}.\n" for text, cells in by_cause.items())


def sweep_section(record: Record, picture: str) -> str:
    return (
        f"## Growth: {title(record)}\n\n{versions(record)}. 28x28 pixels.\n\n"
        f"![{title(record)}]({picture})\n"
    )


def costs_section(record: Record, _: str) -> str:
    """Totals, and each offender, with its cause."""
    platform, (ours_is, lax_is) = record["environment"]["platform"], compile_cost.CONTESTANTS
    rows, offenders, misses = [], [], []
    for workload, kinds in record["costs"].items():
        for kind, row in kinds.items():
            ours, lax = row[ours_is], row[lax_is]
            rows.append((ours, lax))
            slow, large = compile_cost.is_slow(ours, lax), compile_cost.is_large(ours, lax)
            if slow or large:
                ratio = ours["bytes"] / max(lax["bytes"], 1)
                what = "memory" if large else "compilation"
                miss = causes.Miss(platform, ours_is, what, workload, lax_is)
                misses.append((miss, f"{workload} {kind}"))
                seconds, more = f"{ours['seconds']:.1f}", f"{ratio:.1f}"
                offenders.append([
                    workload, kind,
                    f"**{seconds}**" if slow else seconds,
                    f"{lax['seconds']:.1f}", f"{ours['bytes'] / 2**20:.1f}",
                    f"{lax['bytes'] / 2**20:.1f}",
                    f"**{more}**" if large else more,
                ])  # fmt: skip
    totals = [sum(pair[place]["seconds"] for pair in rows) for place in (0, 1)]
    header = ["layer", "", "compile, s", "lax", "memory, MiB", "lax", "ratio"]
    limits = (
        f"more than {compile_cost.SLOWER:g} times lax's time and {compile_cost.SLOW:g} s, "
        f"or plan more than {compile_cost.LARGER:g} times its memory"
    )
    return (
        f"## Compilation and memory: {title(record)}\n\n{versions(record)}. "
        f"All {len(rows)} programs compile in {totals[0]:.0f} s, those of plain lax in "
        f"{totals[1]:.0f} s. {len(offenders)} of them take {limits} for results and "
        f"scratch space:\n\n{table(header, offenders)}\n{_by_cause(misses)}"
    )


INTRODUCTION = """# Speed

`make report` writes this page from the measurements in `benchmarks/results`; `make bench` measures.

- A layer has a bias. `f` is its forward pass; `f+b` returns the output and the gradients of input, weight and bias.
- Numbers are ratios of median times, torch's being the better of its two memory formats, eager, with `cudnn.benchmark` on. Contestants take turns within a run. Lower is better; **bold** misses its target.
- Targets: geometric mean of layers against torch at most 0.9 (`f`) and 0.8 (`f+b`) on a CPU, 0.8 on a GPU; no layer above 1.5 on a CPU, 1.25 on a GPU; no training step above 1; nothing above 1.05 times plain lax, where lax has channels last and the weight layout it likes best.
- The floor is the larger of bytes over the rate of a large copy (each operand read once, each result written once) and FLOPs over the rate of a large matrix product, both measured in the same run. What stays in a cache may go below it.
- float32 on a GPU means TF32 products in both libraries.
- A training step is forward, backward and an update by Adam, jitted with its state donated, against torch with its fused Adam. In bfloat16 both compute in bfloat16, with float32 parameters and optimizer state: jaxconv's and Flax's layers cast their parameters, torch computes in a bfloat16 copy that is refreshed after each update (batch norms stay float32).
- With small heaps, JAX's steps are jitted with an option that keeps their temporaries in memory that the process has: see [Known issues](known-issues.md).
- NHWC means layers over three axes, and a network of them, run under `XLA_FLAGS=--xla_gpu_force_conv_nhwc=true`: see [Known issues](known-issues.md).
"""  # noqa: E501


def picture_of(record: Record) -> Callable[[Path], None]:
    if record["kind"] == "sweep":
        return lambda path: charts.lines(path, title(record), record)
    kinds = KINDS if record["kind"] == "layers" else ("step",)
    return lambda path: charts.dots(
        path, title(record), {kind: rows_of(record, kind) for kind in kinds}
    )


SECTIONS = {
    "layers": layers_section,
    "models": models_section,
    "sweep": sweep_section,
    "compile_cost": costs_section,
}


def document(folder: Path, relative: str) -> str:
    """The page; draws its pictures into `folder`, which the page knows as `relative`."""
    parts = [INTRODUCTION]
    for kind, section in SECTIONS.items():
        for record in records.load(kind, folder):
            name = file_name(record)
            if kind != "compile_cost":
                picture_of(record)(folder / name)
            parts.append(section(record, f"{relative}/{name}"))
    return "\n".join(parts)


# The table of the README.


def summary(folder: Path) -> str:
    """One row for each device, dtype and contestant."""
    layers = {title(record): record for record in records.load("layers", folder)}
    models = {title(record): record for record in records.load("models", folder)}
    rows = []
    for key in sorted(layers | models):
        record = layers.get(key) or models[key]
        platform = record["environment"]["platform"]
        for name in (*OURS, "lax"):
            ours = name in OURS
            cells = []
            for kind in KINDS:
                target = MEAN_TARGETS[platform][kind] if ours else None
                most = LAYER_TARGETS[platform] if ours else None
                cells.append(_mean_and_worst(layers.get(key), kind, name, target, most))
            target = STEP_TARGET if ours else None
            step_name = "linen" if name == "lax" else name
            cells.append(_mean_and_worst(models.get(key), "step", step_name, target, target))
            if set(cells) != {"-"}:
                rows.append([key, LABELS[name], *cells])
    header = ["time over torch's: mean (worst)", "", *map(charts.TITLES.get, (*KINDS, "step"))]
    return table([str(word) for word in header], rows)


def _mean_and_worst(
    record: Record | None, kind: str, name: str, target: float | None, most: float | None
) -> str:
    if record is None or name not in means(record, kind):
        return "-"
    worst = max(row[name] for row in rows_of(record, kind).values() if name in row)
    return f"{cell(means(record, kind)[name], target)} ({cell(worst, most)})"


def with_table(text: str, table: str) -> str:
    """`text` with what is between the two marks replaced."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text must hold {BEGIN!r} and then {END!r}, once each")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table}{END}{after}"


def main() -> None:
    if not any(records.load(kind) for kind in SECTIONS):
        raise SystemExit(f"nothing is measured in {records.FOLDER}: run `make bench` first")
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document(records.FOLDER, "../benchmarks/results"))
    README.write_text(with_table(README.read_text(), summary(records.FOLDER)))
    print(f"wrote {DOCUMENT}, its pictures, and the table in {README}")


if __name__ == "__main__":
    main()
