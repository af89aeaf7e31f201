"""Images, boxes and pictures at the ends of what is possible train and infer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fcos_rpn import FCOS, FCOSAssigner, FCOSCore, FCOSHead, FCOSLosses, FCOSPostProcessor
from fcos_rpn.engine import yaml
from fcos_rpn.engine.setup import use_datasets
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


class PooledBackbone(Backbone):
    """P3 to P7 of four channels for next to nothing: one convolution, and pooling above it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, kernel_size=8, stride=8)

    @property
    def size_divisibility(self) -> int:
        return 128

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        levels = [self.convolution(image)]
        for _ in range(4):
            levels.append(F.max_pool2d(levels[-1], kernel_size=2))
        return {f"p{level}": features for level, features in enumerate(levels, start=3)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {f"p{level}": ShapeSpec(channels=4, stride=2**level) for level in range(3, 8)}


def test_an_image_of_24_megapixels():
    torch.manual_seed(0)
    backbone = PooledBackbone()
    strides = [shape.stride for shape in backbone.output_shape().values()]
    model = FCOS(
        backbone=backbone,
        core=FCOSCore(
            in_features=list(backbone.output_shape()),
            strides=strides,
            head=FCOSHead(in_channels=4, strides=strides, num_classes=2, num_convs=1, norm=""),
            assigner=FCOSAssigner(num_classes=2, sizes_of_interest=[64.0, 128.0, 256.0, 512.0]),
            loss_functions=FCOSLosses(),
        ),
        postprocessor=FCOSPostProcessor(score_thresh=0.0, pre_nms_topk=50, nms_thresh=0.6, post_nms_topk=100),
        pixel_mean=(128.0, 128.0, 128.0),
        pixel_std=(64.0, 64.0, 64.0),
    )
    batch = [model_input((4000, 6000), [[0, 0, 6000, 4000], [5990, 3990, 6000, 4000], [100, 100, 101, 101]])]
    assert_trains(model, batch)
    assert_infers(model, batch)


def write_odd_pictures(folder: Path) -> tuple[str, str]:
    """A data set in COCO's format of every kind of picture that is no plain RGB, with the whole image as its box."""
    noise = Image.effect_noise((48, 32), 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: seen as 32 x 48
    transparent = noise.convert("RGBA")
    transparent.putalpha(noise)
    (folder / "images").mkdir(parents=True)
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "gray.png": (noise, {}),
        "transparent.png": (transparent, {}),
        "palette.gif": (noise.convert("P"), {}),
        "deep.png": (Image.fromarray(np.asarray(noise).astype(np.uint16) * 257), {}),
        "turned.jpg": (noise.convert("RGB"), {"exif": exif}),
        "print.jpg": (noise.convert("CMYK"), {}),
        "pixel.png": (noise.crop((0, 0, 1, 1)), {}),
        "line.png": (noise.crop((0, 0, 48, 1)), {}),
    }
    images, annotations = [], []
    for number, (name, (picture, options)) in enumerate(pictures.items(), start=1):
        picture.save(folder / "images" / name, **options)
        width, height = picture.size[::-1] if options else picture.size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        box = {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": 1, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "noise"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return str(folder / "images"), str(folder / "instances.json")


def test_odd_pictures_train_and_evaluate(tmp_path, detectron2_restored):
    cfg = tiny_config()
    cfg.DATASETS.TRAIN_FOLDERS = cfg.DATASETS.TEST_FOLDERS = [list(write_odd_pictures(tmp_path))]
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 4, 4
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = 512
    use_datasets(cfg)
    results = yaml.build_trainer(cfg).train()
    assert results["bbox"]["AP"] >= 0
