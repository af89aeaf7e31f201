import re

import pytest

from dev.experiment.variants import screened_systems, system_of
from fcos_rpn import UserError


def test_variants_add_up():
    system = system_of("fcos_rpn+p2+roi_iou_0.6")
    assert system.title == "FCOSRPN, RoI heads pool from P2-P5, RoI IoU threshold .6"
    cfg = system.read_config()
    assert cfg.MODEL.ROI_HEADS.IN_FEATURES == ["p2", "p3", "p4", "p5"]
    assert cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS == [0.6]
    assert cfg.MODEL.PROPOSAL_GENERATOR.NAME == "FCOSRPN"
    assert (system.weights_of, system.starts_from) == ("", "")


def test_variants_of_inference_take_the_weights_without_them():
    assert system_of("rpn+fused").weights_of == "rpn"
    assert system_of("rpn+p2+fused_temperature_2+nms_0.9").weights_of == "rpn+p2+nms_0.9"
    assert system_of("rpn+p2@30").weights_of == "rpn+p2"
    assert system_of("rpn+fused@30").weights_of == "rpn"
    assert system_of("rpn+fused@30").read_config().MODEL.RPN.POST_NMS_TOPK_TEST == 30
    assert system_of("fcos_rpn+warm_start").starts_from == "fcos"


def test_every_screened_system_has_a_config_of_its_own():
    configs = {name: system_of(name).read_config().dump() for name in screened_systems()}
    assert len(configs) == 18  # two generators: plain, and eight variants
    assert len(set(configs.values())) == 18


@pytest.mark.parametrize("name", ["retinanet", "fcos+p2", "rpn_P2P6+fused", "rpn+p3+p2", "rpn+shared_tower_of_1"])
def test_unknown_systems_are_named(name):
    with pytest.raises(UserError, match=re.escape(f"--systems {name}: generators are rpn, fcos_rpn")):
        system_of(name)


def test_smaller_heads_are_those_of_fcos_rpn():
    system = system_of("fcos_rpn+shared_tower_of_1")
    cfg = system.read_config()
    assert system.title == "FCOSRPN, one tower of 1 convolution"
    assert (cfg.MODEL.FCOS.NUM_CONVS, cfg.MODEL.FCOS.NUM_SHARED_CONVS) == (0, 1)
