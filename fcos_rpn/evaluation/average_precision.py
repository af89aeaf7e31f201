"""AP of detections, class by class, by COCO's or LVIS's protocol."""

import contextlib
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UserError
from .matching import ImageId, as_coco, coco_api, load_results, number_images, only, plain_dataset

PROTOCOLS = ("coco", "lvis")
"""LVIS's is federated: in each image only the classes that were looked for there count."""
LVIS_LIMIT = 300
"""LVIS's own limit on the detections of an image, all classes together."""

FIGURES = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}
"""What COCO's `stats` begin with."""
LVIS_FIGURES = (*FIGURES["bbox"], "APr", "APc", "APf")
"""The last three are of rare, common and frequent classes."""

# What the libraries read besides boxes.
_IMAGE_KEYS = {"bbox": (), "segm": ("height", "width"), "keypoints": ()}
_ANNOTATION_KEYS = {"bbox": (), "segm": ("segmentation",), "keypoints": ("keypoints", "num_keypoints")}
# A mask's area is that of its pixels, but both libraries take that of the box where there is one.
_RESULT_KEYS = {"bbox": ("bbox",), "segm": ("segmentation",), "keypoints": ("bbox", "keypoints")}


def average_precision(
    dataset: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    task: str,
    *,
    limit: int = 100,
    kpt_oks_sigmas: Sequence[float] = (),
    api: str = "hotcoco",
) -> dict[str, float]:
    """Compute COCO's AP and print the library's summary.

    Args:
        dataset: the ground truth in COCO's format.
        detections: COCO's results format, with a `bbox` each.
        task: "bbox", "segm" or "keypoints".
        limit: how many boxes or masks of an image and a class count, best first; of poses always 20.
        kpt_oks_sigmas: one for each keypoint; empty for COCO's.
        api: one of `COCO_APIS`.

    Returns:
        `FIGURES[task]` and, if there are several classes, AP-<name> of each, in percent. 0 where nothing was found, NaN
        where there is no ground truth.

    Raises:
        UserError: detections belong to an image that the ground truth does not list, or numbers of keypoints differ.
    """
    library = coco_api(api)
    numbers = number_images(dataset, (detection["image_id"] for detection in detections))
    plain = plain_dataset(
        dataset,
        numbers,
        image_keys=_IMAGE_KEYS[task],
        annotation_keys=("category_id", *_ANNOTATION_KEYS[task]),
    )
    found = _results(detections, task, numbers)
    # hotcoco refuses negative ids.
    classes = {id_: number for number, id_ in enumerate(sorted(category["id"] for category in plain["categories"]), 1)}
    for category in plain["categories"]:
        category["id"] = classes[category["id"]]
    for entry in (*plain["annotations"], *found):
        entry["category_id"] = classes.get(entry["category_id"], 0)
    with contextlib.redirect_stdout(io.StringIO()):
        coco_gt = as_coco(plain, library)
        coco_dt = load_results(coco_gt, found, library)
        coco_eval = library.coco_eval(coco_gt, coco_dt, task)
    if task == "keypoints":
        coco_eval.params.kpt_oks_sigmas = np.array(kpt_oks_sigmas or coco_eval.params.kpt_oks_sigmas)
        _require_equal_keypoints(dataset, detections, num_sigmas=len(coco_eval.params.kpt_oks_sigmas))
    else:
        coco_eval.params.maxDets = [1, 10, limit]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="hotcoco: (max_dets|kpt_oks_sigmas) differ")
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    figures = {name: _percent(value) for name, value in zip(FIGURES[task], coco_eval.stats, strict=False)}
    if len(plain["categories"]) == 1:
        return figures
    precision = coco_eval.eval["precision"][:, :, :, 0, -1].mean(axis=(0, 1))  # (C,) all areas, the largest limit
    names = [category["name"] for category in sorted(plain["categories"], key=lambda category: category["id"])]
    return figures | {f"AP-{name}": _percent(value) for name, value in zip(names, precision, strict=True)}


def lvis_average_precision(
    dataset: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], task: str, *, limit: int = LVIS_LIMIT
) -> dict[str, float]:
    """Compute LVIS's AP with hotcoco and print its summary.

    A detection counts against a class only in images whose annotations or `neg_category_ids` name that class, and no
    unmatched one counts where `not_exhaustive_category_ids` does.

    Args:
        dataset: the ground truth in LVIS's format.
        detections: COCO's results format.
        task: "bbox" or "segm".
        limit: how many detections of an image count, best first, all classes together.

    Returns:
        `LVIS_FIGURES` in percent; NaN where there is no ground truth.

    Raises:
        UserError: detections belong to an image that the ground truth does not list.
    """
    import hotcoco

    numbers = number_images(dataset, (detection["image_id"] for detection in detections))
    plain = plain_dataset(
        dataset,
        numbers,
        image_keys=("height", "width", "neg_category_ids", "not_exhaustive_category_ids"),
        category_keys=("frequency",),
        annotation_keys=("category_id", *_ANNOTATION_KEYS[task]),
    )
    coco_gt = as_coco(plain, coco_api("hotcoco"))
    found = hotcoco.LVISResults(coco_gt, _results(detections, task, numbers), max_dets=limit)
    lvis_eval = hotcoco.LVISeval(coco_gt, found, task)
    lvis_eval.run()
    figures = lvis_eval.get_results()
    return {name: _percent(figures[name]) for name in LVIS_FIGURES}


def _results(
    detections: Sequence[Mapping[str, Any]], task: str, numbers: Mapping[ImageId, int]
) -> list[dict[str, Any]]:
    keys = ("category_id", "score", *_RESULT_KEYS[task])
    return [{**only(detection, keys), "image_id": numbers[detection["image_id"]]} for detection in detections]


def _require_equal_keypoints(
    dataset: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], *, num_sigmas: int
) -> None:
    for what, found in (("annotated", dataset["annotations"]), ("predicted", detections)):
        for entry in found:
            num_keypoints = len(entry.get("keypoints", ())) // 3
            if num_keypoints != num_sigmas:
                raise UserError(
                    f"{num_keypoints} keypoints are {what} in image id {entry['image_id']}, but there are {num_sigmas} "
                    "sigmas; set TEST.KEYPOINT_OKS_SIGMAS to one sigma for each keypoint"
                )


def _percent(share: float) -> float:
    """-1 is COCO's "no ground truth"."""
    return 100 * float(share) if share >= 0 else math.nan
