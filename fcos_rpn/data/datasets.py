"""Data sets by name: registers a folder of images with its COCO json, and checks the names that are registered."""

import json
import logging
import os
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..errors import UserError, write_whole
from .coco.annotations import load_annotations

logger = logging.getLogger(__name__)


def _name_of(images: Path, json_file: Path) -> str:
    """A name after folder and file: that under which this very pair is registered, else the first that is free."""
    stem = f"{images.name}_{json_file.stem}"
    for name in chain([stem], (f"{stem}_{number}" for number in count(2))):
        if name not in DatasetCatalog:
            break
        metadata = MetadataCatalog.get(name)
        if (metadata.get("image_root"), metadata.get("original_json_file")) == (str(images), str(json_file)):
            break
    return name


def _keypoint_metadata(categories: list[dict[str, Any]]) -> dict[str, Any]:
    """Detectron2's entries for the keypoints that the categories name; none where two categories name different
    ones, which Detectron2 cannot tell apart."""
    schemes = {tuple(category["keypoints"]) for category in categories if category.get("keypoints")}
    if len(schemes) != 1:
        return {}
    (names,) = schemes
    mirrored = ((name, name.replace("left", "right")) for name in names)
    return {
        "keypoint_names": names,
        "keypoint_flip_map": tuple((left, right) for left, right in mirrored if left != right and right in names),
    }


def register_coco_folder(images: str | Path, json_file: str | Path, *, output_dir: str | Path) -> str:
    """Checks a COCO json (see `load_annotations`) and registers it with its images as a data set of Detectron2.

    The metadata holds the class names at once, sorted by category id; category ids need not be contiguous. Registering
    the same pair again gives the same name. Every process of a distributed run has to register for itself.

    Args:
        images: the folder that the json's `file_name`s are relative to.
        json_file: in COCO's instances format; stays as it is.
        output_dir: if the annotations needed repairs, the repaired json goes to `annotations/<name>.json` in here and
            is the one that training and evaluation read.

    Returns:
        The name for `DATASETS.TRAIN` or `DATASETS.TEST`.

    Raises:
        UserError: the json or its images need the user's hand.
    """
    images, json_file = (Path(os.path.abspath(Path(path).expanduser())) for path in (images, json_file))
    name = _name_of(images, json_file)
    if name in DatasetCatalog:
        return name

    checked = load_annotations(json_file, images)
    checked_json_file = json_file
    if checked.is_changed:
        checked_json_file = Path(os.path.abspath(output_dir), "annotations", f"{name}.json")
        with write_whole(checked_json_file) as file:
            file.write(json.dumps(checked.content).encode())
        logger.info("%s: the repaired annotations are in %s", json_file, checked_json_file)

    categories = sorted(checked.content["categories"], key=lambda category: category["id"])
    MetadataCatalog.get(name).set(
        json_file=str(checked_json_file),
        original_json_file=str(json_file),
        image_root=str(images),
        evaluator_type="coco",
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={category["id"]: label for label, category in enumerate(categories)},
        **_keypoint_metadata(categories),
    )
    DatasetCatalog.register(name, partial(load_coco_json, str(checked_json_file), str(images), name))
    return name


def _require_registered(dataset_name: str) -> None:
    if dataset_name not in DatasetCatalog:
        similar = get_close_matches(dataset_name, DatasetCatalog.list())
        raise UserError(
            f"data set {dataset_name!r} is not registered; "
            + (f"similar names that are: {', '.join(similar)}; " if similar else "")
            + "a folder in COCO format is given as --train IMAGES JSON or --test IMAGES JSON"
        )


def require_files(dataset_name: str) -> None:
    """Makes sure that a registered data set's json and image folder exist (where its metadata names them).

    Raises:
        UserError: the data set is not registered, or its json or image folder is missing.
    """
    _require_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    for key in ("json_file", "image_root"):
        path = metadata.get(key)
        if path is not None and "://" not in path and not os.path.exists(path):
            raise UserError(
                f"data set {dataset_name!r}: {key} {os.path.abspath(path)} does not exist; for Detectron2's own data "
                "sets set the environment variable DETECTRON2_DATASETS to the folder that holds coco/, lvis/, ... (now "
                f"{os.environ.get('DETECTRON2_DATASETS', './datasets, as it is not set')}), for others correct the path"
            )


def _classes_of(dataset_name: str) -> list[str]:
    _require_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("thing_classes") is None:
        # register_coco_instances(name, {}, ...) knows its classes only after loading.
        require_files(dataset_name)
        DatasetCatalog.get(dataset_name)
    if metadata.get("thing_classes") is None:
        raise UserError(f"data set {dataset_name!r} has no class names; set thing_classes in its metadata")
    return list(metadata.thing_classes)


def class_differences(name: str, classes: Sequence[str], other_name: str, other_classes: Sequence[str]) -> str:
    """In words: what only one of two data sets has, else how their order differs; empty if they agree.

    Args:
        name, classes, other_name, other_classes: what to call each, and its class names in the order of their labels.
    """
    if list(classes) == list(other_classes):
        return ""
    differences = [
        f"only {owner} has {', '.join(own)}"
        for owner, own in (
            (name, [c for c in classes if c not in other_classes]),
            (other_name, [c for c in other_classes if c not in classes]),
        )
        if own
    ]
    return "; ".join(differences) or f"their order differs: {', '.join(classes)} against {', '.join(other_classes)}"


def class_names(dataset_names: Sequence[str]) -> list[str]:
    """The class names that all these registered data sets share; the position is the label.

    Raises:
        UserError: no data set is given, one is not registered or has no class names, or two disagree.
    """
    if not dataset_names:
        raise UserError("no data set is given; name one in DATASETS.TRAIN or DATASETS.TEST, or use --train or --test")
    first, *others = dataset_names
    classes = _classes_of(first)
    for other in others:
        if differences := class_differences(repr(first), classes, repr(other), _classes_of(other)):
            raise UserError(
                f"data sets {first!r} and {other!r} have different classes: {differences}; "
                "give both json files the same categories in the same order of ids"
            )
    return classes
