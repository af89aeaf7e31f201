"""Results of an evaluation (task -> metric -> percent) as tables and files, and the training log as strict JSON."""

import itertools
import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from detectron2.utils.events import JSONWriter, get_event_storage
from tabulate import tabulate

from ..errors import write_whole

Results: TypeAlias = "float | str | Sequence[Results] | Mapping[str, Results] | None"
CLASS_COLUMNS = 3


def results_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Format one data set's figures (task -> metric -> percent): a column per task, a row per metric.

    NaN is shown as "-", and a metric that a task does not have is left blank. The AP of single classes is left out, see
    `class_table`.
    """
    all_metrics = dict.fromkeys(itertools.chain.from_iterable(results.values()))
    metrics = [metric for metric in all_metrics if not metric.startswith("AP-")]
    rows = [[metric, *(_format_percent(task.get(metric)) for task in results.values())] for metric in metrics]
    return tabulate(rows, headers=["", *results], disable_numparse=True, colalign=["left"] + ["right"] * len(results))


def class_table(figures: Mapping[str, float]) -> str:
    """Format the AP of each class among the figures of a task, several to a row."""
    classes = [(name[3:], _format_percent(value)) for name, value in figures.items() if name.startswith("AP-")]
    rows = [
        list(itertools.chain(*classes[first : first + CLASS_COLUMNS]))
        for first in range(0, len(classes), CLASS_COLUMNS)
    ]
    return tabulate(rows, headers=["class", "AP"] * min(CLASS_COLUMNS, len(classes)), disable_numparse=True)


def write_results(path: str | os.PathLike[str], results: Results) -> None:
    """Write figures in percent (task -> metric -> value, or nested in any other way) as strict JSON.

    NaN and infinity, which JSON lacks, become null. The file is replaced in one step, so a reader never sees half of
    it.
    """
    with write_whole(path) as file:
        file.write(json.dumps(_strict(results), indent=2, allow_nan=False).encode() + b"\n")


class StrictJSONWriter(JSONWriter):
    """Detectron2's writer of metrics.json, with null in place of NaN and infinity."""

    _last_write: int

    def write(self) -> None:
        by_iteration: dict[int, dict[str, Any]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                by_iteration[iteration][name] = value
        for iteration, values in by_iteration.items():
            line = json.dumps(_strict({**values, "iteration": iteration}), sort_keys=True, allow_nan=False)
            self._file_handle.write(line + "\n")
        self._last_write = max([self._last_write, *by_iteration])
        self._file_handle.flush()


def _format_percent(value: float | None) -> str:
    if value is None:
        return ""
    return "-" if math.isnan(value) else f"{value:.2f}"


def _strict(value: Any) -> Any:
    """The value with None for every float that is not finite."""
    if isinstance(value, Mapping):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
