import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from fcos_rpn import UserError
from fcos_rpn.checkpoint import FCOSCheckpointer
from fcos_rpn.checkpoint.conversion import convert_state_dict
from tests.checkpoint.conversion.synthetic import MAKERS, adelaidet, mmdetection, original, torchvision
from tests.tiny import tiny_config

PREFIX = "proposal_generator."


def built(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg)


def settings_of(conversion, *names):
    return tuple(conversion.settings[f"MODEL.FCOS.{name}"] for name in names)


@pytest.mark.parametrize("source", MAKERS)
def test_every_key_is_accounted_for(source):
    weights = MAKERS[source]()
    recipe = "improved" if source in ("original", "mmdetection") else None
    converted = convert_state_dict(weights, source=source, target="FCOS", recipe=recipe)
    used = [key for keys in converted.origins.values() for key in keys]
    assert sorted([*used, *converted.dropped]) == sorted(weights)
    assert converted.origins.keys() | converted.filled.keys() == converted.weights.keys()
    assert converted.filled.keys() == ({"core.head.scales"} if source in ("torchvision", "detectron2") else set())
    scales = converted.weights["core.head.scales"]
    assert torch.equal(scales, torch.ones(5)) == (source in ("torchvision", "detectron2"))
    assert converted.settings["MODEL.META_ARCHITECTURE"] == "FCOS"
    assert converted.settings["MODEL.FCOS.NUM_CLASSES"] == 80


ONES = [1, 1, 1]
CAFFE_MEAN, DETECTRON2_MEAN = [102.9801, 115.9465, 122.7717], [103.53, 116.28, 123.675]


@pytest.mark.parametrize(
    ("source", "recipe", "of_fcos", "of_pixels"),
    [  # see test_parity for torchvision's and Detectron2's
        ("original", "plain", ("exp", "cls", "geometric", 0.6), ("BGR", CAFFE_MEAN, ONES)),
        ("original", "improved", ("relu", "reg", "geometric", 0.6), ("BGR", CAFFE_MEAN, ONES)),
        ("adelaidet", None, ("relu", "reg", "geometric", 0.6), ("BGR", DETECTRON2_MEAN, ONES)),
        ("mmdetection", "plain", ("exp", "cls", "product", 0.5), ("BGR", CAFFE_MEAN, ONES)),
        ("mmdetection", "improved", ("relu", "reg", "product", 0.6), ("BGR", DETECTRON2_MEAN, ONES)),
    ],
)
def test_settings_of_the_recipes(source, recipe, of_fcos, of_pixels):
    converted = convert_state_dict(MAKERS[source](), source=source, target="FCOS", recipe=recipe)
    assert settings_of(converted, "BBOX_ACTIVATION", "CENTERNESS", "SCORE_FUSION", "NMS_THRESH_TEST") == of_fcos
    common = settings_of(converted, "LOCATION_OFFSET", "USE_SCALE", "THRESH_ON", "SCORE_THRESH_TEST")
    assert common == (0.5, True, "class", 0.05)
    pixels = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")
    assert tuple(converted.settings[key] for key in pixels) == of_pixels
    assert converted.settings["MODEL.RESNETS.STRIDE_IN_1X1"] is True
    assert converted.settings["MODEL.RESNETS.NORM"] == "FrozenBN"


def test_pixel_statistics_in_the_file_go_into_the_config():
    weights = adelaidet()
    weights["pixel_std"] = torch.tensor([57.375, 57.12, 58.395]).view(3, 1, 1)
    converted = convert_state_dict(weights, source="adelaidet", target="FCOS")
    assert converted.settings["MODEL.PIXEL_STD"] == [57.375, 57.12, 58.395]
    assert {"MODEL.PIXEL_STD", "MODEL.PIXEL_MEAN", "MODEL.RESNETS.DEPTH"} <= converted.read_from_weights
    assert "MODEL.FCOS.CENTERNESS" not in converted.read_from_weights


def test_to_fcosrpn_the_class_layer_starts_anew():
    weights = original()
    converted = convert_state_dict(weights, source="original", recipe="improved", target="FCOSRPN")
    one_stage = convert_state_dict(weights, source="original", recipe="improved", target="FCOS")
    layer = {f"{PREFIX}core.head.cls_logits.{part}" for part in ("weight", "bias")}
    expected = {PREFIX + key if key.startswith("core.") else key for key in one_stage.weights}
    assert converted.weights.keys() == expected
    for key in expected - layer:
        assert torch.equal(converted.weights[key], one_stage.weights[key.removeprefix(PREFIX)])

    assert converted.filled.keys() == layer
    assert {"rpn.head.cls_logits.weight", "rpn.head.cls_logits.bias"} <= converted.dropped.keys()
    assert converted.dropped["rpn.head.cls_logits.bias"] == "of 80 classes, where the model has 1"
    # The head's own initialization: N(0, .01), and a bias that gives the probability .01.
    weight, bias = (converted.weights[f"{PREFIX}core.head.cls_logits.{part}"] for part in ("weight", "bias"))
    assert weight.shape == (1, 64, 3, 3)
    assert weight.std() == pytest.approx(0.01, rel=0.1)
    assert bias.item() == pytest.approx(-math.log(99))

    assert converted.settings["MODEL.META_ARCHITECTURE"] == "ProposalNetwork"
    assert converted.settings["MODEL.PROPOSAL_GENERATOR.NAME"] == "FCOSRPN"
    assert converted.settings["MODEL.RPN.IN_FEATURES"] == ["p3", "p4", "p5", "p6", "p7"]
    assert "MODEL.FCOS.NUM_CLASSES" not in converted.settings


def test_one_class_is_converted_to_fcosrpn():
    weights = original(num_classes=1)
    converted = convert_state_dict(weights, source="original", recipe="plain", target="FCOSRPN")
    assert not converted.filled
    bias = converted.weights[f"{PREFIX}core.head.cls_logits.bias"]
    assert torch.equal(bias, weights["rpn.head.cls_logits.bias"])


def test_initial_weights_are_always_the_same_and_leave_the_random_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (
        convert_state_dict(original(), source="original", recipe="plain", target="FCOSRPN").weights for _ in range(2)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), before)


def test_needless_biases_are_dropped_by_name():
    weights = original()
    converted = convert_state_dict(weights, source="original", recipe="improved", target="FCOS")
    dropped = [f"rpn.head.{side}_tower.{layer}.bias" for side in ("cls", "bbox") for layer in (0, 3, 6, 9)]
    assert list(converted.dropped) == dropped
    assert "MODEL.FCOS.TOWER_BIAS" not in converted.settings


def test_biases_of_the_towers_are_kept():
    weights = original()
    weights["rpn.head.bbox_tower.9.bias"].fill_(0.5)
    converted = convert_state_dict(weights, source="original", recipe="improved", target="FCOS")
    assert converted.settings["MODEL.FCOS.TOWER_BIAS"] is True
    assert not converted.dropped
    assert torch.equal(converted.weights["core.head.bbox_tower.9.bias"], torch.full((64,), 0.5))
    assert torch.equal(converted.weights["core.head.cls_tower.0.bias"], torch.zeros(64))


def test_overrides_go_before_the_tables():
    overrides = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]", "MODEL.FCOS.NMS_THRESH_TEST", "0.7"]
    converted = convert_state_dict(torchvision(), source="torchvision", target="FCOS", overrides=overrides)
    assert converted.settings["MODEL.PIXEL_MEAN"] == [1, 2, 3]
    assert settings_of(converted, "NMS_THRESH_TEST", "SCORE_THRESH_TEST") == (0.7, 0.2)


def resnext(**changed):
    """Only one of its shapes is that of a ResNeXt, which is enough to be asked."""
    weights = mmdetection(50)
    weights["backbone.layer1.0.conv2.weight"] = torch.zeros(64, 2, 3, 3)
    return {**weights, **changed}


@pytest.mark.parametrize(
    ("weights", "source", "options", "message"),
    [
        (
            original(),
            "original",
            {},
            r"recipe cannot be read .* --recipe plain \(BBOX_ACTIVATION exp, CENTERNESS cls\) or",
        ),
        (original(), "adelaidet", {}, "names that the table does not know"),
        (torchvision(), "torchvision", {"recipe": "plain"}, "recipe of torchvision must be one of 'improved'"),
        (torchvision(), "tensorflow", {}, "source must be one of"),
        (torchvision(), "torchvision", {"target": "RPN"}, "target must be one of 'FCOS', 'FCOSRPN'"),
        (torchvision(), "torchvision", {"cfg": get_cfg()}, "only source fcos_rpn takes a config"),
        (torchvision(), "torchvision", {"overrides": ["MODEL.FCOS.NORMS", "GN"]}, "no config key MODEL.FCOS.NORMS"),
        ({**torchvision(), "epoch": 3}, "torchvision", {}, "not a weight: epoch of the checkpoint"),
        ({}, "fcos_rpn", {}, "needs the config"),
        ({}, "fcos_rpn", {"cfg": get_cfg()}, "the config has neither FCOS nor FCOSRPN"),
        (resnext(), "mmdetection", {"recipe": "plain"}, r"is a ResNeXt.* add MODEL\.PIXEL_MEAN"),
    ],
)
def test_mistakes_are_named(weights, source, options, message):
    with pytest.raises(UserError, match=message):
        convert_state_dict(weights, **{"source": source, "target": "FCOS", **options})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("head.bbox_pred.bias", None, r"\n  core\.head\.bbox_pred\.bias: missing"),
        ("head.bbox_pred.bias", torch.zeros(8), r"core\.head\.bbox_pred\.bias: \(8,\) in the checkpoint, \(4,\) in"),
        ("head.cls_subnet.13.bias", torch.zeros(64), r"head\.cls_subnet\.13\.bias: the model has no core\.head\.cls_"),
        ("backbone.fpn_lateral2.bias", torch.zeros(64), r"the model has no backbone\.fpn_lateral2\.bias"),
    ],
)
def test_what_does_not_fit_is_listed(key, value, message):
    weights = MAKERS["detectron2"]() | {key: value}
    if value is None:
        del weights[key]
    with pytest.raises(UserError, match=message):
        convert_state_dict(weights, source="detectron2", target="FCOS")


def test_own_detector_becomes_a_proposal_generator_as_it_does_when_it_is_loaded(tmp_path):
    detector = built(tiny_config())
    converted = convert_state_dict(detector.state_dict(), source="fcos_rpn", target="FCOSRPN", cfg=tiny_config())
    cfg = tiny_config("ProposalNetwork")
    cfg.MODEL.FPN.IN_FEATURES = tiny_config().MODEL.FPN.IN_FEATURES
    loaded, network = built(cfg, seed=1), built(cfg, seed=2)
    torch.save(detector.state_dict(), tmp_path / "detector.pth")
    FCOSCheckpointer(loaded, reset_class_layers=True).load(str(tmp_path / "detector.pth"))
    network.load_state_dict(converted.weights)
    layer = {f"{PREFIX}core.head.cls_logits.{part}" for part in ("weight", "bias")}
    assert converted.filled.keys() == layer
    for key, weight in loaded.state_dict().items():
        assert torch.equal(network.state_dict()[key], weight) or key in layer
    assert converted.settings == {
        "MODEL.META_ARCHITECTURE": "ProposalNetwork",
        "MODEL.PROPOSAL_GENERATOR.NAME": "FCOSRPN",
        "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    }


def test_own_rcnn_becomes_a_detector_of_its_classes():
    cfg = tiny_config("GeneralizedRCNNWithProposals")
    rcnn = built(cfg)
    converted = convert_state_dict(rcnn.state_dict(), source="fcos_rpn", target="FCOS", cfg=cfg)
    cfg.MODEL.META_ARCHITECTURE = "FCOS"
    detector = built(cfg, seed=1)
    detector.load_state_dict(converted.weights)
    layer = {f"{PREFIX}core.head.cls_logits.{part}" for part in ("weight", "bias")}
    expected = layer | {key for key in rcnn.state_dict() if key.startswith("roi_heads.")}
    assert converted.dropped.keys() == expected
    assert len(converted.weights["core.head.cls_logits.bias"]) == 2
    assert torch.equal(detector.core.head.bbox_pred.weight, rcnn.proposal_generator.core.head.bbox_pred.weight)
    assert cfg.MODEL.META_ARCHITECTURE == "FCOS"
