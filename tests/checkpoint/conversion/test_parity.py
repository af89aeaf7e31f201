"""torchvision's and Detectron2's own FCOS with random weights, converted, detect the same."""

from collections.abc import Callable

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.modeling import build_model
from torch import Tensor, nn
from torchvision.models import detection

from fcos_rpn.checkpoint import FCOSCheckpointer
from fcos_rpn.checkpoint.conversion import config_text, convert_state_dict, write_weights
from fcos_rpn.checkpoint.conversion.tables import COCO_IDS
from fcos_rpn.config import read_config

Detections = tuple[Tensor, Tensor, Tensor]
"""Boxes, scores and classes."""

SIZES = [(128, 128), (128, 256)]
"""Height and width; torchvision's strides of P6 and P7 are exact only where 128 divides both."""


@torch.no_grad()
def randomize(model: nn.Module, tower_names: tuple[str, str]) -> None:
    """Also what a new model has at 0 and 1; the features keep a sane size."""
    torch.manual_seed(0)
    statistics = dict(model.named_buffers()) | dict(model.named_parameters())
    for name, value in statistics.items():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
        elif name.endswith("running_var"):
            prefix = name.removesuffix("running_var")
            value.uniform_(0.5, 1.5)
            is_last_of_block = prefix.endswith(("bn3.", "conv3.norm."))
            statistics[f"{prefix}weight"].uniform_(0.1, 0.3) if is_last_of_block else None
            statistics[f"{prefix}bias"].normal_(std=0.1)
        elif name.startswith(tower_names) and value.ndim == 1:  # biases, of convolutions too, and weights of norms
            value.add_(torch.randn_like(value) * 0.1)


@torch.no_grad()
def set_predictors(
    cls_logits: nn.Conv2d, bbox_pred: nn.Conv2d, centerness: nn.Conv2d, *, distance: float, spread: float
) -> None:
    """Many scores above the threshold, and boxes of about this distance in strides to their sides, always above 0."""
    torch.manual_seed(1)
    cls_logits.weight.normal_(std=0.05)
    cls_logits.get_parameter("bias").normal_(mean=-2, std=0.1)
    bbox_pred.weight.normal_(std=spread)
    bbox_pred.get_parameter("bias").copy_(distance * torch.tensor([1, 0.9, 1.1, 1.05]))
    centerness.weight.normal_(std=0.01)
    centerness.get_parameter("bias").fill_(0.3)


def converted(model: nn.Module, source: str, folder, *overrides: str) -> nn.Module:
    """Our model by way of the files that a user has."""
    conversion = convert_state_dict(model.state_dict(), source=source, target="FCOS", overrides=overrides)
    write_weights(folder / "ours.pth", conversion.weights)
    (folder / "ours.yaml").write_text(config_text(conversion.settings, comment=""))
    ours = build_model(read_config(folder / "ours.yaml", ["MODEL.DEVICE", "cpu"])).eval()
    FCOSCheckpointer(ours, require_all=True).load(str(folder / "ours.pth"))
    return ours


def pictures() -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.randint(256, (3, *size)).float() for size in SIZES]


def assert_same(ours: nn.Module, their_bias: Tensor, detect: Callable[[Tensor], Detections]) -> None:
    """With many detections, whose number is cut off, and with few, of which the threshold decides.

    Args:
        ours: the converted model.
        their_bias: of the source's class layer; both are changed.
        detect: the source's boxes, scores and classes, these in our order, of a picture.
    """
    expected = [detect(picture) for picture in pictures()]
    assert [len(scores) for _, scores, _ in expected] == [100, 100]
    _assert_detects(ours, expected)

    our_bias = ours.get_parameter("core.head.cls_logits.bias")
    for step in (4.5, *[0.5] * 10):
        their_bias -= step
        our_bias.sub_(step)
        expected = [detect(picture) for picture in pictures()]
        if any(len(scores) < 100 for _, scores, _ in expected):
            break
    assert any(0 < len(scores) < 100 for _, scores, _ in expected)
    _assert_detects(ours, expected)


def _assert_detects(ours: nn.Module, expected: list[Detections]) -> None:
    for picture, (boxes, scores, classes) in zip(pictures(), expected, strict=True):
        found = ours([{"image": picture}])[0]["instances"]
        torch.testing.assert_close(found.scores, scores, rtol=1e-4, atol=0)
        assert torch.equal(found.pred_classes, classes)
        torch.testing.assert_close(found.pred_boxes.tensor, boxes, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_torchvision(tmp_path):
    torch.manual_seed(0)  # the same weights in any order of the tests: others may have scores that tie
    theirs = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None, min_size=128, max_size=256).eval()
    head, regression = theirs.head.classification_head, theirs.head.regression_head
    randomize(theirs, ("head.classification_head.conv", "head.regression_head.conv"))
    set_predictors(head.cls_logits, regression.bbox_reg, regression.bbox_ctrness, distance=2.0, spread=0.01)
    others = torch.ones(91, dtype=torch.bool)
    others[COCO_IDS] = False
    head.cls_logits.bias[others] = -100  # as good as never found by trained weights either

    class_of_id = {number: position for position, number in enumerate(COCO_IDS)}

    def detect(picture: Tensor) -> Detections:
        (found,) = theirs([picture / 255])
        classes = torch.tensor([class_of_id[number] for number in found["labels"].tolist()])
        return found["boxes"], found["scores"], classes

    assert_same(converted(theirs, "torchvision", tmp_path), head.cls_logits.bias, detect)


@torch.no_grad()
@pytest.mark.parametrize(
    # Detectron2 suppresses before it clips: no difference for boxes within the image, and none without suppression.
    ("distance", "spread", "nms_thresh"),
    [(0.3, 0.001, 0.6), (2.0, 0.01, 1.0)],
    ids=["within the image", "clipped"],
)
def test_detectron2(tmp_path, distance, spread, nms_thresh):
    theirs = instantiate(model_zoo.get_config("common/models/fcos.py").model).eval()
    randomize(theirs, ("head.cls_subnet", "head.bbox_subnet"))
    set_predictors(theirs.head.cls_score, theirs.head.bbox_pred, theirs.head.ctrness, distance=distance, spread=spread)
    theirs.test_nms_thresh = nms_thresh

    def detect(picture: Tensor) -> Detections:
        found = theirs([{"image": picture}])[0]["instances"]
        return found.pred_boxes.tensor, found.scores, found.pred_classes

    ours = converted(theirs, "detectron2", tmp_path, "MODEL.FCOS.NMS_THRESH_TEST", str(nms_thresh))
    assert_same(ours, theirs.head.cls_score.bias, detect)
