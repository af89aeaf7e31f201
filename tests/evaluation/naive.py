"""Average recall and precision by COCO's protocol in plain Python loops: the oracles of `fcos_rpn.evaluation`."""

import math
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]  # x1, y1, x2, y2

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
AREAS = {"": (0.0, math.inf), "s": (0.0, 1024.0), "m": (1024.0, 9216.0), "l": (9216.0, math.inf)}


def naive_average_recall(
    annotations: dict[str, Any], proposals: dict[int, tuple[list[Box], list[float]]], limits: tuple[int, ...]
) -> dict[str, float]:
    """Percentages under Detectron2's names; NaN where no ground truth has such an area."""
    results = {}
    for limit in limits:
        for suffix, (low, high) in AREAS.items():
            num_truths = 0
            num_matched = 0
            for image in annotations["images"]:
                truths = []
                for annotation in annotations["annotations"]:
                    if annotation["image_id"] != image["id"] or annotation["iscrowd"]:
                        continue
                    if low <= annotation["area"] <= high:
                        x, y, width, height = annotation["bbox"]
                        truths.append((x, y, x + width, y + height))
                boxes, scores = proposals.get(image["id"], ([], []))
                ranking = sorted((-score, index) for index, score in enumerate(scores))
                chosen = [boxes[index] for _, index in ranking[:limit]]
                num_truths += len(truths)
                for threshold in THRESHOLDS:
                    num_matched += count_matches(chosen, truths, threshold)
            results[f"AR{suffix}@{limit}"] = 100 * num_matched / (10 * num_truths) if num_truths else math.nan
    return results


def naive_precision(
    annotations: dict[str, Any], proposals: dict[int, tuple[list[Box], list[float]]], *, limit: int, threshold: float
) -> list[float]:
    """At the recalls 0, .01, ... 1 the best precision that is reached at that recall or a higher one."""
    num_truths = 0
    outcomes = []  # score, whether it is a hit; boxes that only find a crowd do not count
    for image in annotations["images"]:
        truths: list[Box] = []
        crowds: list[Box] = []
        for annotation in annotations["annotations"]:
            if annotation["image_id"] == image["id"]:
                x, y, width, height = annotation["bbox"]
                (crowds if annotation["iscrowd"] else truths).append((x, y, x + width, y + height))
        boxes, scores = proposals.get(image["id"], ([], []))
        ranking = sorted((-score, index) for index, score in enumerate(scores))[:limit]
        num_truths += len(truths)
        is_free = [True] * len(truths)
        for negative_score, index in ranking:
            best = best_free(boxes[index], truths, is_free, threshold)
            if best >= 0:
                is_free[best] = False
                outcomes.append((-negative_score, True))
            elif not any(share_inside(boxes[index], crowd) >= threshold for crowd in crowds):
                outcomes.append((-negative_score, False))
    if num_truths == 0:
        return [math.nan] * 101

    outcomes.sort(key=lambda outcome: -outcome[0])
    num_hits = 0
    points = []
    for rank, (_, is_hit) in enumerate(outcomes, start=1):
        num_hits += is_hit
        points.append((num_hits / num_truths, num_hits / rank))
    recalls = np.linspace(0, 1, 101)
    return [max((precision for at, precision in points if at >= recall), default=0.0) for recall in recalls]


def count_matches(boxes: list[Box], truths: list[Box], threshold: float) -> int:
    """How many boxes, each in its turn, find a free ground-truth box; each takes the one that it overlaps most.

    Crowds and boxes of other areas need not appear here: COCO lets a box match them only if it finds none that counts.
    """
    is_free = [True] * len(truths)
    for box in boxes:
        best = best_free(box, truths, is_free, threshold)
        if best >= 0:
            is_free[best] = False
    return is_free.count(False)


def best_free(box: Box, truths: list[Box], is_free: list[bool], threshold: float) -> int:
    """The index of the free one that the box overlaps most, -1 if it overlaps none enough."""
    best = -1
    best_iou = threshold
    for index, truth in enumerate(truths):
        if is_free[index] and iou(box, truth) >= best_iou:  # of equals COCO takes the last
            best = index
            best_iou = iou(box, truth)
    return best


def share_inside(box: Box, crowd: Box) -> float:
    """The share of a box that lies in a crowd region."""
    width = min(box[2], crowd[2]) - max(box[0], crowd[0])
    height = min(box[3], crowd[3]) - max(box[1], crowd[1])
    return max(width, 0) * max(height, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    return intersection / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection)
