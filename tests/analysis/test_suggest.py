from types import SimpleNamespace

import pytest
import torch
from detectron2.config import CfgNode

from fcos_rpn import UserError
from fcos_rpn.analysis import Annotations, analyze
from fcos_rpn.analysis import suggest as suggest_module
from fcos_rpn.analysis.suggest import Margin, suggest, tiles_advice, worthwhile
from tests.tiny import tiny_config


def images_of(boxes: list[list[float]], *, num_images: int = 2) -> Annotations:
    """The same boxes on every image of 128 x 128 pixels."""
    return Annotations(
        boxes=torch.tensor(boxes * num_images, dtype=torch.float64),
        classes=torch.zeros(len(boxes) * num_images, dtype=torch.int64),
        ids=torch.arange(1, len(boxes) * num_images + 1),
        image_idxs=torch.repeat_interleave(torch.full((num_images,), len(boxes))),
        image_sizes=torch.full((num_images, 2), 128),
        image_ids=torch.arange(num_images),
        num_classes=2,
    )


SMALL = images_of([[5.0, 5.0, 3.0, 3.0], [29.0, 37.0, 5.0, 5.0], [60.0, 60.0, 30.0, 40.0]])
"""The first two lie between the locations of stride 8 at 4, 12, ... and hold one of stride 4 at 2, 6, 10, ... Enlarged
by 1.25 or 1.5, the first, 6.25 to 10 or 7.5 to 12, still holds none; by 2, 10 to 16, it does."""

EASY = images_of([[10.0, 10.0, 30.0, 30.0], [60.0, 60.0, 40.0, 40.0]])


def config(*args: str) -> CfgNode:
    cfg = tiny_config(*args)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 128, 200
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (96, 128), 200
    return cfg


def changed(cfg: CfgNode, changes: dict) -> CfgNode:
    cfg = cfg.clone()
    for key, value in changes.items():
        cfg.merge_from_list([key, value])
    return cfg


def test_small_boxes_get_a_finer_level():
    """As many locations as on an input of twice the side, but on as many pixels as before."""
    cfg = config()
    assert analyze(cfg, SMALL).unlearned == pytest.approx(200 / 3)
    changes = suggest(cfg, SMALL)
    assert changes["MODEL.FCOS.IN_FEATURES"] == ["p2", "p3", "p4", "p5", "p6", "p7"]
    assert changes["MODEL.FPN.IN_FEATURES"] == ["res2", "res3", "res4", "res5"]
    assert len(changes["MODEL.FCOS.SIZES_OF_INTEREST"]) == 5
    assert "INPUT.MIN_SIZE_TEST" not in changes
    assert analyze(changed(cfg, changes), SMALL).unlearned == 0


def test_the_input_grows_where_there_is_no_finer_level():
    cfg = config()
    cfg.MODEL.FCOS.IN_FEATURES = ["p4", "p5", "p6", "p7"]  # does not begin with p3
    # Twice SMALL's first box, for stride 16.
    changes = suggest(cfg, images_of([[10.0, 10.0, 6.0, 6.0], [60.0, 60.0, 30.0, 40.0]]))
    assert changes["INPUT.MIN_SIZE_TEST"] == 256
    assert changes["INPUT.MAX_SIZE_TEST"] == 400
    assert changes["INPUT.MIN_SIZE_TRAIN"] == [192, 256]
    assert changes["INPUT.MAX_SIZE_TRAIN"] == 400
    assert "MODEL.FCOS.IN_FEATURES" not in changes


def test_the_cost_is_bound():
    changes = suggest(config(), SMALL, max_cost=1.0)
    assert set(changes) <= {"MODEL.FCOS.SIZES_OF_INTEREST"}


def test_ranges_that_are_no_whole_pixels_stay_where_nothing_is_gained():
    cfg = config()
    cfg.MODEL.FCOS.SIZES_OF_INTEREST = [64.5, 128.5, 256.5, 512.5]
    assert suggest(cfg, EASY) == {}


def test_ranges_part_boxes_within_each_other():
    """Of both boxes only P3's (60, 60) lies within half a stride of the center, (62, 62), and the smaller one takes it:
    their largest distances from there are 40 and 50. An end of 48 sends the larger one to (56, 56) of P4."""
    nested = images_of([[24.0, 24.0, 76.0, 76.0], [14.0, 14.0, 96.0, 96.0]])
    cfg = config()
    cfg.MODEL.FCOS.CENTER_SAMPLING_RADIUS = 0.5
    before = analyze(cfg, nested)
    assert before.unlearned == 50
    changes = suggest(cfg, nested, max_cost=1.0)
    assert set(changes) == {"MODEL.FCOS.SIZES_OF_INTEREST"}
    assert changes["MODEL.FCOS.SIZES_OF_INTEREST"][0] == 48
    assert analyze(changed(cfg, changes), nested).unlearned == 0


def test_the_generator_of_proposals_gets_the_p2_that_its_backbone_has():
    cfg = config("GeneralizedRCNNWithProposals")
    changes = suggest(cfg, SMALL)
    assert changes["MODEL.RPN.IN_FEATURES"] == ["p2", "p3", "p4", "p5", "p6", "p7"]
    assert not [key for key in changes if "FPN" in key or "RESNETS" in key]
    assert analyze(changed(cfg, changes), SMALL).unlearned == 0


def test_images_that_are_not_resized_are_not_enlarged():
    cfg = config()
    cfg.INPUT.MIN_SIZE_TEST = 0
    changes = suggest(cfg, SMALL)
    assert "MODEL.FCOS.IN_FEATURES" in changes
    assert not [key for key in changes if key.startswith("INPUT")]


def test_tiles_are_advised_where_the_largest_input_is_too_small():
    """The images have sides of 128 pixels, and twice the input's sides is tried."""
    cfg = config()
    for min_size, advises in ((128, False), (64, False), (32, True), (0, False)):
        cfg.INPUT.MIN_SIZE_TEST = min_size
        assert ("up to 4.0 times" in tiles_advice(cfg, SMALL)) == advises
        assert bool(tiles_advice(cfg, SMALL)) == advises


def test_the_search_looks_at_some_images_only(monkeypatch):
    monkeypatch.setattr(suggest_module, "MAX_SEARCH_IMAGES", 2)
    seen = set()
    measure = suggest_module.measure

    def watched(sampler, annotations, **inputs):
        seen.add(tuple(annotations.image_ids.tolist()))
        return measure(sampler, annotations, **inputs)

    monkeypatch.setattr(suggest_module, "measure", watched)
    assert "MODEL.FCOS.IN_FEATURES" in suggest(config(), images_of(SMALL.boxes[:3].tolist(), num_images=6))
    assert seen == {(0, 3)}


def test_a_cost_below_that_of_the_given_config():
    with pytest.raises(UserError, match=r"--max-cost 0\.5"):
        suggest(config(), EASY, max_cost=0.5)


def test_anchors_are_refused():
    with pytest.raises(UserError, match="--suggest is for FCOS and FCOSRPN"):
        suggest(config("GeneralizedRCNN", "RPN"), EASY)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([(5.0, 9.0, 1), (1.0, 9.0, 4), (1.1, 9.0, 2)], 2),  # 1.1 is as good as 1.0, and cheaper
        ([(1.0, 9.0, 1), (1.0, 3.0, 4), (1.2, 4.0, 2)], 2),  # of those, the ambiguity decides
        ([(1.0, 9.0, 1), (9.0, 0.0, 2)], 1),  # the unlearned come first
        ([(1.2, 5.0, 1), (1.0, 4.0, 4)], 1),
    ],
)
def test_a_higher_price_needs_a_worthwhile_gain(trials, expected):
    trials = [
        SimpleNamespace(figures=SimpleNamespace(unlearned=unlearned, ambiguous=ambiguous), price=price)
        for unlearned, ambiguous, price in trials
    ]
    chosen = worthwhile(trials, Margin(unlearned=0.25, ambiguous=2.0), price=lambda trial: trial.price)
    assert chosen.price == expected
