import logging
import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from fcos_rpn import FCOSAssigner, compute_locations
from fcos_rpn.modeling.head import FCOSPredictions
from fcos_rpn.modeling.training_log import log_picture, log_predictions, log_targets, target_statistics

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
    centerness = math.sqrt(0.6)
    assert found["mean_centerness"] == pytest.approx((centerness + 2) / 3)
    entropy = -centerness * math.log(centerness) - (1 - centerness) * math.log(1 - centerness)
    assert found["centerness_entropy"] == pytest.approx(entropy / 3)


def test_equal_rows_of_two_images_are_two_boxes():
    assert statistics([instances([[1, 1, 7, 9]])] * 2)["boxes_without_positive"] == 0


def test_without_positives_or_boxes():
    assert set(statistics([instances([[5, 5, 7, 7]])])) == {
        "num_positives_p3",
        "num_positives_p4",
        "boxes_without_positive",
    }
    assert set(statistics([instances([])])) == {"num_positives_p3", "num_positives_p4"}


def test_logged_now_and_then():
    gt = [instances([[1, 1, 7, 9]])]
    targets = assign(gt)
    log_targets("fcos", ["p3", "p4"], targets, LOCATIONS, gt)  # without a storage nothing happens
    logged = []
    with EventStorage() as storage:
        for storage.iter in range(41):
            log_targets("fcos", ["p3", "p4"], targets, LOCATIONS, gt)
            if storage.latest().get("fcos/num_positives_p3", (0, -1))[1] == storage.iter:
                logged.append(storage.iter)
        assert storage.latest()["fcos/num_positives_p3"] == (1.0, 40)
        assert storage.latest()["fcos/boxes_without_positive"][0] == 0
    assert logged == [0, 20, 40]


def predictions(ltrb):
    """The same distances at every location of one image."""
    num_locations = len(LOCATIONS.points)
    logits = torch.zeros(1, num_locations, 1)
    return FCOSPredictions(logits, torch.tensor([[ltrb]]).expand(1, num_locations, 4), None)


FLAT, WIDE = [1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.5]
"""Without and with a height."""


def logged_shares(shown):
    """What is predicted at each entry of the log -> what is logged."""
    targets = assign([instances([[1, 1, 7, 9], [9, 9, 15, 15]])])
    with EventStorage() as storage:
        for number, ltrb in enumerate(shown):
            storage.iter = 20 * number
            log_predictions("rpn", predictions(ltrb), targets)
        return [share for share, _ in storage.history("rpn/boxes_of_zero_size").values()]


def test_the_share_of_boxes_without_a_size_is_logged():
    assert logged_shares([WIDE, FLAT, WIDE]) == [0, 1, 0]
    targets = assign([instances([[1, 1, 7, 9], [9, 9, 15, 15]])])  # (4, 4) and (12, 12) are positive: rows 0 and 5
    mixed = predictions(WIDE).ltrb.clone()
    mixed[0, 5] = torch.zeros(4)
    with EventStorage() as storage:
        log_predictions("fcos", FCOSPredictions(mixed[..., :1], mixed, None), targets)
        assert storage.latest()["fcos/boxes_of_zero_size"] == (0.5, 0)


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


def test_predictions_are_looked_at_now_and_then_and_with_positives_alone():
    targets, empty = assign([instances([[1, 1, 7, 9]])]), assign([instances([])])
    log_predictions("fcos", predictions(FLAT), targets)  # without a storage nothing happens
    with EventStorage() as storage:
        for storage.iter in range(1, 20):
            log_predictions("fcos", predictions(FLAT), targets)
        storage.iter = 20
        log_predictions("fcos", predictions(FLAT), empty)
        assert not storage.latest()


def test_a_picture_of_the_truth_beside_the_detections():
    image = torch.zeros(3, 16, 32, dtype=torch.uint8)
    image[0] = 200  # blue, in BGR
    found = Instances((16, 32), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    with EventStorage() as storage:
        log_picture({"image": image, "instances": instances([[4, 4, 12, 12]])}, found, input_format="BGR")
    ((name, picture, _),) = storage._vis_data
    assert name == "Left: ground truth; right: detections"
    assert picture.shape == (3, 16, 64)
    assert picture[:, 8, 60].tolist() == [0, 0, 200]
    assert (picture[:, :, :32] != picture[:, :, 32:]).any()  # the box is on the left alone
