"""Match boxes with the ground truth by COCO's rules, in hotcoco or pycocotools.

Both libraries have the same classes and compute the same figures (tests/evaluation/test_matching.py). They get a copy
of what they need, with images and annotations numbered from 1: hotcoco is strict about the rest, pycocotools writes
into its input and takes the annotation id 0 for "unmatched", and ids of images may be text or larger than a float
holds exactly.
"""

import contextlib
import functools
import io
import json
import logging
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pycocotools.coco
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets

from ..errors import UserError, install_hint

logger = logging.getLogger(__name__)

Annotations: TypeAlias = Mapping[str, Any] | str | os.PathLike[str]
"""COCO's instances format, or the path of such a json. An annotation without `iscrowd` is no crowd; one without `area`
(which decides between small, medium and large) has the area of its box."""
ImageId: TypeAlias = Hashable
"""An `id` of the annotations' images: a number or text."""
BoxesOfImages: TypeAlias = Mapping[Any, tuple[npt.ArrayLike, npt.ArrayLike]]
"""Image id -> ((K, 4) boxes as x1, y1, x2, y2 in pixels of the annotated image, (K,) scores of any scale, larger is
better). Tensors must be on the CPU."""

IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""COCO's, over which AP and AR are averaged."""
COCO_APIS = ("hotcoco", "pycocotools")


class CocoApi(NamedTuple):
    """One of `COCO_APIS` and its classes."""

    name: str
    coco: type[Any]
    coco_eval: type[Any]


@functools.cache
def coco_api(name: str) -> CocoApi:
    """Return the library of this name; pycocotools, with a warning, where hotcoco is not installed.

    Raises:
        UserError: there is no such library.
    """
    if name not in COCO_APIS:
        raise UserError(f"there is no COCO API {name!r}; TEST.COCO_API is one of {', '.join(COCO_APIS)}")
    if name == "hotcoco":
        try:
            import hotcoco
        except ImportError:
            logger.warning(
                "hotcoco is not installed, so pycocotools computes AP and AR, which takes minutes for thousands of "
                "images instead of seconds; to install hotcoco: %s",
                install_hint("fast-eval"),
            )
        else:
            return CocoApi(name, hotcoco.COCO, hotcoco.COCOeval)
    return CocoApi("pycocotools", pycocotools.coco.COCO, COCOevalMaxDets)  # whose summary knows limits other than 100


def match_class_agnostic(
    annotations: Annotations, boxes: BoxesOfImages, *, limits: Sequence[int], api: str = "hotcoco"
) -> Any:
    """Return the `COCOeval` after matching, with its tables in `eval["recall"]` and `eval["precision"]`.

    In every image the `limit` best boxes are matched, best score first, each to the free ground-truth box that it
    overlaps most. The ground truth of every image counts, also where there are no boxes. Crowd regions do not count.

    Args:
        annotations: the ground truth.
        boxes: what was found.
        limits: numbers of boxes per image to match, ascending.
        api: one of `COCO_APIS`.

    Raises:
        UserError: the annotations cannot be read, or boxes belong to an image that they do not list.
    """
    library = coco_api(api)
    dataset = _read(annotations)
    numbers = number_images(dataset, boxes)
    with contextlib.redirect_stdout(io.StringIO()):
        coco_gt = as_coco(with_one_class(dataset, numbers), library)
        coco_eval = library.coco_eval(coco_gt, load_results(coco_gt, _to_rows(boxes, numbers), library), "bbox")
        coco_eval.params.maxDets = list(limits)
        coco_eval.evaluate()
        coco_eval.accumulate()
    return coco_eval


def number_images(dataset: Mapping[str, Any], found_in: Iterable[ImageId] = ()) -> dict[ImageId, int]:
    """Map the ids of the images to 1, 2, ..., in their order, since the order of images decides between equal scores.

    Args:
        dataset: the ground truth.
        found_in: ids of images in which something was found.

    Raises:
        UserError: if one of these is no image of the ground truth.
    """
    image_ids = sorted((image["id"] for image in dataset["images"]), key=lambda id_: (isinstance(id_, str), id_))
    numbers = {image_id: number for number, image_id in enumerate(image_ids, start=1)}
    if unknown_ids := set(found_in) - numbers.keys():
        raise UserError(
            f"there are boxes for image id {min(unknown_ids, key=str)} ({len(unknown_ids)} such ids), which the "
            "annotations do not list; evaluate on the json that the images were loaded with"
        )
    return numbers


def plain_dataset(
    dataset: Mapping[str, Any],
    numbers: Mapping[ImageId, int],
    *,
    image_keys: Sequence[str] = (),
    category_keys: Sequence[str] = (),
    annotation_keys: Sequence[str] = (),
) -> dict[str, Any]:
    """Copy the ground truth with numbers for ids of images and annotations, boxes, and the given keys where they are.

    Args:
        dataset: the ground truth.
        numbers: see `number_images`. Annotations of other images are left out.
        image_keys, category_keys, annotation_keys: to keep besides.
    """
    listed = [annotation for annotation in dataset["annotations"] if annotation["image_id"] in numbers]
    return {
        "images": [{**only(image, image_keys), "id": numbers[image["id"]]} for image in dataset["images"]],
        "categories": [only(category, ("id", "name", *category_keys)) for category in dataset.get("categories", ())],
        "annotations": [
            {
                **only(annotation, annotation_keys),
                "id": number,
                "image_id": numbers[annotation["image_id"]],
                "bbox": annotation["bbox"],
                "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
                "iscrowd": annotation.get("iscrowd", 0),
            }
            for number, annotation in enumerate(listed, start=1)
        ],
    }


def with_one_class(dataset: Mapping[str, Any], numbers: Mapping[ImageId, int]) -> dict[str, Any]:
    """Copy what matching boxes needs of the ground truth, with all classes as one, which is COCO's `useCats = 0`."""
    plain = plain_dataset(dataset, numbers)
    for annotation in plain["annotations"]:
        annotation["category_id"] = 1
    return {**plain, "categories": [{"id": 1, "name": "object"}]}


def as_coco(dataset: Mapping[str, Any], library: CocoApi) -> Any:
    """Return the ground truth as that library's `COCO`."""
    coco_gt = library.coco()
    coco_gt.dataset = dataset
    coco_gt.createIndex()
    return coco_gt


def load_results(coco_gt: Any, results: Any, library: CocoApi) -> Any:
    """`COCO.loadRes`, also of no results, on which pycocotools fails."""
    return coco_gt.loadRes(results) if len(results) else library.coco()


def only(source: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Copy some entries, where they are there."""
    return {key: source[key] for key in keys if key in source}


def _read(annotations: Annotations) -> Mapping[str, Any]:
    source = "the annotations"
    if not isinstance(annotations, Mapping):
        source = os.fspath(annotations)
        try:
            annotations = json.loads(Path(annotations).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the annotations in {source}: {error}; name a COCO-format json") from error
    if not isinstance(annotations, Mapping) or not {"images", "annotations"} <= annotations.keys():
        raise UserError(f"{source}: no 'images' or no 'annotations' at the top; COCO's instances format has both")
    return annotations


def _to_rows(boxes: BoxesOfImages, numbers: Mapping[ImageId, int]) -> npt.NDArray[np.float64]:
    """Return the (N, 7) array that COCO.loadRes takes: image, x, y, width, height, score, class."""
    rows = [np.empty((0, 7))]
    for image_id, (of_image, scores) in boxes.items():
        xyxy = np.asarray(of_image, dtype=np.float64).reshape(-1, 4)
        images, classes = np.full(len(xyxy), numbers[image_id]), np.ones(len(xyxy))
        rows.append(np.column_stack([images, xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2], np.asarray(scores), classes]))
    return np.concatenate(rows)
