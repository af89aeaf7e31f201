"""Average recall of class-agnostic boxes by COCO's protocol, and the evaluator that reports it beside COCO's AP."""

import contextlib
import functools
import io
import itertools
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pycocotools.coco
import pycocotools.cocoeval
from detectron2.evaluation import COCOEvaluator
from tabulate import tabulate
from torch import nn

from .errors import UserError
from .modeling.meta_arch import FCOS
from .modeling.postprocess import FCOSPostProcessor, rescale
from .modeling.proposal_generator import to_proposals

logger = logging.getLogger(__name__)

Results: TypeAlias = "Mapping[str, float | Results]"

# Detectron2's one-letter names of COCO's area ranges, in COCOeval's order: all, below 32², 32² to 96², above 96².
AREA_SUFFIXES = ("", "s", "m", "l")


@functools.cache
def _coco_api() -> tuple[type[Any], type[Any]]:
    """(COCO, COCOeval) of hotcoco or else of pycocotools; both have the same methods and give the same recall."""
    try:
        import hotcoco
    except ImportError:
        logger.warning(
            "average recall is computed by pycocotools, which takes minutes for thousands of images; "
            "pip install 'fcos_rpn[fast-eval]' makes it about 80 times faster"
        )
        return pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval
    return hotcoco.COCO, hotcoco.COCOeval


def _class_agnostic_dataset(annotations: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
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


def _to_coco_rows(proposals: Mapping[int, tuple[npt.ArrayLike, npt.ArrayLike]]) -> npt.NDArray[np.float64]:
    """The (N, 7) array that COCO.loadRes takes: image id, x, y, width, height, score, class."""
    rows = [np.empty((0, 7))]
    for image_id, (boxes, scores) in proposals.items():
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        ids, classes = np.full(len(boxes), image_id), np.ones(len(boxes))
        rows.append(np.column_stack([ids, boxes[:, :2], boxes[:, 2:] - boxes[:, :2], np.asarray(scores), classes]))
    return np.concatenate(rows)


def average_recall(
    annotations: Mapping[str, Any] | str | os.PathLike[str],
    proposals: Mapping[int, tuple[npt.ArrayLike, npt.ArrayLike]],
    *,
    limits: Sequence[int] = (100, 1000),
) -> dict[str, float]:
    """Class-agnostic average recall of boxes over the IoU thresholds .50, .55, ... .95, by COCO's protocol.

    In every image the `limit` best boxes are matched, best score first, each to the free ground-truth box that it
    overlaps most. The ground truth of every image counts, also where there are no boxes; Detectron2's own figure leaves
    such images out, and matches the pairs of highest IoU first. Crowd regions do not count.

    Args:
        annotations: COCO's instances format, or the path of such a json. Where an annotation has no `iscrowd` it is no
            crowd, and where it has no `area` (which decides between small, medium and large) its box's area stands in.
        proposals: image id -> ((K, 4) boxes as x1, y1, x2, y2 in pixels of the annotated image, (K,) scores of any
            scale, larger is better). Tensors must be on the CPU.
        limits: the numbers of boxes per image to report.

    Returns:
        Percentages under Detectron2's names: AR@100 (all areas), ARs@100 (area up to 32²), ARm@100 (32² to 96²),
        ARl@100 (from 96²), AR@1000, ...; NaN where no ground truth has such an area.

    Raises:
        UserError: the annotations cannot be read, or boxes belong to an image that they do not list.
    """
    coco_type, coco_eval_type = _coco_api()
    limits = sorted(limits)
    dataset = _class_agnostic_dataset(annotations)
    detections = _to_coco_rows(proposals)

    unknown_ids = set(proposals) - {image["id"] for image in dataset["images"]}
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
        coco_eval.params.maxDets = limits
        coco_eval.evaluate()
        coco_eval.accumulate()

    # summarize() knows only the limits 1, 10, 100, so the figures are read from its table; -1 is "no ground truth".
    recall = np.asarray(coco_eval.eval["recall"])[:, 0].mean(axis=0)  # (T, 1, 4, limits) -> (4, limits)
    recall = np.where(recall < 0, np.nan, 100 * recall)
    return {
        f"AR{suffix}@{limit}": float(recall[area_index, limit_index])
        for limit_index, limit in enumerate(limits)
        for area_index, suffix in enumerate(AREA_SUFFIXES)
    }


class FCOSWithProposals(nn.Module):
    """A one-stage detector that also shows its best boxes whatever their class, so that AP and AR come from one run.

    AR needs more boxes than detections: this has a budget of its own and no score threshold. A box's score is that of
    its likeliest class.
    """

    def __init__(self, model: FCOS, *, num_boxes: int = 1000) -> None:
        super().__init__()
        self.model = model
        self.class_agnostic = FCOSPostProcessor(
            score_thresh=None,
            pre_nms_topk=num_boxes,
            nms_thresh=model.postprocessor.nms_thresh,
            post_nms_topk=num_boxes,
        )

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As `FCOS` at inference, each image with `proposals` as well."""
        images = self.model.preprocess_image(batched_inputs)
        predictions, locations = self.model.core(self.model.backbone(images.tensor))
        detections = self.model.postprocessor(predictions, locations, images.image_sizes)
        one_class = predictions._replace(logits=predictions.logits.amax(dim=-1, keepdim=True))  # (N, R, 1)
        boxes = self.class_agnostic(one_class, locations, images.image_sizes)
        proposals = [to_proposals(found) for found in boxes]
        return [
            {"instances": found, "proposals": proposed}
            for found, proposed in zip(
                rescale(detections, batched_inputs), rescale(proposals, batched_inputs), strict=True
            )
        ]


class FCOSEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator with COCO's average recall. Takes the same arguments and writes the same files.

    `evaluate()` returns the figures in percent; in a distributed run rank 0 returns them and the others return {}:

    - "bbox", "segm", "keypoints": COCO's AP; of a model that detects nothing 0 (Detectron2: NaN).
    - "box_proposals": `average_recall` of the outputs' "proposals", if there are any.
    - "box_proposals_detectron2": Detectron2's own figures under the same names, on which the published AR@1000 rest.
    - "box_detections": `average_recall` of the 100 best final detections, to compare with that of the proposals.

    `evaluate(img_ids=...)` restricts the AP only, as in Detectron2.
    """

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        super()._eval_box_proposals(predictions)
        if not self._do_evaluation:
            return
        proposals = {
            prediction["image_id"]: (
                prediction["proposals"].proposal_boxes.tensor,
                prediction["proposals"].objectness_logits,
            )
            for prediction in predictions
        }
        self._results["box_proposals_detectron2"] = self._results["box_proposals"]
        self._results["box_proposals"] = average_recall(self._coco_api.dataset, proposals)

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: list[int] | None = None) -> None:
        super()._eval_predictions(predictions, img_ids=img_ids)
        if not self._do_evaluation:
            return
        detections = {}
        for prediction in predictions:
            xywh = np.array([instance["bbox"] for instance in prediction["instances"]]).reshape(-1, 4)
            boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            detections[prediction["image_id"]] = boxes, [instance["score"] for instance in prediction["instances"]]
        self._results["box_detections"] = average_recall(self._coco_api.dataset, detections, limits=[100])

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        if coco_eval is None:  # not one detection
            self._logger.warning("The model detected nothing in any image.")
            coco_eval = pycocotools.cocoeval.COCOeval(self._coco_api, pycocotools.coco.COCO(), iou_type)
            coco_eval.evaluate()
            coco_eval.accumulate()
            coco_eval.summarize()
        results: dict[str, float] = super()._derive_coco_results(coco_eval, iou_type, class_names)
        return results


def _format_percent(value: float | None) -> str:
    if value is None:
        return ""
    return "-" if math.isnan(value) else f"{value:.2f}"


def results_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """One data set's figures (task -> metric -> percent) as a table: a column per task, a row per metric.

    NaN is shown as "-", and a metric that a task does not have is left blank. The AP of single classes, which
    Detectron2 logs in a table of its own, is left out.
    """
    all_metrics = dict.fromkeys(itertools.chain.from_iterable(results.values()))
    metrics = [metric for metric in all_metrics if not metric.startswith("AP-")]
    rows = [[metric, *(_format_percent(task.get(metric)) for task in results.values())] for metric in metrics]
    return tabulate(rows, headers=["", *results], disable_numparse=True, colalign=["left"] + ["right"] * len(results))


def _nan_to_none(value: "float | Results") -> Any:
    if isinstance(value, Mapping):
        return {key: _nan_to_none(entry) for key, entry in value.items()}
    return None if math.isnan(value) else float(value)


def write_results(path: str | os.PathLike[str], results: Results) -> None:
    """Writes figures in percent (task -> metric -> value; deeper nesting, as by data set, stays) as strict JSON.

    NaN, which JSON lacks, becomes null. The file is replaced in one step, so that a reader never sees half of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(_nan_to_none(results), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
