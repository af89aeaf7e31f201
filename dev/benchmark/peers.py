"""Build this package's FCOS and other implementations with the same backbone and the same weights.

All select alike: score above .05, 1000 candidates per level, NMS at .6 (RetinaNet .5), 100 detections.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model, build_proposal_generator
from detectron2.modeling.meta_arch import fcos as detectron2_fcos
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.fcos import FCOSHead as TorchvisionHead

from dev.benchmark.inputs import RPN_STRIDES, SEED, Pyramid
from dev.benchmark.measuring import OURS
from fcos_rpn import model_zoo
from fcos_rpn.modeling.head import FCOSHead
from fcos_rpn.modeling.meta_arch import FCOS

CONFIGS = {"R50": "COCO-Detection/fcos_R_50_FPN_1x.yaml", "mobilenet_v2": "custom/fcos_mobilenet_v2.yaml"}
"""Backbone -> packaged config."""

SCORE_THRESH = 0.05
NUM_CANDIDATES = 2000
"""Pairs of a location and a class above the threshold in an image. A random model has none."""

TO_DETECTRON2 = {
    "cls_tower": "cls_subnet",
    "bbox_tower": "bbox_subnet",
    "cls_logits": "cls_score",
    "bbox_pred": "bbox_pred",
    "centerness": "ctrness",
}
TO_TORCHVISION = {
    "cls_tower": "classification_head.conv",
    "bbox_tower": "regression_head.conv",
    "cls_logits": "classification_head.cls_logits",
    "bbox_pred": "regression_head.bbox_reg",
    "centerness": "regression_head.bbox_ctrness",
}
"""Our head's modules -> a peer's. Within the towers the layers have the same numbers."""


def build_models(backbone: str, inputs: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """Build models by name, ours first, in evaluation mode, with about `NUM_CANDIDATES` on each of the inputs.

    Args:
        backbone: one of `CONFIGS`.
        inputs: Detectron2's, all of one size.
    """
    torch.manual_seed(SEED)
    cfg = model_zoo.get_config(CONFIGS[backbone])
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.FCOS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = 80
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = SCORE_THRESH
    cfg.MODEL.FCOS.THRESH_ON = "fused"  # as the peers have it
    ours = build_model(cfg).eval()
    _standardize_features(ours.backbone, device)
    _raise_scores(ours, inputs)

    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    # Detectron2's RetinaNet: three sizes and, as by default, three aspect ratios.
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[4 * s, 4 * s * 2 ** (1 / 3), 4 * s * 2 ** (2 / 3)] for s in ours.core.strides]
    cfg.MODEL.RETINANET.IN_FEATURES = ours.core.in_features
    retinanet = build_model(cfg).eval()
    retinanet.backbone.load_state_dict(ours.backbone.state_dict())
    _raise_scores(retinanet, inputs)
    return {
        OURS: ours,
        "detectron2": as_detectron2(ours).eval(),
        "torchvision": TorchvisionFCOS(ours).eval(),
        "retinanet": retinanet,
    }


def as_detectron2(ours: FCOS) -> nn.Module:
    """Build Detectron2's FCOS with copies of our weights."""
    shapes = ours.backbone.output_shape()
    head = detectron2_fcos.FCOSHead(
        input_shape=[shapes[name] for name in ours.core.in_features],
        num_classes=_num_classes(ours),
        conv_dims=[shapes[ours.core.in_features[0]].channels] * _num_convs(ours),
        norm="GN",
    )
    copy_head(ours.core.head, head, TO_DETECTRON2)
    return detectron2_fcos.FCOS(
        backbone=copy.deepcopy(ours.backbone),
        head=head,
        head_in_features=ours.core.in_features,
        num_classes=_num_classes(ours),
        test_score_thresh=SCORE_THRESH,
        pixel_mean=ours.pixel_mean.flatten().tolist(),
        pixel_std=ours.pixel_std.flatten().tolist(),
    ).to(ours.device)


class TorchvisionFCOS(nn.Module):
    """torchvision's FCOS with copies of our weights, behind Detectron2's interface."""

    def __init__(self, ours: FCOS) -> None:
        super().__init__()
        backbone = copy.deepcopy(ours.backbone)
        backbone.out_channels = ours.backbone.output_shape()[ours.core.in_features[0]].channels
        head = TorchvisionHead(backbone.out_channels, 1, _num_classes(ours), _num_convs(ours))
        copy_head(ours.core.head, head, TO_TORCHVISION)
        self.detector = detection.FCOS(
            backbone,
            num_classes=_num_classes(ours),
            head=head,
            image_mean=ours.pixel_mean.flatten().tolist(),
            image_std=ours.pixel_std.flatten().tolist(),
            score_thresh=SCORE_THRESH,
        ).to(ours.device)
        # The others take images as they are.
        self.detector.transform.resize = lambda image, target: (image, target)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """The losses in training, else torchvision's dicts of boxes, scores and labels."""
        images = [x["image"] for x in batched_inputs]
        if not self.training:
            return self.detector(images)
        gt = [x["instances"] for x in batched_inputs]
        return self.detector(images, [{"boxes": g.gt_boxes.tensor, "labels": g.gt_classes} for g in gt])


def copy_head(ours: FCOSHead, peer: nn.Module, names: Mapping[str, str]) -> None:
    """Copy our weights to a peer's head; the biases of its convolutions before a norm become zero.

    Args:
        names: `TO_DETECTRON2` or `TO_TORCHVISION`.
    """
    given = {}
    for key, value in ours.state_dict().items():
        module, _, rest = key.partition(".")
        if module in names:
            given[f"{names[module]}.{rest}"] = value
        else:
            assert key == "scales", f"{key}: the peers have no such thing"
            assert (value == 1).all(), "the peers have no scales"
    known = peer.state_dict()
    given |= {key: torch.zeros_like(known[key]) for key in known.keys() - given.keys() if key.endswith("bias")}
    peer.load_state_dict(given)


def detectron2_parts(strides: Mapping[str, int], *, num_classes: int, radius: float) -> Any:
    """Build detectron2's FCOS without backbone and head, for its assignment and its losses."""
    return detectron2_fcos.FCOS(
        backbone=Pyramid(strides),
        head=nn.Identity(),
        head_in_features=list(strides),
        num_classes=num_classes,
        center_sampling_radius=radius,
        pixel_mean=[0.0],
        pixel_std=[1.0],
    )


def anchor_rpn(device: torch.device, *, config: str = "table6_rpn.yaml") -> Any:
    """Build Detectron2's RPN on P2-P6, with 1000 proposals; `table6_rpn_gn.yaml` gives it our towers."""
    return proposal_generator(device, "MODEL.PROPOSAL_GENERATOR.NAME", "RPN", config=config)


def our_proposal_generator(
    device: torch.device, *, strides: Mapping[str, int] = RPN_STRIDES, num_convs: int = 4, num_shared_convs: int = 0
) -> Any:
    """Build FCOSRPN with 1000 proposals, by default on P2-P6 with its usual head."""
    head = ("MODEL.FCOS.NUM_CONVS", num_convs, "MODEL.FCOS.NUM_SHARED_CONVS", num_shared_convs)
    return proposal_generator(device, "MODEL.PROPOSAL_GENERATOR.NAME", "FCOSRPN", *head, strides=strides)


def proposal_generator(
    device: torch.device, *overrides: Any, config: str = "table6_rpn.yaml", strides: Mapping[str, int] = RPN_STRIDES
) -> Any:
    torch.manual_seed(SEED)
    cfg = model_zoo.get_config(f"COCO-Detection/paper/{config}")
    cfg.merge_from_list(list(overrides))
    cfg.MODEL.RPN.IN_FEATURES = list(strides)
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 1000
    return build_proposal_generator(cfg, Pyramid(strides).output_shape()).to(device).eval()


def _num_classes(ours: FCOS) -> int:
    return ours.core.head.cls_logits.out_channels


def _num_convs(ours: FCOS) -> int:
    return sum(isinstance(layer, nn.Conv2d) for layer in ours.core.head.cls_tower)


@torch.no_grad()
def _standardize_features(backbone: nn.Module, device: torch.device) -> None:
    """Set the frozen statistics of a random network to those of its features, which would grow from layer to layer."""

    def take_statistics(norm: Any, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    norms = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(take_statistics) for norm in norms]
    generator = torch.Generator().manual_seed(SEED)
    backbone(torch.randn(1, 3, 192, 256, generator=generator).to(device))
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def _raise_scores(model: Any, inputs: list[dict[str, Any]]) -> None:
    """Raise the bias of all classes until `NUM_CANDIDATES` per image are above the threshold."""
    features = model.backbone(model.preprocess_image(inputs).tensor)
    if isinstance(model, FCOS):
        predictions, _ = model.core(features)
        bias = model.core.head.cls_logits.bias
        # The fused score is the root of class score times centerness.
        least = (SCORE_THRESH**2 / predictions.centerness.sigmoid()).clamp(max=1.0).logit()[..., None]
        offsets = (least - predictions.logits).flatten()
    else:
        maps, _ = model.head([features[name] for name in model.head_in_features])
        bias = model.head.cls_score.bias
        offsets = math.log(SCORE_THRESH / (1 - SCORE_THRESH)) - torch.cat([level.flatten() for level in maps])
    bias += offsets.kthvalue(NUM_CANDIDATES * len(inputs)).values
