"""Peers with our weights say what we say."""

import pytest
import torch

from dev.benchmark import peers
from dev.benchmark.inputs import batch

CPU = torch.device("cpu")
SIZE = (96, 128)


@pytest.fixture(scope="module")
def inputs():
    return batch(2, SIZE, num_boxes=2, device=CPU)


@pytest.fixture(scope="module")
def models(inputs):
    models = peers.build_models("mobilenet_v2", inputs, CPU)
    with torch.no_grad():
        # Zero initial biases and unit norms would hide weights that are not copied.
        generator = torch.Generator().manual_seed(1)
        head = models["fcos_rpn"].core.head
        for name, parameter in head.named_parameters():
            if name != "scales" and not name.startswith("cls_logits"):
                parameter += torch.randn(parameter.shape, generator=generator) * 0.01
    ours = models["fcos_rpn"]
    return {**models, "detectron2": peers.as_detectron2(ours).eval(), "torchvision": peers.TorchvisionFCOS(ours).eval()}


@torch.no_grad()
def test_detectron2_finds_the_same_boxes(models, inputs):
    for ours, theirs in zip(models["fcos_rpn"](inputs), models["detectron2"](inputs), strict=True):
        found, expected = ours["instances"], theirs["instances"]
        assert len(found) == len(expected) == 100
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=1e-2)


@torch.no_grad()
def test_torchvision_predicts_the_same(models, inputs):
    """Its boxes lie half a stride from ours, so that the suppression may differ."""
    ours, detector = models["fcos_rpn"], models["torchvision"].detector
    images, _ = detector.transform([x["image"] for x in inputs])
    padded = ours.preprocess_image(inputs).tensor
    torch.testing.assert_close(images.tensors, padded, rtol=1e-5, atol=1e-4)
    expected = detector.head(list(detector.backbone(padded).values()))
    found, _ = ours.core(ours.backbone(padded))
    torch.testing.assert_close(found.logits, expected["cls_logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.ltrb, expected["bbox_regression"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.centerness, expected["bbox_ctrness"].squeeze(-1), rtol=1e-4, atol=1e-4)
    assert set(models["torchvision"](inputs)[0]) == {"boxes", "scores", "labels"}


@torch.no_grad()
def test_random_models_have_as_many_candidates_as_trained_ones(inputs):
    models = peers.build_models("mobilenet_v2", inputs, CPU)
    ours = models["fcos_rpn"]
    features = ours.backbone(ours.preprocess_image(inputs).tensor)
    _, scores = ours.postprocessor.score(ours.core(features)[0])
    assert int((scores > 0.05).sum()) == pytest.approx(2 * 2000, rel=0.01)
    retinanet = models["retinanet"]
    logits, _ = retinanet.head([retinanet.backbone(ours.preprocess_image(inputs).tensor)[f"p{n}"] for n in range(3, 8)])
    assert sum(int((x.sigmoid() > 0.05).sum()) for x in logits) == pytest.approx(2 * 2000, rel=0.01)
    assert all(0.01 < level.std() < 100 for level in features.values())
