"""Checks and repairs one json file in COCO's instances format before anything learns from it.

Training and the check of a data set share `inspect_annotations`: an error is what training refuses, a warning what it
repairs or what is allowed but seldom meant. Boxes are COCO's: x and y of the top left corner, width and height, in
pixels of the original image. Shape letter: A annotations.
"""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import UserError
from .findings import Finding, annotation_place, image_place, some
from .missing_files import missing_files
from .outlines import are_numbers, is_flat
from .reading import read_json
from .repairs import EDGE_TOLERANCE, FLAT_POLYGON, apply_repairs, find_repairs, repair_findings
from .rules import (
    LARGEST_ID,
    OUTSIDE_FOLDER,
    Entry,
    Problem,
    annotation_problems,
    category_problems,
    file_name_problem,
    id_problem,
    plain_number,
    size_problems,
)

logger = logging.getLogger(__name__)

MAX_ERRORS = 10


class CheckedAnnotations(NamedTuple):
    """What a json says, right or wrong."""

    content: Entry
    """COCO's dictionary of what has no error, after the repairs. Images have whole numbers from 0 to 2^53 as ids; where
    these are not the json's own, `original_id` is."""
    findings: list[Finding]
    repairs: dict[str, int]
    """What was repaired, in words -> how many annotations."""
    is_changed: bool
    """Whether `content` differs from what pycocotools reads from the json."""
    places: dict[int, str]
    """Id of an annotation of `content` -> what findings call it."""
    pictures: list[Entry]
    """Images whose file is there; their sizes may be wrong."""

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]


def load_annotations(
    json_file: Path, images: Path | None = None, *, with_masks: bool = False, with_keypoints: bool = False
) -> CheckedAnnotations:
    """Read a COCO json, stop on errors, repair what can be repaired without a question, and log it.

    Args:
        json_file: in COCO's instances format; never written to.
        images: the folder that the `file_name`s are relative to; None checks everything but the files' presence.
        with_masks, with_keypoints: whether the model learns them: if so, annotations without usable ones are dropped;
            if not, broken ones are ignored.

    Raises:
        UserError: names the json and what is wrong where, for the first ten errors.
    """
    checked = inspect_annotations(json_file, images, with_masks=with_masks, with_keypoints=with_keypoints)
    if errors := checked.errors:
        lines = [error.line for error in errors[:MAX_ERRORS]]
        if len(errors) > MAX_ERRORS:
            lines.append(f"and {len(errors) - MAX_ERRORS} more")
        raise UserError("\n  ".join([f"{json_file}:", *lines]))
    by_kind: dict[str, list[Finding]] = {}
    for finding in checked.findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    for kind, findings in by_kind.items():
        places = [finding.place for finding in findings]
        text = f"{kind}: {len(findings)}, first {some(places)}" if places[0] else findings[0].text
        logger.warning("%s: %s", json_file, text)
    return checked


def inspect_annotations(
    json_file: Path, images: Path | None = None, *, with_masks: bool = False, with_keypoints: bool = False
) -> CheckedAnnotations:
    """Find all that is wrong or odd in a json, and repair the rest of it; see `load_annotations`.

    Raises:
        UserError: the json cannot be read at all, or there is no folder of images.
    """
    if images is not None and not images.is_dir():
        raise UserError(f"{images}: there is no such folder of images (for {json_file}); correct the path")
    content, is_plain = read_json(json_file)
    checked = _Inspection(content, images, with_masks=with_masks, with_keypoints=with_keypoints).checked()
    return checked._replace(is_changed=checked.is_changed or not is_plain)


class _Problems:
    """Collects problems; those with a shared text become one finding."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, Problem | int], list[Finding]] = {}

    def add(self, noun: str, problem: Problem, place: str, *ids: Any) -> None:
        key = noun, problem if problem.is_shared else len(self.found)
        self.found.setdefault(key, []).append(Finding("error", problem.kind, place, problem.text, *ids))

    def findings(self) -> Iterator[Finding]:
        """Causes before what follows from them: categories and images first, and shared texts."""
        for (noun, _), findings in sorted(
            self.found.items(), key=lambda item: (item[0][0] == "annotations", isinstance(item[0][1], int))
        ):
            first = findings[0]
            if len(findings) > 1:
                text = f"{len(findings):,} {noun}: {first.text}; first {first.place}"
                yield Finding("error", first.kind, "", text)
            else:
                yield first


class _Inspection:
    """Goes through a json list by list; what hangs on something wrong is left out."""

    def __init__(self, content: Entry, folder: Path | None, *, with_masks: bool, with_keypoints: bool) -> None:
        self.content = content
        self.folder = None if folder is None else os.path.abspath(folder)
        self.with_masks = with_masks
        self.with_keypoints = with_keypoints
        self.problems = _Problems()
        self.findings: list[Finding] = []
        self.flat_polygons: list[str] = []  # places

    def checked(self) -> CheckedAnnotations:
        has_plain_numbers = _make_numbers_plain(self.content)
        categories, images = self._by_id("categories"), self._by_id("images")
        right_categories = self._right_categories(categories)
        right_images, pictures = self._right_images(images)
        has_plain_ids = _make_ids_plain(images.values())
        annotations, places = self._right_annotations(images, categories, right_images, right_categories)

        if self.flat_polygons:
            text = f"{FLAT_POLYGON}: {len(self.flat_polygons):,}, first {some(self.flat_polygons)}"
            self.findings.append(Finding("warning", FLAT_POLYGON, "", text))
        self.findings += [*_odd_boxes(annotations, images)]
        repairs = find_repairs(annotations, images, right_categories, self.with_masks, self.with_keypoints)
        self.findings += [*repair_findings(repairs, annotations, places, images)]
        kept_places = [place for place, is_dropped in zip(places, repairs.is_dropped, strict=True) if not is_dropped]
        kept = apply_repairs(annotations, repairs, [*right_categories.values()])
        for annotation in kept:
            annotation["image_id"] = images[annotation["image_id"]]["id"]
        content = self.content | {
            "categories": [*right_categories.values()],
            "images": [*right_images.values()],
            "annotations": kept,
        }
        if "annotations" not in self.content:
            del content["annotations"]
        return CheckedAnnotations(
            content=content,
            findings=sorted([*self.problems.findings(), *self.findings], key=lambda finding: finding.level),
            repairs={kind: len(positions) for kind, positions in repairs.kinds.items()}
            | ({FLAT_POLYGON: len(self.flat_polygons)} if self.flat_polygons else {}),
            is_changed=bool(self.flat_polygons or repairs.kinds) or not (has_plain_numbers and has_plain_ids),
            places=dict(zip((annotation["id"] for annotation in kept), kept_places, strict=True)),
            pictures=pictures,
        )

    def _by_id(self, key: str) -> dict[Any, Entry]:
        """The entries of a list that have an id of their own."""
        entries: dict[Any, Entry] = {}
        repeats: Counter[Any] = Counter()
        for position, entry in enumerate(self.content[key]):
            if problem := id_problem(key, entry):
                self.problems.add(key, problem, f"{key}[{position}]")
            elif (first := entries.setdefault(entry["id"], entry)) is entry:
                continue
            elif first == entry:
                repeats[entry["id"]] += 1
            else:
                text = f"id {entry['id']!r} is taken by an earlier entry; give each its own id"
                self.problems.add(key, Problem("duplicate id", text), f"{key}[{position}]")
        noun = {"categories": "category", "images": "image"}[key]
        for entry_id, number in repeats.items():
            text = f"the same {noun} is listed {number + 1} times; delete the repeats"
            self.findings.append(Finding("error", "duplicate id", f"{noun} {entry_id}", text))
        return entries

    def _right_categories(self, categories: Mapping[int, Entry]) -> dict[int, Entry]:
        right = {}
        by_name: dict[str, list[int]] = {}
        for category_id, category in categories.items():
            problems = [*category_problems(category)]
            for problem in problems:
                self.problems.add("categories", problem, f"category {category_id}")
            if not problems:
                right[category_id] = category
                by_name.setdefault(category["name"], []).append(category_id)
        used = {
            annotation["category_id"]
            for annotation in self.content.get("annotations", [])
            if isinstance(annotation, dict) and type(annotation.get("category_id")) is int
        }
        for name, ids in by_name.items():
            if len(ids) > 1:
                self.findings.append(_equal_names(name, ids, used))
        return right

    def _right_images(self, images: Mapping[Any, Entry]) -> tuple[dict[Any, Entry], list[Entry]]:
        """The images without a problem, by the json's id, and those whose file is there."""
        right, pictures, missing = {}, [], []
        for image_id, image in images.items():
            problem = file_name_problem(image, self.folder)
            problems = [*size_problems(image)]
            if self.folder is None or (problem and problem.kind != OUTSIDE_FOLDER):
                problems += [problem] if problem else []
            elif problem is None and os.path.isfile(os.path.join(self.folder, image["file_name"])):
                pictures.append(image)
            else:
                missing.append(image)
            for found in problems:
                self.problems.add("images", found, image_place(image), image_id)
            if not problems:
                right[image_id] = image
        if self.folder is not None:
            self.findings += missing_files(missing, num_images=len(images), folder=self.folder)
        return right, pictures

    def _right_annotations(
        self,
        images: Mapping[Any, Entry],
        categories: Mapping[int, Entry],
        right_images: Mapping[Any, Entry],
        right_categories: Mapping[int, Entry],
    ) -> tuple[list[Entry], list[str]]:
        """The annotations that have no problem and hang on nothing wrong, and what findings call them."""
        right, places = [], []
        first_places: dict[tuple[object, ...], str] = {}  # by all that makes a box another one
        for position, annotation in enumerate(self.content.get("annotations", [])):
            if not isinstance(annotation, dict):
                problem = id_problem("annotations", annotation)
                assert problem is not None
                self.problems.add("annotations", problem, f"annotations[{position}]")
                continue
            image_id = annotation.get("image_id")
            image = images.get(image_id) if type(image_id) in (int, str) else None
            place = annotation_place(annotation, position, image)
            if is_flat(annotation.get("segmentation")):
                annotation["segmentation"] = [annotation["segmentation"]]
                self.flat_polygons.append(place)
            problems = [*annotation_problems(annotation, images, categories)]
            for problem in problems:
                self.problems.add("annotations", problem, place, image_id, annotation.get("id"))
            if problems or image_id not in right_images or annotation["category_id"] not in right_categories:
                continue
            right.append(annotation)
            places.append(place)
            key = (image_id, annotation["category_id"], *(annotation.get("bbox") or (position,)))
            if (first := first_places.setdefault(key, place)) is not place:
                text = f"the same box and category as {first}; delete one of them"
                ids = image_id, annotation.get("id")
                self.findings.append(Finding("warning", "duplicate boxes", place, text, *ids))
        return right, places


def _make_numbers_plain(content: Entry) -> bool:
    """Write whole floats as integers, in place; False if there were any."""
    is_plain = True
    keys = {
        "categories": ("id",),
        "images": ("id", "width", "height"),
        "annotations": ("id", "image_id", "category_id", "iscrowd"),
    }
    for name, numbers in keys.items():
        for entry in content.get(name, []):
            for key in numbers if isinstance(entry, dict) else ():
                value = entry.get(key)
                if type(value) is float or (key == "iscrowd" and type(value) is bool):
                    entry[key] = int(value) if type(value) is bool else plain_number(value)
                    is_plain = is_plain and entry[key] is value
    return is_plain


def _make_ids_plain(images: Collection[Entry]) -> bool:
    """Number images whose ids are not whole numbers from 0 to 2^53, in place; False if there were any."""
    if all(type(image["id"]) is int and 0 <= image["id"] < LARGEST_ID for image in images):
        return True
    for number, image in enumerate(images, start=1):
        image.update(id=number, original_id=image["id"])
    return False


def _equal_names(name: str, ids: Sequence[int], used: set[int]) -> Finding:
    places = f"categories {some([*map(str, ids)], 10)}"
    num_used = len(used.intersection(ids))
    if num_used > 1:
        advice = "rename all but one, or give their annotations one id and delete the others"
    else:
        advice = "delete those that no annotation has" if num_used else "delete the repeats"
    text = f"they have one name, {name!r}, and figures by class would melt together; {advice}"
    return Finding("error", "equal names", places, text)


def _odd_boxes(annotations: Sequence[Entry], images: Mapping[Any, Entry]) -> Iterator[Finding]:
    """Boxes that are all written in another way."""
    pairs = [(a["bbox"], images[a["image_id"]]) for a in annotations if a.get("bbox") and are_numbers(a["bbox"])]
    if not pairs:
        return
    boxes = np.array([box for box, _ in pairs], dtype=np.float64)
    limits = np.array([(image["width"], image["height"]) for _, image in pairs])
    ends = boxes[:, :2] + boxes[:, 2:]
    if boxes.min() >= 0 and boxes.max() <= 1 and (boxes % 1).any() and limits.min() > 1:
        text = (
            f"all {len(boxes):,} boxes lie within one pixel: are they normalised to 0..1? Multiply x and width by the "
            "image's width, y and height by its height"
        )
        yield Finding("error", "normalised boxes", "", text)
    num_outside = int((ends > limits + EDGE_TOLERANCE).any(axis=1).sum())
    if 10 * num_outside >= len(boxes) > 1 and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= limits).all():
        text = (
            f"{num_outside:,} of {len(boxes):,} boxes leave their images, and all would fit as x0, y0, x1, y1: write "
            "x, y, width, height"
        )
        yield Finding("warning", "corners for boxes", "", text)
