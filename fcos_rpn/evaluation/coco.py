"""COCO's matching of boxes with ground truth, all classes taken as one: what recall and precision are counted from."""

import contextlib
import functools
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

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


def match_class_agnostic(annotations: Annotations, boxes: BoxesOfImages, *, limits: Sequence[int]) -> Any:
    """The `COCOeval` that has matched and counted, with its tables in `eval["recall"]` and `eval["precision"]`.

    In every image the `limit` best boxes are matched, best score first, each to the free ground-truth box that it
    overlaps most. The ground truth of every image counts, also where there are no boxes. Crowd regions do not count.

    Args:
        annotations: the ground truth.
        boxes: what is to be found there.
        limits: the numbers of boxes per image to look at, ascending.

    Raises:
        UserError: the annotations cannot be read, or boxes belong to an image that they do not list.
    """
    coco_type, coco_eval_type = _coco_api()
    dataset = _with_one_class(annotations)
    detections = _to_rows(boxes)

    unknown_ids = set(boxes) - {image["id"] for image in dataset["images"]}
    if unknown_ids:
        raise UserError(
            f"there are boxes for image id {min(unknown_ids)} ({len(unknown_ids)} such ids), which the annotations do "
            "not list; evaluate on the json that the images were loaded with"
        )

    with contextlib.redirect_stdout(io.StringIO()):
        coco_gt = coco_type()
        coco_gt.dataset = dataset
        coco_gt.createIndex()
        coco_dt = coco_gt.loadRes(detections) if len(detections) else coco_type()  # pycocotools fails on no rows
        coco_eval = coco_eval_type(coco_gt, coco_dt, "bbox")
        coco_eval.params.maxDets = list(limits)
        coco_eval.evaluate()
        coco_eval.accumulate()
    return coco_eval


@functools.cache
def _coco_api() -> tuple[type[Any], type[Any]]:
    """(COCO, COCOeval) of hotcoco or else of pycocotools; both have the same methods and give the same figures."""
    try:
        import hotcoco
    except ImportError:
        logger.warning(
            "recall and precision are computed by pycocotools, which takes minutes for thousands of images; "
            "pip install 'fcos_rpn[fast-eval]' makes it about 80 times faster"
        )
        return pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval
    return hotcoco.COCO, hotcoco.COCOeval


def _with_one_class(annotations: Annotations) -> dict[str, Any]:
    """What matching needs of the ground truth, with all classes as one, which is COCO's `useCats = 0`.

    A copy because pycocotools writes into the annotations; ids from 1 because it takes the id 0 for "unmatched".
    """
    source = "the annotations"
    if not isinstance(annotations, Mapping):
        source = os.fspath(annotations)
        try:
            annotations = json.loads(Path(annotations).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the annotations in {source}: {error}; name a COCO-format json") from error
    if not isinstance(annotations, Mapping) or not {"images", "annotations"} <= annotations.keys():
        raise UserError(f"{source}: no 'images' or no 'annotations' at the top; COCO's instances format has both")
    return {
        "images": [{"id": image["id"]} for image in annotations["images"]],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {
                "id": index,
                "image_id": annotation["image_id"],
                "category_id": 1,
                "bbox": annotation["bbox"],
                "area": annotation.get("area", annotation["bbox"][2] * annotation["bbox"][3]),
                "iscrowd": annotation.get("iscrowd", 0),
            }
            for index, annotation in enumerate(annotations["annotations"], start=1)
        ],
    }


def _to_rows(boxes: BoxesOfImages) -> npt.NDArray[np.float64]:
    """The (N, 7) array that COCO.loadRes takes: image id, x, y, width, height, score, class."""
    rows = [np.empty((0, 7))]
    for image_id, (of_image, scores) in boxes.items():
        xyxy = np.asarray(of_image, dtype=np.float64).reshape(-1, 4)
        ids, classes = np.full(len(xyxy), image_id), np.ones(len(xyxy))
        rows.append(np.column_stack([ids, xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2], np.asarray(scores), classes]))
    return np.concatenate(rows)
