import json
import math

import pytest
import torch
from torch import nn

from fcos_rpn import FCOSHead, UserError
from fcos_rpn.modeling.deformable import DeformableConv2d
from fcos_rpn.modeling.head import CENTERNESS
from tests.processes import run_two_ranks
from tests.tiny import without_gradient

GRID_SIZES = [(6, 8), (3, 4)]


def features(channels=32, num_images=2):
    return [torch.randn(num_images, channels, *size) for size in GRID_SIZES]


def head(**overrides):
    return FCOSHead(**{"in_channels": 32, "strides": [8, 16], "num_classes": 3, "num_convs": 2, **overrides})


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


def test_exp_gives_pixels_as_in_the_paper():
    """exp(s·x) pixels: with x = 2 everywhere and s = 1 and 1.5, e² and e³ pixels, here in strides of 8 and 16."""
    model = head(bbox_activation="exp")
    nn.init.zeros_(model.bbox_pred.weight)
    nn.init.constant_(model.bbox_pred.bias, 2.0)
    model.scales.data = torch.tensor([1.0, 1.5])
    ltrb = model(features()).ltrb
    torch.testing.assert_close(ltrb[:, :48], torch.full((2, 48, 4), math.exp(2) / 8))
    torch.testing.assert_close(ltrb[:, 48:], torch.full((2, 12, 4), math.exp(3) / 16))


def test_a_new_head_with_exp_predicts_boxes_of_the_finest_stride():
    torch.manual_seed(0)
    ltrb = head(bbox_activation="exp")(features()).ltrb
    assert ltrb[:, :48].mean().item() == pytest.approx(1.0, rel=0.2)
    assert ltrb[:, 48:].mean().item() == pytest.approx(0.5, rel=0.2)


def test_exp_stays_finite():
    model = head(bbox_activation="exp", num_convs=0)
    nn.init.constant_(model.bbox_pred.bias, 1e4)
    ltrb = model(features()).ltrb
    assert ltrb[0, 0].tolist() == pytest.approx([10_000 / 8] * 4)
    ltrb.sum().backward()
    assert torch.isfinite(model.bbox_pred.weight.grad).all()


@pytest.mark.parametrize(("norm", "layers"), [("GN", [nn.Conv2d, nn.GroupNorm, nn.ReLU]), ("", [nn.Conv2d, nn.ReLU])])
def test_towers(norm, layers):
    model = head(norm=norm, num_convs=3)
    assert [type(layer) for layer in model.cls_tower] == layers * 3
    assert [type(layer) for layer in model.bbox_tower] == layers * 3
    assert (model.cls_tower[0].bias is None) == (norm == "GN")


def test_towers_may_have_a_bias_before_their_normalization():
    model = head(tower_bias=True, num_convs=3)
    for tower in (model.cls_tower, model.bbox_tower):
        biases = [layer.bias for layer in tower if isinstance(layer, nn.Conv2d)]
        assert [bias.tolist() for bias in biases] == [[0.0] * 32] * 3


def test_batch_norms_of_one_level_do_not_see_the_others():
    torch.manual_seed(0)
    model, (first, second) = head(norm="BN").train(), features()
    alone, together = model([first, second]), model([first, 100 * second])
    torch.testing.assert_close(alone.logits[:, :48], together.logits[:, :48])


@pytest.mark.parametrize("num_convs", [1, 3])
def test_the_last_convolution_of_both_towers_may_be_deformable(num_convs):
    model = head(use_deformable=True, num_convs=num_convs)
    for tower in (model.cls_tower, model.bbox_tower):
        convolutions = [layer for layer in tower if isinstance(layer, nn.Conv2d | DeformableConv2d)]
        assert [type(layer) for layer in convolutions] == [nn.Conv2d] * (num_convs - 1) + [DeformableConv2d]
        assert convolutions[-1].weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert convolutions[-1].offset.weight.abs().sum() == 0


@pytest.mark.parametrize("num_convs", [0, 2])
def test_both_towers_stand_on_the_shared_one(num_convs):
    """So it is the beginning of two towers that are as deep together, and begin with equal layers."""
    model = head(num_shared_convs=1, num_convs=num_convs)
    apart = head(num_convs=1 + num_convs)
    weights = model.state_dict()
    given = {key: weight for key, weight in weights.items() if "_tower." not in key}
    for name in ("cls_tower", "bbox_tower"):
        given |= {key.replace("shared_tower", name): w for key, w in weights.items() if key.startswith("shared_tower")}
        for key in [key for key in weights if key.startswith(name)]:
            _, layer, part = key.split(".")
            given[f"{name}.{int(layer) + 3}.{part}"] = weights[key]  # behind a convolution, a norm and a ReLU
    apart.load_state_dict(given)

    inputs = features()
    for one, other in zip(model(inputs), apart(inputs), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("centerness", "tower", "other"),
    [("reg", "bbox_tower", "cls_tower"), ("iou", "bbox_tower", "cls_tower"), ("cls", "cls_tower", "bbox_tower")],
)
def test_centerness_sits_on_the_tower_that_is_named(centerness, tower, other):
    model, inputs = head(centerness=centerness), features()
    before = model(inputs).centerness
    nn.init.zeros_(getattr(model, other)[0].weight)
    assert torch.equal(model(inputs).centerness, before)
    nn.init.zeros_(getattr(model, tower)[0].weight)
    assert not torch.equal(model(inputs).centerness, before)


@pytest.mark.parametrize("centerness", ["none", "computed"])
def test_without_a_centerness_branch(centerness):
    model = head(centerness=centerness)
    assert model(features()).centerness is None
    assert not any("centerness" in name for name in model.state_dict())


@pytest.mark.parametrize("overrides", [
    *({"centerness": centerness} for centerness in CENTERNESS),
    {"norm": "BN"}, {"norm": "SyncBN"}, {"norm": ""}, {"use_deformable": True}, {"bbox_activation": "exp"},
])  # fmt: skip
def test_every_parameter_learns(overrides):
    model = head(**overrides)
    predictions = model(features())
    sum(prediction.sum() for prediction in predictions if prediction is not None).backward()
    assert without_gradient(model) == []


def test_groups_need_channels_that_they_can_divide():
    with pytest.raises(UserError, match=r"norm 'GN' makes 32 groups, which do not divide the pyramid's 48 channels"):
        head(in_channels=48)
    assert head(in_channels=48, norm="").cls_tower[0].out_channels == 48


def test_deformable_towers_need_a_convolution():
    with pytest.raises(UserError, match="use_deformable needs num_convs of at least 1"):
        head(use_deformable=True, num_convs=0)


def synchronized_statistics(inputs):
    """Running mean and variance of the first norm of both levels, after one training step of a head with SyncBN."""
    torch.manual_seed(0)
    model = head(norm="SyncBN", num_convs=1).train()
    model(inputs)
    return [statistics.tolist() for norm in model.cls_tower[1] for statistics in (norm.running_mean, norm.running_var)]


def run_rank(rank, folder):
    inputs = [level[rank : rank + 1] for level in torch.load(folder / "features.pth")]
    (folder / f"{rank}.json").write_text(json.dumps(synchronized_statistics(inputs)))


def test_synchronized_norms_see_the_images_of_all_processes(tmp_path, forked):
    """Two processes with an image each keep the statistics of one process with both; Detectron2's variance is the
    biased one, torch's, which a single process keeps, the unbiased."""
    inputs = features(num_images=2)
    torch.save(inputs, tmp_path / "features.pth")
    run_two_ranks(run_rank, tmp_path)
    alone = synchronized_statistics(inputs)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    for together, expected in zip(first, alone, strict=True):
        torch.testing.assert_close(torch.tensor(together), torch.tensor(expected), rtol=1e-2, atol=1e-6)
