import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances

from fcos_rpn import FCOSAssigner, FCOSCore, FCOSHead, FCOSLosses, UserError, add_fcos_config
from fcos_rpn.modeling.losses import BOX_LOSSES
from tests.tiny import tiny_config

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
        losses=FCOSLosses(),
    )
    inputs = features()
    for one, other in zip(from_config(inputs)[0], by_hand(inputs)[0], strict=True):
        assert torch.equal(one, other)


def test_unfit_configs_are_named():
    with pytest.raises(UserError, match=r"the backbone has no p8; it gives p2, p3"):
        core(["p3", "p8"])
    with pytest.raises(UserError, match=r"SIZES_OF_INTEREST \[64\.0\]: the 3 levels p3, p4, p5 need 2 upper ends"):
        core(["p3", "p4", "p5"], SIZES_OF_INTEREST=[64.0])
    with pytest.raises(UserError, match=r"MODEL\.FCOS\.NORM must be one of 'GN', 'BN', 'SyncBN', '', not 'LN'"):
        core(NORM="LN")


def test_without_center_sampling_the_radius_is_zero():
    assert core(CENTER_SAMPLING_RADIUS=0.0).assigner.radius == 0


def test_unfit_numbers_are_named():
    with pytest.raises(UserError, match=r"SIZES_OF_INTEREST \[128\.0, 64\.0\] must ascend"):
        core(["p3", "p4", "p5"], SIZES_OF_INTEREST=[128.0, 64.0])
    with pytest.raises(UserError, match=r"CENTER_SAMPLING_RADIUS -1 must be 0\.0 or more"):
        core(CENTER_SAMPLING_RADIUS=-1.0)
    for key in ("NUM_CONVS", "NUM_SHARED_CONVS"):
        with pytest.raises(UserError, match=rf"\.{key} must be 0 or more, not -1"):
            core(**{key: -1})
    with pytest.raises(UserError, match=r"IN_FEATURES is empty"):
        core([])


@pytest.mark.parametrize("key", ["BBOX_ACTIVATION", "CENTERNESS", "BBOX_REG_LOSS_TYPE", "BBOX_REG_LOSS_WEIGHT_BY"])
def test_unknown_values_name_their_key(key):
    with pytest.raises(UserError, match=rf"MODEL\.FCOS\.{key} must be one of '.*', not 'mine'"):
        core(**{key: "mine"})


@pytest.mark.parametrize(("centerness", "names"), [("none", {"cls", "loc"}), ("computed", {"cls", "loc"})])
def test_without_a_centerness_branch_there_are_two_losses(centerness, names):
    model = core(CENTERNESS=centerness)
    predictions, locations = model(features())
    gt = Instances((128, 128), gt_boxes=Boxes(torch.tensor([[8.0, 8, 72, 72]])), gt_classes=torch.tensor([1]))
    losses = model.criterion(predictions, model.assigner(locations, [gt, gt]))
    assert set(losses) == names
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_config_chooses_the_losses():
    assert core(CENTERNESS="iou").criterion.predicts_iou
    assert not core(CENTERNESS="cls").criterion.predicts_iou
    assert core(BBOX_REG_LOSS_TYPE="l2").criterion.box_loss is BOX_LOSSES["l2"]
    assert core().criterion.is_box_loss_weighted
    assert not core(BBOX_REG_LOSS_WEIGHT_BY="none").criterion.is_box_loss_weighted


def test_levels_must_have_the_same_channels():
    shapes = {**PYRAMID, "p3": ShapeSpec(channels=32, stride=8)}
    with pytest.raises(ValueError, match="same number of channels"):
        FCOSCore(tiny_config(), shapes, in_features=["p3", "p4"], num_classes=1)
