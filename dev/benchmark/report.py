"""Measurements as a table, as JSON and as plots."""

import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tabulate import tabulate

from dev.benchmark.measuring import OURS, Comparison, Measurement, Setup
from fcos_rpn.evaluation import write_results
from fcos_rpn.visualization.plots import GRID, LINE_COLORS

MOST_COLUMNS = 3
"""Of the panels of a plot."""
PEER_COLOR = "0.75"


class Report:
    """The rows of a subject: a setting, a case and its figures; for ours also the ratio to each peer's."""

    def __init__(self, subject: str, setup: Setup) -> None:
        self.subject = subject
        self.environment = describe_environment(setup)
        self.rows: list[dict[str, Any]] = []

    def add(self, comparison: Comparison, measurements: Mapping[str, Measurement]) -> None:
        peers = {name: found for name, found in measurements.items() if not name.startswith(OURS)}
        for name, found in measurements.items():
            row = {**comparison.setting, "case": name, **found._asdict(), "memory": comparison.memory}
            if name.startswith(OURS):
                for peer, of_peer in peers.items():
                    row[f"ratio_to_{peer}"] = found.seconds / of_peer.seconds
                    row[f"memory_ratio_to_{peer}"] = ratio(found.peak_mib, of_peer.peak_mib)
            self.rows.append(row)

    def table(self) -> str:
        """Format times in milliseconds with their interquartile range, memory in MiB, and the ratios of our time and
        memory to each peer's."""
        settings = self.settings()
        peers = list(dict.fromkeys(key[9:] for row in self.rows for key in row if key.startswith("ratio_to_")))
        headers = [*settings, "case", "ms", "±", "MiB", *(f"/ {peer}" for peer in peers)]
        return tabulate([self._cells(row, settings, peers) for row in self.rows], headers, disable_numparse=True)

    def settings(self) -> list[str]:
        """The keys of a comparison's setting."""
        figures = {*Measurement._fields, "case", "memory"}
        return [key for key in self.rows[0] if key not in figures and "ratio_to_" not in key]

    def _cells(self, row: Mapping[str, Any], settings: list[str], peers: list[str]) -> list[str]:
        ratios = [(row.get(f"ratio_to_{peer}"), row.get(f"memory_ratio_to_{peer}")) for peer in peers]
        return [
            *(str(row[key]) for key in [*settings, "case"]),
            f"{1000 * row['seconds']:.1f}",
            f"{1000 * row['spread']:.1f}",
            number(row["peak_mib"], ".1f"),
            *("" if time is None else f"{time:.2f}, {number(memory, '.2f')}" for time, memory in ratios),
        ]

    def write(self, folder: Path) -> None:
        """`folder`/`subject`.json."""
        content: dict[str, Any] = {"subject": self.subject, "environment": self.environment, "rows": self.rows}
        write_results(folder / f"{self.subject}.json", content)


def describe_environment(setup: Setup) -> dict[str, str | int | bool]:
    """What the figures depend on."""
    is_cuda = setup.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(setup.device) if is_cuda else "cpu",
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
        "load": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "amp": setup.uses_amp,
        "quick": setup.is_quick,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def ratio(ours: float | None, peers: float | None) -> float | None:
    return ours / peers if ours is not None and peers else None


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def slope(values: list[float], figures: list[float | None]) -> float | None:
    """Fit the figures by a power of the values and return its exponent; None if a figure is not above zero."""
    if any(figure is None or figure <= 0 for figure in figures):
        return None
    return float(np.polyfit(np.log(values), np.log(np.array(figures, dtype=float)), 1)[0])


def plot_times(report: Report) -> Figure:
    """Plot a panel for each comparison, with a bar for each case: time, interquartile range, ratio to the first."""
    settings = report.settings()
    if any(len({row[key] for row in report.rows}) > 1 for key in settings):
        settings = [key for key in settings if len({row[key] for row in report.rows}) > 1]  # what tells panels apart
    by_comparison: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in report.rows:
        by_comparison.setdefault(tuple(str(row[key]) for key in settings), []).append(row)
    num_columns = min(len(by_comparison), MOST_COLUMNS)
    num_lines = -(-len(by_comparison) // num_columns)
    num_bars = max(map(len, by_comparison.values()))
    size = (4.2 * num_columns, (0.6 + 0.3 * num_bars) * num_lines)
    figure = Figure(size, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(num_lines, num_columns, squeeze=False).flatten()
    for panel in panels[len(by_comparison) :]:
        panel.set_visible(False)
    for panel, (values, rows) in zip(panels, by_comparison.items(), strict=False):
        times = [1000 * row["seconds"] for row in rows]
        colors = [LINE_COLORS[0] if row["case"].startswith(OURS) else PEER_COLOR for row in rows]
        bars = panel.barh(
            [row["case"] for row in rows], times, xerr=[500 * row["spread"] for row in rows], color=colors
        )
        panel.bar_label(bars, [f"{time / times[0]:.3g}" for time in times], padding=4)
        title = ", ".join(f"{key} {value}" for key, value in zip(settings, values, strict=True))
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_xlabel("ms")
        panel.invert_yaxis()
        panel.margins(x=0.2)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def growth_series(report: Report) -> dict[tuple[str, str], tuple[list[float], list[float], list[float | None]]]:
    """(step, what grows) -> its values, seconds and MiB."""
    series: dict[tuple[str, str], tuple[list[float], list[float], list[float | None]]] = {}
    for row in report.rows:
        of_series = series.setdefault((row["step"], row["against"]), ([], [], []))
        values, seconds, mib = of_series
        values.append(float(row["case"]))
        seconds.append(row["seconds"])
        mib.append(row["peak_mib"])
    return series


def growth_table(report: Report) -> str:
    """Format slopes of time and memory on logarithmic axes: 1 is proportional, 0 is no growth."""
    series = growth_series(report)
    axes = list(dict.fromkeys(against for _, against in series))
    rows = []
    for step in dict.fromkeys(step for step, _ in series):
        of_step = [series[step, against] for against in axes]
        slopes = [(slope(values, list(times)), slope(values, peaks)) for values, times, peaks in of_step]
        rows.append([step, *(f"{number(time, '.2f')}, {number(memory, '.2f')}" for time, memory in slopes)])
    return tabulate(rows, ["slope of time, memory", *axes], disable_numparse=True)


def plot_growth(report: Report) -> Figure:
    """Plot time above memory, a panel for each quantity that grows, a line for each step."""
    series = growth_series(report)
    axes = list(dict.fromkeys(against for _, against in series))
    steps = list(dict.fromkeys(step for step, _ in series))
    figure = Figure((3.2 * len(axes), 6.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(axes), sharey="row", squeeze=False)
    for column, against in enumerate(axes):
        for step, color in zip(steps, LINE_COLORS, strict=False):
            values, times, peaks = series[step, against]
            in_mib = [math.nan if peak is None or peak <= 0 else peak for peak in peaks]
            for panel, figures in zip(panels[:, column], ([1000 * seconds for seconds in times], in_mib), strict=True):
                panel.loglog(values, figures, "o-", color=color, markersize=4, linewidth=2, label=step)
        for panel in panels[:, column]:
            panel.grid(color=GRID)
            panel.spines[:].set(color=GRID)
            panel.set_axisbelow(True)
        panels[1, column].set_xlabel(against)
    panels[0, 0].set_ylabel("Time, ms")
    panels[1, 0].set_ylabel("Memory, MiB")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(steps), frameon=False
    )
    return figure
