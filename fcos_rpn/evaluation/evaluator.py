"""AP and AR of a model on a data set, by the data set's own protocol."""

import copy
import itertools
import json
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals, instances_to_coco_json
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import nn

from ..errors import UserError, install_hint, write_whole
from ..modeling.meta_arch import FCOS
from ..modeling.postprocess import FCOSPostProcessor, rescale
from ..modeling.proposal_generator import to_proposals
from .average_precision import LVIS_LIMIT, average_precision, lvis_average_precision
from .matching import BoxesOfImages, as_coco, coco_api, number_images, with_one_class
from .recall import AREA_SUFFIXES, average_recall
from .results import class_table

logger = logging.getLogger(__name__)

COCO_LIMIT = 100
"""COCO's own limit on the detections of an image and a class."""
DETECTRON2_AREAS = ("all", "small", "medium", "large")
"""Its names of `AREA_SUFFIXES`."""


def build_evaluator(
    dataset_name: str,
    *,
    output_dir: str | Path | None = None,
    kpt_oks_sigmas: Sequence[float] = (),
    api: str = "hotcoco",
    max_dets_per_image: int | None = None,
    detectron2_ar: bool = False,
) -> "FCOSEvaluator":
    """Build the evaluator of a registered data set: LVIS's protocol for LVIS, COCO's for all others.

    Args:
        dataset_name: its metadata's `evaluator_type` decides.
        output_dir, kpt_oks_sigmas, api, max_dets_per_image, detectron2_ar: see `FCOSEvaluator`.

    Raises:
        UserError: there is no such library, or LVIS's protocol is not available.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "none")
    if evaluator_type not in ("coco", "lvis"):
        logger.info(
            "%s (evaluator_type: %s) is evaluated by COCO's protocol; do not compare these figures with those of "
            "another protocol",
            dataset_name,
            evaluator_type,
        )
    return FCOSEvaluator(
        dataset_name,
        protocol="lvis" if evaluator_type == "lvis" else "coco",
        output_dir=output_dir,
        kpt_oks_sigmas=kpt_oks_sigmas,
        api=api,
        max_dets_per_image=max_dets_per_image,
        detectron2_ar=detectron2_ar,
    )


class FCOSWithProposals(nn.Module):
    """Returns the detections of a one-stage detector and its class-agnostic boxes, so that one run gives AP and AR.

    AR needs more boxes than there are detections, so these boxes have their own limit and no score threshold. A box's
    score is that of its likeliest class.
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
        """Return what `FCOS` returns at inference, and `proposals` for each image."""
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


class FCOSEvaluator(DatasetEvaluator):
    """Writes what a model finds and evaluates it. Takes the place of Detectron2's COCOEvaluator and LVISEvaluator.

    `evaluate()` returns figures in percent by task; in a distributed run {} on all processes but the first:

    - "bbox", "segm", "keypoints": `average_precision`, or `lvis_average_precision`.
    - "box_proposals": `average_recall` of the outputs' "proposals", if there are any.
    - "box_proposals_detectron2": on request, the same by Detectron2's own rules, as in its model zoo.
    - "box_detections": `average_recall` of the 100 best detections, to compare with that of the proposals.

    A data set without annotations has no figures. `output_dir` gets Detectron2's files: coco_instances_results.json
    (what COCO's server takes), box_proposals.pkl (for DATASETS.PROPOSAL_FILES_*) and instances_predictions.pth. Ids of
    images are those of the json in all of them, also where the loader had to replace them (`original_image_ids` in the
    metadata).
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        protocol: str = "coco",
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | Path | None = None,
        max_dets_per_image: int | None = None,
        kpt_oks_sigmas: Sequence[float] = (),
        api: str = "hotcoco",
        detectron2_ar: bool = False,
    ) -> None:
        """
        Args:
            dataset_name: registered; without a `json_file` in its metadata, its records are the ground truth.
            protocol: "coco" or "lvis".
            tasks: those to evaluate; by default what the model predicts.
            distributed: gather what all processes found.
            output_dir: for the files; None writes none.
            max_dets_per_image: how many detections of an image count for AP, such as TEST.DETECTIONS_PER_IMAGE. At
                least COCO's 100 or LVIS's 300 do; with None or a negative number, all.
            kpt_oks_sigmas: see `average_precision`.
            api: one of `COCO_APIS`.
            detectron2_ar: whether to compute AR as Detectron2 does, too. Takes long.

        Raises:
            UserError: there is no such library, or LVIS's protocol is not available.
        """
        self._api = coco_api(api).name
        if protocol == "lvis" and self._api != "hotcoco":
            raise UserError(
                f"{dataset_name}: only hotcoco has LVIS's protocol; set TEST.COCO_API hotcoco and install it: "
                f"{install_hint('fast-eval')}"
            )
        self._protocol = protocol
        self._tasks = tasks
        self._distributed = distributed
        self._output_dir = None if output_dir is None else Path(output_dir)
        if max_dets_per_image is None or max_dets_per_image < 0:
            max_dets_per_image = 1_000_000  # more than any model returns
        self._max_dets_per_image = max(LVIS_LIMIT if protocol == "lvis" else COCO_LIMIT, max_dets_per_image)
        self._kpt_oks_sigmas = kpt_oks_sigmas
        self._detectron2_ar = detectron2_ar
        self._dataset_name = dataset_name
        self.dataset = _read_dataset(dataset_name)
        """In COCO's format, with the original ids of the images."""
        self._category_ids = self._read_category_ids()
        self._predictions: list[dict[str, Any]] = []

    def reset(self) -> None:
        self._predictions = []

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Take what a model returns for some images, in Detectron2's format: "instances", "proposals" or both."""
        for x, output in zip(inputs, outputs, strict=True):
            prediction: dict[str, Any] = {"image_id": _original_id(x["image_id"], self._dataset_name)}
            if "instances" in output:
                found = instances_to_coco_json(output["instances"].to("cpu"), prediction["image_id"])
                prediction["instances"] = list(self._with_category_ids(found))
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to("cpu")
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def evaluate(self) -> dict[str, dict[str, float]]:
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            logger.warning("%s: the model returned no instances and no proposals to evaluate", self._dataset_name)
            return {}
        if self._output_dir:
            self._write(predictions, self._output_dir)
        if not self.dataset.get("annotations"):
            written = f"; what the model found is in {self._output_dir}" if self._output_dir else ""
            logger.warning("%s has no annotations, so there are no figures%s", self._dataset_name, written)
            return {}
        figures: dict[str, dict[str, float]] = {}
        if "proposals" in predictions[0]:
            figures |= self.proposal_figures(predictions)
        if "instances" in predictions[0]:
            figures |= self._detection_figures(predictions)
        return figures

    def proposal_figures(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        """Evaluate the `proposals` of each prediction, which has an `image_id`."""
        figures = {"box_proposals": average_recall(self.dataset, proposals_by_image(predictions), api=self._api)}
        if self._detectron2_ar:
            figures["box_proposals_detectron2"] = _detectron2_recall(self.dataset, predictions)
        return figures

    def _detection_figures(self, predictions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
        detections = [found for prediction in predictions for found in prediction["instances"]]
        if not detections:
            logger.warning("%s: the model detected nothing in any image", self._dataset_name)
        figures: dict[str, dict[str, float]] = {}
        for task in sorted(self._tasks or _tasks_of(detections)):
            if self._protocol == "lvis":
                found = lvis_average_precision(self.dataset, detections, task, limit=self._max_dets_per_image)
            else:
                found = average_precision(
                    self.dataset,
                    detections,
                    task,
                    limit=self._max_dets_per_image,
                    kpt_oks_sigmas=self._kpt_oks_sigmas,
                    api=self._api,
                )
                logger.info("%s of each class, in percent:\n%s", task, class_table(found))
            figures[task] = found
        boxes = {prediction["image_id"]: _boxes_of(prediction["instances"]) for prediction in predictions}
        figures["box_detections"] = average_recall(self.dataset, boxes, limits=[100], api=self._api)
        return figures

    def _write(self, predictions: Sequence[Mapping[str, Any]], folder: Path) -> None:
        with write_whole(folder / "instances_predictions.pth") as file:
            torch.save(predictions, file)
        if "proposals" in predictions[0]:
            write_proposals(folder / "box_proposals.pkl", proposals_by_image(predictions))
        if "instances" in predictions[0]:
            detections = [found for prediction in predictions for found in prediction["instances"]]
            with write_whole(folder / "coco_instances_results.json") as file:
                file.write(json.dumps(detections).encode())

    def _read_category_ids(self) -> list[int]:
        """Category ids by class index."""
        class_by_id = MetadataCatalog.get(self._dataset_name).get("thing_dataset_id_to_contiguous_id")
        if class_by_id is None:
            return sorted(category["id"] for category in self.dataset.get("categories", ()))
        return sorted(class_by_id, key=class_by_id.__getitem__)

    def _with_category_ids(self, detections: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for detection in detections:
            label = detection["category_id"]
            if label >= len(self._category_ids):
                raise UserError(
                    f"the model predicts class {label}, but {self._dataset_name} has {len(self._category_ids)} "
                    "classes, from 0; evaluate on the classes that it was trained for"
                )
            yield {**detection, "category_id": self._category_ids[label]}


def proposals_by_image(predictions: Sequence[Mapping[str, Any]]) -> BoxesOfImages:
    """Return boxes and scores of the `proposals` of each prediction, which has an `image_id`."""
    return {
        prediction["image_id"]: (
            prediction["proposals"].proposal_boxes.tensor,
            prediction["proposals"].objectness_logits,
        )
        for prediction in predictions
    }


def write_proposals(path: Path, proposals: BoxesOfImages) -> None:
    """Write the file that Detectron2's `load_proposals_into_dataset` reads."""
    content = {
        "boxes": [np.asarray(boxes) for boxes, _ in proposals.values()],
        "objectness_logits": [np.asarray(scores) for _, scores in proposals.values()],
        "ids": list(proposals),
        "bbox_mode": BoxMode.XYXY_ABS.value,
    }
    with write_whole(path) as file:
        pickle.dump(content, file)


def _original_id(image_id: Any, dataset_name: str) -> Any:
    """Return the id that the user's data have for the id of a record, as a plain number or text."""
    image_id = MetadataCatalog.get(dataset_name).get("original_image_ids", {}).get(image_id, image_id)
    return image_id.item() if isinstance(image_id, np.generic) else image_id  # Pascal VOC's text is numpy's


def _read_dataset(dataset_name: str) -> dict[str, Any]:
    """Read the ground truth, anew each time since records may have changed."""
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file is None:
        dataset = _convert(dataset_name)
        original_ids = {image["id"]: _original_id(image["id"], dataset_name) for image in dataset["images"]}
    else:
        with PathManager.open(json_file, encoding="utf-8-sig") as file:
            dataset = json.load(file)
        # A json that the loader has rewritten keeps them beside its own.
        original_ids = {image["id"]: image.get("original_id", image["id"]) for image in dataset["images"]}
    for image in dataset["images"]:
        image["id"] = original_ids[image["id"]]
    for annotation in dataset.get("annotations", ()):
        annotation["image_id"] = original_ids.get(annotation["image_id"], annotation["image_id"])
    return dataset


def _convert(dataset_name: str) -> dict[str, Any]:
    """Return a data set that is registered without a json in COCO's format.

    Detectron2's conversion moves keypoints in place by half a pixel, so it gets a copy of the records. It leaves out
    "annotations" where there are none.
    """
    copied = f"{dataset_name} (copied)"
    metadata = {key: value for key, value in MetadataCatalog.get(dataset_name).as_dict().items() if key != "name"}
    DatasetCatalog.register(copied, lambda: copy.deepcopy(DatasetCatalog.get(dataset_name)))
    MetadataCatalog.get(copied).set(**metadata)
    try:
        dataset: dict[str, Any] = convert_to_coco_dict(copied)
    finally:
        DatasetCatalog.remove(copied)
        MetadataCatalog.remove(copied)
    return dataset


def _tasks_of(detections: Sequence[Mapping[str, Any]]) -> list[str]:
    optional = {"segm": "segmentation", "keypoints": "keypoints"}
    return ["bbox", *(task for task, key in optional.items() if any(key in found for found in detections))]


def _detectron2_recall(dataset: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Compute AR as Detectron2's COCOEvaluator does.

    It leaves out images without proposals, and matches the pair of highest IoU first.
    """
    numbers = number_images(dataset)
    coco_gt = as_coco(with_one_class(dataset, numbers), coco_api("pycocotools"))
    numbered = [{**prediction, "image_id": numbers[prediction["image_id"]]} for prediction in predictions]
    return {
        f"AR{suffix}@{limit}": 100 * float(_evaluate_box_proposals(numbered, coco_gt, area=area, limit=limit)["ar"])
        for limit in (100, 1000)
        for area, suffix in zip(DETECTRON2_AREAS, AREA_SUFFIXES, strict=True)
    }


def _boxes_of(detections: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, list[float]]:
    """Return (K, 4) x1, y1, x2, y2 and (K,) scores of one image's detections in COCO's format."""
    xywh = np.array([detection["bbox"] for detection in detections]).reshape(-1, 4)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return boxes, [detection["score"] for detection in detections]
