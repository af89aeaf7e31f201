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
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError

logger = logging.getLogger(__name__)

LISTS = ("categories", "images", "annotations")
MAX_FINDINGS = 10
MAX_EXAMPLES = 3
LARGEST_NUMBER = 1e12  # of pixels; below it x + width and width * height are finite in float32, too
# COCO's boxes are rounded to 0.01 pixels, so that x + width may pass the edge of the image by twice the half of that.
EDGE_TOLERANCE = 0.02
# Detectron2 drops boxes with a smaller side from training, and says nothing.
SMALLEST_SIDE = 1e-5

Entry = dict[str, Any]


class CheckedAnnotations(NamedTuple):
    """A COCO dictionary that can be trained and evaluated on."""

    content: Entry  # COCO's dictionary after the repairs
    repairs: dict[str, int]  # what was repaired, in words -> how many annotations

    @property
    def is_changed(self) -> bool:
        return bool(self.repairs)


def _read(json_file: Path) -> Entry:
    try:
        with open(json_file, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise UserError(f"{json_file}: cannot be read ({error.strerror}); give the path of a COCO json") from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, an integer of thousands of digits
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


def _id_findings(key: str, entries: list[Any]) -> Iterator[str]:
    seen = set()
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            yield f"{key}[{position}] is {short_repr(entry)}, not an object; correct or delete it"
            continue
        entry_id = entry.get("id")
        if entry_id is None and key == "annotations":
            continue
        if type(entry_id) is not int:
            yield f"{key}[{position}]: id {short_repr(entry_id)} is not a whole number; give it one"
        elif entry_id in seen:
            yield f"{key}[{position}]: id {entry_id} is taken by an earlier entry; give each its own id"
        else:
            seen.add(entry_id)


def _category_findings(categories: list[Entry]) -> Iterator[str]:
    for category in categories:
        name, keypoints = category.get("name"), category.get("keypoints") or []
        if not isinstance(name, str) or not name:
            yield f"category {category['id']}: name {short_repr(name)} is no text; name the class"
        if not isinstance(keypoints, list) or not all(isinstance(keypoint, str) for keypoint in keypoints):
            yield f"category {category['id']}: keypoints {short_repr(keypoints)} is no list of names; correct it"


def _image_problem(image: Entry) -> str | None:
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name:
        return f"file_name {short_repr(file_name)} is no text; name the picture's file"
    if os.path.isabs(file_name) or os.path.normpath(file_name).split(os.sep)[0] == os.pardir:
        return f"file_name {file_name!r} leaves the folder of the images; make it relative to that folder"
    for key in ("width", "height"):
        pixels = image.get(key)
        if type(pixels) is not int or not 0 < pixels < LARGEST_NUMBER:
            return f"{key} {short_repr(pixels)} is not a whole number of pixels above 0; write the picture's own"
    return None


def _image_findings(images: list[Entry], folder: Path | None) -> Iterator[str]:
    missing = []
    for image in images:
        if problem := _image_problem(image):
            yield f"image {image['id']}: {problem}"
        elif folder is not None and not os.path.isfile(os.path.join(folder, image["file_name"])):
            missing.append(f"{image['file_name']!r} (image {image['id']})")
    if missing:
        yield (
            f"{len(missing)} of {len(images)} image files are not in {folder}: {_some(missing)}; correct the folder, "
            "add the files or delete these images from the json"
        )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST_NUMBER  # type: ignore[arg-type]


def _annotation_problem(annotation: Entry, image_ids: set[int], category_ids: set[int]) -> str | None:
    image_id, category_id, bbox = annotation.get("image_id"), annotation.get("category_id"), annotation.get("bbox")
    if type(image_id) is not int or image_id not in image_ids:
        return f"image_id {short_repr(image_id)} is not the id of an image; correct it, add the image or delete this"
    if type(category_id) is not int or category_id not in category_ids:
        return f"category_id {short_repr(category_id)} is not the id of a category; correct it or add the category"
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        return (
            f"bbox {short_repr(bbox)} is not x, y, width, height as four finite numbers below {LARGEST_NUMBER:.0e}; "
            "correct or delete it"
        )
    if bbox[2] < 0 or bbox[3] < 0:
        return f"bbox {bbox} has a negative size; write x, y, width, height (not two corners) or delete it"
    area, is_crowd = annotation.get("area"), annotation.get("iscrowd")
    if area is not None and not (_is_number(area) and area >= 0):
        return f"area {short_repr(area)} is not a finite number of pixels from 0 up; correct or delete this key"
    if is_crowd not in (None, 0, 1):
        return f"iscrowd {short_repr(is_crowd)} is neither 0 nor 1; correct or delete this key"
    if annotation.get("ignore", 0) != 0:
        return "Detectron2 does not know the key ignore; delete it (regions to be ignored have iscrowd 1)"
    return None


def _annotation_findings(annotations: list[Entry], image_ids: set[int], category_ids: set[int]) -> Iterator[str]:
    for position, annotation in enumerate(annotations):
        if problem := _annotation_problem(annotation, image_ids, category_ids):
            yield f"{_name(annotations, position)}: {problem}"


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


def _repair(content: Entry, json_file: Path) -> dict[str, int]:
    """Repairs the annotations of a dictionary without findings, in place; returns and logs what and how often."""
    annotations = content["annotations"]
    image_sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    boxes, is_empty, is_outside, is_partly_outside = _clip_boxes(annotations, image_sizes)
    is_kept = ~is_empty & ~is_outside
    lacks = {
        key: is_kept & np.array([annotation.get(key) is None for annotation in annotations], dtype=bool)
        for key in ("area", "iscrowd", "id")
    }
    has_id_0 = is_kept & np.array([annotation.get("id") == 0 for annotation in annotations], dtype=bool)
    kinds = {
        "boxes of zero size dropped": is_empty,
        "boxes wholly outside their image dropped": is_outside,
        "boxes partly outside their image clipped": is_partly_outside,
        "missing areas filled in (width * height)": lacks["area"],
        "missing iscrowd filled in (0)": lacks["iscrowd"],
        "missing annotation ids filled in": lacks["id"],
        "annotation id 0 replaced (pycocotools takes it for 'not matched')": has_id_0,
    }
    repairs = {kind: int(is_concerned.sum()) for kind, is_concerned in kinds.items() if is_concerned.any()}
    for kind, number in repairs.items():
        names = [_name(annotations, position) for position in np.flatnonzero(kinds[kind])[: MAX_EXAMPLES + 1]]
        logger.warning("%s: %s: %d, first %s", json_file, kind, number, _some(names))

    for position in np.flatnonzero(is_partly_outside):
        annotations[position]["bbox"] = boxes[position].tolist()
    for position in np.flatnonzero(lacks["area"]):
        annotations[position]["area"] = float(boxes[position, 2] * boxes[position, 3])
    for position in np.flatnonzero(lacks["iscrowd"]):
        annotations[position]["iscrowd"] = 0
    new_ids = count(1 + max([0, *(annotation.get("id") or 0 for annotation in annotations)]))
    for position in np.flatnonzero(lacks["id"] | has_id_0):
        annotations[position]["id"] = next(new_ids)
    content["annotations"] = [annotations[position] for position in np.flatnonzero(is_kept)]
    return repairs


def load_annotations(json_file: Path, images: Path | None = None) -> CheckedAnnotations:
    """Reads a COCO json, stops on what is wrong, repairs what can be repaired without a question.

    Dropped: boxes of zero size and boxes wholly outside their image. Clipped: boxes partly outside; their `area`, which
    may be that of a mask, stays. Filled in: missing `area`, `iscrowd` and annotation `id`. Replaced: the annotation id
    0. Each kind is logged as one warning. An image may have no annotations, a category neither.

    Args:
        json_file: in COCO's instances format; never written to.
        images: the folder that the `file_name`s are relative to; None checks everything but the files' presence.

    Raises:
        UserError: names json, image id and annotation id or key, and says what to do, for the first ten of: ids that
            are missing or taken; images without file, width or height or with a file name that leaves the folder;
            unknown `image_id` or `category_id`; boxes that are not four finite numbers or have a negative size;
            an invalid `area` or `iscrowd`. Or for a json that cannot be read or lacks a list.
    """
    if images is not None and not images.is_dir():
        raise UserError(f"{images}: there is no such folder of images (for {json_file}); correct the path")
    content = _read(json_file)
    # Ids first: everything else refers to them.
    _stop_on([finding for key in LISTS for finding in _id_findings(key, content[key])], json_file)
    image_ids, category_ids = ({entry["id"] for entry in content[key]} for key in ("images", "categories"))
    findings = [
        *_category_findings(content["categories"]),
        *_image_findings(content["images"], images),
        *_annotation_findings(content["annotations"], image_ids, category_ids),
    ]
    _stop_on(findings, json_file)
    return CheckedAnnotations(content, _repair(content, json_file))
