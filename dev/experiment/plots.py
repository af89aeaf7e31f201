"""Plot figures of several systems over something that varies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

WIDE = 50
"""Largest over smallest value from which an axis is logarithmic."""


def plot_lines(panels: Mapping[str, Mapping[str, Mapping[Any, float]]], path: Path) -> None:
    """Write a picture.

    Args:
        panels: title -> system -> value -> figure.
    """
    figure = Figure((5 * len(panels), 4), layout="constrained")
    for panel, (title, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for system, line in lines.items():
            panel.plot(list(line), list(line.values()), "o-", label=system)
        values = [value for line in lines.values() for value in line]
        panel.set(title=title, xscale="log" if max(values, default=1) > WIDE * min(values, default=1) else "linear")
    figure.axes[0].legend()
    figure.savefig(path)
