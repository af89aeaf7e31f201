"""AP and AR from one run: a one-stage detector that also shows its best boxes, and the evaluator of both figures."""

import json
import os
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from torch import nn

from ..errors import UserError
from ..modeling.meta_arch import FCOS
from ..modeling.postprocess import FCOSPostProcessor, rescale
from ..modeling.proposal_generator import to_proposals
from .average_precision import evaluate_detections
from .coco import BoxesOfImages, coco_api
from .detectron2_recall import detectron2_average_recall
from .recall import average_recall


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
            score_fusion=model.postprocessor.score_fusion,
            computes_centerness=model.postprocessor.computes_centerness,
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


def proposals_by_image(predictions: list[dict[str, Any]]) -> BoxesOfImages:
    """From what COCOEvaluator collects: `image_id` and `proposals` of each image."""
    return {
        prediction["image_id"]: (
            prediction["proposals"].proposal_boxes.tensor,
            prediction["proposals"].objectness_logits,
        )
        for prediction in predictions
    }


class FCOSEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator with COCO's average recall. Takes the same arguments and writes the same files.

    `evaluate()` returns the figures in percent; in a distributed run rank 0 returns them and the others return {}:

    - "bbox", "segm", "keypoints": COCO's AP; of a model that detects nothing 0 (Detectron2: NaN).
    - "box_proposals": `average_recall` of the outputs' "proposals", if there are any.
    - "box_proposals_detectron2": Detectron2's own figures under the same names, on which the published AR@1000 rest.
    - "box_detections": `average_recall` of the 100 best final detections, to compare with that of the proposals.

    `evaluate(img_ids=...)` restricts the AP only, as in Detectron2.
    """

    def __init__(self, *args: Any, api: str = "hotcoco", use_fast_impl: bool = False, **kwargs: Any) -> None:
        """
        Args:
            api: the library that AP and AR are computed by, "hotcoco" or "pycocotools", which takes minutes for
                thousands of images; where hotcoco is not installed, that is pycocotools, too.
            use_fast_impl: Detectron2's compiled extension, which is unofficial, in place of pycocotools for AP.
            args, kwargs: those of `COCOEvaluator`.

        Raises:
            UserError: there is no such library.
        """
        super().__init__(*args, use_fast_impl=use_fast_impl, **kwargs)
        self._api = coco_api(api).name

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        proposals = proposals_by_image(predictions)
        if self._output_dir:
            content = {
                "boxes": [np.asarray(boxes) for boxes, _ in proposals.values()],
                "objectness_logits": [np.asarray(scores) for _, scores in proposals.values()],
                "ids": list(proposals),
                "bbox_mode": BoxMode.XYXY_ABS.value,
            }
            with PathManager.open(os.path.join(self._output_dir, "box_proposals.pkl"), "wb") as file:
                pickle.dump(content, file)
        if not self._do_evaluation:
            return
        dataset = self._coco_api.dataset
        self._results["box_proposals"] = average_recall(dataset, proposals, api=self._api)
        self._results["box_proposals_detectron2"] = detectron2_average_recall(dataset, proposals)

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: list[int] | None = None) -> None:
        if self._api == "hotcoco":
            self._eval_with_hotcoco([found for image in predictions for found in image["instances"]], img_ids)
        else:
            super()._eval_predictions(predictions, img_ids=img_ids)
        if self._do_evaluation:
            boxes = {prediction["image_id"]: _boxes_of(prediction["instances"]) for prediction in predictions}
            found = average_recall(self._coco_api.dataset, boxes, limits=[100], api=self._api)
            self._results["box_detections"] = found

    def _eval_with_hotcoco(self, detections: list[dict[str, Any]], image_ids: list[int] | None) -> None:
        """What Detectron2 does with pycocotools: the detections in COCO's format as a file, and their AP."""
        detections = self._with_category_ids(detections)
        if self._output_dir:
            with PathManager.open(os.path.join(self._output_dir, "coco_instances_results.json"), "w") as file:
                file.write(json.dumps(detections))
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        if not detections:
            self._logger.warning("The model detected nothing in any image.")
        for task in sorted(self._tasks or self._tasks_from_predictions(detections)):
            coco_eval = evaluate_detections(
                self._coco_api.dataset,
                detections,
                task,
                limit=self._max_dets_per_image[-1],
                kpt_oks_sigmas=self._kpt_oks_sigmas,
                image_ids=image_ids,
            )
            class_names = self._metadata.get("thing_classes")
            self._results[task] = self._derive_coco_results(coco_eval, task, class_names)

    def _with_category_ids(self, detections: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The detections with the ids of the json in place of class indices."""
        class_by_id = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if class_by_id is None:
            return detections
        id_by_class = {class_index: category_id for category_id, class_index in class_by_id.items()}
        unknown = {detection["category_id"] for detection in detections} - id_by_class.keys()
        if unknown:
            raise UserError(
                f"the model predicts class {max(unknown)}, but the data set has {len(id_by_class)} classes, from 0; "
                "evaluate on the classes that it was trained for"
            )
        return [{**detection, "category_id": id_by_class[detection["category_id"]]} for detection in detections]

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        if coco_eval is None:  # not one detection, by pycocotools, which fails on none
            self._logger.warning("The model detected nothing in any image.")
            coco_eval = pycocotools.cocoeval.COCOeval(self._coco_api, pycocotools.coco.COCO(), iou_type)
            coco_eval.evaluate()
            coco_eval.accumulate()
            coco_eval.summarize()
        results: dict[str, float] = super()._derive_coco_results(coco_eval, iou_type, class_names)
        return results


def _boxes_of(detections: Sequence[dict[str, Any]]) -> tuple[np.ndarray, list[float]]:
    """(K, 4) x1, y1, x2, y2 and (K,) scores of one image's detections in COCO's format."""
    xywh = np.array([detection["bbox"] for detection in detections]).reshape(-1, 4)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return boxes, [detection["score"] for detection in detections]
