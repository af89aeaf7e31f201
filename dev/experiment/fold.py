"""Hold a part of the training images out, so that choices are made without the test images."""

import json
from pathlib import Path

from fcos_rpn.data import load_annotations
from fcos_rpn.errors import UserError

FOLDS = 5


def split(annotations: Path, folder: Path) -> tuple[Path, Path]:
    """Write two jsons, to train on and to evaluate on; every fifth image is held out.

    Raises:
        UserError: if one of them would have no boxes.
    """
    content = load_annotations(annotations).content
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "train.json", folder / "held_out.json"
    for file, is_held_out in zip(files, (False, True), strict=True):
        ids = {image["id"] for n, image in enumerate(content["images"]) if (n % FOLDS == 0) == is_held_out}
        boxes = [box for box in content["annotations"] if box["image_id"] in ids]
        if not boxes:
            which = "every fifth image, which is held out," if is_held_out else "the images but every fifth"
            raise UserError(f"{annotations}: {which} must have boxes to choose the learning rate with; add images")
        part = {**content, "images": [image for image in content["images"] if image["id"] in ids], "annotations": boxes}
        file.write_text(json.dumps(part), encoding="utf-8")
    return files
