"""The paper in plain Python loops: slow, obvious, and the oracle of the fast code."""

import math
from collections import Counter
from collections.abc import Sequence

Box = Sequence[float]


def locations(grid_sizes, strides):
    """[(x, y, stride, level)] in the order of `Locations`."""
    found = []
    for level, ((height, width), stride) in enumerate(zip(grid_sizes, strides, strict=True)):
        for y in range(height):
            for x in range(width):
                found.append((stride // 2 + x * stride, stride // 2 + y * stride, stride, level))
    return found


def candidates(points, boxes: Sequence[Box], sizes_of_interest, radius):
    """{(location, box)} that meet the three conditions."""
    ranges = list(zip([0.0, *sizes_of_interest], [*sizes_of_interest, math.inf], strict=True))
    found = set()
    for r, (x, y, stride, level) in enumerate(points):
        for m, (x0, y0, x1, y1) in enumerate(boxes):
            distances = (x - x0, y - y0, x1 - x, y1 - y)
            is_inside = min(distances) > 0
            if radius > 0:
                center_x, center_y = (x0 + x1) / 2, (y0 + y1) / 2
                is_inside = is_inside and abs(x - center_x) < radius * stride and abs(y - center_y) < radius * stride
            lower, upper = ranges[level]
            if is_inside and lower <= max(distances) <= upper:
                found.add((r, m))
    return found


def assign(points, boxes: Sequence[Box], sizes_of_interest, radius):
    """[row of boxes, or -1] for every location: the smallest candidate, the lower index on equal areas."""
    pairs = candidates(points, boxes, sizes_of_interest, radius)
    matched = []
    for r in range(len(points)):
        best, best_area = -1, math.inf
        for m, (x0, y0, x1, y1) in enumerate(boxes):
            area = (x1 - x0) * (y1 - y0)
            if (r, m) in pairs and area < best_area:
                best, best_area = m, area
        matched.append(best)
    return matched


def assignment_figures(images, sizes_of_interest, radius):
    """Of images as (points, boxes, classes): the positives of each box and on each level, and how many positives are
    ambiguous, and ambiguous across classes."""
    per_box, per_level, num_ambiguous, num_across_classes = [], Counter(), 0, 0
    for points, boxes, classes in images:
        matched = assign(points, boxes, sizes_of_interest, radius)
        per_box += [matched.count(m) for m in range(len(boxes))]
        per_level.update(points[r][3] for r, m in enumerate(matched) if m >= 0)
        pairs = candidates(points, boxes, sizes_of_interest, radius)
        for r in range(len(points)):
            rivals = [classes[m] for m in range(len(boxes)) if (r, m) in pairs]
            num_ambiguous += len(rivals) > 1
            num_across_classes += len(set(rivals)) > 1
    return per_box, per_level, num_ambiguous, num_across_classes


def iou(a: Box, b: Box):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def sigmoid(x: float):
    return 1 / (1 + math.exp(-x))


def select(logits, ltrb, centerness, points, image_size, *, score_thresh, pre_nms_topk, nms_thresh, post_nms_topk,
           min_box_size=0.0, nms_per_level=False, score_fusion="geometric", thresh_on="class",
           computes_centerness=False):  # fmt: skip
    """[(score, class, box)] of one image, best first. logits: R rows of C, ltrb: R rows of 4, centerness: R or None."""
    height, width = image_size
    kept = []
    for level in sorted({point[3] for point in points}):
        level_candidates = []
        for r, (x, y, stride, of_level) in enumerate(points):
            if of_level != level:
                continue
            for c, logit in enumerate(logits[r]):
                left, top, right, bottom = (distance * stride for distance in ltrb[r])
                probability = score = sigmoid(logit)
                if computes_centerness:
                    score *= math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
                elif centerness is not None:
                    score *= sigmoid(centerness[r])
                if score_fusion == "geometric" and (computes_centerness or centerness is not None):
                    score = math.sqrt(score)
                if score_thresh is None or (probability if thresh_on == "class" else score) > score_thresh:
                    level_candidates.append((score, c, level, (x - left, y - top, x + right, y + bottom)))
        level_candidates.sort(key=lambda candidate: -candidate[0])
        kept += level_candidates[:pre_nms_topk]

    clipped = []
    for score, c, level, (x0, y0, x1, y1) in kept:
        box = (min(max(x0, 0), width), min(max(y0, 0), height), min(max(x1, 0), width), min(max(y1, 0), height))
        if box[2] - box[0] > min_box_size and box[3] - box[1] > min_box_size:
            clipped.append((score, c, level, box))
    clipped.sort(key=lambda candidate: -candidate[0])

    survivors: list = []
    for candidate in clipped:
        group = 2 if nms_per_level else 1
        rivals = [other for other in survivors if other[group] == candidate[group]]
        if all(iou(candidate[3], other[3]) <= nms_thresh for other in rivals):
            survivors.append(candidate)
    return [(score, c, box) for score, c, _, box in survivors[:post_nms_topk]]
