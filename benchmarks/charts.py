"""Pictures of records, as PNG files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

# Colours that colour-blind readers can tell apart; shapes too.
STYLES = {
    "jaxconv last": ("#0072B2", "o", "jaxconv, channels last"),
    "jaxconv first": ("#56B4E9", "s", "jaxconv, channels first"),
    "lax": ("#D55E00", "x", "plain lax"),
    "linen": ("#E69F00", "x", "flax.linen's convolutions"),
    "torch": ("#000000", "|", "torch"),
    "torch compiled": ("#777777", "|", "torch.compile"),
}
TITLES = {"f": "forward", "f+b": "forward and backward", "step": "training step"}
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


def dots(path: Path, title: str, panels: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Ratios to torch: `panels[kind][workload][contestant]`, one row for each workload."""
    names = list(next(iter(panels.values())))
    figure, axes = plt.subplots(
        1, len(panels), sharey=True, squeeze=False, layout="constrained",
        figsize=(2.5 + 4.5 * len(panels), 1.6 + 0.24 * len(names)),
    )  # fmt: skip
    shown: dict[str, Any] = {}
    for axis, (kind, rows) in zip(axes[0], panels.items(), strict=True):
        axis.set_title(TITLES[kind], fontsize=11)
        axis.axvline(1, color="black", linewidth=1)
        for place in range(0, len(names), 2):
            axis.axhspan(place - 0.5, place + 0.5, color="#f2f2f2", zorder=0)
        for contestant, (color, marker, label) in STYLES.items():
            points = [
                (rows[name][contestant], place)
                for place, name in enumerate(names)
                if contestant in rows.get(name, {})
            ]
            if points:
                shown[label] = axis.scatter(
                    *zip(*points, strict=True), color=color, marker=marker, s=28, zorder=3
                )
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(FixedLocator([t for t in TICKS if low <= t <= high]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(axis="x", color="#dddddd", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.set_xlabel("time over torch's (left of the line is faster)")
    axes[0][0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(title, fontsize=12)
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3, frameon=False)
    _write(figure, path)


def lines(path: Path, title: str, record: Mapping[str, Any]) -> None:
    """Milliseconds over what each sweep of a record varies, one column for each sweep."""
    sweeps, kinds = record["sweeps"], ("f", "f+b")
    figure, axes = plt.subplots(
        len(kinds), len(sweeps), squeeze=False, layout="constrained",
        figsize=(1 + 3.2 * len(sweeps), 6.5),
    )  # fmt: skip
    shown: dict[str, Any] = {}
    for column, (name, sweep) in enumerate(sweeps.items()):
        values = list(sweep["points"].values())
        for row, kind in enumerate(kinds):
            axis = axes[row][column]
            for contestant, (color, marker, label) in STYLES.items():
                points = [
                    (value, best(record["seconds"][workload][kind], contestant) * 1e3)
                    for workload, value in sweep["points"].items()
                    if contestant in record["seconds"].get(workload, {}).get(kind, {})
                ]
                if points:
                    (shown[label],) = axis.plot(
                        *zip(*points, strict=True), color=color, marker=marker, markersize=5
                    )
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.xaxis.set_major_locator(FixedLocator(values))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.tick_params(labelsize=8)
            axis.grid(color="#dddddd", linewidth=0.7)
            axis.set_title(f"{name}: {TITLES[kind]}", fontsize=9)
            axis.set_xlabel(sweep["axis"], fontsize=9)
        axes[0][column].set_xlabel("")
    for row in range(len(kinds)):
        axes[row][0].set_ylabel("ms")
    figure.suptitle(title, fontsize=12)
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4, frameon=False)
    _write(figure, path)


def best(times: Mapping[str, float], contestant: str) -> float:
    """A contestant's time; torch's in the better of its memory formats."""
    if contestant == "torch" and "torch last" in times:
        return min(times["torch"], times["torch last"])
    return times[contestant]


def _write(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the date and the version in it, the same numbers give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
