"""Ground truth and boxes to evaluate."""

import random

import numpy as np
import pycocotools.mask
import pytest


def coco_dataset(boxes_per_image, *, crowds=()):
    """Image ids 1, 2, ... with these x1, y1, x2, y2 boxes of two classes in turn; ids in `crowds` are crowd regions.

    Annotation ids start at 0, which pycocotools alone would count as never matched.
    """
    annotations = []
    for image_id, boxes in enumerate(boxes_per_image, start=1):
        for x1, y1, x2, y2 in boxes:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": 7 + len(annotations) % 2,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(len(annotations) in crowds),
                }
            )
    return {
        "images": [
            {"id": image_id, "file_name": f"{image_id}.jpg", "height": 200, "width": 200}
            for image_id in range(1, len(boxes_per_image) + 1)
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
        "annotations": annotations,
    }


def random_case(seed):
    """Small integer boxes on a coarse grid, so that equal scores, equal overlaps and overlaps at a threshold abound."""
    rng = random.Random(seed)

    def random_boxes(count, sizes):
        corners = [(rng.randrange(0, 60, 10), rng.randrange(0, 60, 10)) for _ in range(count)]
        return [(x, y, x + rng.choice(sizes), y + rng.choice(sizes)) for x, y in corners]

    truths = [random_boxes(rng.choice([0, 0, 1, 4, 9]), [10, 20, 32, 40, 96, 120]) for _ in range(6)]
    crowds = {annotation_id for annotation_id in range(60) if rng.random() < 0.2}
    annotations = coco_dataset(truths, crowds=crowds)
    for annotation in annotations["annotations"]:
        annotation["area"] = rng.choice([annotation["area"], 0.5 * annotation["area"], 1024, 9216])  # as masks have
    proposals = {}
    for image_id, boxes in enumerate(truths, start=1):
        shifted = [tuple(side + rng.choice([0, 0, 1, 2, 5]) for side in box) for box in boxes for _ in range(2)]
        candidates = shifted + random_boxes(rng.choice([0, 5]), [10, 20, 33, 90])
        rng.shuffle(candidates)
        if rng.random() < 0.8:
            proposals[image_id] = (candidates, [rng.choice([0.25, 0.5, 0.75, 1.0]) for _ in candidates])
    return annotations, proposals


NUM_KEYPOINTS = 5


def random_detections(seed):
    """Ground truth and detections in COCO's formats: boxes, masks and poses of four classes, one of them not annotated.

    Classes and images are in no order; crowds, ignored and unlabelled objects, areas at the ends of the ranges, equal
    scores and images without either abound.
    """
    rng = random.Random(seed)

    def random_box():
        x, y = (rng.randrange(0, 100, 10) for _ in "xy")
        width, height = (rng.choice([10, 32, 40, 96]) for _ in "wh")
        return [x, y, width, height]

    def random_pose(x, y, width, height):
        points = [(x + rng.random() * width, y + rng.random() * height, rng.randrange(3)) for _ in range(NUM_KEYPOINTS)]
        return [value for point in points for value in point] if rng.random() < 0.8 else [0] * (3 * NUM_KEYPOINTS)

    images = [{"id": image_id, "height": 200, "width": 200, "file_name": ""} for image_id in (5, 3, 9, 1, 2, 8, 14)]
    annotations = []
    detections = []
    for image in images:
        found = []
        for _ in range(rng.choice([0, 4, 9])):
            box = random_box()
            x, y, width, height = box
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": rng.choice([2, 4, 7]),
                "bbox": box,
                "area": rng.choice([width * height, 0.5 * width * height, 1024, 9216]),
                "iscrowd": int(rng.random() < 0.2),
                "ignore": int(rng.random() < 0.2),
                "segmentation": [[x, y, x + width, y + 3.3 * rng.random(), x + width, y + height, x, y + height - 4.7]],
                "keypoints": random_pose(*box),
            }
            annotation["num_keypoints"] = sum(value > 0 for value in annotation["keypoints"][2::3])
            if annotation["iscrowd"]:
                annotation["segmentation"] = filled_rle(*box, is_compressed=False)
            annotations.append(annotation)
            category_id = annotation["category_id"] if rng.random() < 0.7 else 8
            for _ in range(2):
                moved = [side + rng.choice([0, 0, 1, 2, 5]) for side in box]
                pose = [value + rng.choice([0, 1, -2]) for value in annotation["keypoints"]]
                found.append({"category_id": category_id, "bbox": moved, "keypoints": pose})
        for _ in range(rng.choice([0, 5])):
            box = random_box()
            found.append({"category_id": rng.choice([2, 4, 7, 8]), "bbox": box, "keypoints": random_pose(*box)})
        if image["id"] != 3:
            detections += [{"image_id": image["id"], **detection} for detection in found]
    rng.shuffle(detections)
    for detection in detections:
        detection["score"] = rng.choice([0.25, 0.5, 0.75, 1.0])
        x, y, width, height = detection["bbox"]
        detection["segmentation"] = filled_rle(x, y, width - 4, height, is_compressed=True)  # of another size by area
    categories = [{"id": category_id, "name": str(category_id)} for category_id in (4, 2, 8, 7)]
    return {"images": images, "categories": categories, "annotations": annotations}, detections


def filled_rle(x, y, width, height, *, is_compressed):
    """A rectangle in an image of 200 x 200 pixels as COCO's RLE, which counts column by column."""
    mask = np.zeros((200, 200), dtype=np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    if is_compressed:
        rle = pycocotools.mask.encode(mask)
        return {"size": rle["size"], "counts": rle["counts"].decode()}
    changes = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0))
    return {"size": [200, 200], "counts": np.diff(changes, prepend=0, append=mask.size).tolist()}


def assert_equal_figures(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


# Four ground-truth boxes in three images. The small one lies in an image without boxes; of the medium ones the first is
# hit with IoU 0.92 by the second-best box only, the other with 0.72 by the best box of its image; the large one with
# 0.52. They pass 9, 5 and 1 of the thresholds .50 .55 ... .95.
WORKED_ANNOTATIONS = coco_dataset(
    [[(0, 0, 50, 50), (0, 100, 50, 150)], [(0, 0, 10, 10)], [(0, 0, 100, 100)]],
)
WORKED_PROPOSALS = {
    1: ([(0, 0, 50, 46), (0, 100, 50, 136), (150, 150, 160, 160)], [0.5, 0.9, 0.1]),
    3: ([(0, 0, 100, 52)], [-3.0]),
}
