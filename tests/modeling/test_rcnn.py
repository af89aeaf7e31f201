"""Detectron2's contract: FCOSRPN below its R-CNNs, stock or with proposals, with every kind of RoI head."""

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage

from fcos_rpn import UserError
from fcos_rpn.modeling.rcnn import fuse_scores
from tests.tiny import tiny_batch, tiny_config, without_gradient

SIZES = [(64, 96), (96, 64), (80, 80)]


def config(meta_architecture="GeneralizedRCNNWithProposals", roi_heads="StandardROIHeads", masks=False, keypoints=0):
    cfg = tiny_config(meta_architecture)
    cfg.MODEL.ROI_HEADS.NAME = roi_heads
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = "Cascade" in roi_heads
    cfg.MODEL.MASK_ON = masks
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.KEYPOINT_ON = keypoints > 0
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = keypoints or 17
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16]
    return cfg


KINDS = {
    "standard": {},
    "cascade": {"roi_heads": "CascadeROIHeads"},
    "mask": {"masks": True},
    "cascade mask": {"roi_heads": "CascadeROIHeads", "masks": True},
    "keypoint": {"keypoints": 5},
    "fused": {"roi_heads": "FusedScoreROIHeads"},
    "fused cascade mask": {"roi_heads": "FusedScoreCascadeROIHeads", "masks": True},
}


@pytest.mark.parametrize("num_boxes", [[3, 0, 1], [0, 0, 0]], ids=["mixed", "empty"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("meta_architecture", ["GeneralizedRCNN", "GeneralizedRCNNWithProposals"])
def test_trains_and_infers(meta_architecture, kind, num_boxes):
    torch.manual_seed(0)
    cfg = config(meta_architecture, **KINDS[kind])
    model = build_model(cfg)
    batch = tiny_batch(SIZES, num_boxes, with_masks="mask" in kind, num_keypoints=KINDS[kind].get("keypoints", 0))

    with EventStorage():  # RoI heads log to it
        losses = model.train()(batch)
    assert {"loss_rpn_cls", "loss_rpn_loc", "loss_rpn_ctr"} < set(losses)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    if any(num_boxes):
        assert [name for name in without_gradient(model) if "_head" not in name] == []

    with torch.no_grad():
        outputs = model.eval()(batch)
    expected = {"instances"} if meta_architecture == "GeneralizedRCNN" else {"instances", "proposals"}
    assert [set(output) for output in outputs] == [expected] * 3
    if "mask" in kind:
        assert outputs[0]["instances"].pred_masks.shape[1:] == SIZES[0]


@torch.no_grad()
def test_shows_what_its_proposal_generator_proposes_at_the_wanted_size():
    torch.manual_seed(0)
    model = build_model(config()).eval()
    batch = tiny_batch(SIZES, [1, 1, 1])
    images = model.preprocess_image(batch)
    proposed, _ = model.proposal_generator(images, model.backbone(images.tensor))
    plain = GeneralizedRCNN.inference(model, batch)
    seen: list[Instances] = []
    model.roi_heads.register_forward_hook(lambda module, inputs, output: seen.extend(inputs[2]))
    for x in batch:
        x["height"], x["width"] = 2 * x["height"], 2 * x["width"]
    for output, proposals, x, before, given in zip(model(batch), proposed, batch, plain, seen, strict=True):
        assert torch.equal(given.proposal_boxes.tensor, proposals.proposal_boxes.tensor)  # not rescaled in place
        assert output["proposals"].image_size == (x["height"], x["width"])
        torch.testing.assert_close(output["proposals"].proposal_boxes.tensor, 2 * proposals.proposal_boxes.tensor)
        torch.testing.assert_close(output["instances"].pred_boxes.tensor, 2 * before["instances"].pred_boxes.tensor)


@torch.no_grad()
def test_the_batched_proposal_network_is_detectron2s():
    models = []
    for name in ("BatchedProposalNetwork", "ProposalNetwork"):
        torch.manual_seed(0)
        models.append(build_model(tiny_config(name)).eval())
    batch = tiny_batch(SIZES, [1, 0, 1])
    batch[0]["height"], batch[0]["width"] = 640, 960
    for ours, theirs in zip(*(model(batch) for model in models), strict=True):
        ours, theirs = ours["proposals"], theirs["proposals"]
        assert ours.image_size == theirs.image_size
        assert ours.get_fields().keys() == theirs.get_fields().keys()
        assert torch.equal(ours.proposal_boxes.tensor, theirs.proposal_boxes.tensor)
        assert torch.equal(ours.objectness_logits, theirs.objectness_logits)


def test_fuse_scores():
    class_scores = torch.tensor([[0.64, 0.16, 0.2], [0.0, 1.0, 0.0]])
    logits = torch.tensor([0.0, 200.0])  # scores 1/2 and 1
    # sqrt(.5 · .64) = sqrt(.32), sqrt(.5 · .16) = sqrt(.08); sqrt(1 · 0) and sqrt(1 · 1).
    expected = torch.tensor([[0.32**0.5, 0.08**0.5, 0.2], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(fuse_scores(class_scores, logits), expected)
    # A logit of 3 at temperature 2 is one of 1.5.
    flattened = fuse_scores(torch.tensor([[0.5, 0.5]]), torch.tensor([3.0]), temperature=2.0)
    torch.testing.assert_close(flattened[0, 0], (torch.sigmoid(torch.tensor(1.5)) * 0.5) ** 0.5)


PAIRS = [("StandardROIHeads", "FusedScoreROIHeads"), ("CascadeROIHeads", "FusedScoreCascadeROIHeads")]


def stock_and_fused(stock, fused, temperature=1.0):
    """Two models of the same weights, and what both are to keep: every box of every class."""
    models = []
    for name in (stock, fused):
        torch.manual_seed(0)
        cfg = config(roi_heads=name)
        cfg.MODEL.ROI_HEADS.OBJECTNESS_TEMPERATURE = temperature
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
        cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 1.0
        cfg.TEST.DETECTIONS_PER_IMAGE = 1000
        models.append(build_model(cfg).eval())
    assert {name: p.shape for name, p in models[0].named_parameters()} == {
        name: p.shape for name, p in models[1].named_parameters()
    }
    models[1].load_state_dict(models[0].state_dict())
    return models


@pytest.mark.parametrize(("stock", "fused"), PAIRS)
@torch.no_grad()
def test_fused_heads_change_the_scores_alone(stock, fused):
    """At an infinite temperature every proposal scores 1/2."""
    plain, ranked = (
        model(tiny_batch([(64, 96)], [1]))[0]["instances"] for model in stock_and_fused(stock, fused, float("inf"))
    )
    assert len(plain) > 10
    torch.testing.assert_close(ranked.scores, (plain.scores / 2).sqrt())
    torch.testing.assert_close(ranked.pred_boxes.tensor, plain.pred_boxes.tensor)
    assert ranked.pred_classes.equal(plain.pred_classes)


@pytest.mark.parametrize(("stock", "fused"), PAIRS)
@torch.no_grad()
def test_fused_heads_pair_each_box_with_its_proposal(stock, fused):
    """Of proposals that score nothing but for one, that one's boxes come first: C = 2 classes, so two boxes."""
    plain, ranked = stock_and_fused(stock, fused)
    images = plain.preprocess_image(tiny_batch([(64, 96), (64, 96)], [1, 1]))
    features = plain.backbone(images.tensor)
    proposals, _ = plain.proposal_generator(images, features)
    for found in proposals:
        found.objectness_logits.fill_(-60.0)
        found.objectness_logits[7] = 0.0
    alone, _ = plain.roi_heads(images, features, [found[7:8] for found in proposals])
    together, _ = ranked.roi_heads(images, features, proposals)
    for expected, found in zip(alone, together, strict=True):
        assert len(found) > 20
        torch.testing.assert_close(found.pred_boxes.tensor[:2], expected.pred_boxes.tensor)
        torch.testing.assert_close(found.scores[:2], (expected.scores / 2).sqrt())


def test_temperature_must_be_positive():
    cfg = config(roi_heads="FusedScoreROIHeads")
    cfg.MODEL.ROI_HEADS.OBJECTNESS_TEMPERATURE = 0.0
    with pytest.raises(
        UserError, match=r"^MODEL\.ROI_HEADS\.OBJECTNESS_TEMPERATURE: objectness_temperature must be positive, not 0"
    ):
        build_model(cfg)
