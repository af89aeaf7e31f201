"""FCOS as a one-stage detector: images -> detections."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import move_device_like
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from . import keys
from .core import FCOSCore
from .postprocess import FCOSPostProcessor, rescale
from .training_log import is_time_to_log, log_picture


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
            core: predicts at every location, and learns.
            postprocessor: selects the detections.
            pixel_mean, pixel_std: per channel, in the order and the range of the input images.
            input_format: order of the input images' channels, such as "BGR".
            vis_period: iterations between two pictures in the training log; 0 for none.
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
        """Read `MODEL.FCOS`, the backbone's keys and the images' keys."""
        backbone = build_backbone(cfg)
        with keys.naming_keys({**keys.DETECTOR, **keys.ASSIGNER}):
            core = FCOSCore(cfg, backbone.output_shape(), **keys.read(cfg, keys.DETECTOR))
        postprocessor = keys.build(
            FCOSPostProcessor, cfg, keys.DETECTIONS, computes_centerness=cfg.MODEL.FCOS.CENTERNESS == "computed"
        )
        return {
            "backbone": backbone,
            "core": core,
            "postprocessor": postprocessor,
            **keys.read(cfg, keys.IMAGES),
            **keys.read(cfg, keys.PICTURES),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Compute losses in training, detections otherwise.

        Args:
            batched_inputs: Detectron2's format: `image` (channels, height, width); in training `instances` with
                `gt_boxes` and `gt_classes`; optionally `height` and `width` of the wanted output.

        Returns:
            In training `loss_fcos_{cls,loc,ctr}`, without `ctr` if it is not predicted. Otherwise for each image
            `{"instances": Instances}` with `pred_boxes` in pixels of the wanted output, `scores`, `pred_classes` and
            `location_idxs` (rows of the locations), best first.
        """
        images = self.preprocess_image(batched_inputs)
        predictions, locations = self.core(self.backbone(images.tensor))

        if self.training:
            gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
            if is_time_to_log(self.vis_period):
                detections = self.postprocessor(predictions, locations, images.image_sizes)
                log_picture(batched_inputs[0], detections[0], input_format=self.input_format)
            return self.core.losses(predictions, locations, gt_instances, role="fcos")

        detections = self.postprocessor(predictions, locations, images.image_sizes)
        return [{"instances": found} for found in rescale(detections, batched_inputs)]

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """See `batch_images`."""
        return batch_images(batched_inputs, self.backbone, self.pixel_mean, self.pixel_std)


def batch_images(
    batched_inputs: list[dict[str, Any]], backbone: Backbone, pixel_mean: Tensor, pixel_std: Tensor
) -> ImageList:
    """Normalize images, pad them to a common size that the backbone can divide, and batch them on the mean's device."""
    images = [move_device_like(x["image"], pixel_mean) for x in batched_inputs]
    return ImageList.from_tensors(
        [(image - pixel_mean) / pixel_std for image in images],
        backbone.size_divisibility,
        padding_constraints=backbone.padding_constraints,
    )
