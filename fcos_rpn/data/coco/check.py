"""Checks all of a json in COCO's instances format: by the rules of loading, and for what is allowed but seldom meant.

Unlike `load_annotations`, it goes on after the first mistakes, without the entries that they concern.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ..datasets import class_differences
from .annotations import EMPTY, NO_POLYGON, OUTSIDE, PARTLY_OUTSIDE, Repairs, apply_repairs, find_repairs, read_json
from .findings import Finding, annotation_place, image_place
from .rules import LISTS, Entry, annotation_problems, category_problems, file_name_problem, id_problems, image_problems

BOX_ERRORS = {
    EMPTY: ("degenerate box", "bbox {bbox} has zero size; training drops it: correct or delete it"),
    OUTSIDE: ("box outside", "bbox {bbox} is wholly outside the image; training drops it: correct or delete it"),
    PARTLY_OUTSIDE: ("box outside", "bbox {bbox} is partly outside the image; training cuts it off: correct it"),
    NO_POLYGON: ("wrong segmentation", "no polygon of segmentation has three points; training drops all of the "
                 "annotation: correct or delete this key"),
}  # fmt: skip
"""Repairs of training that hardly give what was meant -> kind and text of the finding. The others are counted only."""


class CheckedJson(NamedTuple):
    """What a json says, right or wrong."""

    findings: list[Finding]
    images: list[Entry]
    """Those with an id of their own and a file name within the folder; their sizes may be wrong."""
    content: Entry
    """COCO's dictionary of what has no error, after the repairs of training."""
    places: dict[int, str]
    """Id of an annotation of `content` -> what findings call it."""


def check_json(json_file: Path) -> CheckedJson:
    """
    Args:
        json_file: of any content; no other file is looked at.
    """
    try:
        content = read_json(json_file)
    except UserError as error:
        text = str(error).removeprefix(f"{json_file}: ")
        return CheckedJson([Finding("error", "wrong json", str(json_file), text)], [], {key: [] for key in LISTS}, {})

    findings = []
    numbered: dict[str, dict[int, Entry]] = {}  # position -> entry
    for key in LISTS:
        problems = dict(id_problems(key, content[key]))
        findings += [Finding("error", kind, str(json_file), text) for kind, text in problems.values()]
        numbered[key] = {position: entry for position, entry in enumerate(content[key]) if position not in problems}
    categories, images = ({entry["id"]: entry for entry in numbered[key].values()} for key in LISTS[:2])
    category_findings = {category_id: [*_of_category(category)] for category_id, category in categories.items()}
    image_findings = {image_id: [*_of_image(image)] for image_id, image in images.items()}
    findings += [finding for found in (*category_findings.values(), *image_findings.values()) for finding in found]

    right = {
        "categories": [category for category_id, category in categories.items() if not category_findings[category_id]],
        "images": [image for image_id, image in images.items() if not image_findings[image_id]],
    }
    found, places, right["annotations"] = _check_annotations(numbered["annotations"], images, categories, right)
    findings += found
    repairs = find_repairs(right)
    findings += _repaired(repairs, right["annotations"], places, json_file)
    apply_repairs(right, repairs)
    findings += _unused(right, json_file)
    kept_places = [place for place, is_dropped in zip(places, repairs.is_dropped, strict=True) if not is_dropped]
    return CheckedJson(
        findings,
        [image for image in images.values() if not file_name_problem(image)],
        right,
        dict(zip((annotation["id"] for annotation in right["annotations"]), kept_places, strict=True)),
    )


def compare_classes(train: CheckedJson, val: CheckedJson) -> Iterator[Finding]:
    """Where the categories of two sets differ: training does not start with such sets."""
    train_classes, val_classes = (
        [category["name"] for category in sorted(checked.content["categories"], key=lambda category: category["id"])]
        for checked in (train, val)
    )
    differences = class_differences("train", train_classes, "val", val_classes)
    if differences and train_classes and val_classes:
        text = f"{differences}; give both json files the same categories in the same order of ids"
        yield Finding("warning", "different categories", "categories", text)


def _check_annotations(
    annotations: Mapping[int, Entry],
    images: Mapping[int, Entry],
    categories: Mapping[int, Entry],
    right: Mapping[str, Sequence[Entry]],
) -> tuple[list[Finding], list[str], list[Entry]]:
    """
    Args:
        annotations: by their position in the json.
        images, categories: by id.
        right: the images and categories that have no error.

    Returns:
        Findings; the annotations that have none and hang on nothing wrong, and before them what these are called.
    """
    right_images, right_categories = ({entry["id"] for entry in right[key]} for key in ("images", "categories"))
    findings, places, sound = [], [], []
    first_places: dict[tuple[object, ...], str] = {}  # by all that makes a box another one
    for position, annotation in annotations.items():
        place = annotation_place(annotation, position, images)
        problems = [*annotation_problems(annotation, images, categories)]
        findings += [_about(annotation, place, kind, text) for kind, text in problems]
        if problems or annotation["image_id"] not in right_images or annotation["category_id"] not in right_categories:
            continue
        key = (annotation["image_id"], annotation["category_id"], *annotation["bbox"])
        first_place = first_places.setdefault(key, place)
        if first_place is not place:
            text = f"the same box and category as {first_place}; delete one of them"
            findings.append(_about(annotation, place, "duplicate box", text))
            continue
        places.append(place)
        sound.append(annotation)
    return findings, places, sound


def _of_category(category: Entry) -> Iterator[Finding]:
    for kind, text in category_problems(category):
        yield Finding("error", kind, f"category {category['id']}", text)


def _of_image(image: Entry) -> Iterator[Finding]:
    for kind, text in image_problems(image):
        yield Finding("error", kind, image_place(image), text, image["id"])


def _about(annotation: Entry, place: str, kind: str, text: str) -> Finding:
    image_id = annotation.get("image_id")
    return Finding("error", kind, place, text, image_id if type(image_id) is int else None, annotation.get("id"))


def _repaired(
    repairs: Repairs, annotations: Sequence[Entry], places: Sequence[str], json_file: Path
) -> Iterator[Finding]:
    for repair, is_concerned in repairs.kinds.items():
        concerned = np.flatnonzero(is_concerned).tolist()
        if repair not in BOX_ERRORS:
            text = f"training repairs: {repair}: {len(concerned)}, first {places[concerned[0]]}"
            yield Finding("warning", "repaired in training", str(json_file), text)
            continue
        kind, text = BOX_ERRORS[repair]
        for position in concerned:
            annotation = annotations[position]
            yield _about(annotation, places[position], kind, text.format(bbox=annotation["bbox"]))


def _unused(content: Mapping[str, list[Entry]], json_file: Path) -> Iterator[Finding]:
    """Classes and images that train without a box."""
    boxes = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]]
    classes = Counter(box["category_id"] for box in boxes)
    for category in content["categories"]:
        if not classes[category["id"]]:
            place = f"category {category['id']} ({category['name']})"
            yield Finding("warning", "class without boxes", place, "no boxes; nothing can be learned of this class")
    images = {image["id"] for image in content["images"]}
    empty = images - {box["image_id"] for box in boxes}
    if empty:
        text = f"{len(empty)} of {len(images)} images have no boxes, first image {min(empty)}; they train as background"
        yield Finding("warning", "images without boxes", str(json_file), text)
