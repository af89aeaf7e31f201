import json
from pathlib import Path

import pytest
import torch

from fcos_rpn import UserError, model_zoo
from fcos_rpn.analysis import analyze, read_boxes
from fcos_rpn.analysis.anchors import AnchorSampler
from fcos_rpn.analysis.assignment import LocationSampler
from fcos_rpn.analysis.statistics import build_sampler
from tests import naive
from tests.tiny import tiny_config

VAL2017 = Path(__file__).parents[3] / "shared" / "data" / "coco_val2017" / "instances_val2017_rebuilt.json"


SIZES = {1: (100, 50), 2: (50, 100), 3: (100, 50)}
"""Image -> width and height."""

ANNOTATIONS = [
    (3, 3, [10, 10, 40, 20]),
    (1, 3, [10, 10, 40, 20]),
    (1, 8, [10, 10, 39, 20]),
    (2, 8, [20, 20, 25, 50]),
    (1, 3, [5, 5, 1, 1]),
    (1, 3, [5, 5, 90, 40]),
]
"""Image, category and bbox; ids count from 1."""


@pytest.fixture
def json_file(tmp_path) -> Path:
    content = {
        "images": [{"id": id_, "file_name": f"{id_}.png", "width": w, "height": h} for id_, (w, h) in SIZES.items()],
        "categories": [{"id": 3, "name": "red"}, {"id": 8, "name": "blue"}],
        "annotations": [
            {"id": id_, "image_id": image_id, "category_id": category_id, "bbox": bbox, "area": 1, "iscrowd": 0}
            for id_, (image_id, category_id, bbox) in enumerate(ANNOTATIONS, start=1)
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return tmp_path / "boxes.json"


def test_all_figures_of_a_config(json_file):
    """Shorter sides of 50 grow to 64: the images have 64 x 128 pixels, which 32 divides."""
    cfg = tiny_config()
    cfg.MODEL.FCOS.SIZES_OF_INTEREST = [16.0, 32.0, 64.0, 512.0]
    found = analyze(cfg, read_boxes(json_file))

    wide, tall = ([(8, 16), (4, 8), (2, 4), (1, 2), (1, 1)], [(16, 8), (8, 4), (4, 2), (2, 1), (1, 1)])
    images, ids = [], []
    for image_id, (width, height) in SIZES.items():
        here = {id_: row for id_, row in enumerate(ANNOTATIONS, start=1) if row[0] == image_id}
        points = naive.locations(wide if width > height else tall, [8, 16, 32, 64, 128])
        corners = [[1.28 * x, 1.28 * y, 1.28 * (x + w), 1.28 * (y + h)] for _, _, (x, y, w, h) in here.values()]
        images.append((points, corners, [category_id for _, category_id, _ in here.values()]))
        ids += here
    positives, per_level, num_ambiguous, num_across_classes = naive.assignment_figures(
        images, cfg.MODEL.FCOS.SIZES_OF_INTEREST, 1.5
    )

    assert found.num_images == 3
    assert found.num_boxes == 6
    assert found.num_positives == sum(positives) > 0
    assert found.positives_per_level == {f"p{3 + level}": per_level[level] for level in range(5)}
    assert sum(n * boxes for n, boxes in found.positives_per_box.items()) == found.num_positives
    unlearned = [id_ for id_, n in zip(ids, positives, strict=True) if n == 0]
    assert sorted(box.id for box in found.unlearned_boxes) == sorted(unlearned)
    assert 5 in unlearned
    (tiny,) = (box for box in found.unlearned_boxes if box.id == 5)
    assert tiny == (5, 1, 1, 1, 1.28, 1.28)
    assert found.unlearned == pytest.approx(100 * len(unlearned) / 6)
    assert found.best_possible_recall == pytest.approx(100 - found.unlearned)
    assert found.ambiguous == pytest.approx(100 * num_ambiguous / found.num_positives)
    assert found.ambiguous_across_classes == pytest.approx(100 * num_across_classes / found.num_positives)
    assert num_across_classes > 0
    # 8·16 + 4·8 + 2·4 + 2 + 1 locations of 2 classes, 4 distances, 1 centerness
    assert found.samples_per_image == (171, 171, 171)
    assert found.outputs_per_image == (7 * 171, 7 * 171, 7 * 171)
    assert found.best_possible_recall_by_rule == {}
    assert json.loads(json.dumps(found.to_json()))["unlearned_boxes"][0]["image_id"] in (1, 2, 3)


def test_box_convention(json_file):
    """A box of one pixel is a point, in the legacy convention; others lose what only their last pixel holds."""
    annotations = read_boxes(json_file)
    legacy = analyze(tiny_config(), annotations, box_convention="legacy")
    (tiny,) = (box for box in legacy.unlearned_boxes if box.id == 5)
    assert (tiny.width, tiny.input_width) == (1, 0)
    assert legacy.num_boxes == 6


def test_anchors_report_the_three_rules(json_file):
    cfg = tiny_config("GeneralizedRCNN", "RPN")
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64, 128, 256, 512]]
    found = analyze(cfg, read_boxes(json_file))
    assert list(found.best_possible_recall_by_rule) == ["none", "IoU >= .4", "all"]
    assert found.best_possible_recall_by_rule["all"] == found.best_possible_recall
    assert found.samples_per_image.mean == 15 * 171  # five sizes, three ratios
    assert found.outputs_per_image.mean == 5 * 15 * 171
    assert found.ambiguous_across_classes == 0


@pytest.mark.parametrize(
    ("architecture", "generator", "sampler_type", "levels", "num_classes"),
    [
        ("FCOS", "RPN", LocationSampler, ["p3", "p4"], 80),
        ("RetinaNet", "RPN", AnchorSampler, ["p4", "p5"], 80),
        ("GeneralizedRCNNWithProposals", "FCOSRPN", LocationSampler, ["p5", "p6"], 1),
        ("ProposalNetwork", "RPN", AnchorSampler, ["p5", "p6"], 1),
    ],
)
def test_roles(architecture, generator, sampler_type, levels, num_classes):
    cfg = tiny_config(architecture)
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = generator
    cfg.MODEL.FCOS.IN_FEATURES, cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4"], ["p4", "p5"]
    cfg.MODEL.RPN.IN_FEATURES = ["p5", "p6"]
    sampler, size_divisibility = build_sampler(cfg, 80)
    assert type(sampler) is sampler_type
    assert sampler.level_names == levels
    assert sampler.num_classes == num_classes
    assert size_divisibility == 32


def test_neither_locations_nor_anchors():
    cfg = tiny_config("GeneralizedRCNN", "PrecomputedProposals")
    with pytest.raises(UserError, match=r"GeneralizedRCNN with .* PrecomputedProposals cannot be analyzed"):
        build_sampler(cfg, 80)


@pytest.mark.skipif(not VAL2017.exists(), reason="needs the shared data")
@pytest.mark.parametrize(
    ("radius", "convention", "expected"),
    [(0.0, "legacy", (98.44, 7.13, 3.76)), (1.5, "modern", (98.97, 2.67, 1.58))],
)
def test_the_papers_figures_on_every_fifth_image_of_coco(radius, convention, expected):
    """A fifth deviates from the figures of all images, which the tool gives, by less than the tolerance."""
    cfg = model_zoo.get_config("COCO-Detection/fcos_R_50_FPN_1x.yaml")
    cfg.MODEL.FCOS.CENTER_SAMPLING_RADIUS = radius
    annotations = read_boxes(VAL2017)
    found = analyze(cfg, annotations.of_images(torch.arange(0, 5000, 5)), box_convention=convention)
    figures = found.best_possible_recall, found.ambiguous, found.ambiguous_across_classes
    assert figures == pytest.approx(expected, abs=0.6)
