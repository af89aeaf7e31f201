import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou

from fcos_rpn import UserError
from fcos_rpn.analysis import anchors as anchors_module
from fcos_rpn.analysis.anchors import AnchorSampler
from fcos_rpn.analysis.annotated_boxes import ImageGroup
from fcos_rpn.analysis.statistics import build_sampler
from tests.tiny import tiny_config


def sampler(sizes=(16.0,), *, ratios=(1.0,), strides=(16,), thresholds=(0.4, 0.5), num_classes=3) -> AnchorSampler:
    generator = DefaultAnchorGenerator(sizes=[list(sizes)], aspect_ratios=[list(ratios)], strides=list(strides))
    return AnchorSampler(
        level_names=[f"p{i}" for i in range(len(strides))],
        generator=generator,
        iou_thresholds=list(thresholds),
        iou_labels=[0, -1, 1],
        num_classes=num_classes,
    )


def group(images, size, classes=None) -> ImageGroup:
    boxes = torch.tensor([box for image in images for box in image], dtype=torch.float32).view(-1, 4)
    return ImageGroup(
        padded_size=size,
        num_images=len(images),
        boxes=boxes,
        classes=torch.arange(len(boxes)) % 3 if classes is None else torch.tensor(classes),
        image_idxs=torch.repeat_interleave(torch.tensor([len(image) for image in images])),
        rows=torch.arange(len(boxes)),
    )


def test_ambiguous_anchors_overlap_several_boxes_by_the_upper_threshold():
    images = [[[0, 0, 16, 15], [0, 0, 16, 14]], [[0, 0, 16, 15], [0, 0, 16, 7]]]  # .94 and .88, .94 and .44
    one, many = (sampler(num_classes=n).assign(group(images, (32, 32), [0, 1, 0, 1])) for n in (1, 2))
    assert (many.num_ambiguous, many.num_ambiguous_across_classes) == (1, 1)
    assert (one.num_ambiguous, one.num_ambiguous_across_classes) == (1, 0)
    same = sampler(num_classes=2).assign(group(images, (32, 32), [1, 1, 0, 0]))
    assert (same.num_ambiguous, same.num_ambiguous_across_classes) == (1, 0)


def random_boxes(generator, num_boxes):
    center = torch.rand(num_boxes, 2, generator=generator) * torch.tensor([160, 128])
    sides = torch.exp(torch.rand(num_boxes, 2, generator=generator) * 3.5 + 1.5)
    return torch.cat([center - sides / 2, center + sides / 2], dim=1).tolist()


@pytest.mark.parametrize("max_pairs", [1 << 20, 700])
@pytest.mark.parametrize("thresholds", [(0.4, 0.5), (0.3, 0.7)])
def test_equals_detectron2s_matcher(monkeypatch, max_pairs, thresholds):
    """ "all" and "none" are the two settings of its matcher; the rule between them, in loops. `max_pairs` cuts the
    anchors into chunks."""
    monkeypatch.setattr(anchors_module, "MAX_PAIRS_AT_ONCE", max_pairs)
    generator = torch.Generator().manual_seed(0)
    images = [random_boxes(generator, 20), random_boxes(generator, 7)]
    tested = sampler((16.0, 22.0), ratios=(0.5, 1.0, 2.0), strides=(8, 32), thresholds=thresholds)
    found = tested.assign(group(images, (128, 160)))
    start = 0
    num_positives = 0
    for image in images:
        anchors = Boxes.cat(tested.generator([torch.empty(0, 16, 20), torch.empty(0, 4, 5)]))
        quality = pairwise_iou(Boxes(torch.tensor(image)), anchors)
        for rule in ("none", "all"):
            matches, labels = Matcher(list(thresholds), [0, -1, 1], rule == "all")(quality)
            positives = torch.bincount(matches[labels == 1], minlength=len(image))
            assert found.is_learned_by_rule[rule][start : start + len(image)].tolist() == (positives > 0).tolist()
        assert found.positives_per_box[start : start + len(image)].tolist() == positives.tolist()
        num_positives += int((labels == 1).sum())

        learned = set()
        for a in range(len(anchors)):
            best_box = int(quality[:, a].argmax())
            low_quality = any(float(row[a]) == float(row.max()) >= 0.4 for row in quality)
            if quality[best_box, a] >= thresholds[1] or low_quality:
                learned.add(best_box)
        expected = [m in learned for m in range(len(image))]
        assert found.is_learned_by_rule["IoU >= .4"][start : start + len(image)].tolist() == expected
        start += len(image)
    assert found.positives_per_level.sum() == num_positives
    recalls = [int(is_learned.sum()) for is_learned in found.is_learned_by_rule.values()]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[1] <= recalls[2]


def test_a_box_without_any_overlap_is_learned_by_none():
    """Of the legacy convention: a box of one pixel has no area. Detectron2's matcher would give it every anchor."""
    found = sampler().assign(group([[[4, 4, 4, 4], [0, 0, 16, 16]]], (32, 32)))
    assert found.positives_per_box.tolist() == [0, 1]
    assert found.positives_per_level.tolist() == [1]


def test_sampler_of_a_config():
    shapes = {f"p{level}": ShapeSpec(channels=64, stride=2**level) for level in range(2, 7)}
    cfg = tiny_config("GeneralizedRCNN")
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64]]
    rpn = AnchorSampler(cfg, shapes, in_features=["p2", "p3"], num_classes=1)
    assert rpn.num_per_level((60, 100)) == [3 * 15 * 25, 3 * 8 * 13]
    assert rpn.outputs_per_sample == 5  # objectness and 4 offsets
    assert rpn.positive_iou == 0.7

    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    retinanet = AnchorSampler(cfg, shapes, in_features=["p2", "p3"], num_classes=80)
    assert retinanet.outputs_per_sample == 84
    assert retinanet.positive_iou == 0.5

    with pytest.raises(UserError, match="in_features has p9, but the backbone gives"):
        AnchorSampler(cfg, shapes, in_features=["p9", "p3"], num_classes=80)
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "RotatedAnchorGenerator"
    with pytest.raises(UserError, match="only the anchors of DefaultAnchorGenerator"):
        AnchorSampler(cfg, shapes, in_features=["p2", "p3"], num_classes=80)


def test_anchors_that_count_pixels_by_hand():
    """Stride 8, size 32, ratios 1 and 1/2: 8 x 8 and, rounded, 11 x 6 pixels around 3.5, four times enlarged."""
    cfg = tiny_config("GeneralizedRCNN")
    cfg.MODEL.ANCHOR_GENERATOR.SIZES, cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[32]], [[1.0, 0.5]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    shapes = {"p3": ShapeSpec(channels=64, stride=8)}
    found = AnchorSampler(cfg, shapes, in_features=["p3"], num_classes=1, counts_pixels=True)
    (cell,) = found.generator.cell_anchors
    assert cell.tolist() == [[-12.0, -12.0, 19.0, 19.0], [-18.0, -8.0, 25.0, 15.0]]
    assert found.num_per_level((8, 16)) == [4]
    # Of the next cell, 8 pixels on; the config's own offset is not added.
    assert found._anchors((8, 16)).tolist() == [*cell.tolist(), *(cell + torch.tensor([8.0, 0.0, 8.0, 0.0])).tolist()]

    # 32 pixels from -12 to 19: of a box of the same pixels the IoU is 1, of one of half the height exactly .5.
    matches = found._match(cell, torch.tensor([[-12.0, -12.0, 19.0, 3.0]]))
    assert matches.low_quality_iou[0] == 0.5


def test_the_box_convention_chooses_the_anchors():
    cfg = tiny_config("ProposalNetwork", "RPN")
    modern, _ = build_sampler(cfg, 1)
    legacy, _ = build_sampler(cfg, 1, box_convention="legacy")
    assert modern.corner_shift.tolist() == [0, 0, 0, 0]
    assert legacy.corner_shift.tolist() == [0, 0, 1, 1]
    assert not torch.equal(next(iter(modern.generator.cell_anchors)), next(iter(legacy.generator.cell_anchors)))
