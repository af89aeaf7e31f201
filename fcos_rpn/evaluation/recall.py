"""Average recall of class-agnostic boxes by COCO's protocol."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .matching import IOU_THRESHOLDS, Annotations, BoxesOfImages, match_class_agnostic

# Detectron2's one-letter names of COCO's area ranges, in COCOeval's order: all, below 32², 32² to 96², above 96².
AREA_SUFFIXES = ("", "s", "m", "l")


def average_recall(
    annotations: Annotations,
    proposals: BoxesOfImages,
    *,
    limits: Sequence[int] = (100, 1000),
    api: str = "hotcoco",
) -> dict[str, float]:
    """Class-agnostic average recall of boxes over the IoU thresholds .50, .55, ... .95, by COCO's protocol.

    The ground truth of every image counts, also where there are no boxes; Detectron2's own figure leaves such images
    out, and matches the pairs of highest IoU first.

    Args:
        annotations, proposals: see `match_class_agnostic`.
        limits: the numbers of boxes per image to report.
        api: see `match_class_agnostic`.

    Returns:
        Percentages under Detectron2's names: AR@100 (all areas), ARs@100 (area up to 32²), ARm@100 (32² to 96²),
        ARl@100 (from 96²), AR@1000, ...; NaN where no ground truth has such an area.

    Raises:
        UserError: see `match_class_agnostic`.
    """
    limits = sorted(limits)
    recall = _recall(annotations, proposals, limits, api).mean(axis=0)  # (4, limits)
    return {
        f"AR{suffix}@{limit}": float(recall[area_index, limit_index])
        for limit_index, limit in enumerate(limits)
        for area_index, suffix in enumerate(AREA_SUFFIXES)
    }


def recall_by_iou(
    annotations: Annotations,
    proposals: BoxesOfImages,
    *,
    limits: Sequence[int] = (100, 1000),
    api: str = "hotcoco",
) -> dict[str, dict[str, float]]:
    """The recalls that `average_recall` is the mean of, all areas together.

    Args:
        annotations, proposals, limits, api: see `average_recall`.

    Returns:
        Percentages by limit and IoU threshold: `["100"]["0.50"]`.
    """
    limits = sorted(limits)
    recall = _recall(annotations, proposals, limits, api)[:, 0]  # (T, limits)
    return {
        str(limit): {f"{iou:.2f}": float(recall[row, column]) for row, iou in enumerate(IOU_THRESHOLDS)}
        for column, limit in enumerate(limits)
    }


def _recall(
    annotations: Annotations, proposals: BoxesOfImages, limits: Sequence[int], api: str
) -> npt.NDArray[np.float64]:
    """(T, 4, limits) percentages by IoU threshold and area; NaN where no ground truth has such an area."""
    coco_eval = match_class_agnostic(annotations, proposals, limits=limits, api=api)
    # summarize() knows only the limits 1, 10, 100, so the figures are read from its table; -1 is "no ground truth".
    recall = np.asarray(coco_eval.eval["recall"])[:, 0]
    return np.where(recall < 0, np.nan, 100 * recall)
