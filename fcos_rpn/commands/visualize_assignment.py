"""Draw what FCOS learns from annotations over the images: which location learns which box, level by level, and the
target centerness. For a one-stage FCOS or an R-CNN with FCOSRPN; needs no weights.

Example:
    fcos-rpn visualize-assignment --config-file configs/custom/fcos_mobilenet_v2.yaml \\
        --images images/train --annotations train.json --num-images 3 --output output/assignment
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import build_augmentation, convert_image_to_rgb
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from PIL import Image
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from .. import FCOSTargets, Locations, UserError, compute_locations
from ..config import read_config
from ..data import CheckedDatasetMapper
from ..engine.setup import use_datasets
from ..errors import make_folder
from ..model_zoo import find_config
from ..modeling.core import FCOSCore
from ..modeling.find import find_fcos
from ..visualization import draw_assignment, draw_target_centerness


def main(arguments: Sequence[str] | None = None) -> None:
    """The whole job, top-down."""
    args = build_argument_parser().parse_args(arguments)
    make_folder(args.output)
    cfg = config_of(args)
    model = build_model(cfg).eval()
    core = require_fcos(model, cfg)
    records = choose_records(DatasetCatalog.get(cfg.DATASETS.TEST[0]), args.image_id, args.num_images)
    augmentations = build_augmentation(cfg, is_train=False)
    mapper = CheckedDatasetMapper(is_train=True, augmentations=augmentations, image_format=cfg.INPUT.FORMAT)

    rows: list[dict[str, Any]] = []
    for record in tqdm(records, unit="image"):
        x = mapper(record)  # as in training, at the size of a test
        locations = locations_of(model, core, x["image"])
        targets = core.assigner(locations, [x["instances"]])
        image = convert_image_to_rgb(x["image"].permute(1, 2, 0), cfg.INPUT.FORMAT).astype("uint8")
        location_idxs, _ = core.assigner.candidates(locations, x["instances"].gt_boxes.tensor)
        num_candidates = torch.bincount(location_idxs, minlength=len(locations.points))  # (R,)
        drawn = (image, locations, targets, x["instances"])
        for name, picture in (
            ("assignment", draw_assignment(*drawn, num_candidates=num_candidates)),
            ("centerness", draw_target_centerness(*drawn)),
        ):
            Image.fromarray(picture).save(args.output / f"{record['image_id']}_{name}.png")
        rows.append({"image": record["image_id"], **count_positives(locations, targets, len(x["instances"]))})
        rows[-1]["ambiguous"] = int((num_candidates > 1).sum())
    print(f"{tabulate(rows, headers='keys')}\n\nPictures: {args.output}/*.png")


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="YAML", help="of the model")
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="of the images")
    parser.add_argument("--annotations", required=True, type=Path, metavar="JSON", help="in COCO's format")
    parser.add_argument("--image-id", type=int, action="append", metavar="ID", help="of an image to draw; repeatable")
    parser.add_argument(
        "--num-images",
        type=int,
        default=4,
        metavar="N",
        help="else, the first N images with boxes; default: %(default)s",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("output/assignment"), metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parser


def config_of(args: argparse.Namespace) -> CfgNode:
    """Read config file and overrides, for the CPU, with the data set as the only test set."""
    cfg = read_config(find_config(args.config_file), args.opts)
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TEST_FOLDERS = [[str(args.images), str(args.annotations)]]
    cfg.OUTPUT_DIR = str(args.output)
    use_datasets(cfg, is_training=False)
    return cfg


def require_fcos(model: nn.Module, cfg: CfgNode) -> FCOSCore:
    """
    Raises:
        UserError: if the model has none.
    """
    parts = find_fcos(model)
    if parts is None:
        raise UserError(
            "the config has no FCOS: MODEL.META_ARCHITECTURE must be FCOS, or "
            f"MODEL.PROPOSAL_GENERATOR.NAME FCOSRPN; they are {cfg.MODEL.META_ARCHITECTURE} and "
            f"{cfg.MODEL.PROPOSAL_GENERATOR.NAME}"
        )
    return parts[0]


def choose_records(
    records: Sequence[dict[str, Any]], image_ids: Sequence[int] | None, num_images: int
) -> list[dict[str, Any]]:
    """Choose the records of some ids or, without ids, the first that have boxes.

    Raises:
        UserError: if there is no image of an id, or no image with boxes.
    """
    if image_ids is None:
        with_boxes = [record for record in records if record["annotations"]]
        if not with_boxes:
            raise UserError(
                "no image of the annotations has a box; name images with --image-id to draw them without boxes"
            )
        return with_boxes[:num_images]
    by_id = {record["image_id"]: record for record in records}
    if missing := [image_id for image_id in image_ids if image_id not in by_id]:
        known = ", ".join(map(str, sorted(by_id)[:5]))
        raise UserError(f"--image-id: the annotations have no image {missing[0]}; they begin with {known}")
    return [by_id[image_id] for image_id in image_ids]


@torch.no_grad()
def locations_of(model: Any, core: FCOSCore, image: torch.Tensor) -> Locations:
    """Compute the locations for a (3, H, W) image. Running the backbone is the only way to know its maps' sizes."""
    images = ImageList.from_tensors(
        [torch.zeros_like(image, dtype=torch.float32)],
        model.backbone.size_divisibility,
        padding_constraints=model.backbone.padding_constraints,
    )
    features = model.backbone(images.tensor)
    grid_sizes = [(features[name].shape[-2], features[name].shape[-1]) for name in core.in_features]
    return compute_locations(grid_sizes, core.strides, offset=core.location_offset)


def count_positives(locations: Locations, targets: FCOSTargets, num_boxes: int) -> dict[str, int]:
    """Count boxes, learned boxes, and the positives of each level."""
    (matched_idxs,) = targets.matched_idxs  # (R,)
    learned = matched_idxs[matched_idxs >= 0].unique()
    levels = matched_idxs.split(locations.num_per_level)
    names = (f"stride {stride:g}" for stride in locations.strides.unique().tolist())
    return {
        "boxes": num_boxes,
        "learned": len(learned),
        **{name: int((level >= 0).sum()) for name, level in zip(names, levels, strict=True)},
    }
