"""What every entry of a json in COCO's instances format must be: what is wrong with one, and what to do.

Loading for training and the check of a whole data set go by the same rules.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from reprlib import repr as short_repr
from typing import Any, NamedTuple

from .outlines import LARGEST_NUMBER, are_numbers, keypoints_problem, segmentation_problem

LISTS = ("categories", "images", "annotations")
# Below it, a number from 1 up can be added and the sum still has 64 bits, as tensors of ids need.
LARGEST_ID = 1 << 62
LONGEST_FILE_NAME = 4096  # with its folders, on Linux

Entry = dict[str, Any]


class Problem(NamedTuple):
    """What only the user can settle."""

    kind: str
    """In two or three words, the same for all such problems."""
    text: str
    """What is wrong; what to do."""


def id_problems(key: str, entries: Collection[Any]) -> Iterator[tuple[int, Problem]]:
    """Positions in a list of the json whose entries are no objects, or have no id of their own. The text names the
    position."""
    seen = set()
    for position, entry in enumerate(entries):
        place = f"{key}[{position}]"
        if not isinstance(entry, dict):
            yield position, Problem("no object", f"{place} is {short_repr(entry)}, not an object; correct or delete it")
            continue
        entry_id = entry.get("id")
        if entry_id is None and key == "annotations":
            continue
        if type(entry_id) is not int:
            text = f"{place}: id {short_repr(entry_id)} is not a whole number; give it one"
            yield position, Problem("wrong id", text)
        elif abs(entry_id) >= LARGEST_ID:
            yield (
                position,
                Problem("wrong id", f"{place}: id {short_repr(entry_id)} is too large; give it a smaller one"),
            )
        elif entry_id in seen:
            text = f"{place}: id {entry_id} is taken by an earlier entry; give each its own id"
            yield position, Problem("duplicate id", text)
        else:
            seen.add(entry_id)


def category_problems(category: Entry) -> Iterator[Problem]:
    name, keypoints = category.get("name"), category.get("keypoints") or []
    if not _is_text(name):
        yield Problem("wrong category", f"name {short_repr(name)} is no text; name the class")
    if not isinstance(keypoints, list) or not all(map(_is_text, keypoints)):
        yield Problem("wrong category", f"keypoints {short_repr(keypoints)} is no list of names; correct it")


def file_name_problem(image: Entry) -> Problem | None:
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name or "\0" in file_name:
        return Problem("wrong file name", f"file_name {short_repr(file_name)} is no text; name the picture's file")
    if len(file_name) > LONGEST_FILE_NAME:
        return Problem("wrong file name", f"file_name {short_repr(file_name)} is too long for a file; correct it")
    if os.path.isabs(file_name) or os.path.normpath(file_name).split(os.sep)[0] == os.pardir:
        text = f"file_name {file_name!r} leaves the folder of the images; make it relative to that folder"
        return Problem("file outside the folder", text)
    return None


def image_problems(image: Entry) -> Iterator[Problem]:
    if problem := file_name_problem(image):
        yield problem
    for key in ("width", "height"):
        pixels = image.get(key)
        if not _is_side(pixels):
            text = f"{key} {short_repr(pixels)} is not a whole number of pixels above 0; write the picture's own"
            yield Problem("wrong image size", text)


def annotation_problems(
    annotation: Entry, images: Mapping[int, Entry], categories: Mapping[int, Entry]
) -> Iterator[Problem]:
    """
    Args:
        annotation: any object.
        images, categories: by id; they may have problems of their own.
    """
    image_id, category_id, bbox = annotation.get("image_id"), annotation.get("category_id"), annotation.get("bbox")
    image = images.get(image_id) if type(image_id) is int else None
    category = categories.get(category_id) if type(category_id) is int else None
    if image is None:
        text = f"image_id {short_repr(image_id)} is not the id of an image; correct it, add the image or delete this"
        yield Problem("unknown image", text)
    if category is None:
        text = f"category_id {short_repr(category_id)} is not the id of a category; correct it or add the category"
        yield Problem("unknown category", text)
    if not isinstance(bbox, list) or len(bbox) != 4 or not are_numbers(bbox):
        yield Problem(
            "wrong box",
            f"bbox {short_repr(bbox)} is not x, y, width, height as four finite numbers below {LARGEST_NUMBER:.0e}; "
            "correct or delete it",
        )
    elif bbox[2] < 0 or bbox[3] < 0:
        text = f"bbox {bbox} has a negative size; write x, y, width, height (not two corners) or delete it"
        yield Problem("degenerate box", text)
    area, is_crowd = annotation.get("area"), annotation.get("iscrowd")
    if area is not None and not (are_numbers([area]) and area >= 0):
        text = f"area {short_repr(area)} is not a finite number of pixels from 0 up; correct or delete this key"
        yield Problem("wrong area", text)
    if is_crowd not in (None, 0, 1):
        text = f"iscrowd {short_repr(is_crowd)} is neither 0 nor 1; correct or delete this key"
        yield Problem("wrong iscrowd", text)
    if annotation.get("ignore", 0) != 0:
        text = "Detectron2 does not know the key ignore; delete it (regions to be ignored have iscrowd 1)"
        yield Problem("ignore", text)
    if problem := segmentation_problem(annotation.get("segmentation"), _size(image or {})):
        yield Problem("wrong segmentation", problem)
    if problem := keypoints_problem(annotation.get("keypoints"), _keypoint_names(category or {})):
        yield Problem("wrong keypoints", problem)


def _is_text(value: object) -> bool:
    """Whether it can be written to a log: half of one of UTF-16's pairs cannot."""
    return isinstance(value, str) and bool(value) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_side(pixels: object) -> bool:
    return type(pixels) is int and 0 < pixels < LARGEST_NUMBER


def _size(image: Entry) -> tuple[int, int] | None:
    """Height and width; None, if the image does not say them."""
    height, width = image.get("height"), image.get("width")
    return (height, width) if _is_side(height) and _is_side(width) else None  # type: ignore[return-value]


def _keypoint_names(category: Entry) -> list[str]:
    names = category.get("keypoints")
    return names if isinstance(names, list) else []
