import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from fcos_rpn.modeling.proposal_generator import to_proposals
from tests.processes import run_two_ranks
from tests.tiny import tiny_config

STRIDES = {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
SHAPES = {name: ShapeSpec(channels=64, stride=stride) for name, stride in STRIDES.items()}
IMAGES = ImageList(torch.zeros(2, 3, 128, 160), [(128, 160), (100, 120)])


def generator(**overrides):
    cfg = tiny_config("ProposalNetwork")
    for key, value in overrides.items():
        setattr(cfg.MODEL.FCOS if key in cfg.MODEL.FCOS else cfg.MODEL.RPN, key, value)
    torch.manual_seed(0)
    return build_proposal_generator(cfg, SHAPES)


def features():
    noise = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(2, 64, -(-128 // stride), -(-160 // stride), generator=noise)
        for name, stride in STRIDES.items()
    }


def ground_truth():
    boxes = torch.tensor([[10.0, 10, 60, 70], [50, 20, 100, 90]])
    return [
        Instances((128, 160), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([5, 7])),
        Instances((100, 120), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64)),
    ]


def constant_boxes(model, distance):
    nn.init.zeros_(model.core.head.bbox_pred.weight)
    nn.init.constant_(model.core.head.bbox_pred.bias, distance)
    return model


def test_return_types_do_not_depend_on_the_mode():
    model = generator()
    proposals, losses = model.train()(IMAGES, features(), ground_truth())
    assert [type(found) for found in proposals] == [Instances, Instances]
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_rpn_ctr"}
    proposals, losses = model.eval()(IMAGES, features())
    assert [type(found) for found in proposals] == [Instances, Instances]
    assert losses == {}


def test_training_proposals_are_in_pixels():
    """mmdetection's stride-normalised head gives proposals in training that are too small by the stride."""
    model = constant_boxes(generator(NMS_THRESH=1.0), 1.0)
    in_training, _ = model.train()(IMAGES, features(), ground_truth())
    in_evaluation, _ = model.eval()(IMAGES, features())
    for trained, evaluated in zip(in_training, in_evaluation, strict=True):
        assert torch.equal(trained.proposal_boxes.tensor, evaluated.proposal_boxes.tensor)
        sides = trained.proposal_boxes.tensor[:, 2] - trained.proposal_boxes.tensor[:, 0]
        assert sides.min().item() >= 8  # one stride of P3 to both sides, at most one of them clipped away


def test_fields_are_exactly_those_that_roi_heads_take():
    proposals, _ = generator().train()(IMAGES, features(), ground_truth())
    assert set(proposals[0].get_fields()) == {"proposal_boxes", "objectness_logits"}
    gt = [found.gt_boxes for found in ground_truth()]
    with_gt = add_ground_truth_to_proposals(gt, proposals)
    assert [len(after) - len(before) for after, before in zip(with_gt, proposals, strict=True)] == [2, 0]


def test_objectness_is_the_logit_of_the_score():
    # √(σ(0)·σ(0)) = .5 -> 0, and .8 -> log(.8/.2) = 1.386; certainty stays below Detectron2's ground truth, 23.03
    scores = torch.tensor([1.0, 0.8, 0.5, 0.0])
    instances = Instances((9, 9), pred_boxes=Boxes(torch.zeros(4, 4)), scores=scores, pred_classes=torch.zeros(4))
    logits = to_proposals(instances).objectness_logits
    torch.testing.assert_close(logits, torch.tensor([23.0, 1.3863, 0.0, -23.0]), atol=1e-4, rtol=0)


def test_losses_are_class_agnostic_and_ground_truth_keeps_its_classes():
    """Class-agnostic training relabels a copy: RoI heads read the same instances afterwards."""
    model, inputs = generator().train(), features()
    gt, other = ground_truth(), ground_truth()
    other[0].gt_classes = torch.tensor([0, 0])
    assert model(IMAGES, inputs, gt)[1] == model(IMAGES, inputs, other)[1]
    assert gt[0].gt_classes.tolist() == [5, 7]


def test_no_gradient_flows_through_proposals():
    proposals, losses = generator().train()(IMAGES, features(), ground_truth())
    assert not proposals[0].proposal_boxes.tensor.requires_grad
    assert not proposals[0].objectness_logits.requires_grad
    assert all(loss.requires_grad for loss in losses.values())


def test_budgets_are_detectron2s_rpn_keys():
    budgets = {"PRE_NMS_TOPK_TRAIN": 7, "POST_NMS_TOPK_TRAIN": 5, "PRE_NMS_TOPK_TEST": 6, "POST_NMS_TOPK_TEST": 3}
    model = generator(**budgets, NMS_THRESH=0.65, LOSS_WEIGHT=2.0)
    train, test = model.train_postprocessor, model.test_postprocessor
    assert (train.pre_nms_topk, train.post_nms_topk, test.pre_nms_topk, test.post_nms_topk) == (7, 5, 6, 3)
    assert (train.nms_thresh, test.nms_thresh) == (0.65, 0.65)
    assert train.score_thresh is test.score_thresh is None
    assert train.nms_per_level
    inputs = features()
    assert [len(found) for found in model.train()(IMAGES, inputs, ground_truth())[0]] == [5, 5]
    assert [len(found) for found in model.eval()(IMAGES, inputs)[0]] == [3, 3]

    _, doubled = model.train()(IMAGES, inputs, ground_truth())
    model.loss_weight = 1.0
    _, single = model(IMAGES, inputs, ground_truth())
    for name, loss in single.items():
        torch.testing.assert_close(doubled[name], 2 * loss)


def test_scores_are_fused_as_the_config_says():
    inputs = features()
    mean, _ = generator().eval()(IMAGES, inputs)
    product, _ = generator(SCORE_FUSION="product").eval()(IMAGES, inputs)
    torch.testing.assert_close(product[0].objectness_logits.sigmoid(), mean[0].objectness_logits.sigmoid() ** 2)


@pytest.mark.parametrize("broken", ["cls_logits", "bbox_pred", "centerness"])
def test_diverged_predictions_stop_training_and_are_dropped_in_evaluation(broken):
    model = generator()
    getattr(model.core.head, broken).bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="diverged"):
        model.train()(IMAGES, features(), ground_truth())
    proposals, _ = model.eval()(IMAGES, features())
    assert [len(found) for found in proposals] == [0, 0]


def run_rank(rank, folder):
    """One of two processes, of which the second alone predicts NaN."""
    model = generator().train()
    model.core.head.bbox_pred.bias.data[0] = float("nan") if rank == 1 else 0.0
    with pytest.raises(FloatingPointError, match="FCOSRPN predicted"):
        model(IMAGES, features(), ground_truth())
    (folder / f"{rank}").touch()


def test_diverged_predictions_stop_all_processes(tmp_path, forked):
    run_two_ranks(run_rank, tmp_path)
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()


def test_training_needs_ground_truth():
    with pytest.raises(ValueError, match="gt_instances"):
        generator().train()(IMAGES, features())
