import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.events import EventStorage

from fcos_rpn import UserError
from tests.tiny import tiny_batch, tiny_config


def config(name, stages=("res3", "res4", "res5")):
    cfg = tiny_config()
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.FPN.IN_FEATURES = list(stages)
    return cfg


@pytest.mark.parametrize(
    ("name", "stages", "levels"),
    [
        ("build_p5_p67_resnet_fpn_backbone", ("res3", "res4", "res5"), range(3, 8)),
        ("build_p2_p67_resnet_fpn_backbone", ("res2", "res3", "res4", "res5"), range(2, 8)),
        ("build_torchvision_fpn_backbone", ("res3", "res4", "res5"), range(3, 8)),
        ("build_torchvision_fpn_backbone", ("res2", "res3", "res4", "res5"), range(2, 8)),
        ("build_timm_fpn_backbone", ("res3", "res4", "res5"), range(3, 8)),
        ("build_timm_fpn_backbone", ("res2", "res3", "res4", "res5"), range(2, 8)),
    ],
)
def test_pyramids(name, stages, levels):
    backbone = build_backbone(config(name, stages))
    shapes = backbone.output_shape()
    assert {level: shape.stride for level, shape in shapes.items()} == {f"p{i}": 2**i for i in levels}
    assert {shape.channels for shape in shapes.values()} == {64}
    for level, feature in backbone(torch.zeros(1, 3, 128, 256)).items():
        stride = shapes[level].stride
        assert feature.shape == (1, 64, 128 // stride, 256 // stride)


def test_p6_grows_from_p5():
    """The paper's P5 rows; Detectron2's own RetinaNet builder grows it from C5."""
    backbone = build_backbone(config("build_p5_p67_resnet_fpn_backbone"))
    outputs = backbone(torch.randn(1, 3, 128, 128))
    torch.testing.assert_close(outputs["p6"], backbone.top_block.p6(outputs["p5"]))


def test_p2_must_be_asked_for():
    with pytest.raises(UserError, match=r"MODEL\.FPN\.IN_FEATURES must begin with res2"):
        build_backbone(config("build_p2_p67_resnet_fpn_backbone", ("res3", "res4", "res5")))


@pytest.mark.parametrize("name", ["build_torchvision_p6_fpn_backbone", "build_timm_p6_fpn_backbone"])
def test_pyramid_with_p6_alone(name):
    """P2-P6 for R-CNNs: nothing above P5 has parameters."""
    backbone = build_backbone(config(name, ("res2", "res3", "res4", "res5")))
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == {
        "p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64
    }  # fmt: skip
    features = backbone(torch.randn(1, 3, 128, 128))
    assert torch.equal(features["p6"], features["p5"][:, :, ::2, ::2])
    assert not list(backbone.top_block.parameters())


@pytest.mark.parametrize(
    "name", ["build_p5_p67_resnet_fpn_backbone", "build_torchvision_fpn_backbone", "build_timm_fpn_backbone"]
)
def test_every_source_of_networks_trains_a_step(name):
    """Every parameter gets a gradient: of several processes, each waits for all gradients of the others."""
    model = build_model(config(name))
    with EventStorage():
        losses = model(tiny_batch([(64, 96), (96, 64)], (2, 0)))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(name.startswith("backbone.bottom_up.") for name in learning)
    assert [name for name, parameter in learning.items() if parameter.grad is None] == []
