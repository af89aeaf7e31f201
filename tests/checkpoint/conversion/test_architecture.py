import pytest

from fcos_rpn import UserError
from fcos_rpn.checkpoint.conversion.architecture import needless_biases, read_architecture
from fcos_rpn.checkpoint.conversion.renames import apply_rules
from fcos_rpn.checkpoint.conversion.tables import RULES
from tests.checkpoint.conversion.synthetic import mmdetection


def named(*args, **kwargs):
    return apply_rules(mmdetection(*args, **kwargs), RULES["mmdetection"]).weights


@pytest.mark.parametrize(
    ("depth", "width", "channels", "num_classes", "with_biases"), [(18, 64, 64, 3, True), (50, 256, 128, 80, False)]
)
def test_settings_are_read_from_shapes(depth, width, channels, num_classes, with_biases):
    found = read_architecture(named(depth, channels, num_classes, with_biases=with_biases))
    assert found == {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NUM_GROUPS": 1,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": width,
        "MODEL.BACKBONE.NAME": "build_p5_p67_resnet_fpn_backbone",
        "MODEL.FPN.OUT_CHANNELS": channels,
        "MODEL.FCOS.NUM_CLASSES": num_classes,
        "MODEL.FCOS.NUM_CONVS": 4,
        "MODEL.FCOS.NORM": "GN",
        **({"MODEL.FCOS.TOWER_BIAS": True} if with_biases else {}),
    }


def test_groups_of_a_resnext():
    weights = named(50)
    key = "backbone.bottom_up.res2.0.conv2.weight"
    weights[key] = weights[key].new_zeros(256, 8, 3, 3)  # 32 groups of 8 channels
    found = read_architecture(weights)
    assert (found["MODEL.RESNETS.NUM_GROUPS"], found["MODEL.RESNETS.WIDTH_PER_GROUP"]) == (32, 8)


def test_p6_from_c5():
    weights = named()
    key = "backbone.top_block.p6.weight"
    weights[key] = weights[key].new_zeros(64, 512, 3, 3)
    assert read_architecture(weights)["MODEL.BACKBONE.NAME"] == "build_retinanet_resnet_fpn_backbone"


def test_towers_without_normalization():
    weights = {key: weight for key, weight in named().items() if "_tower" not in key or weight.ndim == 4}
    found = read_architecture(weights)
    assert (found["MODEL.FCOS.NORM"], found["MODEL.FCOS.NUM_CONVS"]) == ("", 4)
    assert needless_biases(weights) == []


def test_a_shared_tower():
    weights = named()
    for key in [key for key in weights if key.startswith("core.head.bbox_tower.")]:
        del weights[key]  # the other one becomes the shared one
    weights = {key.replace("cls_tower", "shared_tower"): weight for key, weight in weights.items()}
    found = read_architecture(weights)
    assert (found["MODEL.FCOS.NUM_SHARED_CONVS"], found["MODEL.FCOS.NUM_CONVS"]) == (4, 0)
    assert found["MODEL.FCOS.NORM"] == "GN"


def test_what_is_no_resnet_or_no_detector_is_an_error():
    weights = named()
    with pytest.raises(UserError, match="its stages have 2, 2, 3, 2 blocks"):
        read_architecture({**weights, "backbone.bottom_up.res4.2.conv1.weight": weights["core.head.scales"]})
    with pytest.raises(UserError, match=r"nothing that would become core\.head\.cls_logits\.weight"):
        read_architecture({key: weight for key, weight in weights.items() if not key.startswith("core.")})
