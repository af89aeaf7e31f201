import pytest
import torch
import torchvision
import yaml
from PIL import Image

from fcos_rpn import model_zoo
from fcos_rpn.commands import quickstart
from fcos_rpn.config import read_config
from fcos_rpn.data.digits.folder import generate_digits


def test_the_whole_job_and_that_it_is_not_done_twice(tmp_path, monkeypatch):
    """With configs cut down to two iterations of two images."""
    short, whole_config = quickstart, model_zoo.get_config

    def get_config(name):
        cfg = whole_config(name)
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.IMS_PER_BATCH = 2, 0, 2
        cfg.DATALOADER.NUM_WORKERS = 0
        return cfg

    monkeypatch.setattr(short.model_zoo, "get_config", get_config)
    digits = generate_digits(tmp_path / "digits", num_train=4, num_val=2)
    weights = short.imagenet_weights(tmp_path / "mobilenet_v2.pth")

    def both():
        one = short.run("one", short.ONE_STAGE, digits, tmp_path / "fcos", weights)
        return one, short.run("two", short.TWO_STAGE, digits, tmp_path / "rcnn", one.weights, warm_start=True)

    one_stage, two_stage = both()
    written = read_config(tmp_path / "rcnn" / "config.yaml", [])
    assert yaml.safe_load(written.dump()) == yaml.safe_load(two_stage.cfg.dump())
    assert {"bbox", "box_proposals"} <= set(one_stage.results)
    assert {"bbox", "box_proposals", "box_detections"} <= set(two_stage.results)

    short.draw_pictures(tmp_path, one_stage, two_stage, num_images=1)
    names = ("detections_fcos", "detections_faster_rcnn", "proposals", "assignment", "centerness")
    for name in names:
        assert Image.open(tmp_path / f"image1_{name}.png").size[0] > 320

    table = short.final_table(one_stage, two_stage).splitlines()
    assert [line.split("  ")[0] for line in table[2:]] == [
        "one-stage FCOS",
        "FCOSRPN proposals",
        "Faster R-CNN + FCOSRPN",
    ]

    monkeypatch.setattr("fcos_rpn.engine.trainer.Trainer.train", lambda trainer: pytest.fail("trained again"))
    assert [again.results for again in both()] == [one_stage.results, two_stage.results]


def test_imagenet_weights_have_torchvisions_names_and_shapes(tmp_path):
    weights = torch.load(quickstart.imagenet_weights(tmp_path / "weights.pth"), weights_only=True)
    features = torchvision.models.mobilenet_v2().features.state_dict(prefix="features.")
    assert {key: value.shape for key, value in weights.items()} == {key: v.shape for key, v in features.items()}
