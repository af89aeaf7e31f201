"""Test-time augmentation of the one-stage role: several sizes of an image, and mirrored ones.

R-CNNs on FCOSRPN use Detectron2's `GeneralizedRCNNWithTTA`.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.data.transforms import TransformList
from detectron2.modeling import DatasetMapperTTA
from detectron2.structures import Boxes, Instances
from torch import nn
from torchvision.ops import batched_nms

from .meta_arch import FCOS


class FCOSWithTTA(nn.Module):
    """Runs `FCOS` on every augmented version of an image and merges the detections.

    The detections of all versions pass another class-wise suppression, with the model's own threshold and limit.
    """

    @configurable
    def __init__(self, model: FCOS, *, augment: DatasetMapperTTA) -> None:
        """
        Args:
            model: must be in evaluation mode when it runs.
            augment: an input -> its versions, each with the `transforms` that made it from the image.
        """
        super().__init__()
        self.model = model
        self.augment = augment

    @classmethod
    def from_config(cls, cfg: CfgNode, model: FCOS) -> dict[str, Any]:
        """Read sizes and mirroring from Detectron2's `TEST.AUG.{MIN_SIZES, MAX_SIZE, FLIP}`."""
        return {"model": model, "augment": DatasetMapperTTA(cfg)}

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect objects in each image.

        Args:
            batched_inputs: Detectron2's format: `image` (channels, height, width), best in the original size, since
                it is resized here; optionally `height` and `width` of the wanted output.

        Returns:
            For each image `{"instances": Instances}` with `pred_boxes` in pixels of the wanted output, `scores` and
            `pred_classes`, best first.
        """
        return [{"instances": self._detect(x)} for x in batched_inputs]

    def _detect(self, x: dict[str, Any]) -> Instances:
        height, width = x["image"].shape[-2:]
        versions = self.augment({"height": height, "width": width, **x})
        image_size = versions[0]["height"], versions[0]["width"]
        # One by one: padding a version to the size of another would change the statistics of the head's GN.
        return self._merge([self._detect_in(version, image_size) for version in versions])

    def _detect_in(self, version: dict[str, Any], image_size: tuple[int, int]) -> Instances:
        """Detect in one version, and return boxes in pixels of the output of this (height, width)."""
        (output,) = self.model([{"image": version["image"]}])
        found = output["instances"]
        transforms: TransformList = version["transforms"]
        boxes = transforms.inverse().apply_box(found.pred_boxes.tensor.cpu().numpy())
        return Instances(
            image_size,
            pred_boxes=Boxes(torch.as_tensor(boxes).to(found.pred_boxes.tensor)),
            scores=found.scores,
            pred_classes=found.pred_classes,
        )

    def _merge(self, of_versions: list[Instances]) -> Instances:
        candidates = Instances.cat(of_versions)
        candidates.pred_boxes.clip(candidates.image_size)
        candidates = candidates[candidates.pred_boxes.nonempty()]
        postprocessor = self.model.postprocessor
        best_first = batched_nms(
            candidates.pred_boxes.tensor, candidates.scores, candidates.pred_classes, postprocessor.nms_thresh
        )
        return candidates[best_first[: postprocessor.post_nms_topk]]
