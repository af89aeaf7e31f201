"""A data set in COCO's format that can be worked out by hand."""

import json
from pathlib import Path
from typing import Any

from PIL import Image


def small_coco() -> dict[str, Any]:
    """Four images of 80 x 60 pixels. The first has two annotations, the third a crowd, the others none; the category
    ids have a gap, and there is no parrot."""
    return {
        "info": {"description": "small"},
        "images": [
            {"id": image_id, "file_name": f"{image_id}.png", "width": 80, "height": 60} for image_id in (11, 12, 13, 14)
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 9, "name": "parrot"}],
        "annotations": [
            {"id": 101, "image_id": 11, "category_id": 5, "bbox": [10, 20, 30, 40.0], "area": 1200.0, "iscrowd": 0},
            {"id": 102, "image_id": 11, "category_id": 2, "bbox": [0, 0, 80, 60], "area": 700.5, "iscrowd": 0},
            {"id": 103, "image_id": 13, "category_id": 2, "bbox": [5.5, 5, 20, 10], "area": 200, "iscrowd": 1},
        ],
    }


def coco_with_shapes() -> dict[str, Any]:
    """The same with polygons, both run-length encodings and keypoints: the dog has a nose and a tail."""
    content = small_coco()
    content["categories"][1]["keypoints"] = ["nose", "tail"]
    dog, cat, crowd = content["annotations"]
    dog |= {"segmentation": [[10, 20, 40, 20, 40.0, 60]], "keypoints": [12, 22, 2, 0, 0, 0]}
    cat["segmentation"] = {"size": [60, 80], "counts": [60, 4680, 60]}  # the first and the last column not
    crowd["segmentation"] = {"size": [60, 80], "counts": "l1Xb4l1"}  # the same, compressed
    return content


def write_coco(folder: Path, content: object) -> tuple[Path, Path]:
    """Writes `pets.json`, and a grey picture of the size that the json says for each image.

    Returns:
        The folder of the images and the json.
    """
    images, json_file = folder / "photos", folder / "pets.json"
    images.mkdir(parents=True)
    for image in small_coco()["images"]:
        Image.new("RGB", (image["width"], image["height"]), "gray").save(images / image["file_name"])
    json_file.write_text(json.dumps(content))
    return images, json_file
