"""Models, batches and data sets on which everything takes well under a second, on one thread."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from PIL import Image, ImageDraw

from fcos_rpn import add_fcos_config

CATEGORIES = {3: "red", 8: "blue"}
"""COCO's category id, with a gap, -> class."""

IMAGE_SIZES = ((96, 64), (64, 96), (80, 80))
"""Width and height of the pictures, in turn: wide, tall and square."""


def tiny_config(meta_architecture: str = "FCOS", proposal_generator: str = "FCOSRPN") -> CfgNode:
    """Two classes on the CPU: FCOS, or another architecture with FCOSRPN or RPN on P3-P7 and RoI heads on P2-P5.

    The backbone is a random ShuffleNet, or where a test names another one, a ResNet-18 or timm's smallest. The pyramid
    has 64 channels, since on the 1 x 1 map of a single image the 32 groups of GN need more than one channel each.
    """
    is_one_stage = meta_architecture == "FCOS"
    cfg = get_cfg()
    add_fcos_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = meta_architecture
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.TORCHVISION.NAME = "shufflenet_v2_x0_5"
    cfg.MODEL.TIMM.NAME = "test_resnet"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.NORM = 18, 64, "GN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"] if is_one_stage else ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    cfg.MODEL.FCOS.NUM_CLASSES = len(CATEGORIES)
    cfg.MODEL.FCOS.NUM_CONVS = 1
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = proposal_generator
    if proposal_generator == "RPN":
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [128], [256]]
    cfg.MODEL.RPN.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CATEGORIES)
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.MAX_ITER = 2
    cfg.SOLVER.STEPS = ()
    cfg.SOLVER.WARMUP_ITERS = 0
    return cfg


def tiny_batch(
    sizes: Sequence[tuple[int, int]],
    num_boxes: Sequence[int],
    *,
    num_classes: int = len(CATEGORIES),
    with_masks: bool = False,
    num_keypoints: int = 0,
) -> list[dict[str, Any]]:
    """Detectron2's inputs: noise of these (height, width) with as many random boxes, always the same for the same
    arguments."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for (height, width), count in zip(sizes, num_boxes, strict=True):
        half = torch.tensor([width, height]) / 2
        low = torch.rand(count, 2, generator=generator) * half
        high = low + 8 + torch.rand(count, 2, generator=generator) * (half - 8)
        boxes = torch.cat([low, high], dim=1)  # sides from 8 pixels to half the image
        instances = Instances(
            (height, width),
            gt_boxes=Boxes(boxes),
            gt_classes=torch.randint(num_classes, (count,), generator=generator),
        )
        if with_masks:
            instances.gt_masks = BitMasks(torch.rand(count, height, width, generator=generator) > 0.5)
        if num_keypoints:
            points = boxes[:, None, :2] + torch.rand(count, num_keypoints, 2, generator=generator) * 8
            instances.gt_keypoints = Keypoints(torch.cat([points, torch.full((count, num_keypoints, 1), 2.0)], dim=2))
        image = torch.randint(256, (3, height, width), generator=generator).float()
        batch.append({"image": image, "instances": instances, "height": height, "width": width})
    return batch


def without_gradient(model: torch.nn.Module) -> list[str]:
    """Return the names of the parameters that should learn, and got no gradient that is finite and not zero."""

    def learns(gradient: torch.Tensor | None) -> bool:
        return gradient is not None and bool(gradient.isfinite().all() and gradient.any())

    return [name for name, p in model.named_parameters() if p.requires_grad and not learns(p.grad)]


def write_coco_folder(folder: Path, *, num_images: int = 4, boxes_per_image: int = 2) -> tuple[str, str]:
    """A data set in COCO's format: rectangles in the colour of their class on grey noise.

    Returns:
        The folder of the images and the json, as the command line wants them.
    """
    rng = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True)
    for image_id in range(1, num_images + 1):
        width, height = IMAGE_SIZES[image_id % len(IMAGE_SIZES)]
        picture = Image.effect_noise((width, height), 30).convert("RGB")
        for _ in range(boxes_per_image):
            category_id = int(rng.choice(list(CATEGORIES)))
            w, h = (int(side) for side in rng.integers(12, 40, size=2))
            x, y = int(rng.integers(width - w)), int(rng.integers(height - h))
            ImageDraw.Draw(picture).rectangle((x, y, x + w - 1, y + h - 1), fill=CATEGORIES[category_id])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        picture.save(folder / "images" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": width, "height": height})
    categories = [{"id": category_id, "name": name} for category_id, name in CATEGORIES.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return str(folder / "images"), str(folder / "instances.json")
