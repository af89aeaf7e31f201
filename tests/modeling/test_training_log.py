import logging
import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from fcos_rpn import FCOSAssigner, FCOSLosses, compute_locations
from fcos_rpn.modeling.head import FCOSPredictions
from fcos_rpn.modeling.training_log import log_picture, log_training_step, target_statistics

LOCATIONS = compute_locations([(2, 4), (1, 2)], [8, 16])
"""x at 4, 12, 20, 28 and y at 4, 12 on the first level; (8, 8) and (24, 8) on the second."""


def instances(boxes):
    tensor = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return Instances((16, 32), gt_boxes=Boxes(tensor), gt_classes=torch.zeros(len(tensor), dtype=torch.int64))


def assign(gt):
    return FCOSAssigner(num_classes=1, sizes_of_interest=[10.0], center_sampling_radius=0.0)(LOCATIONS, gt)


def statistics(gt):
    return target_statistics(["p3", "p4"], assign(gt), LOCATIONS, sum(len(of_image) for of_image in gt))


def test_by_hand():
    # The first box holds (4, 4) and nothing else of level one; so does the second (12, 12). The third is too small to
    # hold a location. The fourth holds (24, 8) of level two at distances 8, 8, 8, 8: but 8 is in the range of level
    # one, where it holds (20, 4), (28, 4), (20, 12), (28, 12), all at a largest distance of 12, out of range. So it is
    # not learned; the fifth, 24 wide, is: (24, 8) at 12, 8, 12, 8.
    gt = [
        instances([[1, 1, 7, 9], [9, 9, 15, 15], [5, 5, 7, 7], [16, 0, 32, 16]]),
        instances([[12, 0, 36, 16]]),
    ]
    found = statistics(gt)
    assert found["num_positives_p3"] == 2
    assert found["num_positives_p4"] == 1
    assert found["boxes_without_positive"] == pytest.approx(2 / 5)
    # (4, 4) in (1, 1, 7, 9): distances 3, 3, 3, 5, centerness √(3/3 · 3/5); the other two are centered.
    assert found["mean_centerness"] == pytest.approx((math.sqrt(0.6) + 2) / 3)


def test_without_positives_or_boxes():
    without_boxes = {"num_positives_p3", "num_positives_p4"}
    assert set(statistics([instances([])])) == without_boxes
    assert set(statistics([instances([[5, 5, 7, 7]])])) == without_boxes | {"boxes_without_positive"}


FLAT, WIDE = [1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.5]
"""Distances without and with a height."""

GT = [instances([[1, 1, 7, 9], [9, 9, 15, 15]])]
"""(4, 4) and (12, 12) are positive: rows 0 and 5, of centerness √.6 and 1."""


def log(ltrb, gt=GT, centerness=None, losses=None, weight=1.0):
    """Log a step that predicts these distances at every location of one image."""
    num_locations = len(LOCATIONS.points)
    logits = torch.zeros(1, num_locations, 1)
    ltrb = torch.tensor(ltrb).view(1, -1, 4).expand(1, num_locations, 4)
    predictions = FCOSPredictions(logits, ltrb, centerness)
    log_training_step("rpn", ["p3", "p4"], predictions, assign(gt), LOCATIONS, gt, losses or FCOSLosses(), weight)


def test_logged_now_and_then():
    log(WIDE)  # without a storage nothing happens
    logged = []
    with EventStorage() as storage:
        for storage.iter in range(41):
            log(WIDE)
            if storage.latest().get("rpn/num_positives_p3", (0, -1))[1] == storage.iter:
                logged.append(storage.iter)
        assert storage.latest()["rpn/num_positives_p3"] == (2.0, 40)
        assert storage.latest()["rpn/boxes_without_positive"][0] == 0
        assert "rpn/centerness_entropy" not in storage.latest()
    assert logged == [0, 20, 40]


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p) if p < 1 else 0.0


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (FCOSLosses(), entropy(math.sqrt(0.6)) / 2),
        (FCOSLosses(ctr_weight=0.5), 0.5 * entropy(math.sqrt(0.6)) / 2),
        # Sides 2 × 2 strides around both. The boxes' distances in strides are 3/8, 3/8, 3/8, 5/8 and four times 3/8,
        # so they lie within and the IoUs are 6/8 · 1 / 4 and 6/8 · 6/8 / 4.
        (FCOSLosses(predicts_iou=True), (entropy(0.1875) + entropy(0.140625)) / 2),
    ],
)
def test_the_floor_of_the_centerness_loss(losses, expected):
    with EventStorage() as storage:
        log([1.0, 1, 1, 1], centerness=torch.zeros(1, len(LOCATIONS.points)), losses=losses, weight=3.0)
        assert storage.latest()["rpn/centerness_entropy"][0] == pytest.approx(3 * expected, rel=1e-5)


def logged_shares(shown):
    """What is predicted at each entry of the log -> what is logged."""
    with EventStorage() as storage:
        for number, ltrb in enumerate(shown):
            storage.iter = 20 * number
            log(ltrb)
        return [share for share, _ in storage.history("rpn/boxes_of_zero_size").values()]


def test_figures_are_computed_outside_of_autocast(monkeypatch):
    """A GPU's autocast refuses the cross-entropy of probabilities."""
    cross_entropy = torch.nn.functional.binary_cross_entropy

    def spy(*args):
        assert not torch.is_autocast_enabled("cpu")
        return cross_entropy(*args)

    monkeypatch.setattr("fcos_rpn.modeling.training_log.F.binary_cross_entropy", spy)
    with EventStorage() as storage, torch.autocast("cpu", dtype=torch.bfloat16):
        log(WIDE, centerness=torch.zeros(1, len(LOCATIONS.points)))
        assert storage.latest()["rpn/centerness_entropy"][0] == pytest.approx(entropy(math.sqrt(0.6)) / 2)


def test_the_share_of_boxes_without_a_size_is_logged():
    mixed = [WIDE] * 5 + [FLAT] + [WIDE] * 4
    assert logged_shares([WIDE, FLAT, mixed]) == [0, 1, 0.5]


@pytest.mark.parametrize(
    ("shown", "num_warnings"),
    [
        ([WIDE, FLAT, WIDE, FLAT], 0),  # a batch with few positives may be so by chance
        ([FLAT, FLAT], 1),
        ([WIDE, FLAT, FLAT, FLAT, FLAT], 1),  # said once
        ([FLAT, FLAT, WIDE, FLAT, FLAT], 2),  # once for each time
    ],
)
def test_a_dead_regressor_is_said(caplog, detectron2_restored, shown, num_warnings):
    logging.getLogger("fcos_rpn").propagate = True
    logged_shares(shown)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == num_warnings
    assert all(message.startswith("rpn: all boxes predicted for positives have zero size") for message in messages)
    assert all(key in message for message in messages for key in ("BASE_LR", "BBOX_ACTIVATION exp"))


def test_without_positives_no_predictions_are_logged():
    with EventStorage() as storage:
        log(FLAT, gt=[instances([])])
        assert set(storage.latest()) == {"rpn/num_positives_p3", "rpn/num_positives_p4"}


def test_a_picture_of_the_truth_beside_the_detections():
    image = torch.zeros(3, 16, 32, dtype=torch.uint8)
    image[0] = 200  # blue, in BGR
    x = {"image": image, "instances": instances([[4, 4, 12, 12]])}
    found = Instances((16, 32), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    with EventStorage() as storage:
        log_picture(x, found, input_format="BGR")
    log_picture(x, found, input_format="BGR")  # without a storage nothing happens
    ((name, picture, _),) = storage._vis_data
    assert name == "Left: ground truth; right: detections"
    assert picture.shape == (3, 16, 64)
    assert picture[:, 8, 60].tolist() == [0, 0, 200]
    assert (picture[:, :, :32] != picture[:, :, 32:]).any()  # the box is on the left alone
