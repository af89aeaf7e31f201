"""Build coco_mini320: 1,921 photographs of COCO val2017 with a long side of 320 pixels, for small machines.

Their license allows adaptation. The first 1,571, in a fixed order, are for training, the others for testing.
`coco_mini320.json` lists their image ids, so anyone who has COCO can build the set. Two in five boxes are persons; the
same images with their persons alone are a set that can be learned in minutes.
"""

import json
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from fcos_rpn.data.coco.annotations import load_annotations
from fcos_rpn.errors import UserError, write_whole

LONG_SIDE = 320
JPEG_QUALITY = 90
IMAGE_IDS: dict[str, list[int]] = json.loads(Path(__file__).with_name("coco_mini320.json").read_text(encoding="utf-8"))
"""Split, "train" or "val" -> ids of COCO's images, in the order of the split."""


def build_coco_mini(images: Path, annotations: Path, folder: Path) -> None:
    """Write `images/*.jpg`, `instances_{train,val}.json` and, with one category, `persons_{train,val}.json`.

    Pictures that are there already are kept, and each json is written in one step, so the call can be killed at any
    moment and repeated.

    Args:
        images: the folder of COCO val2017.
        annotations: its `instances_val2017.json`.
        folder: is made.

    Raises:
        UserError: if one of the images is not in `annotations` or cannot be read, or the folder cannot be written.
    """
    coco = load_annotations(annotations).content
    splits = {split: shrink(select(coco, ids, annotations), LONG_SIDE) for split, ids in IMAGE_IDS.items()}
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for image in tqdm([image for split in splits.values() for image in split["images"]], unit="image"):
            file = folder / "images" / image["file_name"]
            if not file.exists():
                _write_shrunk(images / image["file_name"], file, (image["width"], image["height"]))
        for split, content in splits.items():
            for kind, part in (("instances", content), ("persons", only(content, "person"))):
                with write_whole(folder / f"{kind}_{split}.json") as stream:
                    stream.write(json.dumps(part).encode())
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error}); make room there or name another folder") from error


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
    annotations: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for annotation in coco["annotations"]:
        if annotation["image_id"] in annotations:
            annotations[annotation["image_id"]].append(annotation)
    return {
        "licenses": coco.get("licenses", []),
        "images": [images[image_id] for image_id in image_ids],
        "annotations": [annotation for of_image in annotations.values() for annotation in of_image],
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


def _write_shrunk(source: Path, target: Path, size: tuple[int, int]) -> None:
    try:
        with Image.open(source) as image:
            small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    except (OSError, SyntaxError) as error:
        raise UserError(f"{source}: cannot be read as an image ({error}); copy it again") from error
    with write_whole(target) as file:
        small.save(file, format="JPEG", quality=JPEG_QUALITY)
