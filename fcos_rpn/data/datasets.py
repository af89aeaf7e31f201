"""Data sets by name: registers a folder of images with its COCO json, and checks the names that are registered."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ..errors import UserError, write_whole
from .coco.annotations import load_annotations
from .coco.rules import LARGEST_ID

logger = logging.getLogger(__name__)


LVIS_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
"""An image of a json in LVIS's format has these."""

Source = tuple[Any, ...]
"""All that a registered folder's annotations follow from."""


def _source_of(images: Path, json_file: Path, *settings: bool | str) -> Source:
    """Includes the state of the file, so that a json that was edited is read again."""
    status = json_file.stat() if json_file.is_file() else None
    return (str(images), str(json_file), status and (status.st_mtime_ns, status.st_size), *settings)


def _name_of(images: Path, json_file: Path, source: Source) -> str:
    """A name after folder and file: that under which this very source is registered, else the first that is free."""
    stem = f"{images.name}_{json_file.stem}"
    names = chain([stem], (f"{stem}_{number}" for number in count(2)))
    return next(
        name for name in names if name not in DatasetCatalog or MetadataCatalog.get(name).get("source") == source
    )


def _write_json(content: dict[str, Any], folder: Path, stem: str) -> Path:
    """Write a json under a name that follows from its content, so that no older one is taken for it."""
    text = json.dumps(content).encode()
    path = folder / f"{stem}-{hashlib.blake2b(text, digest_size=4).hexdigest()}.json"
    with write_whole(path) as file:
        file.write(text)
    return path


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


def register_coco_folder(
    images: str | Path,
    json_file: str | Path,
    *,
    output_dir: str | Path,
    with_masks: bool = False,
    with_keypoints: bool = False,
    mask_format: str = "polygon",
) -> str:
    """Check a COCO json (see `load_annotations`) and register it with its images as a data set of Detectron2.

    The metadata holds the class names at once, sorted by category id; category ids need not be contiguous. If images
    have ids that are not whole numbers from 0 to 2^53, `original_image_ids` maps the ids in use to those of the json.
    A json in LVIS's format is evaluated by LVIS's protocol.
    Registering the same pair again gives the same name. Every process of a distributed run has to register for itself.

    Args:
        images: the folder that the json's `file_name`s are relative to.
        json_file: in COCO's instances format; stays as it is.
        output_dir: if the annotations needed repairs, the repaired json goes to `annotations/` in here and is the one
            that training and evaluation read.
        with_masks, with_keypoints, mask_format: see `load_annotations`.

    Returns:
        The name for `DATASETS.TRAIN` or `DATASETS.TEST`.

    Raises:
        UserError: the json or its images need the user's hand.
    """
    images, json_file = (Path(os.path.abspath(Path(path).expanduser())) for path in (images, json_file))
    source = _source_of(images, json_file, with_masks and mask_format, with_keypoints)
    name = _name_of(images, json_file, source)
    if name in DatasetCatalog:
        return name

    checked = load_annotations(
        json_file, images, with_masks=with_masks, with_keypoints=with_keypoints, mask_format=mask_format
    )
    checked_json_file = json_file
    if checked.is_changed:
        checked_json_file = _write_json(checked.content, Path(os.path.abspath(output_dir), "annotations"), name)
        logger.info("%s: the repaired annotations are in %s", json_file, checked_json_file)

    categories = sorted(checked.content["categories"], key=lambda category: category["id"])
    # Only LVIS says for each image which classes were looked for.
    is_lvis = any(key in image for image in checked.content["images"] for key in LVIS_KEYS)
    renamed = {image["id"]: image["original_id"] for image in checked.content["images"] if "original_id" in image}
    MetadataCatalog.get(name).set(
        json_file=str(checked_json_file),
        original_json_file=str(json_file),
        source=source,
        image_root=str(images),
        evaluator_type="lvis" if is_lvis else "coco",
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id={category["id"]: label for label, category in enumerate(categories)},
        repairs=checked.repairs,
        **({"original_image_ids": renamed} if renamed else {}),
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
    """Make sure that a registered data set's files exist (where its metadata names them), and that its images will
    have whole numbers from 0 to 2^53 as ids, which training and evaluation need: see `register_coco_folder`.

    Raises:
        UserError: the data set is not registered, or its json or image folder is missing.
    """
    _require_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    for key in ("json_file", "image_root", "dirname"):
        path = metadata.get(key)
        if path is not None and "://" not in path and not os.path.exists(path):
            raise UserError(
                f"data set {dataset_name!r}: {key} {os.path.abspath(path)} does not exist; for Detectron2's own data "
                "sets set the environment variable DETECTRON2_DATASETS to the folder that holds coco/, lvis/, VOC2007/ "
                f"... (now {os.environ.get('DETECTRON2_DATASETS', './datasets, as it is not set')}), for others "
                "correct the path"
            )
    load = DatasetCatalog[dataset_name]
    if getattr(load, "func", None) is not _load_with_plain_ids and metadata.get("source") is None:
        DatasetCatalog[dataset_name] = partial(_load_with_plain_ids, load, dataset_name)


def _load_with_plain_ids(load: Callable[[], Any], dataset_name: str) -> Any:
    """The records of a data set that is registered in code; their images are numbered where they need it."""
    records = load()
    if not isinstance(records, list):
        return records
    # Metadata refuses to change an attribute, but a data set may be loaded again after a change.
    attributes = vars(MetadataCatalog.get(dataset_name))
    attributes.pop("original_image_ids", None)
    ids = [record.get("image_id") for record in records]
    if all(type(image_id) is int and 0 <= image_id < LARGEST_ID for image_id in ids) and len({*ids}) == len(ids):
        return records
    if given := {number: image_id for number, image_id in enumerate(ids, start=1) if image_id is not None}:
        attributes["original_image_ids"] = given
    return [{**record, "image_id": number} for number, record in enumerate(records, start=1)]


def shown_name(dataset_name: str) -> str:
    """What messages call a registered data set: the json that the user gave, or the name."""
    return str(MetadataCatalog.get(dataset_name).get("original_json_file", repr(dataset_name)))


def _classes_of(dataset_name: str) -> list[str]:
    _require_registered(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("thing_classes") is None:
        # register_coco_instances(name, {}, ...) knows its classes only after loading.
        require_files(dataset_name)
        DatasetCatalog.get(dataset_name)
    if metadata.get("thing_classes") is None:
        raise UserError(f"data set {dataset_name!r} has no class names; set thing_classes in its metadata")
    classes = list(metadata.thing_classes)
    if repeated := [name for name, number in Counter(classes).items() if number > 1]:
        raise UserError(
            f"data set {dataset_name!r} has several classes named {', '.join(map(repr, repeated))}: figures by class "
            "would melt together; give each its own name"
        )
    return classes


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
        if differences := class_differences(shown_name(first), classes, shown_name(other), _classes_of(other)):
            raise UserError(
                f"data sets {shown_name(first)} and {shown_name(other)} have different classes: {differences}; "
                "give both json files the same categories in the same order of ids"
            )
    return classes
