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


def _missing(entry: Entry, key: str) -> Iterator[Problem]:
    """One problem, if the key is there under another name."""
    if (similar := similar_key(entry, key)) is not None:
        yield Problem("wrong key", f"the key is {similar!r}; rename it {key!r}", is_shared=True)


def plain_number(value: Any) -> Any:
    """A whole float as an integer; anything else as it is."""
    return int(value) if type(value) is float and value.is_integer() else value


def is_name(image_id: object) -> bool:
    """Whether an image can be called so."""
    return type(image_id) is int or is_text(image_id)


def id_problem(key: str, entry: Any) -> Problem | None:
    """Of an image or a category."""
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
        renamed = [*_missing(category, "name")]
        yield from renamed or [Problem("wrong category", f"name {short_repr(name)} is no text; name the class")]
    if not isinstance(keypoints, list) or not all(map(is_text, keypoints)):
        yield Problem("wrong category", f"keypoints {short_repr(keypoints)} is no list of names; correct it")


def file_name_problem(image: Entry, folder: str | None) -> Problem | None:
    """
    Args:
        folder: of the images, absolute, which an absolute name may lead into; None accepts any absolute one.
    """
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name or "\0" in file_name:
        text = f"file_name {short_repr(file_name)} is no text; name the picture's file"
        return next(_missing(image, "file_name"), Problem("wrong file name", text, is_shared=True))
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
        if is_side(pixels):
            continue
        text = f"{key} {short_repr(pixels)} is not a whole number of pixels above 0; write the picture's own"
        renamed = [*_missing(image, key)]
        yield from renamed or [Problem("wrong image size", text, is_shared=True)]


def annotation_problems(
    annotation: Entry, images: Mapping[Any, Entry], categories: Mapping[int, Entry]
) -> Iterator[Problem]:
    """
    Args:
        annotation: any object.
        images, categories: by id; they may have problems of their own.
    """
    image_id, category_id, bbox = annotation.get("image_id"), annotation.get("category_id"), annotation.get("bbox")
    if not is_name(image_id) or image_id not in images:
        yield from [*_missing(annotation, "image_id")] or [_unknown_image(image_id, images)]
    if type(category_id) is not int or category_id not in categories:
        text = f"category_id {short_repr(category_id)} is not the id of a category; correct it or add the category"
        if isinstance(category_id, str):
            text = "category_id is text, and the ids of categories are numbers; write both as numbers"
        yield from [*_missing(annotation, "category_id")] or [Problem("unknown category", text, is_shared=True)]
    if bbox is None and similar_key(annotation, "bbox"):
        yield from _missing(annotation, "bbox")
    elif not (bbox is None or bbox == []):
        yield from _box_problems(bbox)
    is_crowd, ignored = annotation.get("iscrowd"), annotation.get("ignore")
    if is_crowd not in (None, 0, 1):
        text = f"iscrowd {short_repr(is_crowd)} is neither 0 nor 1; correct or delete this key"
        yield Problem("wrong iscrowd", text, is_shared=True)
    if ignored not in (None, 0, 1):
        text = f"ignore {short_repr(ignored)} is neither 0 nor 1; correct or delete this key"
        yield Problem("wrong ignore", text, is_shared=True)


def _unknown_image(image_id: Any, images: Mapping[Any, Entry]) -> Problem:
    text = f"image_id {short_repr(image_id)} is not the id of an image; correct it, add the image or delete this"
    types = {type(known) for known in images}
    if isinstance(image_id, str) and types == {int}:
        text = "image_id is text, and the ids of images are numbers; write both alike"
    elif type(image_id) is int and types == {str}:
        text = "image_id is a number, and the ids of images are text; write both alike"
    else:
        return Problem("unknown image", text)
    return Problem("unknown image", text, is_shared=True)


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


def is_side(pixels: object) -> bool:
    return type(pixels) is int and 0 < pixels < LARGEST_NUMBER


def image_size(image: Entry) -> tuple[int, int] | None:
    """Height and width; None, if the image does not say them."""
    height, width = image.get("height"), image.get("width")
    return (height, width) if is_side(height) and is_side(width) else None  # type: ignore[return-value]


def keypoint_names(category: Entry) -> Collection[str]:
    names = category.get("keypoints")
    return names if isinstance(names, list) else []
