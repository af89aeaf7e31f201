"""Check a data set in COCO's format before anything is trained on it, with a line for each finding.

Errors are what training refuses, from a broken json or picture to a set without a box to learn. Warnings are what
training repairs, such as a box partly outside its image, and what may be meant, such as boxes that no location of the
config learns, or pictures that are in both sets. Every picture is read once. The exit status is 0 without errors, 1
with errors, 2 if the arguments are wrong.

Example:
    fcos-rpn check --images images/train --annotations train.json \\
        --val-images images/val --val-annotations val.json \\
        --config-file configs/custom/fcos_mobilenet_v2.yaml --report output/check
"""

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image

from ..analysis import Analysis, Annotations
from ..analysis.annotated_boxes import boxes_of, input_boxes, input_sizes, padded_sizes
from ..analysis.statistics import build_sampler, measure
from ..config import read_config
from ..data.coco.annotations import CheckedAnnotations
from ..data.coco.check import check_json, compare_classes
from ..data.coco.check_pictures import CheckedPictures, check_pictures, equal_pictures, shared_pictures
from ..data.coco.findings import Finding, image_place, original_id
from ..data.pictures import read_picture
from ..engine.setup import keypoints_problem
from ..errors import UserError, make_folder, write_whole
from ..model_zoo import find_config
from ..visualization import draw_annotations, plot_boxes, save_figure, tile

DEFAULT_CONFIG = "COCO-Detection/fcos_R_50_FPN_1x.yaml"
NUM_DRAWN = 9
MAX_ASPECT_RATIO = 10  # of drawn images: a longer one would be a line


def main(arguments: Sequence[str] | None = None) -> int:
    """The whole job, top-down; returns the exit status."""
    parser = build_argument_parser()
    args = parser.parse_args(arguments)
    if (args.val_images is None) != (args.val_annotations is None):
        parser.error("--val-images and --val-annotations go together")
    if args.limit < 0:
        parser.error("--limit must be 0 or more")
    logging.getLogger("fcos_rpn").addHandler(logging.NullHandler())  # the findings say what its warnings would
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        cfg = read_config(find_config(args.config_file), args.opts)
        learner = Learner(cfg)
        if args.report:
            make_folder(args.report)
    except UserError as error:
        parser.error(str(error))

    lines = Lines(args.limit, is_strict=args.strict)
    sets = {"train" if args.val_images else "": (args.images, args.annotations)}
    if args.val_images:
        sets["val"] = args.val_images, args.val_annotations
    checked: dict[str, tuple[CheckedAnnotations, CheckedPictures]] = {}
    for name, (images, json_file) in sets.items():
        content = check_json(
            json_file,
            images,
            with_masks=cfg.MODEL.MASK_ON,
            with_keypoints=cfg.MODEL.KEYPOINT_ON,
            mask_format=cfg.INPUT.MASK_FORMAT,
            is_learned=name != "val",
        )
        lines.add(content.findings, name, json_file)
        named = max((len(category.get("keypoints") or ()) for category in content.content["categories"]), default=0)
        if cfg.MODEL.KEYPOINT_ON and (problem := keypoints_problem(cfg, named)):
            lines.add([Finding("error", "other keypoints", "", problem)], name, json_file)
        pictures = check_pictures(images, content.pictures)
        lines.add([*pictures.findings, *equal_pictures(pictures)], name, json_file)
        lines.add(learner.findings(content, pictures), name)
        checked[name] = content, pictures
    if args.val_images:
        (train, train_pictures), (val, val_pictures) = checked.values()
        lines.add(compare_classes(train, val))
        lines.add(shared_pictures(train_pictures, val_pictures))

    if args.report:
        for name, (content, pictures) in checked.items():
            draw(args.report / name if name else args.report, sets[name][0], content, pictures)
        write_findings(args.report / "findings.json", lines.findings)
    lines.end(args.report)
    return 1 if any(finding.level == "error" for finding in lines.findings) else 0


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER", help="of the images")
    parser.add_argument("--annotations", required=True, type=Path, metavar="JSON", help="in COCO's instances format")
    parser.add_argument("--val-images", type=Path, metavar="FOLDER", help="of the validation set, to compare with")
    parser.add_argument("--val-annotations", type=Path, metavar="JSON", help="of the validation set")
    parser.add_argument(
        "--config-file",
        default=DEFAULT_CONFIG,
        metavar="YAML",
        help="whose locations are to learn the boxes, at the size of INPUT.MIN_SIZE_TEST; default: %(default)s",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="write all findings, some annotated images, and histograms of the boxes here",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=100,
        metavar="N",
        help="lines for each kind of finding; 0 shows all; default: %(default)s",
    )
    parser.add_argument("--strict", action="store_true", help="make warnings errors, for those who gate on the status")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return parser


class Lines:
    """Prints findings as they come, and counts them."""

    def __init__(self, limit: int, *, is_strict: bool = False) -> None:
        """
        Args:
            limit: no more lines than these for each kind, unless it is 0.
            is_strict: whether warnings are errors.
        """
        self.limit = limit
        self.is_strict = is_strict
        self.findings: list[Finding] = []
        self.num_of_kind: Counter[str] = Counter()

    def add(self, findings: Iterable[Finding], set_name: str = "", json_file: Path | None = None) -> None:
        for finding in findings:
            finding = finding._replace(place=f"{set_name} {finding.place or json_file}".strip())
            if self.is_strict:
                finding = finding._replace(level="error")
            self.findings.append(finding)
            self.num_of_kind[finding.kind] += 1
            if not self.limit or self.num_of_kind[finding.kind] <= self.limit:
                print(finding)
        sys.stdout.flush()

    def end(self, report: Path | None) -> None:
        for kind, number in self.num_of_kind.items():
            if self.limit and number > self.limit:
                print(f"{kind}: {number - self.limit:,} more that are not shown; --limit 0 shows all")
        if report:
            print(f"report: {report}")
        levels = Counter(finding.level for finding in self.findings)
        print(f"{count(levels['error'], 'error')}, {count(levels['warning'], 'warning')}")


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class Learner:
    """The locations of a config, which are to learn the boxes; or the anchors of another one."""

    def __init__(self, cfg: CfgNode) -> None:
        """
        Raises:
            UserError: if the config has neither.
        """
        # Which boxes are learned does not depend on their classes.
        self.sampler, self.size_divisibility = build_sampler(cfg, num_classes=1)
        self.min_size, self.max_size = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST

    def findings(self, checked: CheckedAnnotations, pictures: CheckedPictures) -> Iterator[Finding]:
        """Boxes that nothing learns, among the images whose pictures are as the json says."""
        images = [image for image in checked.content["images"] if image["id"] in pictures.sound]
        boxes = [box for box in checked.content["annotations"] if box["image_id"] in pictures.sound]
        if all(box["iscrowd"] for box in boxes):
            return
        annotations = boxes_of(checked.content | {"images": images, "annotations": boxes})
        is_flat = (self.input_sizes(annotations) < 1).any(dim=1)  # (N,)
        for index in is_flat.nonzero().flatten().tolist():
            height, width = self.input_sizes(annotations)[index].tolist()
            text = f"so long that it is resized to {width} x {height} pixels; cut it up or delete it from the json"
            yield Finding("error", "too long an image", image_place(images[index]), text, original_id(images[index]))
        annotations = annotations.of_images((~is_flat).nonzero().flatten())
        if not len(annotations.boxes):
            return
        names = {image["id"]: original_id(image) for image in images}
        analysis = self.analyze(annotations, show_progress=True)
        if not analysis.unlearned_boxes:
            return
        hopeless = {box.id for box in self.analyze(each_alone(annotations, ~analysis.is_learned)).unlearned_boxes}
        for box in analysis.unlearned_boxes:
            cause = "it lies between all of them" if box.id in hopeless else "smaller boxes take all of its own"
            scale = box.input_width / box.width
            if box.id in hopeless and scale < 1:
                cause += f"; its picture is scaled to {scale:.0%}: raise INPUT.MIN_SIZE_* and MAX_SIZE_*, or cut tiles"
            text = (
                f"no location learns this box of {box.width:g} x {box.height:g} pixels, {box.input_width:g} x "
                f"{box.input_height:g} at the size of the network's input: {cause}"
            )
            kind = "box too small" if box.id in hopeless else "hidden box"
            yield Finding("warning", kind, checked.places[box.id], text, names[box.image_id], box.id)

    def input_sizes(self, annotations: Annotations) -> torch.Tensor:
        return input_sizes(annotations, min_size=self.min_size, max_size=self.max_size)

    def analyze(self, annotations: Annotations, *, show_progress: bool = False) -> Analysis:
        sizes = self.input_sizes(annotations)
        padded = padded_sizes(sizes, self.size_divisibility)
        boxes = input_boxes(annotations, sizes)
        return measure(self.sampler, annotations, boxes=boxes, padded=padded, show_progress=show_progress)


def each_alone(annotations: Annotations, chosen: torch.Tensor) -> Annotations:
    """Each of some boxes as the only one of its image; `chosen` is (M,) bool."""
    image_idxs = annotations.image_idxs[chosen]
    return Annotations(
        boxes=annotations.boxes[chosen],
        classes=annotations.classes[chosen],
        ids=annotations.ids[chosen],
        image_idxs=torch.arange(len(image_idxs)),
        image_sizes=annotations.image_sizes[image_idxs],
        image_ids=annotations.image_ids[image_idxs],
        num_classes=annotations.num_classes,
    )


def draw(folder: Path, images: Path, content: CheckedAnnotations, pictures: CheckedPictures) -> None:
    """`images.jpg`: some of the images with their boxes; `histograms.png` and `.svg`: of all boxes."""
    make_folder(folder)
    categories = sorted(content.content["categories"], key=lambda category: category["id"])
    class_of = {category["id"]: label for label, category in enumerate(categories)}
    names = [category["name"] for category in categories]
    boxes_of: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content.content["images"]}
    for annotation in content.content["annotations"]:
        if not annotation["iscrowd"]:
            boxes_of[annotation["image_id"]].append(annotation)
    drawable = [
        image
        for image in content.content["images"]
        if image["id"] in pictures.sound
        and boxes_of[image["id"]]
        and max(image["width"], image["height"]) <= MAX_ASPECT_RATIO * min(image["width"], image["height"])
    ]
    if drawable:
        steps = np.linspace(0, len(drawable) - 1, min(NUM_DRAWN, len(drawable))).round().astype(int)
        drawn = [
            draw_annotations(
                read_picture(images / image["file_name"], "RGB"),
                corners(boxes_of[image["id"]]),
                [class_of[annotation["category_id"]] for annotation in boxes_of[image["id"]]],
                names,
                title=image["file_name"],
            )
            for image in (drawable[step] for step in steps)
        ]
        Image.fromarray(tile(drawn)).save(folder / "images.jpg", quality=90)
    boxes = [annotation for annotations in boxes_of.values() for annotation in annotations]
    sides = np.array([annotation["bbox"][2:] for annotation in boxes], dtype=np.float64).reshape(-1, 2)
    per_class = Counter(dict.fromkeys(names, 0))
    per_class.update(names[class_of[annotation["category_id"]]] for annotation in boxes)
    save_figure(plot_boxes(sides, [len(found) for found in boxes_of.values()], per_class), folder / "histograms")


def corners(annotations: Sequence[dict[str, Any]]) -> torch.Tensor:
    """(M, 4) x0, y0, x1, y1."""
    boxes = torch.tensor([annotation["bbox"] for annotation in annotations], dtype=torch.float64).view(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    with write_whole(path) as file:
        file.write(json.dumps([finding.to_json() for finding in findings], indent=1).encode())
