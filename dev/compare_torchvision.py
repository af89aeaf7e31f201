"""Compare the quick start with torchvision's FCOS: the same data, backbone, pyramid, batch and seconds of training.

Run `make quickstart` first; the seconds are those of its one-stage FCOS.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.fcos import FCOSHead

from fcos_rpn import UserError, model_zoo
from fcos_rpn.checkpoint import FCOSCheckpointer
from fcos_rpn.commands.quickstart import ONE_STAGE, imagenet_weights
from fcos_rpn.engine import yaml
from fcos_rpn.engine.progress import log_to, progress_writers, training_seconds
from fcos_rpn.engine.setup import use_datasets
from fcos_rpn.engine.trainer import Trainer
from fcos_rpn.errors import user_errors_as_messages
from fcos_rpn.evaluation import results_table

NUM_TIMED_ITERATIONS = 20


@META_ARCH_REGISTRY.register()
class TorchvisionYardstick(nn.Module):
    """torchvision's FCOS behind Detectron2's interface, with towers as deep as ours."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        backbone = build_backbone(cfg)
        backbone.out_channels = cfg.MODEL.FPN.OUT_CHANNELS
        FCOSCheckpointer(nn.ModuleDict({"backbone": backbone})).load(cfg.MODEL.WEIGHTS)
        self.detector = detection.FCOS(
            backbone,
            num_classes=cfg.MODEL.FCOS.NUM_CLASSES,
            head=FCOSHead(cfg.MODEL.FPN.OUT_CHANNELS, 1, cfg.MODEL.FCOS.NUM_CLASSES, cfg.MODEL.FCOS.NUM_CONVS),
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            image_mean=[mean / 255 for mean in cfg.MODEL.PIXEL_MEAN],
            image_std=[std / 255 for std in cfg.MODEL.PIXEL_STD],
        )

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        images = [x["image"].float() / 255 for x in batched_inputs]
        if self.training:
            gt = [x["instances"] for x in batched_inputs]
            return self.detector(images, [{"boxes": g.gt_boxes.tensor, "labels": g.gt_classes} for g in gt])
        outputs = []
        for x, found in zip(batched_inputs, self.detector(images), strict=True):
            instances = Instances(
                tuple(x["image"].shape[-2:]),
                pred_boxes=Boxes(found["boxes"]),
                scores=found["scores"],
                pred_classes=found["labels"],
            )
            outputs.append({"instances": detector_postprocess(instances, x["height"], x["width"])})
        return outputs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("output/quickstart"), help="default: %(default)s")
    args = parser.parse_args(arguments)
    ours = args.quickstart / "fcos"
    if not (ours / "results.json").exists():
        raise UserError(f"{ours}/results.json is missing: run make quickstart first")
    log_to(args.quickstart / "log.txt")
    seconds = training_seconds(ours / "metrics.json")

    cfg = model_zoo.get_config(ONE_STAGE)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.MODEL.META_ARCHITECTURE = "TorchvisionYardstick"
    cfg.MODEL.WEIGHTS = imagenet_weights(args.quickstart / "mobilenet_v2.pth")
    cfg.OUTPUT_DIR = str(args.quickstart / "torchvision")
    digits = args.quickstart / "digits"
    cfg.DATASETS.TRAIN_FOLDERS = [[str(digits / "train"), str(digits / "instances_train.json")]]
    cfg.DATASETS.TEST_FOLDERS = [[str(digits / "val"), str(digits / "instances_val.json")]]
    use_datasets(cfg)

    cfg.SOLVER.MAX_ITER = round(seconds / seconds_per_iteration(cfg))
    trainer = train(cfg, f"torchvision's FCOS for {seconds:.0f} s")
    results = {
        "torchvision": yaml.evaluate(cfg, trainer.raw_model),
        "fcos_rpn": next(iter(json.loads((ours / "results.json").read_text(encoding="utf-8")).values())),
    }
    print(
        f"\nSeconds of training: torchvision {training_seconds(Path(cfg.OUTPUT_DIR) / 'metrics.json'):.0f}, "
        f"fcos_rpn {seconds:.0f}\n{results_table({name: found['bbox'] for name, found in results.items()})}"
    )


def train(cfg: CfgNode, title: str) -> Trainer:
    seed_all_rng(cfg.SEED)
    writers = progress_writers(title, cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR)
    trainer = yaml.build_trainer(cfg, evaluate=None, writers=writers)
    trainer.train()
    return trainer


def seconds_per_iteration(cfg: CfgNode) -> float:
    """Time a few iterations that are thrown away."""
    cfg = cfg.clone()
    cfg.SOLVER.MAX_ITER = NUM_TIMED_ITERATIONS
    with tempfile.TemporaryDirectory() as cfg.OUTPUT_DIR:
        train(cfg, "timing")
        return training_seconds(Path(cfg.OUTPUT_DIR) / "metrics.json") / NUM_TIMED_ITERATIONS


if __name__ == "__main__":
    with user_errors_as_messages():
        main()
