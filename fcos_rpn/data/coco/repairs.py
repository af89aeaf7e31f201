"""What training repairs in the annotations of a json in COCO's format without a question.

Shape letter: A annotations.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from .findings import Finding, original_id, some
from .outlines import are_numbers, holds_pixels, keypoints_problem, lacks_polygon, segmentation_problem
from .rules import LARGEST_ID, Entry, keypoint_names

# COCO's boxes are rounded to 0.01 pixels, so that x + width may pass the edge of the image by twice the half of that.
EDGE_TOLERANCE = 0.02
# Detectron2 drops boxes with a smaller side from training, and says nothing.
SMALLEST_SIDE = 1e-5

NO_BOX = "annotations without a bbox dropped"
NOT_FINITE = "boxes that are not finite dropped"
EMPTY = "boxes of zero size dropped"
OUTSIDE = "boxes wholly outside their image dropped"
PARTLY_OUTSIDE = "boxes partly outside their image clipped"
WITHOUT_OUTLINE = "annotations without a usable outline (segmentation) dropped, since the model learns masks"
WITHOUT_KEYPOINTS = "annotations without usable keypoints dropped, since the model learns keypoints"
OUTLINE_IGNORED = "broken outlines (segmentation) ignored, since the model learns no masks"
KEYPOINTS_IGNORED = "broken keypoints ignored, since the model learns none"
FLAT_POLYGON = "flat polygons put into a list, since segmentation is a list of lists of x and y"
NO_KEYPOINTS = "missing keypoints filled in (not labeled)"
IGNORED = "annotations with ignore 1 taken as crowd regions (iscrowd 1)"
NO_AREA = "missing or wrong areas filled in (width * height)"
NO_CROWD = "missing iscrowd filled in (0)"
NO_ID = "missing annotation ids filled in"
DOUBLE_ID = "annotation ids replaced that an earlier annotation has"
ODD_ID = "annotation ids replaced that are no whole numbers from 1 to 2^53"
DROPPING = (NO_BOX, NOT_FINITE, EMPTY, OUTSIDE, WITHOUT_OUTLINE, WITHOUT_KEYPOINTS)
"""Those of the repairs that leave nothing of an annotation."""
BOX_TEXTS = {
    NO_BOX: "it has no bbox; training drops it: add x, y, width, height or delete it",
    NOT_FINITE: "bbox {bbox} is not finite; training drops it: correct or delete it",
    EMPTY: "bbox {bbox} has zero size; training drops it: correct or delete it",
    OUTSIDE: "bbox {bbox} is wholly outside the image; training drops it: correct or delete it",
    PARTLY_OUTSIDE: "bbox {bbox} is partly outside the image; training cuts it off",
}
"""Repairs that may hide a mistake, which have a line for each annotation. The others are counted only."""


def _clip_boxes(boxes: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Cut (A, 4) boxes off at the edges of images of (A, 2) width and height.

    Returns:
        The boxes, and the kind of repair that each needs, or "".
    """
    corners, sides = boxes[:, :2], boxes[:, 2:]
    visible_corners = corners.clip(0, limits)
    visible_sides = (corners + sides).clip(0, limits) - visible_corners

    is_empty = np.any(sides <= SMALLEST_SIDE, axis=1)
    is_outside = np.any(visible_sides <= SMALLEST_SIDE, axis=1)
    is_over_edge = (corners < -EDGE_TOLERANCE) | (corners + sides > limits + EDGE_TOLERANCE)  # (A, 2), in x and in y
    kinds = np.select([is_empty, is_outside, is_over_edge.any(axis=1)], [EMPTY, OUTSIDE, PARTLY_OUTSIDE], "")
    # An axis along which the box stays inside keeps its numbers to the last digit.
    clipped_corners = np.where(is_over_edge, visible_corners, corners)
    clipped_sides = np.where(is_over_edge, visible_sides, sides)
    return np.hstack([clipped_corners, clipped_sides]), kinds.tolist()


class Repairs(NamedTuple):
    """What can be repaired without a question, of annotations without problems."""

    kinds: dict[str, list[int]]
    """What is done, in words -> positions of the annotations; only what concerns at least one."""
    boxes: np.ndarray
    """(A, 4) cut off at the edges of their images."""

    @property
    def is_dropped(self) -> np.ndarray:
        """(A,) bool."""
        dropped = np.zeros(len(self.boxes), dtype=bool)
        for kind in DROPPING:
            dropped[self.kinds.get(kind, [])] = True
        return dropped


def find_repairs(
    annotations: Sequence[Entry],
    images: Mapping[Any, Entry],
    categories: Mapping[int, Entry],
    with_masks: bool,
    with_keypoints: bool,
) -> Repairs:
    """Find the repairs of annotations without problems; images and categories are by the ids that these name."""
    kinds: dict[str, list[int]] = {}
    nothing = [0.0, 0.0, 0.0, 0.0]
    is_box = [bool(annotation.get("bbox")) for annotation in annotations]
    is_finite = [are_numbers(annotation.get("bbox") or nothing) for annotation in annotations]
    boxes = [
        a["bbox"] if has and finite else nothing for a, has, finite in zip(annotations, is_box, is_finite, strict=True)
    ]
    limits = [(images[a["image_id"]]["width"], images[a["image_id"]]["height"]) for a in annotations]
    clipped, box_kinds = _clip_boxes(np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(limits).reshape(-1, 2))
    num_keypoints = _num_keypoints(categories.values())
    ids: set[int] = set()
    for position, annotation in enumerate(annotations):
        if not is_box[position]:
            names = [NO_BOX]
        elif not is_finite[position]:
            names = [NOT_FINITE]
        elif box_kinds[position] in DROPPING:
            names = [box_kinds[position]]
        else:
            image, category = images[annotation["image_id"]], categories[annotation["category_id"]]
            names = [*_shape_repairs(annotation, image, category, with_masks, with_keypoints, num_keypoints)]
            if not {*names} & {*DROPPING}:
                names += [box_kinds[position]] if box_kinds[position] else []
                names += _fill_ins(annotation, ids)
        for name in names:
            kinds.setdefault(name, []).append(position)
    return Repairs(kinds, clipped)


def _shape_repairs(
    annotation: Entry, image: Entry, category: Entry, with_masks: bool, with_keypoints: bool, num_keypoints: int
) -> Iterator[str]:
    problem = _outline_problem(annotation, image, with_masks)
    if with_masks and (problem or not annotation.get("segmentation")):
        yield WITHOUT_OUTLINE
    elif problem:
        yield OUTLINE_IGNORED
    problem = keypoints_problem(annotation.get("keypoints"), keypoint_names(category))
    if problem or (with_keypoints and not annotation.get("keypoints") and not num_keypoints):
        yield WITHOUT_KEYPOINTS if with_keypoints else KEYPOINTS_IGNORED
    elif with_keypoints and not annotation.get("keypoints"):
        yield NO_KEYPOINTS


def _outline_problem(annotation: Entry, image: Entry, with_masks: bool) -> str | None:
    segmentation, image_size = annotation.get("segmentation"), (image["height"], image["width"])
    problem = segmentation_problem(segmentation, image_size)
    if problem is None and lacks_polygon(segmentation):
        return "no polygon of segmentation has three points; correct or delete this key"
    if problem is None and with_masks and segmentation and not holds_pixels(segmentation, image_size):
        return "nothing inside segmentation is inside the image; correct or delete this key"
    return problem


def _num_keypoints(categories: Any) -> int:
    """Of each annotation; 0 if the categories name none or different numbers of them."""
    numbers = {len(keypoint_names(category)) for category in categories} - {0}
    return numbers.pop() if len(numbers) == 1 else 0


def _fill_ins(annotation: Entry, ids: set[int]) -> list[str]:
    """Name the values to fill in or replace; adds the annotation's id to the `ids` of earlier ones."""
    names = []
    area, annotation_id = annotation.get("area"), annotation.get("id")
    if annotation.get("ignore"):
        names.append(IGNORED)
    elif annotation.get("iscrowd") is None:
        names.append(NO_CROWD)
    if area is None or not are_numbers([area]) or area < 0:
        names.append(NO_AREA)
    if annotation_id is None:
        names.append(NO_ID)
    elif type(annotation_id) is not int or not 0 < annotation_id < LARGEST_ID:
        names.append(ODD_ID)
    elif annotation_id in ids:
        names.append(DOUBLE_ID)
    else:
        ids.add(annotation_id)
    return names


def apply_repairs(annotations: Sequence[Entry], repairs: Repairs, categories: Sequence[Entry]) -> list[Entry]:
    """Change annotations in place, and return those that are left."""

    def concerned(*kinds: str) -> list[Entry]:
        return [annotations[position] for kind in kinds for position in repairs.kinds.get(kind, ())]

    for position in repairs.kinds.get(PARTLY_OUTSIDE, ()):
        annotations[position]["bbox"] = repairs.boxes[position].tolist()
    for position in repairs.kinds.get(NO_AREA, ()):
        annotations[position]["area"] = float(repairs.boxes[position, 2] * repairs.boxes[position, 3])
    for annotation in concerned(OUTLINE_IGNORED):
        del annotation["segmentation"]
    for annotation in concerned(KEYPOINTS_IGNORED):
        del annotation["keypoints"]
    for annotation in concerned(NO_KEYPOINTS):
        annotation["keypoints"] = [0] * 3 * _num_keypoints(categories)
        annotation["num_keypoints"] = 0
    for annotation in concerned(IGNORED):
        annotation.update(iscrowd=1, ignore=0)
    for annotation in concerned(NO_CROWD):
        annotation["iscrowd"] = 0
    ids = [a["id"] for a in annotations if type(a.get("id")) is int and 0 < a["id"] < LARGEST_ID]
    new_ids = count(1 + max(ids, default=0))
    for position in sorted(position for kind in (NO_ID, ODD_ID, DOUBLE_ID) for position in repairs.kinds.get(kind, ())):
        annotations[position]["id"] = next(new_ids)
    return [annotations[position] for position in np.flatnonzero(~repairs.is_dropped).tolist()]


def repair_findings(
    repairs: Repairs, annotations: Sequence[Entry], places: Sequence[str], images: Mapping[Any, Entry]
) -> Iterator[Finding]:
    for kind, positions in repairs.kinds.items():
        if kind not in BOX_TEXTS:
            names = [places[position] for position in positions[:4]]
            why = _why_repaired(kind, annotations[positions[0]], images)
            yield Finding("warning", kind, "", f"{kind}: {len(positions):,}, first {some(names)}{why}")
            continue
        for position in positions:
            annotation = annotations[position]
            text = BOX_TEXTS[kind].format(bbox=annotation.get("bbox"))
            ids = original_id(images[annotation["image_id"]]), annotation.get("id")
            yield Finding("warning", kind, places[position], text, *ids)


def _why_repaired(kind: str, annotation: Entry, images: Mapping[Any, Entry]) -> str:
    """What is wrong with the first annotation of a kind, where the kind does not say it."""
    problem = None
    if kind in (WITHOUT_OUTLINE, OUTLINE_IGNORED):
        problem = _outline_problem(annotation, images[annotation["image_id"]], kind == WITHOUT_OUTLINE)
    elif kind in (WITHOUT_KEYPOINTS, KEYPOINTS_IGNORED):
        problem = keypoints_problem(annotation.get("keypoints"), ())
    return f": {problem.partition(';')[0]}" if problem else ""


def nothing_to_learn(num_crowds: int, dropped: Mapping[str, int]) -> str:
    """Say why a data set has no box to learn, and what to do; `dropped` counts annotations by kind of repair."""
    causes = [f"{number:,} {kind}" for kind, number in dropped.items() if kind in DROPPING]
    if num_crowds:
        causes.append(
            f"{num_crowds:,} crowd regions (iscrowd 1), which no model learns: export single objects with iscrowd 0"
        )
    return "there is no box to learn: " + ("; ".join(causes) or "there are no annotations; add some")
