"""Convert a data set from YOLO, Pascal VOC or CVAT to COCO's format, or to YOLO.

INPUT is one of these:
    a data.yaml of YOLO (Ultralytics), or its folder
    a folder of Pascal VOC: Annotations/, JPEGImages/ and, if there are splits, ImageSets/Main/
    an XML file of CVAT ("CVAT for images 1.1"), with --images
    json files in COCO's format, named train, val or test, with --images

To COCO, the folder --output gets a json for each split; the pictures stay where they are. To YOLO, it gets a data.yaml,
labels and copies of the pictures. Pictures without labels are kept, as images without boxes.

Example:
    fcos-rpn convert-dataset my_yolo/data.yaml --output my_data
    fcos-rpn convert-dataset my_data/train.json my_data/val.json --images images --output my_yolo
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..data.formats.json_files import read_coco, write_coco
from ..data.formats.splits import Split
from ..data.formats.xml import read_cvat, read_voc
from ..data.formats.yolo import read_yolo, write_yolo
from ..errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    args = build_argument_parser().parse_args(arguments)
    is_coco = args.input[0].suffix.lower() == ".json"
    splits = read(args.input, args.images)
    if args.to == "yolo" or (args.to is None and is_coco):
        print(f"{write_yolo(splits, args.output)}:")
        for split in splits:
            print(f"  {split.name}: {summary(split)}")
        return 0
    if is_coco:
        raise UserError(f"{args.input[0]}: is in COCO's format already; give --to yolo")
    json_files = [write_coco(split, args.output) for split in splits]
    for split, json_file in zip(splits, json_files, strict=True):
        print(f"{json_file}: {summary(split)}; pictures in {split.images}")
    print(f"next: {check_command(splits, json_files)}")
    return 0


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="+", type=Path, metavar="INPUT", help="see above; only COCO has several files")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="to write to; it is made")
    parser.add_argument("--to", choices=("coco", "yolo"), help="default: coco, or yolo for a COCO json")
    parser.add_argument(
        "--images",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="of the pictures, for all of COCO's files or one for each, for CVAT, and for VOC without JPEGImages/",
    )
    return parser


def read(inputs: Sequence[Path], images: Sequence[Path] | None) -> list[Split]:
    """Read a data set of any known format."""
    first, suffix = inputs[0], inputs[0].suffix.lower()
    if not first.exists():
        raise UserError(f"{first}: there is no such file or folder; correct the path")
    if suffix in (".json", ".xml") and not images:
        raise UserError(f"{first}: does not say where the pictures are; give --images FOLDER")
    if suffix == ".json":
        folders = [*images] if images else []
        if len(folders) not in (1, len(inputs)):
            raise UserError(f"--images: give one folder, or one for each of the {len(inputs)} json files")
        return read_coco(inputs, folders if len(folders) == len(inputs) else folders * len(inputs))
    if len(inputs) > 1:
        raise UserError(f"{inputs[1]}: only COCO's json files are converted together; convert one after the other")
    if images and len(images) > 1:
        raise UserError(f"--images: {first} takes one folder")
    if suffix == ".xml" and images:
        return read_cvat(first, images[0])
    if suffix in (".yaml", ".yml") or (first / "data.yaml").is_file():
        if images:
            raise UserError(f"--images: {first} says itself where the pictures are; leave the option out")
        return read_yolo(first / "data.yaml" if first.is_dir() else first)
    if (first / "Annotations").is_dir() or [*first.glob("*.xml")]:
        return read_voc(first, images[0] if images else None)
    raise UserError(
        f"{first}: holds neither a data.yaml (YOLO) nor Annotations/ (Pascal VOC); give the folder that has one of them"
    )


def summary(split: Split) -> str:
    images, annotations = split.content["images"], split.content["annotations"]
    num_empty = len(images) - len({annotation["image_id"] for annotation in annotations})
    names = ", ".join(category["name"] for category in split.content["categories"])
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in annotations)
    boxes = f"{len(annotations)} box{'es' * (len(annotations) != 1)}" + (
        f" ({crowds} of them crowd or difficult)" if crowds else ""
    )
    return f"{len(images)} images ({num_empty} without boxes), {boxes}, classes {names}"


def check_command(splits: Sequence[Split], json_files: Sequence[Path]) -> str:
    """The command that checks what was written, the validation set with it if there is one."""
    files = {split.name: (split.images, json_file) for split, json_file in zip(splits, json_files, strict=True)}
    name = "train" if "train" in files else next(iter(files))
    words: list[object] = ["--images", files[name][0], "--annotations", files[name][1]]
    if name == "train" and (val := files.get("val", files.get("test"))):
        words += ["--val-images", val[0], "--val-annotations", val[1]]
    return shlex.join(["fcos-rpn", "check", *map(str, words)])
