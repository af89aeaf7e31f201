"""What every entry of a json in COCO's instances format must be: what is wrong with one, and what to do.

Training and the check of a whole data set go by these rules. Ids are names: those of images may be numbers or text.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from reprlib import repr as short_repr
from typing import Any, NamedTuple

from .outlines import LARGEST_NUMBER, are_numbers

LISTS = ("categories", "images", "annotations")
OUTSIDE_FOLDER = "file outside the folder"
# Evaluation passes ids through arrays of doubles, which hold every whole number below this one.
LARGEST_ID = 1 << 53
LONGEST_FILE_NAME = 4096  # with its folders, on Linux
# Key -> what tools call it, in lower case and without underscores.
OTHER_NAMES = {
    "file_name": ("filename", "file", "path", "imagepath", "image", "img", "cocourl", "flickrurl", "url"),
    "image_id": ("imageid", "imgid", "image"),
    "category_id": ("categoryid", "catid", "classid", "labelid", "category", "class", "label"),
    "bbox": ("box", "bndbox", "boundingbox", "boundingboxes", "rect"),
    "name": ("categoryname", "classname", "label", "title"),
    "width": ("w", "imagewidth"),
    "height": ("h", "imageheight"),
}

Entry = dict[str, Any]


class Problem(NamedTuple):
    """What only the user can settle."""

    kind: str
    """In two or three words, the same for all such problems."""
    text: str
    """What is wrong; what to do."""
    is_shared: bool = False
    """The text is the same for all entries with this problem, which are then counted in one line."""


def similar_key(entry: Mapping[str, Any], key: str) -> str | None:
    """The key of an entry that stands in another's place, such as `imageId`; None if there is none."""
    if key in entry:
        return None
    plain = {str(name).lower().replace("_", "").replace("-", "").replace(" ", ""): str(name) for name in entry}
    for name in (key.replace("_", ""), *OTHER_NAMES.get(key, ())):
        if name in plain:
            return plain[name]
    if key in LISTS:
        return next(iter(get_close_matches(key, [str(name) for name in entry], cutoff=0.75)), None)
    return None


def _wrong_key_or(problem: Problem, entry: Entry, key: str) -> Problem:
    """That the key is there under another name, else the problem."""
    if (similar := similar_key(entry, key)) is None:
        return problem
    return Problem("wrong key", f"the key is {similar!r}; rename it {key!r}", is_shared=True)


def plain_number(value: Any) -> Any:
    """A whole float as an integer; anything else as it is."""
    return int(value) if type(value) is float and value.is_integer() else value


def is_name(image_id: object) -> bool:
    """Whether an image can be called so."""
    return type(image_id) is int or is_text(image_id)


def id_problem(key: str, entry: Any) -> Problem | None:
    """What keeps an entry of the list `key` from having an id."""
    if not isinstance(entry, dict):
        return Problem("no object", f"is {short_repr(entry)}, not an object; correct or delete it")
    entry_id = entry.get("id")
    if key == "images" and not is_name(entry_id):
        return Problem("wrong id", f"id {short_repr(entry_id)} is neither a whole number nor text; give it one")
    if key == "categories" and type(entry_id) is not int:
        return Problem("wrong id", f"id {short_repr(entry_id)} is not a whole number; give it one, as category_id, too")
    return None


def category_problems(category: Entry) -> Iterator[Problem]:
    name, keypoints = category.get("name"), category.get("keypoints") or []
    if not is_text(name):
        problem = Problem("wrong category", f"name {short_repr(name)} is no text; name the class")
        yield _wrong_key_or(problem, category, "name")
    if not isinstance(keypoints, list) or not all(map(is_text, keypoints)):
        yield Problem("wrong category", f"keypoints {short_repr(keypoints)} is no list of names; correct it")


def file_name_problem(image: Entry, folder: str | None) -> Problem | None:
    """What is wrong with the file name of an image, in an absolute folder; without one, any absolute name passes."""
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name or "\0" in file_name:
        text = f"file_name {short_repr(file_name)} is no text; name the picture's file"
        return _wrong_key_or(Problem("wrong file name", text, is_shared=True), image, "file_name")
    if len(file_name) > LONGEST_FILE_NAME:
        return Problem("wrong file name", f"file_name {short_repr(file_name)} is too long for a file; correct it")
    if os.path.isabs(file_name) and folder is None:
        return None
    roots = {folder, os.path.realpath(folder)} if folder else {os.path.abspath(os.curdir)}
    paths = [os.path.normpath(os.path.join(root, file_name)) for root in roots]
    if not any(os.path.commonpath([path, root]) == root for path in paths for root in roots):
        text = f"file_name {file_name!r} leaves the folder of the images; make it relative to that folder"
        return Problem(OUTSIDE_FOLDER, text)
    return None


def size_problems(image: Entry) -> Iterator[Problem]:
    for key in ("width", "height"):
        pixels = image.get(key)
        if type(pixels) is not int or not 0 < pixels < LARGEST_NUMBER:
            text = f"{key} {short_repr(pixels)} is not a whole number of pixels above 0; write the picture's own"
            yield _wrong_key_or(Problem("wrong image size", text, is_shared=True), image, key)


def annotation_problems(
    annotation: Entry, images: Mapping[Any, Entry], categories: Mapping[int, Entry]
) -> Iterator[Problem]:
    """What is wrong with an annotation, among images and categories by id that may have problems of their own."""
    image_id, category_id, bbox = annotation.get("image_id"), annotation.get("category_id"), annotation.get("bbox")
    if not is_name(image_id) or image_id not in images:
        yield _wrong_key_or(_unknown_image(image_id, images), annotation, "image_id")
    if type(category_id) is not int or category_id not in categories:
        text = f"category_id {short_repr(category_id)} is not the id of a category; correct it or add the category"
        if isinstance(category_id, str):
            text = "category_id is text, and the ids of categories are numbers; write both as numbers"
        yield _wrong_key_or(Problem("unknown category", text, is_shared=True), annotation, "category_id")
    if not (bbox == [] or (bbox is None and similar_key(annotation, "bbox") is None)):
        yield from (_wrong_key_or(problem, annotation, "bbox") for problem in _box_problems(bbox))
    for key in ("iscrowd", "ignore"):
        if (value := annotation.get(key)) not in (None, 0, 1):
            text = f"{key} {short_repr(value)} is neither 0 nor 1; correct or delete this key"
            yield Problem(f"wrong {key}", text, is_shared=True)


def _unknown_image(image_id: Any, images: Mapping[Any, Entry]) -> Problem:
    types = {type(known) for known in images}
    if type(image_id) in (int, str) and len(types) == 1 and type(image_id) not in types:
        own, others = ("text", "numbers") if isinstance(image_id, str) else ("a number", "text")
        text = f"image_id is {own}, and the ids of images are {others}; write both alike"
        return Problem("unknown image", text, is_shared=True)
    text = f"image_id {short_repr(image_id)} is not the id of an image; correct it, add the image or delete this"
    return Problem("unknown image", text)


def _box_problems(bbox: Any) -> Iterator[Problem]:
    is_list = isinstance(bbox, list) and len(bbox) == 4
    if not is_list or not {*map(type, bbox)} <= {int, float}:
        hint = "write x, y, width, height in pixels, or delete it"
        if is_list and all(isinstance(side, str) for side in bbox):
            hint = "its numbers are text; write them without quotes"
        yield Problem("wrong box", f"bbox {short_repr(bbox)} is not x, y, width, height as four numbers; {hint}")
    elif min(bbox[2:]) < 0 and are_numbers(bbox):
        text = f"bbox {bbox} has a negative size; write x, y, width, height (not two corners) or delete it"
        yield Problem("degenerate box", text)


def is_text(value: object) -> bool:
    """Whether it can be written to a log: half of one of UTF-16's pairs cannot."""
    return isinstance(value, str) and bool(value) and not any("\ud800" <= character <= "\udfff" for character in value)


def keypoint_names(category: Entry) -> Collection[str]:
    names = category.get("keypoints")
    return names if isinstance(names, list) else []
