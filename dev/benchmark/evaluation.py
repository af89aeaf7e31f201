"""Outputs of a model and ground truth -> figures: AP of detections, and AR100 and AR1k of proposals.

Detectron2's own AR is another figure (see `FCOSEvaluator`). Its AP is faster where its C++
extension is built; here it is not used. Memory is the process's, since torch has no part.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dev.benchmark.inputs import SEED, random_boxes
from dev.benchmark.measuring import OURS, Comparison, Setup
from fcos_rpn.evaluation import FCOSEvaluator

SIZE = (480, 640)
NUM_IMAGES, QUICK_NUM_IMAGES = 1000, 100
NUM_BOXES, NUM_DETECTIONS, NUM_PROPOSALS = 7, 100, 1000
"""Of an image: ground truth, boxes with a class, boxes without."""
NUM_CLASSES = 80


def comparisons(setup: Setup) -> Iterator[Comparison]:
    num_images = QUICK_NUM_IMAGES if setup.is_quick else NUM_IMAGES
    content = random_annotations(num_images, num_boxes=NUM_BOXES)
    outputs = random_outputs(content)
    proposals = [{"proposals": output["proposals"]} for output in outputs]
    figures = {"AP, AR100, AR1k": outputs} if setup.is_quick else {"AP, AR100, AR1k": outputs, "AR100, AR1k": proposals}
    for figure, of_images in figures.items():
        cases = {
            OURS: with_evaluator(FCOSEvaluator, content, of_images),
            f"{OURS}, pycocotools": with_evaluator(FCOSEvaluator, content, of_images, api="pycocotools"),
            "detectron2": with_evaluator(COCOEvaluator, content, of_images, use_fast_impl=False),
            "pycocotools": with_pycocotools(content, of_images),
        }
        setting = {"figures": figure, "images": num_images, "proposals": NUM_PROPOSALS}
        yield Comparison(setting, cases, memory="process", seconds=0 if setup.is_quick else 300, min_rounds=1)


def random_annotations(num_images: int, *, num_boxes: int) -> dict[str, Any]:
    """COCO's format, with classes that are their own category ids."""
    generator = torch.Generator().manual_seed(SEED)
    height, width = SIZE
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        for x0, y0, x1, y1 in random_boxes(num_boxes, SIZE, generator).tolist():
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0}
            box = [x0, y0, x1 - x0, y1 - y0]
            category = int(torch.randint(NUM_CLASSES, (), generator=generator))
            annotations.append({**annotation, "category_id": category, "bbox": box, "area": box[2] * box[3]})
    return {
        "info": {},
        "images": [{"id": n, "height": height, "width": width} for n in range(1, num_images + 1)],
        "categories": [{"id": n, "name": str(n)} for n in range(NUM_CLASSES)],
        "annotations": annotations,
    }


def random_outputs(content: dict[str, Any]) -> list[dict[str, Instances]]:
    """Make `instances` and `proposals` for each image: its ground truth, moved a little, and random boxes."""
    generator = torch.Generator().manual_seed(SEED)
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    outputs = []
    for annotations in by_image.values():
        xywh = torch.tensor([annotation["bbox"] for annotation in annotations])
        gt = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1)
        moved = gt + torch.randn(gt.shape, generator=generator) * xywh[:, 2:].repeat(1, 2) / 20
        boxes = torch.cat([moved, random_boxes(NUM_PROPOSALS - len(moved), SIZE, generator)])
        classes = torch.randint(NUM_CLASSES, (NUM_PROPOSALS,), generator=generator)
        classes[: len(moved)] = torch.tensor([annotation["category_id"] for annotation in annotations])
        scores = torch.rand(NUM_PROPOSALS, generator=generator).sort(descending=True).values
        found = slice(NUM_DETECTIONS)
        outputs.append(
            {
                "instances": Instances(
                    SIZE, pred_boxes=Boxes(boxes[found]), scores=scores[found], pred_classes=classes[found]
                ),
                "proposals": Instances(SIZE, proposal_boxes=Boxes(boxes), objectness_logits=scores),
            }
        )
    return outputs


def with_evaluator(
    evaluator_type: type[COCOEvaluator | FCOSEvaluator],
    content: dict[str, Any],
    outputs: list[dict[str, Instances]],
    **kwargs: Any,
) -> Callable[[], Any]:
    """Evaluate outputs of a model; the evaluator has read the annotations before."""
    name = f"fcos_rpn_benchmark_{evaluator_type.__name__}"
    with tempfile.TemporaryDirectory() as folder:
        json_file = Path(folder) / "annotations.json"
        json_file.write_text(json.dumps(content))
        MetadataCatalog.get(name).json_file = str(json_file)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator = evaluator_type(name, tasks=("bbox",), distributed=False, **kwargs)
        MetadataCatalog.remove(name)
    inputs = [{"image_id": image["id"]} for image in content["images"]]

    def evaluate() -> Any:
        evaluator.reset()
        evaluator.process(inputs, outputs)
        return evaluator.evaluate()

    return _quiet(evaluate)


def with_pycocotools(content: dict[str, Any], outputs: list[dict[str, Instances]]) -> Callable[[], Any]:
    """Compute AP by COCO's protocol and class-agnostic AR with pycocotools alone."""
    rows: dict[str, list[np.ndarray]] = {"proposals": [], "instances": []}
    for image, output in zip(content["images"], outputs, strict=True):
        for kind, found in output.items():
            is_detections = kind == "instances"
            xyxy = (found.pred_boxes if is_detections else found.proposal_boxes).tensor.numpy()
            scores = (found.scores if is_detections else found.objectness_logits).numpy()
            classes = found.pred_classes.numpy() if is_detections else np.zeros(len(found))
            ids = np.full(len(found), image["id"])
            columns = [ids, xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2], scores, classes]
            rows[kind].append(np.column_stack(columns))

    def evaluate(kind: str) -> Any:
        gt = COCO()
        gt.dataset = content
        gt.createIndex()
        coco_eval = COCOeval(gt, gt.loadRes(np.concatenate(rows[kind])), "bbox")
        if kind == "proposals":
            coco_eval.params.useCats = 0
            coco_eval.params.maxDets = [100, 1000]
        coco_eval.evaluate()
        coco_eval.accumulate()
        return coco_eval.eval

    return _quiet(lambda: {kind: evaluate(kind) for kind in rows if rows[kind]})


def _quiet(run: Callable[[], Any]) -> Callable[[], Any]:
    def run_quietly() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            return run()

    return run_quietly
