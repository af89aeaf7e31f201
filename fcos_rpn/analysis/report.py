"""Tables of one analysis, or of several side by side."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from tabulate import tabulate

from .assignment import percent
from .statistics import Analysis, PerImage

SIDES = (0, 4, 8, 16, 32, 64)
"""Lower ends of the bins of boxes by their shorter side, in pixels of the network's input."""

POSITIVES = (0, 1, 2, 4, 8, 16, 64)
"""Lower ends of the bins of boxes by their number of positives."""

MAX_IDS = 10


def figures_table(analyses: Mapping[str, Analysis]) -> str:
    """Format analyses by column title, with a row for each figure."""
    columns = list(analyses.values())
    rows = [
        _row("images", columns, lambda a: f"{a.num_images:,}"),
        _row("boxes", columns, lambda a: f"{a.num_boxes:,}"),
        _row("best possible recall, %", columns, lambda a: f"{a.best_possible_recall:.2f}"),
        *(
            _row(f"- low-quality matches: {rule}", columns, partial(_recall_under, rule))
            for rule in dict.fromkeys(itertools.chain(*(a.best_possible_recall_by_rule for a in columns)))
        ),
        _row("boxes that nothing learns", columns, lambda a: f"{len(a.unlearned_boxes):,} ({a.unlearned:.2f} %)"),
        _row("ambiguous positives, %", columns, lambda a: f"{a.ambiguous:.2f}"),
        _row("- across classes, %", columns, lambda a: f"{a.ambiguous_across_classes:.2f}"),
        _row("positives", columns, lambda a: f"{a.num_positives:,}"),
        *(
            _row(f"- on {level}", columns, partial(_positives_on, level))
            for level in sorted(set().union(*(a.positives_per_level for a in columns)))
        ),
        *(
            _row(f"boxes of {_bin_name(POSITIVES, i)} positives", columns, partial(_share_of_bin, i))
            for i in range(len(POSITIVES))
        ),
        _row(f"{_sample_name(columns[0])} an image", columns, lambda a: _per_image(a.samples_per_image)),
        _row("output variables an image", columns, lambda a: _per_image(a.outputs_per_image)),
    ]
    return tabulate(rows, headers=["", *analyses], stralign="right", colalign=("left",), disable_numparse=True)


def unlearned_table(analyses: Mapping[str, Analysis]) -> str:
    """Format how many of the boxes of each size are unlearned. The size is that of the shorter side."""
    rows = []
    for i in range(len(SIDES)):
        cells = []
        for analysis in analyses.values():
            is_in_bin = torch.bucketize(analysis.input_shorter_sides, torch.tensor(SIDES[1:]), right=True) == i
            num_unlearned = int((is_in_bin & ~analysis.is_learned).sum())
            num_boxes = int(is_in_bin.sum())
            cells.append(f"{num_unlearned:,} of {num_boxes:,} ({percent(num_unlearned, num_boxes):.2f} %)")
        upper = f" to {SIDES[i + 1]}" if i + 1 < len(SIDES) else " or more"
        rows.append([f"{SIDES[i]}{upper} px", *cells])
    headers = ["unlearned by shorter side", *analyses]
    return tabulate(rows, headers=headers, stralign="right", colalign=("left",), disable_numparse=True)


def unlearned_ids(analysis: Analysis) -> str:
    """Name the first unlearned boxes in one line; empty if there are none."""
    boxes = analysis.unlearned_boxes
    if not boxes:
        return ""
    shown = ", ".join(f"{box.id} ({box.input_width:g} x {box.input_height:g})" for box in boxes[:MAX_IDS])
    return f"Unlearned annotations (input pixels): {shown}" + (", ..." if len(boxes) > MAX_IDS else "")


def _sample_name(analysis: Analysis) -> str:
    return "anchors" if analysis.best_possible_recall_by_rule else "locations"


def _row(title: str, columns: Sequence[Analysis], cell: Callable[[Analysis], str]) -> list[str]:
    return [title, *map(cell, columns)]


def _bin_name(lower_ends: Sequence[int], index: int) -> str:
    """Name a bin of whole numbers: "0", "2-3", "64 or more"."""
    low = lower_ends[index]
    if index + 1 == len(lower_ends):
        return f"{low} or more"
    return f"{low}" if lower_ends[index + 1] == low + 1 else f"{low}-{lower_ends[index + 1] - 1}"


def _share_of_bin(index: int, analysis: Analysis) -> str:
    upper = [*POSITIVES[1:], math.inf][index]
    number = sum(boxes for n, boxes in analysis.positives_per_box.items() if POSITIVES[index] <= n < upper)
    return f"{percent(number, analysis.num_boxes):.2f} %"


def _recall_under(rule: str, analysis: Analysis) -> str:
    recall = analysis.best_possible_recall_by_rule.get(rule)
    return "" if recall is None else f"{recall:.2f}"


def _positives_on(level: str, analysis: Analysis) -> str:
    number = analysis.positives_per_level.get(level)
    return "" if number is None else f"{number:,} ({percent(number, analysis.num_positives):.1f} %)"


def _per_image(numbers: PerImage) -> str:
    return f"{numbers.mean:,.0f} ({numbers.min:,} to {numbers.max:,})"
