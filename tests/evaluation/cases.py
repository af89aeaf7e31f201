"""Ground truth and boxes to evaluate."""

import random

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
