"""Draw what FCOS learns from annotations over the images: which location learns which box, level by level, and the
target centerness. For a one-stage FCOS or an R-CNN with FCOSRPN; needs no weights.

Example:
    fcos-rpn visualize-assignment --config-file configs/custom/fcos_mobilenet_v2.yaml \\
        --images images/train --annotations train.json --num-images 3 --output output/assignment
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import build_augmentation, convert_image_to_rgb
from detectron2.modeling import build_model
from PIL import Image
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from .. import FCOSTargets, Locations, UserError
from ..analysis.box_origins import preprocess
from ..data import CheckedDatasetMapper
from ..errors import make_folder
from ..modeling.core import FCOSCore
from ..modeling.find import find_fcos
from ..visualization import draw_assignment, draw_target_centerness
from .arguments import command_parser, config_with_test_set


def main(arguments: Sequence[str] | None = None) -> None:
    """The whole job, top-down."""
    args = build_argument_parser().parse_args(arguments)
    make_folder(args.output)
    cfg = config_with_test_set(
        args.config_file, args.opts, images=args.images, annotations=args.annotations, output=args.output
    )
    cfg.MODEL.DEVICE = "cpu"
    model: Any = build_model(cfg).eval()
    core = require_fcos(model, cfg)
    records = choose_records(DatasetCatalog.get(cfg.DATASETS.TEST[0]), args.image_id, args.num_images)
    augmentations = build_augmentation(cfg, is_train=False)
    mapper = CheckedDatasetMapper(is_train=True, augmentations=augmentations, image_format=cfg.INPUT.FORMAT)

    rows: list[dict[str, Any]] = []
    for record in tqdm(records, unit="image"):
        x = mapper(record)  # as in training, at the size of a test
        with torch.no_grad():  # the sizes of its maps are known to the backbone alone
            _, locations = core(model.backbone(preprocess(model, [x]).tensor))
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
    parser = command_parser(__doc__, output="output/assignment")
    parser.add_argument("--images", required=True, metavar="FOLDER", help="of the images")
    parser.add_argument("--annotations", required=True, metavar="JSON", help="in COCO's format")
    parser.add_argument("--image-id", type=int, action="append", metavar="ID", help="of an image to draw; repeatable")
    parser.add_argument(
        "--num-images",
        type=int,
        default=4,
        metavar="N",
        help="else, the first N images with boxes; default: %(default)s",
    )
    return parser


def require_fcos(model: nn.Module, cfg: CfgNode) -> FCOSCore:
    """Return what learns in the model, or raise a UserError if it has no FCOS."""
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
