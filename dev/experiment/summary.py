"""Figures of runs; mean and spread over seeds."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def by_system(results: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Group the runs of a comparison's results.json by the name of their system."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in results["runs"]:
        runs.setdefault(run["system"], []).append(run)
    return runs


def mean_and_spread(values: Sequence[float]) -> str:
    """Format as `42.0 ± 2.8`: the mean and, if there is more than one value, the sample deviation."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def figures_by_iteration(
    metrics: Path, max_iter: int, task: str, figures: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Read figures of a task by iteration from Detectron2's log, to which a resumed run appends."""
    lines = (json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines())
    return {
        # Iterations count from 0, but the evaluation after the last one is logged under the next number.
        str(min(line["iteration"] + 1, max_iter)): {figure: line[f"{task}/{figure}"] for figure in figures}
        for line in lines
        if f"{task}/{figures[0]}" in line
    }
