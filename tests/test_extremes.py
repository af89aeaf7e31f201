"""Images and boxes at the ends of what is possible train and infer."""

from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from tests.tiny import tiny_config

ARCHITECTURES = ["FCOS", "GeneralizedRCNN"]


def model_input(size: tuple[int, int], boxes: Any) -> dict[str, Any]:
    height, width = size
    gt_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32).view(-1, 4))
    gt = Instances(size, gt_boxes=gt_boxes, gt_classes=torch.arange(len(gt_boxes)) % 2)
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return {"image": image, "instances": gt, "height": height, "width": width}


def many_boxes(count: int, side: float) -> Tensor:
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * (64 - side)
    return torch.cat([corners, corners + side], dim=1)


INPUTS = {
    "one pixel": [((1, 1), [0, 0, 1, 1]), ((1, 1), [])],
    "one pixel beside a long image": [((1, 1), [0, 0, 1, 1]), ((2, 700), [1, 0, 690, 2])],
    "5,000 boxes": [((64, 64), many_boxes(5000, 12))],
    "boxes of one pixel": [((64, 64), many_boxes(30, 1)), ((64, 64), [[4.0, 4, 5, 5], [3.5, 3.5, 4.5, 4.5]])],
    "the whole image": [((64, 64), [0, 0, 64, 64]), ((64, 64), [0, 0, 64, 64])],
    "identical boxes": [((64, 64), torch.tensor([8.0, 8, 40, 40]).expand(50, 4))],
}


def assert_trains(model: nn.Module, batch: list[dict[str, Any]]) -> None:
    model.zero_grad()
    with EventStorage():
        losses = model.train()(batch)
    sum(losses.values()).backward()
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
        if "fcos" in name or "rpn" in name:
            assert loss.dtype == torch.float32, name
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def assert_infers(model: nn.Module, batch: list[dict[str, Any]]) -> None:
    with torch.no_grad():
        results = model.eval()(batch)
    for x, result in zip(batch, results, strict=True):
        boxes = result["instances"].pred_boxes.tensor
        assert torch.isfinite(boxes).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([x["width"], x["height"]] * 2)).all()


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    models = {}
    for architecture in ARCHITECTURES:
        torch.manual_seed(0)
        cfg = tiny_config(architecture)
        cfg.MODEL.FCOS.SCORE_THRESH_TEST = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0  # so that it detects untrained
        models[architecture] = build_model(cfg)
    return models


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_images_and_boxes(models, architecture, kind):
    batch = [model_input(size, boxes) for size, boxes in INPUTS[kind]]
    assert_trains(models[architecture], batch)
    assert_infers(models[architecture], batch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision(models, architecture, dtype):
    batch = [model_input((64, 64), many_boxes(5, 20)), model_input((64, 64), [])]
    with torch.autocast("cpu", dtype=dtype):
        assert_trains(models[architecture], batch)
        assert_infers(models[architecture], batch)
