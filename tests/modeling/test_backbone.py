import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone, build_model
from torch import nn
from torchvision.models import MobileNet_V2_Weights

from fcos_rpn import UserError, add_fcos_config, model_zoo
from fcos_rpn.modeling.backbone import TorchvisionBackbone
from tests.tiny import tiny_config


def config(name, stages=("res3", "res4", "res5")):
    cfg = get_cfg()
    add_fcos_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "GN"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = list(stages)
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.TORCHVISION.NAME = "shufflenet_v2_x0_5"
    return cfg


@pytest.mark.parametrize(
    ("name", "stages", "levels"),
    [
        ("build_p5_p67_resnet_fpn_backbone", ("res3", "res4", "res5"), range(3, 8)),
        ("build_p2_p67_resnet_fpn_backbone", ("res2", "res3", "res4", "res5"), range(2, 8)),
        ("build_torchvision_fpn_backbone", ("res3", "res4", "res5"), range(3, 8)),
        ("build_torchvision_fpn_backbone", ("res2", "res3", "res4", "res5"), range(2, 8)),
    ],
)
def test_pyramids(name, stages, levels):
    backbone = build_backbone(config(name, stages))
    shapes = backbone.output_shape()
    assert {level: shape.stride for level, shape in shapes.items()} == {f"p{i}": 2**i for i in levels}
    assert {shape.channels for shape in shapes.values()} == {32}
    for level, feature in backbone(torch.zeros(1, 3, 128, 256)).items():
        stride = shapes[level].stride
        assert feature.shape == (1, 32, 128 // stride, 256 // stride)


def test_p6_grows_from_p5():
    """The paper's P5 rows; Detectron2's own RetinaNet builder grows it from C5."""
    backbone = build_backbone(config("build_p5_p67_resnet_fpn_backbone"))
    outputs = backbone(torch.randn(1, 3, 128, 128))
    torch.testing.assert_close(outputs["p6"], backbone.top_block.p6(outputs["p5"]))


def test_p2_must_be_asked_for():
    with pytest.raises(UserError, match=r"MODEL\.FPN\.IN_FEATURES must begin with res2"):
        build_backbone(config("build_p2_p67_resnet_fpn_backbone", ("res3", "res4", "res5")))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("mobilenet_v2", [24, 32, 96, 1280]),
        ("resnet18", [64, 128, 256, 512]),
        ("shufflenet_v2_x0_5", [24, 48, 96, 1024]),
        ("mobilenet_v3_small", [16, 24, 48, 576]),
        ("convnext_tiny", [96, 192, 384, 768]),
    ],
)
def test_torchvision_networks(name, channels):
    backbone = TorchvisionBackbone(name)
    shapes = backbone.output_shape()
    assert [shapes[stage].channels for stage in ("res2", "res3", "res4", "res5")] == channels
    for stage, feature in backbone(torch.zeros(1, 3, 64, 96)).items():
        stride = shapes[stage].stride
        assert feature.shape == (1, shapes[stage].channels, 64 // stride, 96 // stride)


def test_nodes_may_be_named():
    backbone = TorchvisionBackbone("mobilenet_v2", nodes={"res5": "features.17"})
    assert backbone.output_shape()["res5"].channels == 320


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mobilenet"}, r"no classification network 'mobilenet'. Known: .*mobilenet_v2"),
        ({"name": "vit_b_16"}, "vit_b_16 does not run on images of any size"),
        ({"name": "swin_t"}, r"swin_t has no module that gives an \(N, C, H, W\) map of stride 8"),
        ({"name": "resnet18", "nodes": {"res3": "layer3"}}, r"no module 'layer3' .* stride 8 for res3[\s\S]*layer2"),
        ({"name": "resnet18", "norm": "GN"}, 'NORM must be "FrozenBN" or "BN"'),
        ({"name": "resnet18", "freeze_at": 7}, "FREEZE_AT: this network has no res7"),
    ],
)
def test_unfit_networks_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        TorchvisionBackbone(**arguments)


def test_norm():
    frozen = list(TorchvisionBackbone("shufflenet_v2_x0_5", norm="FrozenBN").modules())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in frozen)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen)
    trained = list(TorchvisionBackbone("shufflenet_v2_x0_5", norm="BN").modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in trained)


@pytest.mark.parametrize(
    ("freeze_at", "frozen", "learning"),
    [
        (0, [], ["conv1", "layer1", "layer2"]),
        (1, ["conv1"], ["layer1", "layer2"]),
        (2, ["conv1", "layer1"], ["layer2", "layer3"]),
        (3, ["conv1", "layer1", "layer2"], ["layer3", "layer4"]),
    ],
)
def test_freeze_at(freeze_at, frozen, learning):
    body = TorchvisionBackbone("resnet18", freeze_at=freeze_at).body
    for name in frozen:
        assert not any(parameter.requires_grad for parameter in body.get_submodule(name).parameters())
    for name in learning:
        assert all(p.requires_grad for p in body.get_submodule(name).parameters())


def test_first_convolution_sees_what_torchvisions_preset_gives_it():
    """Same picture, same numbers: colour order, mean and deviation of the config are those of torchvision's weights."""
    cfg = model_zoo.get_config("custom/fcos_mobilenet_v2.yaml")
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    assert cfg.INPUT.FORMAT == "RGB"
    rgb = torch.randint(256, (3, 224, 224), dtype=torch.uint8)

    network = torchvision.models.mobilenet_v2()
    body = model.backbone.bottom_up.body
    assert body.load_state_dict(network.state_dict(), strict=False).missing_keys == []
    preset = MobileNet_V2_Weights.IMAGENET1K_V1.transforms(crop_size=224, resize_size=224)
    expected = network.features[0][0](preset(rgb)[None])
    images = model.preprocess_image([{"image": rgb.float()}])
    found = body.get_submodule("features.0.0")(images.tensor)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_torchvision_pyramid_with_p6_alone():
    """P2-P6 for R-CNNs: nothing above P5 has parameters."""
    cfg = tiny_config()
    cfg.MODEL.BACKBONE.NAME = "build_torchvision_p6_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    backbone = build_backbone(cfg)
    assert {name: shape.stride for name, shape in backbone.output_shape().items()} == {
        "p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64
    }  # fmt: skip
    features = backbone(torch.randn(1, 3, 128, 128))
    assert torch.equal(features["p6"], features["p5"][:, :, ::2, ::2])
    assert not list(backbone.top_block.parameters())
