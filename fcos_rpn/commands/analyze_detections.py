"""Compare the class-agnostic boxes of trained models on the same images:

- precision over recall at IoU .50, .75 and .90 in one plot, and AP (paper, table 7);
- for every FCOS, in either role, its scores against IoU before and after centerness;
- the share of its boxes that come from ambiguous locations.

A one-stage model is evaluated by its detections, a two-stage model by its proposals.

Example:
    fcos-rpn analyze-detections --test images/val val.json --output output/analysis \\
        --model "one-stage FCOS" output/fcos/config.yaml output/fcos/model_final.pth \\
        --model "FCOSRPN" output/faster_rcnn/config.yaml output/faster_rcnn/model_final.pth
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import detector_postprocess
from detectron2.structures import Instances
from tabulate import tabulate
from tqdm import tqdm

from ..analysis.box_origins import BoxOrigins, ambiguous_shares, find_with_origins, preprocess, rank_correlation
from ..data import CheckedDatasetMapper
from ..engine.setup import require_device
from ..errors import make_folder
from ..evaluation import PrecisionRecall, precision_recall, write_results
from ..modeling.find import find_fcos
from ..visualization import plot_precision_recall, plot_score_against_iou, save_figure
from .arguments import command_parser, config_with_test_set, load_model

NUM_BOXES = 100
"""How many boxes of an image count, best first, as for COCO's AP."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The whole job, top-down."""
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    titles = [title for title, _, _ in args.model]
    file_names = [file_name_of(title) for title in titles]
    if len({*file_names}) < len(titles):
        parser.error("--model: the titles must differ in their letters and digits, which name the files")
    make_folder(args.output)
    # All are loaded before the first one runs, so that a mistake in the last config is found at once.
    configs = [config_of(args, config) for _, config, _ in args.model]
    models = {title: load_model(cfg, weights) for (title, _, weights), cfg in zip(args.model, configs, strict=True)}

    reports = {title: analyze(model, cfg, title) for (title, model), cfg in zip(models.items(), configs, strict=True)}

    save_figure(
        plot_precision_recall({title: report.curves for title, report in reports.items()}),
        args.output / "precision_recall",
    )
    for file_name, report in zip(file_names, reports.values(), strict=True):
        if report.origins is not None:
            save_figure(plot_score_against_iou(report.origins), args.output / f"score_iou_{file_name}")
    figures = {title: figures_of(report) for title, report in reports.items()}
    write_results(args.output / "results.json", figures)
    print(f"\n{tables(reports, figures)}\n\nFigures: {args.output}/*.png, *.svg, results.json")


def build_argument_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__, has_config=False, output="output/analysis", overrides="overrides of all configs")
    parser.add_argument(
        "--model",
        nargs=3,
        action="append",
        required=True,
        metavar=("TITLE", "CONFIG", "WEIGHTS"),
        help="a trained model: FCOS or another one-stage detector of Detectron2, a proposal network or an R-CNN; "
        "repeatable",
    )
    parser.add_argument(
        "--test", nargs=2, required=True, metavar=("IMAGES", "JSON"), help="a folder in COCO's format to run them on"
    )
    return parser


def file_name_of(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def config_of(args: argparse.Namespace, config: str) -> CfgNode:
    """Read config file and overrides, with the data set as the only test set; for a GPU if there is one."""
    overrides = ["MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu", *args.opts]
    images, annotations = args.test
    cfg = config_with_test_set(config, overrides, images=images, annotations=annotations, output=args.output)
    require_device(cfg.MODEL.DEVICE, 1)
    return cfg


class Report(NamedTuple):
    """What a model finds in the data set."""

    kind: str
    """ "detections" or "proposals"."""
    curves: PrecisionRecall
    origins: BoxOrigins | None
    """Origins of the boxes of all images; None if the model has no FCOS."""


def analyze(model: Any, cfg: CfgNode, title: str) -> Report:
    """Run the model once over all images."""
    (name,) = cfg.DATASETS.TEST
    augmentations = build_augmentation(cfg, is_train=False)
    # The training mapper keeps annotations, in pixels of the input; the augmentations are those of a test.
    mapper = CheckedDatasetMapper(is_train=True, augmentations=augmentations, image_format=cfg.INPUT.FORMAT)
    loader = build_detection_test_loader(
        dataset=DatasetCatalog.get(name), mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    boxes: dict[int, tuple[Any, Any]] = {}
    origins: list[BoxOrigins] = []
    for (x,) in tqdm(loader, desc=title, unit="image"):
        if find_fcos(model) is None:
            found = find(model, x)
        else:
            ((found, traced),) = find_with_origins(model, [x], limit=NUM_BOXES)
            found = detector_postprocess(found, x["height"], x["width"])
            origins.append(BoxOrigins(*(field.cpu() for field in traced)))
        boxes[x["image_id"]] = found.pred_boxes.tensor.cpu(), found.scores.cpu()
    return Report(
        kind="detections" if getattr(model, "proposal_generator", None) is None else "proposals",
        curves=precision_recall(MetadataCatalog.get(name).json_file, boxes, limit=NUM_BOXES),
        origins=BoxOrigins.cat(origins) if origins else None,
    )


@torch.no_grad()
def find(model: Any, x: dict[str, Any]) -> Instances:
    """Run a model without FCOS on an image: `pred_boxes` in its pixels and `scores`, best first."""
    generator = getattr(model, "proposal_generator", None)
    if generator is None:
        (output,) = model([x])
        found: Instances = output["instances"]
        return found
    images = preprocess(model, [x])
    (proposals,), _ = generator(images, model.backbone(images.tensor), None)
    found = Instances(proposals.image_size, pred_boxes=proposals.proposal_boxes, scores=proposals.objectness_logits)
    return detector_postprocess(found[:NUM_BOXES], x["height"], x["width"])


def figures_of(report: Report) -> dict[str, dict[str, float]]:
    """Return the content of `results.json`: percentages and rank correlations."""
    figures = {"class_agnostic": report.curves.summary()}
    if report.origins is not None:
        figures["rank_correlation_with_iou"] = {
            "class_probability": rank_correlation(report.origins.class_scores, report.origins.ious),
            "score": rank_correlation(report.origins.scores, report.origins.ious),
        }
        figures["ambiguous_locations"] = ambiguous_shares(report.origins)
    return figures


def tables(reports: Mapping[str, Report], figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Format AP of all models, and rank correlations and ambiguous locations of every FCOS."""
    precision: list[dict[str, Any]] = [
        {"class-agnostic, %": title, "boxes": reports[title].kind, **of_model["class_agnostic"]}
        for title, of_model in figures.items()
    ]
    with_fcos = {title: of_model for title, of_model in figures.items() if "ambiguous_locations" in of_model}
    headers = [
        f"best {NUM_BOXES} boxes",
        "rank correlation of IoU with class probability",
        "with score",
        "% from ambiguous locations",
        "across classes",
    ]
    origins = [
        [title, *of_model["rank_correlation_with_iou"].values(), *of_model["ambiguous_locations"].values()]
        for title, of_model in with_fcos.items()
    ]
    first = tabulate(precision, headers="keys", floatfmt=".1f")
    return f"{first}\n\n{tabulate(origins, headers=headers, floatfmt='.2f')}" if origins else first
