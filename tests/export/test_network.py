import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.backbone.fpn import FPN
from torchvision.ops import batched_nms

from fcos_rpn import UserError
from fcos_rpn.export import export_graph, network_of
from fcos_rpn.export.network import nms_on_tiles
from tests.export.small_networks import SIZES, found_by, noise, require_same, small_config, small_model


@pytest.mark.parametrize(
    ("meta_architecture", "overrides", "output_names"),
    [
        ("FCOS", [], ["boxes", "scores", "classes"]),
        ("FCOS", ["MODEL.FCOS.CENTERNESS", "computed"], ["boxes", "scores", "classes"]),
        ("ProposalNetwork", [], ["boxes", "scores"]),
        ("ProposalNetwork", ["MODEL.FCOS.PROPOSAL_NMS_PER_LEVEL", False], ["boxes", "scores"]),
        ("GeneralizedRCNN", [], ["boxes", "scores", "classes"]),
        ("GeneralizedRCNN", ["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True], ["boxes", "scores", "classes"]),
    ],
)
@torch.no_grad()
def test_finds_what_the_model_finds(meta_architecture, overrides, output_names):
    cfg = small_config(meta_architecture)
    cfg.merge_from_list(overrides)
    model = small_model(cfg)
    network = network_of(model)
    assert network.output_names == output_names
    for size in SIZES:
        expected = found_by(model, noise(size))
        assert len(expected[0]) > 10
        require_same(network(noise(size)), expected)


@pytest.mark.parametrize("num_groups", [1, 2, 5, 80])
def test_suppression_equals_that_of_torchvision(num_groups):
    generator = torch.Generator().manual_seed(num_groups)
    size = (600, 800)
    low = torch.rand(900, 2, generator=generator) * torch.tensor([700.0, 500.0])
    boxes = torch.cat([low, low + 5 + torch.rand(900, 2, generator=generator) * 95], dim=1)
    scores = torch.rand(900, generator=generator)
    groups = torch.randint(num_groups, (900,), generator=generator)
    found = nms_on_tiles(boxes, scores, groups, 0.3, image_size=size, num_groups=num_groups)
    assert found.tolist() == batched_nms(boxes, scores, groups, 0.3).tolist()
    assert 100 < len(found) < 900


def test_the_same_box_in_every_group_stays():
    # As large as the image: tiles that touched or overlapped would lose some.
    boxes = torch.tensor([[0.0, 0.0, 30.0, 20.0]]).repeat(7, 1)
    found = nms_on_tiles(boxes, torch.ones(7), torch.arange(7), 0.01, image_size=(20, 30), num_groups=7)
    assert sorted(found.tolist()) == list(range(7))


def test_no_boxes():
    nothing = torch.zeros(0)
    found = nms_on_tiles(nothing.view(0, 4), nothing, nothing.long(), 0.5, image_size=(20, 30), num_groups=2)
    assert found.tolist() == []


def test_the_network_cannot_be_traced_with_less_than_two_rows_of_its_coarsest_map():
    network = network_of(small_model(small_config()))
    assert network.min_side == 129  # P7 has stride 128
    with pytest.raises(UserError, match="--size 150 128: height and width must be 129 or more"):
        export_graph(network, size=(150, 128))


@pytest.mark.parametrize("architecture", ["GeneralizedRCNN", "ProposalNetwork"])
def test_other_models_are_refused(architecture):
    model = build_model(small_config(architecture, "RPN"))
    with pytest.raises(UserError, match=rf"{architecture} with RPN cannot be exported\. .* anchors cannot$"):
        network_of(model)


def test_a_backbone_that_pads_in_its_own_way_is_refused(monkeypatch):
    monkeypatch.setattr(FPN, "padding_constraints", property(lambda self: {"square_size": 64}))
    with pytest.raises(UserError, match=r"FPN pads images in its own way \(\{'square_size': 64\}\)"):
        network_of(small_model(small_config()))
