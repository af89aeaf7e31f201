import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from fcos_rpn import FCOSAssigner, FCOSCore, FCOSHead, FCOSLosses, UserError, add_fcos_config
from fcos_rpn.modeling.losses import BOX_LOSSES
from tests.tiny import tiny_config, without_gradient

PYRAMID = {f"p{level}": ShapeSpec(channels=64, stride=2**level) for level in range(2, 8)}


def core(in_features=("p3", "p4", "p5", "p6", "p7"), num_classes=2, **overrides):
    cfg = tiny_config()
    for key, value in overrides.items():
        setattr(cfg.MODEL.FCOS, key, value)
    return FCOSCore(cfg, PYRAMID, in_features=in_features, num_classes=num_classes)


def features(names=PYRAMID, size=128):
    return {name: torch.randn(2, 64, size // PYRAMID[name].stride, size // PYRAMID[name].stride) for name in names}


def test_sizes_of_interest_follow_the_strides():
    assert core().assigner.ranges == [(0, 64), (64, 128), (128, 256), (256, 512), (512, float("inf"))]
    on_p2_p6 = core(["p2", "p3", "p4", "p5", "p6"])
    assert on_p2_p6.assigner.ranges == [(0, 32), (32, 64), (64, 128), (128, 256), (256, float("inf"))]
    given = core(["p3", "p4"], SIZES_OF_INTEREST=[40.0])
    assert given.assigner.ranges == [(0, 40), (40, float("inf"))]


def test_takes_its_levels_by_name_with_their_strides():
    predictions, locations = core(["p4", "p5"])(features())
    assert locations.grid_sizes == ((8, 8), (4, 4))
    assert locations.strides.unique().tolist() == [16, 32]
    assert predictions.logits.shape == (2, 80, 2)


def test_location_offset():
    _, locations = core(LOCATION_OFFSET=0.0)(features())
    assert locations.points[0].tolist() == [0, 0]
    _, locations = core()(features())
    assert locations.points[0].tolist() == [4, 4]


def test_built_by_hand_equals_built_from_config():
    """Everything below `from_config` takes plain values, whose defaults are the config's."""
    cfg = get_cfg()
    add_fcos_config(cfg)
    torch.manual_seed(0)
    from_config = FCOSCore(cfg, PYRAMID, in_features=["p3", "p4"], num_classes=2)
    torch.manual_seed(0)
    by_hand = FCOSCore(
        in_features=["p3", "p4"],
        strides=[8, 16],
        head=FCOSHead(in_channels=64, strides=[8, 16], num_classes=2),
        assigner=FCOSAssigner(num_classes=2, sizes_of_interest=[64.0]),
        loss_functions=FCOSLosses(),
    )
    inputs = features()
    for one, other in zip(from_config(inputs)[0], by_hand(inputs)[0], strict=True):
        assert torch.equal(one, other)


ONE_OF = "must be one of '.*', not 'mine'"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("IN_FEATURES", ["p3", "p8"], "in_features has p8, but the backbone gives p3, p4, p5, p6, p7"),
        ("IN_FEATURES", [], "in_features is empty"),
        ("SIZES_OF_INTEREST", [64.0], "sizes_of_interest has 1 upper ends, but the 5 levels p3, .*, p7 need 4"),
        ("SIZES_OF_INTEREST", [2.0, 1.0], r"sizes_of_interest must ascend, not \[2\.0, 1\.0\]"),
        ("CENTER_SAMPLING_RADIUS", -1.0, r"center_sampling_radius must be 0\.0 or more, not -1"),
        ("NUM_CONVS", -1, "num_convs must be 0 or more, not -1"),
        ("NUM_SHARED_CONVS", -1, "num_shared_convs must be 0 or more, not -1"),
        ("PRIOR_PROB", 1.0, "prior_prob must be between 0 and 1, not 1"),
        ("NORM", "mine", f"norm {ONE_OF}"),
        ("BBOX_ACTIVATION", "mine", f"bbox_activation {ONE_OF}"),
        ("CENTERNESS", "mine", f"centerness {ONE_OF}"),
        ("BBOX_REG_LOSS_TYPE", "mine", f"box_loss {ONE_OF}"),
        ("BBOX_REG_LOSS_WEIGHT_BY", "mine", f"box_loss_weight_by {ONE_OF}"),
        ("SCORE_FUSION", "mine", f"score_fusion {ONE_OF}"),
        ("THRESH_ON", "mine", f"thresh_on {ONE_OF}"),
    ],
)
def test_messages_name_the_key_of_the_argument(key, value, message):
    cfg = tiny_config()
    cfg.MODEL.FCOS[key] = value
    with pytest.raises(UserError, match=rf"^MODEL\.FCOS\.{key}: {message}"):
        build_model(cfg)


def test_messages_name_the_key_of_the_role():
    cfg = tiny_config("ProposalNetwork")
    cfg.MODEL.RPN.IN_FEATURES = ["p8"]
    with pytest.raises(UserError, match=r"^MODEL\.RPN\.IN_FEATURES: in_features has p8"):
        build_model(cfg)


@pytest.mark.parametrize("centerness", ["none", "computed", "reg"])
def test_losses_are_those_of_the_predictions(centerness):
    model = core(CENTERNESS=centerness)
    predictions, locations = model(features())
    gt = Instances((128, 128), gt_boxes=Boxes(torch.tensor([[8.0, 8, 72, 72]])), gt_classes=torch.tensor([1]))
    losses = model.losses(predictions, locations, [gt, gt], role="rpn", weight=2.0)
    expected = model.loss_functions(predictions, model.assigner(locations, [gt, gt]))
    assert losses == {f"loss_rpn_{name}": 2 * loss for name, loss in expected.items()}
    assert ("ctr" in expected) == (centerness == "reg")
    sum(losses.values()).backward()
    assert without_gradient(model) == []


def test_the_config_chooses_the_losses():
    assert core(CENTERNESS="iou").loss_functions.predicts_iou
    assert not core(CENTERNESS="cls").loss_functions.predicts_iou
    assert core(BBOX_REG_LOSS_TYPE="l2").loss_functions.box_loss is BOX_LOSSES["l2"]
    assert core().loss_functions.is_box_loss_weighted
    assert not core(BBOX_REG_LOSS_WEIGHT_BY="none").loss_functions.is_box_loss_weighted


def test_levels_must_have_the_same_channels():
    shapes = {**PYRAMID, "p3": ShapeSpec(channels=32, stride=8)}
    with pytest.raises(ValueError, match="same number of channels"):
        FCOSCore(tiny_config(), shapes, in_features=["p3", "p4"], num_classes=1)
