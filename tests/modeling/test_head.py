import pytest
import torch
from torch import nn

from fcos_rpn import FCOSHead

GRID_SIZES = [(6, 8), (3, 4)]


def features(channels=32, num_images=2):
    return [torch.randn(num_images, channels, *size) for size in GRID_SIZES]


def head(**overrides):
    return FCOSHead(**{"in_channels": 32, "num_levels": 2, "num_classes": 3, "num_convs": 2, **overrides})


def test_one_layout_for_all_predictions():
    predictions = head()(features())
    assert predictions.logits.shape == (2, 60, 3)  # R = 6·8 + 3·4
    assert predictions.ltrb.shape == (2, 60, 4)
    assert predictions.centerness.shape == (2, 60)


def test_locations_are_level_major_then_row_major():
    """A head that copies its input shows where each cell ends up."""
    identity = head(num_convs=0, num_classes=1)
    nn.init.zeros_(identity.cls_logits.weight)
    nn.init.zeros_(identity.cls_logits.bias)
    identity.cls_logits.weight.data[0, 0, 1, 1] = 1.0
    first = torch.arange(48.0).view(1, 1, 6, 8).expand(1, 32, 6, 8)
    second = 100 + torch.arange(12.0).view(1, 1, 3, 4).expand(1, 32, 3, 4)
    logits = identity([first, second]).logits
    assert logits.flatten().tolist() == [*range(48), *range(100, 112)]


def test_units_do_not_depend_on_the_mode():
    """mmdetection multiplies by the stride only in evaluation, so that an RPN trains on shrunken proposals."""
    model, inputs = head(), features()
    in_training, in_evaluation = model.train()(inputs), model.eval()(inputs)
    for one, other in zip(in_training, in_evaluation, strict=True):
        assert torch.equal(one, other)


def test_a_new_head_predicts_the_prior_and_boxes_of_size():
    torch.manual_seed(0)
    predictions = head(num_convs=4, in_channels=64, prior_prob=0.01)(features(64))
    assert predictions.logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)
    assert predictions.ltrb.min().item() > 0
    assert predictions.ltrb.mean().item() == pytest.approx(1.0, abs=0.2)


def test_distances_are_never_negative():
    model = head()
    nn.init.normal_(model.bbox_pred.weight, std=10.0)
    assert model(features()).ltrb.min().item() == 0.0


def test_scales_multiply_their_level():
    model, inputs = head(), features()
    before = model(inputs).ltrb
    model.scales.data = torch.tensor([1.0, 3.0])
    after = model(inputs).ltrb
    torch.testing.assert_close(after[:, :48], before[:, :48])
    torch.testing.assert_close(after[:, 48:], 3 * before[:, 48:])


def test_scales_can_be_switched_off():
    assert not head(use_scale=False).scales.requires_grad
    assert head(use_scale=True).scales.requires_grad


@pytest.mark.parametrize(("norm", "layers"), [("GN", [nn.Conv2d, nn.GroupNorm, nn.ReLU]), ("", [nn.Conv2d, nn.ReLU])])
def test_towers(norm, layers):
    model = head(norm=norm, num_convs=3)
    assert [type(layer) for layer in model.cls_tower] == layers * 3
    assert [type(layer) for layer in model.bbox_tower] == layers * 3
    assert (model.cls_tower[0].bias is None) == (norm == "GN")


def test_every_parameter_learns():
    model = head()
    predictions = model(features())
    sum(prediction.sum() for prediction in predictions).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_levels_must_match():
    with pytest.raises(ValueError, match="zip"):
        head(num_levels=3)(features())
