"""AP and AR from one run: a one-stage detector that also shows its best boxes, and the evaluator of both figures."""

from typing import Any

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from detectron2.evaluation import COCOEvaluator
from torch import nn

from ..modeling.meta_arch import FCOS
from ..modeling.postprocess import FCOSPostProcessor, rescale
from ..modeling.proposal_generator import to_proposals
from .coco import BoxesOfImages
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

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        super()._eval_box_proposals(predictions)
        if not self._do_evaluation:
            return
        self._results["box_proposals_detectron2"] = self._results["box_proposals"]
        self._results["box_proposals"] = average_recall(self._coco_api.dataset, proposals_by_image(predictions))

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
