"""The check of a whole json: what training says of it, without stopping, and what is allowed but seldom meant."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ...errors import UserError
from ..datasets import class_differences
from .annotations import CheckedAnnotations, inspect_annotations
from .findings import Finding, original_id
from .repairs import nothing_to_learn
from .rules import LISTS


def check_json(
    json_file: Path,
    images: Path,
    *,
    with_masks: bool = False,
    with_keypoints: bool = False,
    mask_format: str = "polygon",
    is_learned: bool = True,
) -> CheckedAnnotations:
    """Find what training refuses or repairs in a json of any content, and what is unused in it; see `load_annotations`.

    `is_learned`: the set is trained on, so that it must have boxes, and outlines in the format of the masks.
    """
    try:
        checked = inspect_annotations(
            json_file,
            images,
            with_masks=with_masks,
            with_keypoints=with_keypoints,
            mask_format=mask_format if is_learned else "bitmask",
        )
    except UserError as error:
        text = str(error).removeprefix(f"{json_file}: ")
        return CheckedAnnotations(
            {key: [] for key in LISTS}, [Finding("error", "wrong json", "", text)], {}, False, {}, []
        )
    checked.content.setdefault("annotations", [])
    checked.findings.extend(_unused(checked, is_learned))
    return checked


def compare_classes(train: CheckedAnnotations, val: CheckedAnnotations) -> Iterator[Finding]:
    """Where the categories of two sets differ: training does not start with such sets."""
    train_classes, val_classes = (
        [category["name"] for category in sorted(checked.content["categories"], key=lambda category: category["id"])]
        for checked in (train, val)
    )
    differences = class_differences("train", train_classes, "val", val_classes)
    if differences and train_classes and val_classes:
        text = f"{differences}; give both json files the same categories in the same order of ids"
        yield Finding("error", "different categories", "categories", text)


def _unused(checked: CheckedAnnotations, is_learned: bool) -> Iterator[Finding]:
    """Classes and images without a box."""
    content = checked.content
    boxes = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]]
    if not boxes and not checked.errors:
        text = nothing_to_learn(len(content["annotations"]), checked.repairs)
        yield Finding("error" if is_learned else "warning", "no boxes", "", text)
    if not boxes:
        return
    classes = Counter(box["category_id"] for box in boxes)
    for category in content["categories"]:
        if not classes[category["id"]]:
            place = f"category {category['id']} ({category['name']})"
            yield Finding("warning", "class without boxes", place, "no boxes; nothing can be learned of this class")
    with_boxes = {box["image_id"] for box in boxes}
    empty = [image for image in content["images"] if image["id"] not in with_boxes]
    if empty:
        text = (
            f"{len(empty)} of {len(content['images'])} images have no boxes, first image {original_id(empty[0])}; they "
            "train as background"
        )
        yield Finding("warning", "images without boxes", "", text)
