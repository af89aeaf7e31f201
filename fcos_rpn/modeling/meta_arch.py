"""Shell A: FCOS as a one-stage detector, images -> detections."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import move_device_like
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from .core import FCOSCore
from .postprocess import FCOSPostProcessor, rescale
from .training_log import log_picture, log_predictions, log_targets


@META_ARCH_REGISTRY.register()
class FCOS(nn.Module):
    """The detector of the paper. `FCOSRPN` is the other role of the same core."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        core: FCOSCore,
        postprocessor: FCOSPostProcessor,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        input_format: str = "BGR",
        vis_period: int = 0,
    ) -> None:
        """
        Args:
            backbone: images -> named levels of a feature pyramid.
            core: what learns above it.
            postprocessor: selects the detections.
            pixel_mean, pixel_std: per channel, in the order and the range of the input images.
            input_format: what the channels of the input images mean.
            vis_period: iterations from one picture in the training log to the next; 0 for none.
        """
        super().__init__()
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.backbone = backbone
        self.core = core
        self.postprocessor = postprocessor
        self.input_format = input_format
        self.vis_period = vis_period
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        fcos = cfg.MODEL.FCOS
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "core": FCOSCore(cfg, backbone.output_shape(), in_features=fcos.IN_FEATURES, num_classes=fcos.NUM_CLASSES),
            "postprocessor": FCOSPostProcessor(
                score_thresh=fcos.SCORE_THRESH_TEST,
                pre_nms_topk=fcos.TOPK_CANDIDATES_TEST,
                nms_thresh=fcos.NMS_THRESH_TEST,
                post_nms_topk=cfg.TEST.DETECTIONS_PER_IMAGE,
                score_fusion=fcos.SCORE_FUSION,
                thresh_on=fcos.THRESH_ON,
                computes_centerness=fcos.CENTERNESS == "computed",
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """
        Args:
            batched_inputs: Detectron2's format: `image` (channels, height, width); in training `instances` with
                `gt_boxes` and `gt_classes`; optionally `height` and `width` of the wanted output.

        Returns:
            In training the losses `loss_fcos_{cls,loc,ctr}`, `ctr` if it is predicted; else for each image
            `{"instances": Instances}` with `pred_boxes` in pixels of the wanted output, `scores`, `pred_classes` and
            `location_idxs` (rows of the locations), best first.
        """
        images = self.preprocess_image(batched_inputs)
        predictions, locations = self.core(self.backbone(images.tensor))

        if self.training:
            gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
            targets = self.core.assigner(locations, gt_instances)
            log_targets("fcos", self.core.in_features, targets, locations, gt_instances)
            log_predictions("fcos", predictions, targets)
            if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
                with torch.no_grad():
                    detections = self.postprocessor(predictions, locations, images.image_sizes)
                log_picture(batched_inputs[0], detections[0], input_format=self.input_format)
            losses = self.core.criterion(predictions, targets)
            return {f"loss_fcos_{name}": loss for name, loss in losses.items()}

        detections = self.postprocessor(predictions, locations, images.image_sizes)
        return [{"instances": found} for found in rescale(detections, batched_inputs)]

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """See `batch_images`."""
        return batch_images(batched_inputs, self.backbone, self.pixel_mean, self.pixel_std)


def batch_images(
    batched_inputs: list[dict[str, Any]], backbone: Backbone, pixel_mean: Tensor, pixel_std: Tensor
) -> ImageList:
    """Normalize, pad to a common size that the backbone can divide, and batch, on the device of the mean."""
    images = [move_device_like(x["image"], pixel_mean) for x in batched_inputs]
    return ImageList.from_tensors(
        [(image - pixel_mean) / pixel_std for image in images],
        backbone.size_divisibility,
        padding_constraints=backbone.padding_constraints,
    )
