"""Measurements as a table and as JSON."""

import math
import os
import platform
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from tabulate import tabulate

from dev.benchmark.measuring import OURS, Comparison, Measurement, Setup
from fcos_rpn.evaluation import write_results


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
        figures = {*Measurement._fields, "case", "memory"}
        settings = [key for key in self.rows[0] if key not in figures and "ratio_to_" not in key]
        peers = list(dict.fromkeys(key[9:] for row in self.rows for key in row if key.startswith("ratio_to_")))
        cells = []
        for row in self.rows:
            ratios = [(row.get(f"ratio_to_{peer}"), row.get(f"memory_ratio_to_{peer}")) for peer in peers]
            times = [f"{1000 * row[figure]:.1f}" for figure in ("seconds", "spread")]
            compared = ["" if time is None else f"{time:.2f}, {number(memory, '.2f')}" for time, memory in ratios]
            named = [str(row[key]) for key in [*settings, "case"]]
            cells.append([*named, *times, number(row["peak_mib"], ".1f"), *compared])
        headers = [*settings, "case", "ms", "±", "MiB", *(f"/ {peer}" for peer in peers)]
        return tabulate(cells, headers, disable_numparse=True)

    def write(self, folder: Path) -> None:
        """`folder`/`subject`.json."""
        content: dict[str, Any] = {"subject": self.subject, "environment": self.environment, "rows": self.rows}
        write_results(folder / f"{self.subject}.json", content)


def describe_environment(setup: Setup) -> dict[str, str | int | bool]:
    """What the figures depend on."""
    is_cuda, cpuinfo = setup.device.type == "cuda", Path("/proc/cpuinfo")
    model = re.search("model name.*: (.+)", cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else "")
    return {
        "device": torch.cuda.get_device_name(setup.device) if is_cuda else "cpu",
        "processor": model[1] if model else platform.processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
        "load": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "amp": setup.uses_amp,
        "quick": setup.is_quick,
    }


def ratio(ours: float | None, peers: float | None) -> float | None:
    return ours / peers if ours is not None and peers else None


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def growth_table(report: Report) -> str:
    """Format slopes of time and memory on logarithmic axes: 1 is proportional, 0 is no growth."""
    series: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in report.rows:
        series.setdefault(row["step"], {}).setdefault(row["against"], []).append(row)
    table = []
    for step, by_axis in series.items():
        slopes = [[slope(rows, figure) for figure in ("seconds", "peak_mib")] for rows in by_axis.values()]
        table.append([step, *(", ".join(number(value, ".2f") for value in of_axis) for of_axis in slopes)])
    return tabulate(table, ["slope of time, memory", *series[report.rows[0]["step"]]], disable_numparse=True)


def slope(rows: list[dict[str, Any]], figure: str) -> float | None:
    """Fit a figure by a power of the cases' values and return its exponent; None if a figure is not above zero."""
    if any(row[figure] is None or row[figure] <= 0 for row in rows):
        return None
    values, figures = ([math.log(float(row[key])) for row in rows] for key in ("case", figure))
    return statistics.linear_regression(values, figures).slope
