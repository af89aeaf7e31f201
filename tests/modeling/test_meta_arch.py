import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from tests.tiny import tiny_batch, tiny_config, without_gradient

MIXED = ([(64, 96), (96, 64), (80, 80)], [3, 0, 1])
EMPTY = ([(64, 96), (80, 80)], [0, 0])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_config())


def raise_scores(model):
    """A new model detects nothing: its scores are the prior's .01."""
    torch.nn.init.zeros_(model.core.head.cls_logits.bias)
    return model


@pytest.mark.parametrize(
    ("key", "value", "attribute", "expected"),
    [
        ("SCORE_THRESH_TEST", 0.2, "score_thresh", 0.2),
        ("TOPK_CANDIDATES_TEST", 7, "pre_nms_topk", 7),
        ("NMS_THRESH_TEST", 0.4, "nms_thresh", 0.4),
        ("SCORE_FUSION", "product", "score_fusion", "product"),
        ("THRESH_ON", "fused", "thresh_on", "fused"),
        ("CENTERNESS", "computed", "computes_centerness", True),
        ("CENTERNESS", "reg", "computes_centerness", False),
    ],
)
def test_selection_is_that_of_the_config(key, value, attribute, expected):
    cfg = tiny_config()
    cfg.MODEL.FCOS[key] = value
    assert getattr(build_model(cfg).postprocessor, attribute) == expected


@pytest.mark.parametrize(("sizes", "num_boxes"), [MIXED, EMPTY])
def test_training_returns_losses_and_every_parameter_learns(model, sizes, num_boxes):
    model.train().zero_grad()
    losses = model(tiny_batch(sizes, num_boxes))
    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)  # DistributedDataParallel needs it
    if any(num_boxes):
        assert without_gradient(model) == []


def test_the_batch_is_left_alone(model):
    batch = tiny_batch(*MIXED)
    before = [(x["instances"].gt_boxes.tensor.clone(), x["instances"].gt_classes.clone()) for x in batch]
    model.train()(batch)
    for x, (boxes, classes) in zip(batch, before, strict=True):
        assert torch.equal(x["instances"].gt_boxes.tensor, boxes)
        assert torch.equal(x["instances"].gt_classes, classes)


@torch.no_grad()
def test_inference_detects_in_pixels_of_the_wanted_output(model):
    batch = tiny_batch(*MIXED)
    raise_scores(model).eval()
    at_input_size = model([{"image": x["image"]} for x in batch])
    doubled = model([{"image": x["image"], "height": 2 * x["height"], "width": 2 * x["width"]} for x in batch])
    for x, one, two in zip(batch, at_input_size, doubled, strict=True):
        found, larger = one["instances"], two["instances"]
        assert found.image_size == (x["height"], x["width"])
        assert 0 < len(found) <= 100
        assert (found.scores[:-1] >= found.scores[1:]).all()
        assert set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes", "location_idxs"}
        torch.testing.assert_close(larger.pred_boxes.tensor, 2 * found.pred_boxes.tensor)


@torch.no_grad()
def test_a_batch_detects_what_its_images_do_alone(model):
    """Padding to a common size moves no box of an image that needs none."""
    batch = tiny_batch([(64, 96), (64, 96)], [1, 1])
    raise_scores(model).eval()
    together = model(batch)
    for x, found in zip(batch, together, strict=True):
        (alone,) = model([x])
        torch.testing.assert_close(found["instances"].pred_boxes.tensor, alone["instances"].pred_boxes.tensor)


@pytest.mark.parametrize("seed", range(3))
def test_learns_by_heart(seed):
    """The boxes of two training images are found again. A regression that dies in its ReLU, as it does if new heads
    predict boxes that must shrink, stays at a box loss of 1."""
    torch.manual_seed(seed)
    cfg = tiny_config()
    cfg.MODEL.TORCHVISION.NORM = "BN"
    model = build_model(cfg).train()
    batch = tiny_batch([(96, 96)] * 2, [1, 1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert losses["loss_fcos_loc"].item() < 0.2
    with torch.no_grad():
        found = model.eval()(batch)
    for x, output in zip(batch, found, strict=True):
        gt, best = x["instances"], output["instances"][0]
        assert best.pred_classes.item() == gt.gt_classes.item()
        torch.testing.assert_close(best.pred_boxes.tensor, gt.gt_boxes.tensor, rtol=0, atol=4)


@pytest.mark.parametrize(("period", "pictures"), [(0, 0), (1, 3), (2, 2)])
def test_pictures_of_the_training_every_vis_period(period, pictures):
    cfg = tiny_config()
    cfg.VIS_PERIOD = period
    watched = raise_scores(build_model(cfg)).train()
    with EventStorage() as storage:
        for storage.iter in range(3):
            watched(tiny_batch(*MIXED))
    watched(tiny_batch(*MIXED))  # without a storage nothing is logged
    assert [picture.shape for _, picture, _ in storage._vis_data] == [(3, 64, 192)] * pictures
