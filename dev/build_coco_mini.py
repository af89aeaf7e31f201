"""Build coco_mini320, the small data set of docs/results.md: 1,921 photographs of COCO val2017, 320 pixels long.

Their license allows adaptation. The first 1,571, in a fixed order, are for training, the others for testing.
`experiment/coco_mini320.json` lists their image ids, so anyone who has COCO can build the set. Two in five boxes are
persons; the same images with their persons alone are a set that can be learned in minutes.

Example:
    python -m dev.build_coco_mini --images coco/val2017 --annotations coco/annotations/instances_val2017.json
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from fcos_rpn.data import load_annotations
from fcos_rpn.errors import UserError, make_folder, user_errors_as_messages, write_whole

LONG_SIDE = 320
JPEG_QUALITY = 90
IMAGE_IDS: dict[str, list[int]] = json.loads(
    (Path(__file__).parent / "experiment" / "coco_mini320.json").read_text(encoding="utf-8")
)
"""Split, "train" or "val" -> ids of COCO's images, in the order of the split."""


def main(arguments: Sequence[str] | None = None) -> None:
    args = build_argument_parser().parse_args(arguments)
    build_coco_mini(args.images, args.annotations, args.output)
    print(f"{args.output}: images, instances_{{train,val}}.json, persons_{{train,val}}.json")


def build_argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="the folder val2017")
    parser.add_argument("--annotations", type=Path, required=True, help="its instances_val2017.json")
    parser.add_argument("--output", type=Path, default=Path("output/coco_mini320"), help="default: %(default)s")
    return parser


def build_coco_mini(images: Path, annotations: Path, folder: Path) -> None:
    """Write `images/*.jpg`, `instances_{train,val}.json` and, with one category, `persons_{train,val}.json`.

    Pictures that are there already are kept, so the call can be killed and repeated.

    Args:
        images: the folder of COCO val2017.
        annotations: its `instances_val2017.json`.
        folder: is made.
    """
    coco = load_annotations(annotations).content
    make_folder(folder / "images")
    for split, ids in IMAGE_IDS.items():
        content = shrink(select(coco, ids, annotations), LONG_SIDE)
        for image in tqdm(content["images"], desc=split, unit="image"):
            file = folder / "images" / image["file_name"]
            if not file.exists():
                small = Image.open(images / image["file_name"]).convert("RGB")
                small = small.resize((image["width"], image["height"]), Image.Resampling.LANCZOS)
                with write_whole(file) as stream:
                    small.save(stream, format="JPEG", quality=JPEG_QUALITY)
        for kind, part in (("instances", content), ("persons", only(content, "person"))):
            (folder / f"{kind}_{split}.json").write_text(json.dumps(part), encoding="utf-8")


def select(coco: dict[str, Any], image_ids: list[int], file: Path) -> dict[str, Any]:
    """Keep the part of a COCO dictionary that belongs to some of its images, in their order.

    Raises:
        UserError: if `coco`, which was read from `file`, lacks one of them.
    """
    images = {image["id"]: image for image in coco["images"]}
    if missing := [image_id for image_id in image_ids if image_id not in images]:
        raise UserError(
            f"{file}: {len(missing)} of {len(image_ids)} images are not in it, the first is {missing[0]}; give COCO's "
            "instances_val2017.json"
        )
    place = {image_id: n for n, image_id in enumerate(image_ids)}
    annotations = [annotation for annotation in coco["annotations"] if annotation["image_id"] in place]
    return {
        "licenses": coco.get("licenses", []),
        "images": [images[image_id] for image_id in image_ids],
        "annotations": sorted(annotations, key=lambda annotation: place[annotation["image_id"]]),
        "categories": coco["categories"],
    }


def only(coco: dict[str, Any], name: str) -> dict[str, Any]:
    """Keep the annotations of one category, and all images."""
    categories = [category for category in coco["categories"] if category["name"] == name]
    ids = {category["id"] for category in categories}
    annotations = [annotation for annotation in coco["annotations"] if annotation["category_id"] in ids]
    return {**coco, "annotations": annotations, "categories": categories}


def shrink(coco: dict[str, Any], long_side: int) -> dict[str, Any]:
    """Resize images and boxes; drop masks and keypoints.

    Args:
        coco: a COCO dictionary.
        long_side: of the new images, in pixels.

    Returns:
        Another COCO dictionary; areas are those of the boxes.
    """
    images, factors = [], {}
    for image in coco["images"]:
        factor = long_side / max(image["width"], image["height"])
        width, height = (max(1, round(image[side] * factor)) for side in ("width", "height"))
        factors[image["id"]] = (width / image["width"], height / image["height"])
        images.append({**image, "width": width, "height": height})
    annotations = []
    for annotation in coco["annotations"]:
        by_x, by_y = factors[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        bbox = [x * by_x, y * by_y, width * by_x, height * by_y]
        kept = {key: annotation[key] for key in ("id", "image_id", "category_id")}
        annotations.append({**kept, "iscrowd": annotation.get("iscrowd", 0), "bbox": bbox, "area": bbox[2] * bbox[3]})
    return {**coco, "images": images, "annotations": annotations}


if __name__ == "__main__":
    with user_errors_as_messages(when_stopped="stopped; rerun the command to continue"):
        main()
