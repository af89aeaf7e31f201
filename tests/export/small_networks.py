"""Models whose backbone is three convolutions, so that a graph of one is made in seconds."""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from torch import Tensor, nn

from tests.tiny import tiny_config

SIZES = ((150, 200), (223, 161))
"""Height and width of images; graphs are traced with another size. Not divisible by 32, and of different pyramids."""

TRACED_SIZE = (160, 192)


class ThreeConvolutions(Backbone):
    """res3, res4 and res5 of 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.res3 = nn.Conv2d(3, 16, kernel_size=8, stride=8)
        self.res4 = nn.Conv2d(16, 16, kernel_size=2, stride=2)
        self.res5 = nn.Conv2d(16, 16, kernel_size=2, stride=2)
        self._out_features = ["res3", "res4", "res5"]
        self._out_feature_strides = {"res3": 8, "res4": 16, "res5": 32}
        self._out_feature_channels = dict.fromkeys(self._out_features, 16)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        res3 = self.res3(images)
        res4 = self.res4(torch.relu(res3))
        return {"res3": res3, "res4": res4, "res5": self.res5(torch.relu(res4))}


@BACKBONE_REGISTRY.register()
def build_three_convolutions_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    return FPN(
        bottom_up=ThreeConvolutions(),
        in_features=["res3", "res4", "res5"],
        out_channels=channels,
        top_block=LastLevelP6P7(channels, channels, in_feature="p5"),
    )


def small_config(meta_architecture: str = "FCOS", proposal_generator: str = "FCOSRPN") -> CfgNode:
    """Two classes; of a ProposalNetwork 20 proposals."""
    cfg = tiny_config(meta_architecture, proposal_generator)
    cfg.MODEL.BACKBONE.NAME = "build_three_convolutions_fpn_backbone"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    return cfg


def small_model(cfg: CfgNode) -> nn.Module:
    """In evaluation mode, with weights under which scores and boxes differ from place to place."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    core = model.core if cfg.MODEL.META_ARCHITECTURE == "FCOS" else model.proposal_generator.core
    for layer, std in ((core.head.cls_logits, 0.1), (core.head.bbox_pred, 0.05), (core.head.centerness, 0.1)):
        if layer is not None:
            nn.init.normal_(layer.weight, std=std)
    return model


def noise(size: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(seed)) * 255


@torch.no_grad()
def found_by(model: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
    """What the model itself finds, in the layout of a `BoxNetwork`."""
    ((found,),) = (output.values() for output in model([{"image": image}]))
    if found.has("objectness_logits"):
        return found.proposal_boxes.tensor, found.objectness_logits.sigmoid()
    return found.pred_boxes.tensor, found.scores, found.pred_classes


def require_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert len(found) == len(expected)
    for ours, models in zip(found, expected, strict=True):
        assert ours.dtype == models.dtype
        torch.testing.assert_close(ours, models, rtol=0, atol=1e-4)
