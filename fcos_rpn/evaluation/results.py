"""Results of an evaluation (task -> metric -> percent) as a table and as a file."""

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tabulate import tabulate

from ..errors import write_whole

Results: TypeAlias = "float | str | Sequence[Results] | Mapping[str, Results] | None"


def _format_percent(value: float | None) -> str:
    if value is None:
        return ""
    return "-" if math.isnan(value) else f"{value:.2f}"


def results_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """One data set's figures (task -> metric -> percent) as a table: a column per task, a row per metric.

    NaN is shown as "-", and a metric that a task does not have is left blank. The AP of single classes, which
    Detectron2 logs in a table of its own, is left out.
    """
    all_metrics = dict.fromkeys(itertools.chain.from_iterable(results.values()))
    metrics = [metric for metric in all_metrics if not metric.startswith("AP-")]
    rows = [[metric, *(_format_percent(task.get(metric)) for task in results.values())] for metric in metrics]
    return tabulate(rows, headers=["", *results], disable_numparse=True, colalign=["left"] + ["right"] * len(results))


def _nan_to_none(value: Results) -> Any:
    if isinstance(value, Mapping):
        return {key: _nan_to_none(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_results(path: str | os.PathLike[str], results: Results) -> None:
    """Writes figures in percent (task -> metric -> value, or nested in any other way) as strict JSON.

    NaN, which JSON lacks, becomes null. The file is replaced in one step, so that a reader never sees half of it.
    """
    with write_whole(path) as file:
        file.write(json.dumps(_nan_to_none(results), indent=2, allow_nan=False).encode() + b"\n")
