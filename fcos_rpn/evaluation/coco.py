"""COCO's matching with the ground truth, which recall and precision are counted from, by hotcoco or by pycocotools.

Both libraries have the same classes and find the same figures (tests/evaluation/test_coco.py). What reaches them is a
copy of what they need, with ids of its own: hotcoco is strict about the rest, and pycocotools writes into it.
"""

import contextlib
import functools
import io
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pycocotools.coco
import pycocotools.cocoeval

from ..errors import UserError

logger = logging.getLogger(__name__)

Annotations: TypeAlias = Mapping[str, Any] | str | os.PathLike[str]
"""COCO's instances format, or the path of such a json. Where an annotation has no `iscrowd` it is no crowd, and where
it has no `area` (which decides between small, medium and large) its box's area stands in."""
BoxesOfImages: TypeAlias = Mapping[int, tuple[npt.ArrayLike, npt.ArrayLike]]
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
    """The library of this name; pycocotools, after a warning, where it is to be hotcoco, which is not installed.

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
                "AP and AR are computed by pycocotools, which takes minutes for thousands of images; "
                "pip install 'fcos_rpn[fast-eval]' makes it about 80 times faster"
            )
        else:
            return CocoApi(name, hotcoco.COCO, hotcoco.COCOeval)
    return CocoApi("pycocotools", pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval)


def match_class_agnostic(
    annotations: Annotations, boxes: BoxesOfImages, *, limits: Sequence[int], api: str = "hotcoco"
) -> Any:
    """The `COCOeval` that has matched and counted, with its tables in `eval["recall"]` and `eval["precision"]`.

    In every image the `limit` best boxes are matched, best score first, each to the free ground-truth box that it
    overlaps most. The ground truth of every image counts, also where there are no boxes. Crowd regions do not count.

    Args:
        annotations: the ground truth.
        boxes: what is to be found there.
        limits: the numbers of boxes per image to look at, ascending.
        api: one of `COCO_APIS`.

    Raises:
        UserError: the annotations cannot be read, or boxes belong to an image that they do not list.
    """
    library = coco_api(api)
    dataset = with_one_class(annotations)
    require_listed(boxes, dataset)
    detections = _to_rows(boxes)
    with contextlib.redirect_stdout(io.StringIO()):
        coco_gt = as_coco(dataset, library)
        coco_dt = coco_gt.loadRes(detections) if len(detections) else library.coco()  # pycocotools fails on no rows
        coco_eval = library.coco_eval(coco_gt, coco_dt, "bbox")
        coco_eval.params.maxDets = list(limits)
        coco_eval.evaluate()
        coco_eval.accumulate()
    return coco_eval


def as_coco(dataset: Mapping[str, Any], library: CocoApi) -> Any:
    """Ground truth as that library's `COCO`."""
    coco_gt = library.coco()
    coco_gt.dataset = dataset
    coco_gt.createIndex()
    return coco_gt


def require_listed(image_ids: Iterable[int], dataset: Mapping[str, Any]) -> None:
    """Raises UserError if boxes belong to other images than those of the ground truth."""
    unknown_ids = set(image_ids) - {image["id"] for image in dataset["images"]}
    if unknown_ids:
        raise UserError(
            f"there are boxes for image id {min(unknown_ids)} ({len(unknown_ids)} such ids), which the annotations do "
            "not list; evaluate on the json that the images were loaded with"
        )


def with_one_class(annotations: Annotations) -> dict[str, Any]:
    """What matching boxes needs of the ground truth, with all classes as one, which is COCO's `useCats = 0`."""
    dataset = _read(annotations)
    return {
        "images": [{"id": image["id"]} for image in dataset["images"]],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {**plain_annotation(annotation, index), "category_id": 1}
            for index, annotation in enumerate(dataset["annotations"], start=1)
        ],
    }


def plain_annotation(annotation: Mapping[str, Any], index: int) -> dict[str, Any]:
    """What both libraries need of it, but for its class, with `index` as its id.

    Ids are from 1 because pycocotools takes the id 0 for "unmatched".
    """
    return {
        "id": index,
        "image_id": annotation["image_id"],
        "bbox": annotation["bbox"],
        "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
        "iscrowd": annotation.get("iscrowd", 0),
    }


def _read(annotations: Annotations) -> Mapping[str, Any]:
    source = "the annotations"
    if not isinstance(annotations, Mapping):
        source = os.fspath(annotations)
        try:
            annotations = json.loads(Path(annotations).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the annotations in {source}: {error}; name a COCO-format json") from error
    if not isinstance(annotations, Mapping) or not {"images", "annotations"} <= annotations.keys():
        raise UserError(f"{source}: no 'images' or no 'annotations' at the top; COCO's instances format has both")
    return annotations


def _to_rows(boxes: BoxesOfImages) -> npt.NDArray[np.float64]:
    """The (N, 7) array that COCO.loadRes takes: image id, x, y, width, height, score, class."""
    rows = [np.empty((0, 7))]
    for image_id, (of_image, scores) in boxes.items():
        xyxy = np.asarray(of_image, dtype=np.float64).reshape(-1, 4)
        ids, classes = np.full(len(xyxy), image_id), np.ones(len(xyxy))
        rows.append(np.column_stack([ids, xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2], np.asarray(scores), classes]))
    return np.concatenate(rows)
