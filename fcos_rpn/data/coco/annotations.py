"""Checks and repairs one json file in COCO's instances format before anything learns from it.

A mistake that only the user can settle stops with one `UserError` for all of them; what has one obvious repair is
repaired, counted and logged. Boxes are COCO's: x and y of the top left corner, width and height, in pixels of the
original image. Shape letter: A annotations.
"""

import json
import logging
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from reprlib import repr as short_repr
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from .outlines import lacks_polygon
from .rules import LISTS, Entry, annotation_problems, category_problems, id_problems, image_problems

logger = logging.getLogger(__name__)

MAX_FINDINGS = 10
MAX_EXAMPLES = 3
# COCO's boxes are rounded to 0.01 pixels, so that x + width may pass the edge of the image by twice the half of that.
EDGE_TOLERANCE = 0.02
# Detectron2 drops boxes with a smaller side from training, and says nothing.
SMALLEST_SIDE = 1e-5

EMPTY = "boxes of zero size dropped"
OUTSIDE = "boxes wholly outside their image dropped"
PARTLY_OUTSIDE = "boxes partly outside their image clipped"
NO_POLYGON = "annotations dropped whose polygons all have less than three points"
NO_AREA = "missing areas filled in (width * height)"
NO_CROWD = "missing iscrowd filled in (0)"
NO_ID = "missing annotation ids filled in"
ID_0 = "annotation id 0 replaced (pycocotools takes it for 'not matched')"
DROPPING = (EMPTY, OUTSIDE, NO_POLYGON)
"""Those of the repairs that leave nothing of an annotation."""


class CheckedAnnotations(NamedTuple):
    """A COCO dictionary that can be trained and evaluated on."""

    content: Entry  # COCO's dictionary after the repairs
    repairs: dict[str, int]  # what was repaired, in words -> how many annotations

    @property
    def is_changed(self) -> bool:
        return bool(self.repairs)


def read_json(json_file: Path) -> Entry:
    """
    Returns:
        COCO's dictionary; its lists are there, what they hold is unchecked.

    Raises:
        UserError: names the file, and says why it cannot be read or which list is missing.
    """
    try:
        with open(json_file, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{json_file}: cannot be read ({error.strerror}); give the path of a COCO json") from error
    except (ValueError, RecursionError) as error:
        # JSONDecodeError, UnicodeDecodeError, an integer of thousands of digits, lists in lists without an end
        raise UserError(
            f"{json_file}: not a readable json: {error}; the file may be truncated, so copy or export it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{json_file}: holds no object with the keys {', '.join(LISTS)}; export it in COCO's format")
    for key in LISTS:
        if key not in content:
            raise UserError(f"{json_file}: the key {key!r} is missing; export it in COCO's instances format")
        if not isinstance(content[key], list):
            raise UserError(f"{json_file}: {key!r} is no list; export it in COCO's instances format")
    for key in ("categories", "images"):
        if not content[key]:
            raise UserError(f"{json_file}: {key!r} is empty; add at least one entry")
    return content


def _findings(content: Entry, folder: Path | None) -> Iterator[str]:
    images, categories = ({entry["id"]: entry for entry in content[key]} for key in ("images", "categories"))
    for category in content["categories"]:
        for problem in category_problems(category):
            yield f"category {category['id']}: {problem.text}"
    missing = []
    for image in content["images"]:
        problems = [*image_problems(image)]
        yield from (f"image {image['id']}: {problem.text}" for problem in problems)
        if folder is not None and not problems and not os.path.isfile(os.path.join(folder, image["file_name"])):
            missing.append(f"{image['file_name']!r} (image {image['id']})")
    if missing:
        yield (
            f"{len(missing)} of {len(images)} image files are not in {folder}: {_some(missing)}; correct the folder, "
            "add the files or delete these images from the json"
        )
    for position, annotation in enumerate(content["annotations"]):
        for problem in annotation_problems(annotation, images, categories):
            yield f"{_name(content['annotations'], position)}: {problem.text}"


def _name(annotations: list[Entry], position: int) -> str:
    annotation_id = annotations[position].get("id")
    name = f"annotations[{position}]" if annotation_id is None else f"annotation {annotation_id}"
    return f"{name} (image {short_repr(annotations[position].get('image_id'))})"


def _some(names: list[str]) -> str:
    return ", ".join(names[:MAX_EXAMPLES]) + (", ..." if len(names) > MAX_EXAMPLES else "")


def _stop_on(findings: list[str], json_file: Path) -> None:
    if findings:
        shown = findings[:MAX_FINDINGS]
        if len(findings) > MAX_FINDINGS:
            shown.append(f"and {len(findings) - MAX_FINDINGS} more")
        raise UserError("\n  ".join([f"{json_file}:", *shown]))


class _ClippedBoxes(NamedTuple):
    boxes: np.ndarray  # (A, 4) cut off at the edges of their images
    is_empty: np.ndarray  # (A,) of zero size
    is_outside: np.ndarray  # (A,) wholly outside
    is_partly_outside: np.ndarray  # (A,)


def _clip_boxes(annotations: list[Entry], image_sizes: dict[int, tuple[int, int]]) -> _ClippedBoxes:
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    limits = np.array([image_sizes[annotation["image_id"]] for annotation in annotations]).reshape(-1, 2)
    corners, sides = boxes[:, :2], boxes[:, 2:]
    visible_corners = corners.clip(0, limits)
    visible_sides = (corners + sides).clip(0, limits) - visible_corners

    is_empty = np.any(sides <= SMALLEST_SIDE, axis=1)
    is_outside = ~is_empty & np.any(visible_sides <= SMALLEST_SIDE, axis=1)
    is_over_edge = (corners < -EDGE_TOLERANCE) | (corners + sides > limits + EDGE_TOLERANCE)  # (A, 2), in x and in y
    is_partly_outside = ~is_empty & ~is_outside & np.any(is_over_edge, axis=1)
    # An axis along which the box stays inside keeps its numbers to the last digit.
    clipped_corners = np.where(is_over_edge, visible_corners, corners)
    clipped_sides = np.where(is_over_edge, visible_sides, sides)
    return _ClippedBoxes(np.hstack([clipped_corners, clipped_sides]), is_empty, is_outside, is_partly_outside)


class Repairs(NamedTuple):
    """What can be repaired without a question, of a dictionary without problems."""

    kinds: dict[str, np.ndarray]
    """What is done, in words -> (A,) bool: to which annotations; only what concerns at least one."""
    boxes: np.ndarray
    """(A, 4) cut off at the edges of their images."""

    @property
    def is_dropped(self) -> np.ndarray:
        """(A,) bool."""
        dropping = [is_concerned for kind, is_concerned in self.kinds.items() if kind in DROPPING]
        return np.any([np.zeros(len(self.boxes), dtype=bool), *dropping], axis=0)


def find_repairs(content: Entry) -> Repairs:
    """
    Args:
        content: COCO's dictionary, of which no entry has a problem.
    """
    annotations = content["annotations"]
    image_sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    boxes, is_empty, is_outside, is_partly_outside = _clip_boxes(annotations, image_sizes)
    has_box = ~is_empty & ~is_outside
    has_no_polygon = [lacks_polygon(annotation.get("segmentation")) for annotation in annotations]
    lacks_shape = has_box & np.array(has_no_polygon, dtype=bool)
    is_kept = has_box & ~lacks_shape
    lacks = {
        key: is_kept & np.array([annotation.get(key) is None for annotation in annotations], dtype=bool)
        for key in ("area", "iscrowd", "id")
    }
    has_id_0 = is_kept & np.array([annotation.get("id") == 0 for annotation in annotations], dtype=bool)
    kinds = {
        EMPTY: is_empty,
        OUTSIDE: is_outside,
        PARTLY_OUTSIDE: is_kept & is_partly_outside,
        NO_POLYGON: lacks_shape,
        NO_AREA: lacks["area"],
        NO_CROWD: lacks["iscrowd"],
        NO_ID: lacks["id"],
        ID_0: has_id_0,
    }
    return Repairs({kind: is_concerned for kind, is_concerned in kinds.items() if is_concerned.any()}, boxes)


def apply_repairs(content: Entry, repairs: Repairs) -> None:
    """Change the annotations of a dictionary, in place."""
    annotations = content["annotations"]
    concerned = {kind: np.flatnonzero(is_concerned) for kind, is_concerned in repairs.kinds.items()}
    for position in concerned.get(PARTLY_OUTSIDE, ()):
        annotations[position]["bbox"] = repairs.boxes[position].tolist()
    for position in concerned.get(NO_AREA, ()):
        annotations[position]["area"] = float(repairs.boxes[position, 2] * repairs.boxes[position, 3])
    for position in concerned.get(NO_CROWD, ()):
        annotations[position]["iscrowd"] = 0
    new_ids = count(1 + max([0, *(annotation.get("id") or 0 for annotation in annotations)]))
    for position in sorted([*concerned.get(NO_ID, ()), *concerned.get(ID_0, ())]):
        annotations[position]["id"] = next(new_ids)
    content["annotations"] = [annotations[position] for position in np.flatnonzero(~repairs.is_dropped)]


def _log(repairs: Repairs, annotations: list[Entry], json_file: Path) -> None:
    for kind, is_concerned in repairs.kinds.items():
        names = [_name(annotations, position) for position in np.flatnonzero(is_concerned)[: MAX_EXAMPLES + 1]]
        logger.warning("%s: %s: %d, first %s", json_file, kind, is_concerned.sum(), _some(names))


def load_annotations(json_file: Path, images: Path | None = None) -> CheckedAnnotations:
    """Reads a COCO json, stops on what is wrong, repairs what can be repaired without a question.

    Dropped: boxes of zero size, boxes wholly outside their image, and annotations that Detectron2 would leave out
    because none of their polygons has three points. Clipped: boxes partly outside; their `area`, which may be that of
    a mask, stays. Filled in: missing `area`, `iscrowd` and annotation `id`. Replaced: the annotation id 0. Each kind is
    logged as one warning. An image may have no annotations, a category neither.

    Args:
        json_file: in COCO's instances format; never written to.
        images: the folder that the `file_name`s are relative to; None checks everything but the files' presence.

    Raises:
        UserError: names json, image id and annotation id or key, and says what to do, for the first ten of: ids that
            are missing or taken; images without file, width or height or with a file name that leaves the folder;
            unknown `image_id` or `category_id`; boxes that are not four finite numbers or have a negative size;
            an invalid `area`, `iscrowd`, `segmentation` or `keypoints`. Or for a json that cannot be read or lacks a
            list.
    """
    if images is not None and not images.is_dir():
        raise UserError(f"{images}: there is no such folder of images (for {json_file}); correct the path")
    content = read_json(json_file)
    # Ids first: everything else refers to them.
    _stop_on([problem.text for key in LISTS for _, problem in id_problems(key, content[key])], json_file)
    _stop_on([*_findings(content, images)], json_file)
    repairs = find_repairs(content)
    _log(repairs, content["annotations"], json_file)
    apply_repairs(content, repairs)
    return CheckedAnnotations(content, {kind: int(is_concerned.sum()) for kind, is_concerned in repairs.kinds.items()})
