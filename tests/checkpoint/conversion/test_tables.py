"""Each table on a state dict of exactly the names and shapes of that implementation's ResNet-50."""

import pytest
import torch
from torch.nn import functional

from fcos_rpn import UserError, model_zoo
from fcos_rpn.checkpoint.conversion.renames import apply_rules
from fcos_rpn.checkpoint.conversion.tables import COCO_IDS, FILLS, RULES
from fcos_rpn.modeling.meta_arch import FCOS
from tests.checkpoint.conversion.synthetic import MAKERS, is_tower_bias, original, torchvision

TOP = "backbone.bottom_up."

EXPECTED = {
    "original": {
        "backbone.body.stem.conv1.weight": f"{TOP}stem.conv1.weight",
        "backbone.body.stem.bn1.running_mean": f"{TOP}stem.conv1.norm.running_mean",
        "backbone.body.layer1.0.downsample.0.weight": f"{TOP}res2.0.shortcut.weight",
        "backbone.body.layer4.0.downsample.1.bias": f"{TOP}res5.0.shortcut.norm.bias",
        "backbone.body.layer3.5.conv3.weight": f"{TOP}res4.5.conv3.weight",
        "backbone.body.layer3.5.bn3.weight": f"{TOP}res4.5.conv3.norm.weight",
        "backbone.fpn.fpn_inner2.weight": "backbone.fpn_lateral3.weight",
        "backbone.fpn.fpn_layer4.bias": "backbone.fpn_output5.bias",
        "backbone.fpn.top_blocks.p7.weight": "backbone.top_block.p7.weight",
        "rpn.head.cls_tower.9.weight": "core.head.cls_tower.9.weight",
        "rpn.head.bbox_tower.10.bias": "core.head.bbox_tower.10.bias",
        "rpn.head.cls_logits.bias": "core.head.cls_logits.bias",
        "rpn.head.bbox_pred.weight": "core.head.bbox_pred.weight",
        "rpn.head.centerness.weight": "core.head.centerness.weight",
    },
    "adelaidet": {
        f"{TOP}res4.5.conv3.norm.running_var": f"{TOP}res4.5.conv3.norm.running_var",
        "backbone.fpn_lateral4.bias": "backbone.fpn_lateral4.bias",
        "proposal_generator.fcos_head.cls_tower.3.weight": "core.head.cls_tower.3.weight",
        "proposal_generator.fcos_head.bbox_tower.4.weight": "core.head.bbox_tower.4.weight",
        "proposal_generator.fcos_head.cls_logits.weight": "core.head.cls_logits.weight",
        "proposal_generator.fcos_head.bbox_pred.bias": "core.head.bbox_pred.bias",
        "proposal_generator.fcos_head.ctrness.bias": "core.head.centerness.bias",
    },
    "mmdetection": {
        "backbone.conv1.weight": f"{TOP}stem.conv1.weight",
        "backbone.bn1.weight": f"{TOP}stem.conv1.norm.weight",
        "backbone.layer4.2.conv3.weight": f"{TOP}res5.2.conv3.weight",
        "backbone.layer4.2.bn3.running_mean": f"{TOP}res5.2.conv3.norm.running_mean",
        "backbone.layer1.0.downsample.1.weight": f"{TOP}res2.0.shortcut.norm.weight",
        "neck.lateral_convs.0.conv.weight": "backbone.fpn_lateral3.weight",
        "neck.fpn_convs.2.conv.bias": "backbone.fpn_output5.bias",
        "neck.fpn_convs.3.conv.weight": "backbone.top_block.p6.weight",
        "neck.fpn_convs.4.conv.bias": "backbone.top_block.p7.bias",
        "bbox_head.cls_convs.1.conv.weight": "core.head.cls_tower.3.weight",
        "bbox_head.cls_convs.3.gn.weight": "core.head.cls_tower.10.weight",
        "bbox_head.reg_convs.0.gn.bias": "core.head.bbox_tower.1.bias",
        "bbox_head.conv_cls.bias": "core.head.cls_logits.bias",
        "bbox_head.conv_reg.weight": "core.head.bbox_pred.weight",
        "bbox_head.conv_centerness.weight": "core.head.centerness.weight",
    },
}
"""Written out by hand: an implementation's name of a weight -> ours. See test_parity for torchvision and Detectron2."""

SCALES = {
    "original": "rpn.head.scales.{}.scale",
    "adelaidet": "proposal_generator.fcos_head.scales.{}.scale",
    "mmdetection": "bbox_head.scales.{}.scale",
}


@pytest.fixture(scope="module")
def shapes() -> dict[str, torch.Size]:
    """Of our ResNet-50."""
    with torch.device("meta"):
        model = FCOS(model_zoo.get_config("COCO-Detection/fcos_R_50_FPN_1x.yaml"))
    return {key: weight.shape for key, weight in model.state_dict().items()}


@pytest.mark.parametrize("source", RULES)
def test_names_and_shapes(source, shapes):
    weights = MAKERS[source](50, 256)
    named = apply_rules(weights, RULES[source])
    ours = {key: weight.shape for key, weight in named.weights.items() if not is_tower_bias(key)}
    assert ours == {
        key: shape for key, shape in shapes.items() if key not in {fill.target for fill in FILLS.get(source, ())}
    }

    for theirs, our in EXPECTED.get(source, {}).items():
        assert torch.equal(named.weights[our], weights[theirs]), theirs
        assert named.origins[our] == [theirs]
    if source in SCALES:
        expected = [float(weights[SCALES[source].format(level)]) for level in range(5)]
        assert named.weights["core.head.scales"].tolist() == expected
        assert expected == sorted(set(expected))
    used = {key for origins in named.origins.values() for key in origins}
    assert used.isdisjoint(named.dropped)
    assert used | named.dropped.keys() == weights.keys()
    assert all(key.endswith("num_batches_tracked") or key.startswith("pixel_") for key in named.dropped)


def test_torchvisions_old_files_name_the_pyramid_otherwise():
    new = apply_rules(torchvision(), RULES["torchvision"]).weights
    old = apply_rules(torchvision(layer=""), RULES["torchvision"]).weights
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in new)


def test_coco_classes_are_picked_by_their_ids():
    # COCO has no category 0 (torchvision's background), 12, 26, 29, 30, 45, 66, 68, 69, 71 and 83.
    missing = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert [number for number in range(91) if number not in missing] == COCO_IDS
    weights = torchvision()
    weights["head.classification_head.cls_logits.bias"] = torch.arange(91.0)
    named = apply_rules(weights, RULES["torchvision"])
    # Person is 1; the stop sign, 13, is the twelfth class; the toothbrush, 90, the last.
    bias = named.weights["core.head.cls_logits.bias"].tolist()
    assert (bias[0], bias[11], bias[79], len(bias)) == (1, 13, 90, 80)


def test_other_classes_of_torchvision_are_an_error():
    with pytest.raises(UserError, match="class layer has 3 rows"):
        apply_rules(torchvision(num_classes=3), RULES["torchvision"])


def test_the_originals_normalization_adds_nothing_to_the_variance():
    weights = original()
    prefix = "backbone.body.layer1.0.bn1."
    weights[f"{prefix}running_var"].fill_(1e-4)  # where Detectron2's 1e-5 is a tenth
    named = apply_rules(weights, RULES["original"]).weights
    x = torch.linspace(-1, 1, 64).view(1, 64, 1, 1)
    mean, bias, weight = (float(weights[f"{prefix}{name}"][0]) for name in ("running_mean", "bias", "weight"))
    expected = (x - mean) / 1e-4**0.5 * weight + bias
    norm = {name: named[f"{TOP}res2.0.conv1.norm.{name}"] for name in ("running_mean", "running_var", "weight", "bias")}
    torch.testing.assert_close(functional.batch_norm(x, **norm, eps=1e-5), expected)
    assert torch.equal(named[f"{TOP}res2.0.conv1.norm.weight"], weights[f"{prefix}weight"])
