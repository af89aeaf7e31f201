import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from fcos_rpn import FCOSAssigner, compute_locations
from fcos_rpn.analysis.box_origins import (
    ambiguous_shares,
    find_with_origins,
    rank_correlation,
    trace_origins,
)
from tests.tiny import tiny_batch, tiny_config


def tiny_model(architecture="FCOS", **fcos):
    torch.manual_seed(0)
    cfg = tiny_config(architecture)
    cfg.MODEL.FCOS.update({"SCORE_THRESH_TEST": 0.0, **fcos})
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 5  # of 20 at inference
    return build_model(cfg).eval()


# One level of 4 x 4 locations at 4, 12, 20 and 28, each of which learns the boxes that it lies in.
LOCATIONS = compute_locations([(4, 4)], [8])
ASSIGNER = FCOSAssigner(num_classes=3, sizes_of_interest=[], center_sampling_radius=0.0)
GROUND_TRUTH = Instances(
    (32, 32),
    gt_boxes=Boxes(
        torch.tensor([[0, 0, 16, 16], [8, 8, 24, 24], [8, 8, 32, 32], [24, 0, 32, 8], [24, 0, 31, 8]]).float()
    ),
    gt_classes=torch.tensor([0, 0, 2, 1, 1]),
)
FOUND = Instances(
    (32, 32),
    # The first box itself; 16·12 of the second's 16·16; half of the fourth; beside all.
    pred_boxes=Boxes(torch.tensor([[0, 0, 16, 16], [8, 8, 24, 20], [24, 0, 32, 4], [0, 24, 8, 32]]).float()),
    scores=torch.tensor([0.9, 0.7, 0.5, 0.3]),
    pred_classes=torch.tensor([0, 2, 1, 0]),
    # Of the locations (4, 4) in the first box, (12, 12) in the first three, (28, 4) in the last two, (4, 28) in none.
    location_idxs=torch.tensor([0, 5, 3, 12]),
)


def test_origins_of_a_hand_worked_example():
    class_scores = torch.arange(48.0).view(16, 3)
    origins = trace_origins(FOUND, class_scores, LOCATIONS, GROUND_TRUTH, ASSIGNER)
    assert origins.class_scores.tolist() == [3 * 0 + 0, 3 * 5 + 2, 3 * 3 + 1, 3 * 12 + 0]
    assert origins.scores.tolist() == FOUND.scores.tolist()
    torch.testing.assert_close(origins.ious, torch.tensor([1.0, 0.75, 0.5, 0.0]))
    assert origins.num_candidates.tolist() == [1, 3, 2, 0]
    assert origins.num_classes.tolist() == [1, 2, 1, 0]
    assert ambiguous_shares(origins) == {"all": 50.0, "across_classes": 25.0}


def test_a_generator_of_proposals_knows_one_class():
    of_proposals = FCOSAssigner(num_classes=1, sizes_of_interest=[], center_sampling_radius=0.0)
    origins = trace_origins(FOUND, torch.zeros(16, 3), LOCATIONS, GROUND_TRUTH, of_proposals)
    assert origins.num_candidates.tolist() == [1, 3, 2, 0]
    assert origins.num_classes.tolist() == [1, 1, 1, 0]


def test_origins_without_ground_truth_and_without_boxes():
    class_scores = torch.zeros(16, 3)
    origins = trace_origins(FOUND, class_scores, LOCATIONS, GROUND_TRUTH[:0], ASSIGNER)
    assert origins.ious.tolist() == origins.num_candidates.tolist() == origins.num_classes.tolist() == [0, 0, 0, 0]
    origins = trace_origins(FOUND[:0], class_scores, LOCATIONS, GROUND_TRUTH, ASSIGNER)
    assert [len(field) for field in origins] == [0] * 5
    assert all(math.isnan(share) for share in ambiguous_shares(origins).values())


@pytest.mark.parametrize(
    ("scores", "ious", "expected"),
    [
        ([0.2, 0.4, 0.6], [0.5, 0.6, 0.7], 1.0),
        ([0.2, 0.4, 0.9], [0.5, 0.6, 0.61], 1.0),  # only the order counts
        ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1], -1.0),
        # ranks 1, 2, 3, 4 and 1.5, 1.5, 3, 4, deviations (-3, -1, 1, 3) / 2 and (-1, -1, .5, 1.5): √(4.5² / (5 · 4.5))
        ([0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 0.5, 0.9], 0.9**0.5),
        ([0.5, 0.5], [0.1, 0.9], math.nan),
        ([], [], math.nan),
    ],
)
def test_how_well_scores_tell_iou(scores, ious, expected):
    found = rank_correlation(torch.tensor(scores), torch.tensor(ious))
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(("fusion", "centerness"), [("geometric", "reg"), ("product", "reg"), ("product", "none")])
def test_a_one_stage_models_detections_come_with_their_origins(fusion, centerness):
    model = tiny_model(SCORE_FUSION=fusion, CENTERNESS=centerness)
    batch = tiny_batch([(64, 96), (80, 64)], [3, 0])
    with torch.no_grad():
        outputs = model(batch)
        predictions, _ = model.core(model.backbone(model.preprocess_image(batch).tensor))
    found = find_with_origins(model, batch, limit=10)
    assert [len(boxes) for boxes, _ in found] == [10, 10]
    for image, ((boxes, origins), output) in enumerate(zip(found, outputs, strict=True)):
        torch.testing.assert_close(boxes.pred_boxes.tensor, output["instances"].pred_boxes.tensor[:10])
        torch.testing.assert_close(origins.scores, output["instances"].scores[:10])
        for index in range(10):
            where, label = int(boxes.location_idxs[index]), int(boxes.pred_classes[index])
            expected = predictions.logits[image, where, label].sigmoid()
            torch.testing.assert_close(origins.class_scores[index], expected)
            if centerness != "none":
                expected = expected * predictions.centerness[image, where].sigmoid()
            torch.testing.assert_close(origins.scores[index], expected.sqrt() if fusion == "geometric" else expected)
    assert found[0][1].ious.max() > 0
    assert found[1][1].ious.max() == 0


@pytest.mark.parametrize("architecture", ["GeneralizedRCNNWithProposals", "ProposalNetwork"])
def test_an_fcos_rpns_proposals_come_with_their_origins(architecture):
    model = tiny_model(architecture)
    batch = tiny_batch([(64, 96)], [3])
    with torch.no_grad():
        proposals = model(batch)[0]["proposals"]
    ((boxes, origins),) = find_with_origins(model, batch, limit=1000)
    torch.testing.assert_close(boxes.pred_boxes.tensor, proposals.proposal_boxes.tensor)
    torch.testing.assert_close(origins.scores, proposals.objectness_logits.sigmoid())


def test_models_without_fcos():
    with pytest.raises(ValueError, match="Linear has neither"):
        find_with_origins(nn.Linear(1, 1), [], limit=1)
