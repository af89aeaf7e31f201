"""COCO's AP of detections, class by class, by hotcoco."""

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from .coco import as_coco, coco_api, plain_annotation, require_listed

# Of images and of annotations, what COCO's similarity reads besides boxes.
_IMAGE_KEYS = {"bbox": (), "segm": ("height", "width"), "keypoints": ()}
_ANNOTATION_KEYS = {"bbox": (), "segm": ("segmentation",), "keypoints": ("keypoints", "num_keypoints")}


def evaluate_detections(
    dataset: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    task: str,
    *,
    limit: int = 100,
    kpt_oks_sigmas: Sequence[float] = (),
    image_ids: Sequence[int] | None = None,
) -> Any:
    """hotcoco's `COCOeval` after its summary, which is printed: its figures in `stats`, ten of poses or else twelve.

    Args:
        dataset: the ground truth in COCO's format.
        detections: COCO's results format, with a `bbox` each; of any images of the ground truth.
        task: "bbox", "segm" or "keypoints".
        limit: of every image and class the best so many boxes or masks count; of poses 20 always do.
        kpt_oks_sigmas: of each keypoint, COCO's by default.
        image_ids: those to evaluate on, all by default.

    Raises:
        UserError: detections belong to an image that the ground truth does not list, or numbers of keypoints differ.
    """
    require_listed((detection["image_id"] for detection in detections), dataset)
    library = coco_api("hotcoco")
    with contextlib.redirect_stdout(io.StringIO()):
        coco_gt = as_coco(_ground_truth(dataset, task), library)
        coco_eval = library.coco_eval(coco_gt, coco_gt.loadRes(_results(detections, task)), task)
    if task == "keypoints":
        coco_eval.params.kpt_oks_sigmas = list(kpt_oks_sigmas or coco_eval.params.kpt_oks_sigmas)
        _require_equal_keypoints(dataset, detections, num_sigmas=len(coco_eval.params.kpt_oks_sigmas))
    else:
        coco_eval.params.maxDets = [1, 10, limit]
    if image_ids is not None:
        coco_eval.params.imgIds = list(image_ids)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="hotcoco: (max_dets|kpt_oks_sigmas|img_ids) differ")
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval


def _ground_truth(dataset: Mapping[str, Any], task: str) -> dict[str, Any]:
    return {
        "images": [_only(image, ("id", *_IMAGE_KEYS[task])) for image in dataset["images"]],
        "categories": [_only(category, ("id", "name")) for category in dataset["categories"]],
        "annotations": [
            {**plain_annotation(annotation, index), **_only(annotation, ("category_id", *_ANNOTATION_KEYS[task]))}
            for index, annotation in enumerate(dataset["annotations"], start=1)
        ],
    }


def _results(detections: Sequence[Mapping[str, Any]], task: str) -> list[dict[str, Any]]:
    """A mask's area is that of its pixels, and COCO takes the area of the box where there is one."""
    keys = {"bbox": ("bbox",), "segm": ("segmentation",), "keypoints": ("bbox", "keypoints")}[task]
    return [_only(detection, ("image_id", "category_id", "score", *keys)) for detection in detections]


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


def _only(source: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: source[key] for key in keys if key in source}
