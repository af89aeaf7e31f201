import copy
import pickle
import sys
from typing import Any

import pytest
import timm
import torch
import torchvision
from detectron2.modeling import build_model
from torch import nn
from torchvision.models import MobileNet_V2_Weights

from fcos_rpn import UserError, model_zoo
from fcos_rpn.checkpoint import FCOSCheckpointer
from fcos_rpn.modeling.backbones import TimmBackbone, TorchvisionBackbone
from tests.tiny import tiny_config


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


@pytest.mark.parametrize("backbone", [TorchvisionBackbone("shufflenet_v2_x0_5"), TimmBackbone("test_resnet")])
def test_gray_images_are_seen_as_three_equal_channels(backbone):
    gray = torch.rand(2, 1, 64, 64)
    for found, expected in zip(backbone(gray).values(), backbone(gray.repeat(1, 3, 1, 1)).values(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("is_training", [False, True])
def test_copies_keep_their_mode_and_their_results(is_training):
    backbone = TorchvisionBackbone("googlenet", norm="BN").train(is_training)  # has other outputs in training
    x = torch.rand(2, 3, 64, 64)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert {module.training for module in other.modules()} == {is_training}
        assert other.state_dict().keys() == backbone.state_dict().keys()
        assert torch.equal(other(x)["res5"], backbone(x)["res5"])


def test_nodes_may_be_named():
    backbone = TorchvisionBackbone("mobilenet_v2", nodes={"res5": "features.17"})
    assert backbone.output_shape()["res5"].channels == 320


TV, TIMM = TorchvisionBackbone, TimmBackbone


@pytest.mark.parametrize(
    ("backbone", "arguments", "message"),
    [
        (TV, {"name": "mobilenet"}, "name 'mobilenet' is no classification network of torchvision: .*mobilenet_v2"),
        (TV, {"name": "vit_b_16"}, "name 'vit_b_16' is a network for images of one size"),
        (TV, {"name": "swin_t"}, r"nodes must be modules of swin_t that give .* maps; for res3 \(stride 8\) none does"),
        (TV, {"name": "resnet18", "nodes": {"res3": "layer3"}}, r"res3 \(stride 8\) 'layer3' does not[\s\S]*layer2"),
        (TV, {"name": "resnet18", "norm": "GN"}, "norm must be one of 'FrozenBN', 'BN', not 'GN'"),
        (TV, {"name": "resnet18", "freeze_at": 7}, "freeze_at is 7, but this network has no res7"),
        (TIMM, {"name": "resnet_18"}, r"name 'resnet_18' is no network of timm\. Similar names: .*resnet18"),
        (TIMM, {"name": "hf-hub:timm/resnet18"}, "name 'hf-hub:timm/resnet18' is no network of timm"),
        (TIMM, {"name": "deit_tiny_patch16_224"}, "'deit_tiny_patch16_224' is a network for images of one size"),
        (TIMM, {"name": "test_vit"}, r"res3, but test_vit has no .* map of stride 8; it has strides 16 \(res4\)"),
        (TIMM, {"name": "test_convnext", "stages": ["res2", "p3"]}, "stages must be one of 'res2', .*, not 'p3'"),
        (TIMM, {"name": "test_resnet", "norm": "GN"}, "norm must be one of 'FrozenBN', 'BN', not 'GN'"),
        (TIMM, {"name": "test_convnext", "freeze_at": 1}, "freeze_at is 1, but test_convnext has no stem"),
        (TIMM, {"name": "hrnet_w18_small", "freeze_at": 2}, "res2 of hrnet_w18_small depends on branches of all"),
    ],
)
def test_unfit_networks_are_named(backbone, arguments, message):
    with pytest.raises(UserError, match=message):
        backbone(**arguments)


@pytest.mark.parametrize(("library", "key"), [("torchvision", "TORCHVISION"), ("timm", "TIMM")])
def test_messages_name_the_key_of_the_argument(library, key):
    cfg = tiny_config()
    cfg.MODEL.BACKBONE.NAME = f"build_{library}_fpn_backbone"
    cfg.MODEL[key].NAME = "mine"
    with pytest.raises(UserError, match=rf"^MODEL\.{key}\.NAME: name 'mine' is no"):
        build_model(cfg)


@pytest.mark.parametrize(("backbone", "network"), [(TV, "shufflenet_v2_x0_5"), (TIMM, "test_efficientnet")])
def test_norm(backbone, network):
    frozen, trained = (list(backbone(network, norm=norm).modules()) for norm in ("FrozenBN", "BN"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen)
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
@pytest.mark.parametrize(("backbone", "network"), [(TV, "resnet18"), (TIMM, "test_resnet")])
def test_freeze_at(backbone, network, freeze_at, frozen, learning):
    body = backbone(network, freeze_at=freeze_at).body
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


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("test_resnet", [32, 48, 192, 96]),
        ("test_convnext", [24, 32, 48, 64]),  # is cut into stages elsewhere than its parameters' names say
        ("test_efficientnet", [24, 32, 48, 64]),  # normalizations with activations, several maps of a stride
        ("hrnet_w18_small", [128, 256, 512, 1024]),  # all maps at once
    ],
)
def test_timm_networks_with_weights_that_timm_saved(name, channels, tmp_path):
    """Loaded through MODEL.WEIGHTS, they give the maps that timm gives, but for frozen normalizations' rounding."""
    network = timm.create_model(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    cfg = tiny_config()
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.TIMM.NAME = name
    model = build_model(cfg).eval()
    FCOSCheckpointer(model).load(str(tmp_path / "weights.pth"))
    backbone = model.backbone.bottom_up
    shapes = backbone.output_shape()
    assert [shapes[stage].channels for stage in ("res2", "res3", "res4", "res5")] == channels

    images = torch.randn(1, 3, 64, 96)
    last_of_stride = {64 // found.shape[2]: found for found in intermediates(network.eval(), images)}
    for stage, found in backbone(images).items():
        assert found.shape == (1, shapes[stage].channels, 64 // shapes[stage].stride, 96 // shapes[stage].stride)
        torch.testing.assert_close(found, last_of_stride[shapes[stage].stride], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def intermediates(network: Any, images: torch.Tensor) -> list[torch.Tensor]:
    return network.forward_intermediates(images, intermediates_only=True)


def test_missing_timm_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # importing it fails
    with pytest.raises(
        UserError, match=r"needs timm, which is not installed: pip install '\.\[timm\]' in the checkout"
    ):
        TimmBackbone("test_resnet")


def test_what_no_wanted_map_depends_on_does_not_train():
    """HRNet computes its stride 4 whoever asks for it."""
    body = TimmBackbone("hrnet_w18_small", stages=["res3", "res4", "res5"], freeze_at=1).body
    learning = [all(p.requires_grad for p in module.parameters()) for module in body.incre_modules]
    assert learning == [False, True, True, True]
    assert not body.conv1.weight.requires_grad
    assert body.conv2.weight.requires_grad
