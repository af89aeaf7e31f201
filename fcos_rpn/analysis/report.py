"""Tables of one analysis, or of several side by side."""

import itertools
from collections.abc import Mapping, Sequence

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
    rules = dict.fromkeys(itertools.chain(*(a.best_possible_recall_by_rule for a in analyses.values())))
    levels = sorted(set().union(*(a.positives_per_level for a in analyses.values())))
    columns = [_figures(analysis, list(rules), levels) for analysis in analyses.values()]
    rows = [[title, *(column[title] for column in columns)] for title in columns[0]]
    return tabulate(rows, headers=["", *analyses], stralign="right", colalign=("left",), disable_numparse=True)


def _figures(analysis: Analysis, rules: Sequence[str], levels: Sequence[str]) -> dict[str, str]:
    """Format each figure of an analysis by title; "" for rules and levels that it does not have."""
    recalls, positives = analysis.best_possible_recall_by_rule, analysis.positives_per_level
    return {
        "images": f"{analysis.num_images:,}",
        "boxes": f"{analysis.num_boxes:,}",
        "best possible recall, %": f"{analysis.best_possible_recall:.2f}",
        **{f"- low-quality matches: {rule}": f"{recalls[rule]:.2f}" if rule in recalls else "" for rule in rules},
        "boxes that nothing learns": f"{len(analysis.unlearned_boxes):,} ({analysis.unlearned:.2f} %)",
        "ambiguous positives, %": f"{analysis.ambiguous:.2f}",
        "- across classes, %": f"{analysis.ambiguous_across_classes:.2f}",
        "positives": f"{analysis.num_positives:,}",
        **{
            f"- on {level}": f"{positives[level]:,} ({percent(positives[level], analysis.num_positives):.1f} %)"
            if level in positives
            else ""
            for level in levels
        },
        **{
            f"boxes of {_bin_name(low, high)} positives": f"{_share_of_bin(analysis, low, high):.2f} %"
            for low, high in zip(POSITIVES, (*POSITIVES[1:], None), strict=True)
        },
        f"{'anchors' if rules else 'locations'} an image": _per_image(analysis.samples_per_image),
        "output variables an image": _per_image(analysis.outputs_per_image),
    }


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


def _bin_name(low: int, high: int | None) -> str:
    """Name a bin of whole numbers below `high`: "0", "2-3", "64 or more"."""
    if high is None:
        return f"{low} or more"
    return f"{low}" if high == low + 1 else f"{low}-{high - 1}"


def _share_of_bin(analysis: Analysis, low: int, high: int | None) -> float:
    in_bin = [boxes for n, boxes in analysis.positives_per_box.items() if low <= n and (high is None or n < high)]
    return percent(sum(in_bin), analysis.num_boxes)


def _per_image(numbers: PerImage) -> str:
    return f"{numbers.mean:,.0f} ({numbers.min:,} to {numbers.max:,})"
