import copy
import functools
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from PIL import Image

from fcos_rpn import Predictor, UserError
from fcos_rpn.checkpoint import FCOSCheckpointer
from fcos_rpn.data import CheckedDatasetMapper
from fcos_rpn.data.pictures import read_picture
from fcos_rpn.predictor import read_rgb
from tests.tiny import CATEGORIES, tiny_config

NAMES = list(CATEGORIES.values())
WIDTH, HEIGHT = 100, 70


def config(name: str) -> CfgNode:
    architecture = {"one": "FCOS", "two": "GeneralizedRCNNWithProposals"}.get(name, "ProposalNetwork")
    cfg = tiny_config(architecture, "RPN" if name == "anchors" else "FCOSRPN")
    cfg.MODEL.FCOS.SCORE_THRESH_TEST = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0  # so that it detects untrained
    return cfg


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of a random model: with the class names, as the trainer saves them, or without."""
    folder = tmp_path_factory.mktemp("weights")

    def weights(name: str, *, with_names: bool = True) -> str:
        stem = f"{name}_{with_names}"
        if not (folder / f"{stem}.pth").exists():
            torch.manual_seed(0)
            names = NAMES if with_names else None
            FCOSCheckpointer(build_model(config(name)), str(folder), class_names=names).save(stem)
        return str(folder / f"{stem}.pth")

    return weights


@pytest.fixture(scope="module")
def predictor(weights):
    """One of each kind for all tests."""
    return functools.cache(lambda name: Predictor(config(name), weights=weights(name), device="cpu"))


@pytest.fixture
def picture(tmp_path) -> Path:
    """Colored noise, wider than high."""
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 10
    assert ours.image_size == theirs.image_size
    for name, value in theirs.get_fields().items():
        other = ours.get(name)
        assert torch.equal(getattr(other, "tensor", other), getattr(value, "tensor", value)), name


@torch.no_grad()
@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_detections_are_those_of_an_evaluation(weights, picture, image_format):
    cfg = config("one")
    cfg.INPUT.FORMAT = image_format
    cfg.MODEL.PIXEL_MEAN = [20.0, 100.0, 200.0]  # so that the order of the channels matters
    predictor = Predictor(cfg, weights=weights("one"), device="cpu")
    x = CheckedDatasetMapper(cfg, is_train=False)({"file_name": str(picture), "width": WIDTH, "height": HEIGHT})
    assert min(x["image"].shape[1:]) == cfg.INPUT.MIN_SIZE_TEST != HEIGHT
    (expected,) = predictor.model([x])

    assert_same(predictor(picture), expected["instances"])


def test_proposals_are_the_best_of_the_generator_in_pixels_of_the_picture(predictor, picture):
    predictor = predictor("two")
    with torch.no_grad():
        (output,) = predictor.model([predictor.prepare(picture)])
    everything = output["proposals"]
    assert_same(predictor.proposals(picture, limit=20), everything)
    best = predictor.proposals(picture, limit=3)
    assert best.image_size == (HEIGHT, WIDTH)
    assert torch.equal(best.proposal_boxes.tensor, everything.proposal_boxes.tensor[:3])
    assert torch.equal(best.objectness_logits, everything.objectness_logits.sort(descending=True).values[:3])
    assert len(predictor(picture)) > 0  # the same model detects, too


@pytest.mark.parametrize("name", ["network", "anchors"])
def test_a_proposal_network_proposes_and_nothing_else(predictor, picture, name):
    predictor = predictor(name)
    assert len(predictor.proposals(picture, limit=5)) == 5
    with pytest.raises(UserError, match=r"ProposalNetwork tells no classes .* Predictor\.proposals or --proposals 100"):
        predictor(picture)


def test_a_one_stage_model_has_no_proposals(predictor, picture):
    with pytest.raises(UserError, match=r"FCOS has one stage and proposes nothing .* are no proposals"):
        predictor("one").proposals(picture)


@pytest.mark.parametrize(("name", "num_classes"), [("one", 2), ("two", 1)])
def test_dense_predictions_of_both_roles(predictor, picture, name, num_classes):
    predictor = predictor(name)
    dense = predictor.dense_predictions(picture)
    # 100 x 70 become 91 x 64, which P3 covers with 12 x 8 cells.
    assert dense.image.shape == (64, 91, 3)
    assert dense.locations.grid_sizes[0] == (8, 12)
    assert dense.predictions.logits.shape == (1, len(dense.locations.points), num_classes)
    resized = np.asarray(Image.open(picture).resize((91, 64), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(dense.image, resized)  # in RGB again


def test_a_model_without_fcos_has_no_dense_predictions(predictor, picture):
    with pytest.raises(UserError, match="ProposalNetwork has no FCOS"):
        predictor("anchors").dense_predictions(picture)


def test_names_and_number_of_classes_are_the_checkpoints(weights, caplog):
    cfg = config("one")
    cfg.MODEL.FCOS.NUM_CLASSES = 80
    cfg.DATASETS.TEST = ("coco_2017_val",)
    predictor = Predictor(cfg, weights=weights("one"), device="cpu")
    assert predictor.class_names == NAMES
    assert cfg.MODEL.FCOS.NUM_CLASSES == 80  # the caller's config stays as it is
    assert "class names" not in caplog.text


@pytest.mark.parametrize("name", ["one", "two"])
def test_without_names_classes_have_numbers_and_that_is_said_once(weights, picture, caplog, name):
    caplog.set_level(logging.WARNING, "fcos_rpn.predictor")
    cfg = config(name)
    cfg.DATASETS.TEST = ("coco_2017_val",)  # whose names are registered, and wrong
    predictor = Predictor(cfg, weights=weights(name, with_names=False), device="cpu")
    predictor(picture)
    predictor(picture)
    assert predictor.class_names == ["class 0", "class 1"]
    messages = [record.getMessage() for record in caplog.records if record.name == "fcos_rpn.predictor"]
    assert len(messages) == 1
    assert "carries no class names and none are given" in messages[0]


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_predictor_can_be_pickled_and_copied(predictor, picture, name):
    original = predictor(name)
    expected = original(picture)
    for other in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original)):
        assert not any(module.training for module in other.model.modules())
        assert_same(other(picture), expected)


def test_given_names_come_first(weights):
    for with_names in (True, False):
        file = weights("one", with_names=with_names)
        assert Predictor(config("one"), weights=file, device="cpu", class_names=("a", "b")).class_names == ["a", "b"]
    with pytest.raises(UserError, match=r"trained on other classes \(red, blue\):\n .*\(2, .* in the file, \(3, "):
        Predictor(config("one"), weights=weights("one"), device="cpu", class_names=("a", "b", "c"))
    with pytest.raises(UserError, match=r"cls_logits\.bias: \(2,\) in the file, \(3,\) in the model"):
        Predictor(config("one"), weights=weights("one", with_names=False), device="cpu", class_names=("a", "b", "c"))


def test_the_config_is_a_file_or_a_name(weights, tmp_path, picture):
    (tmp_path / "mine.yaml").write_text(config("one").dump())
    assert_same(
        Predictor(tmp_path / "mine.yaml", weights=weights("one"), device="cpu")(picture),
        Predictor(config("one"), weights=weights("one"), device="cpu")(picture),
    )
    with pytest.raises(UserError, match="no config file other"):
        Predictor("other.yaml", weights=weights("one"))


def test_missing_weights_and_devices(weights, monkeypatch):
    with pytest.raises(UserError, match=r"no file gone\.pth"):
        Predictor(config("one"), weights="gone.pth", device="cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"MODEL\.DEVICE is cuda"):
        Predictor(config("one"), weights=weights("one"), device="cuda")


GRAY = np.arange(24, dtype=np.uint8).reshape(4, 6)


@pytest.mark.parametrize(
    "pixels", [GRAY, GRAY.astype(np.uint16) * 2849, np.stack([GRAY] * 4, axis=2)], ids=["gray", "16 bits", "RGBA"]
)
def test_kinds_of_pictures_are_read_as_for_training(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    expected = read_picture(tmp_path / "picture.png", "RGB")
    for source in (tmp_path / "picture.png", Image.open(tmp_path / "picture.png"), pixels):
        np.testing.assert_array_equal(read_rgb(source), expected)
    if pixels.ndim == 2:
        np.testing.assert_array_equal(read_rgb(pixels[:, :, None]), expected)


def test_exif_turns_pictures_and_their_detections(tmp_path, predictor):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "turned.jpg", exif=exif)
    for source in (tmp_path / "turned.jpg", Image.open(tmp_path / "turned.jpg")):
        assert read_rgb(source).shape == (WIDTH, HEIGHT, 3)
    assert predictor("one")(tmp_path / "turned.jpg").image_size == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (np.zeros((4, 6, 3)), r"shape \(4, 6, 3\) and type float64 is no picture: .* values from 0 to 255"),
        (np.zeros((3, 4, 6), np.uint8), r"shape \(3, 4, 6\)"),
        (np.zeros((4, 6, 3), np.uint16), "uint16"),
        (np.zeros((0, 6, 3), np.uint8), r"shape \(0, 6, 3\)"),
        (np.zeros(6, np.uint8), r"shape \(6,\)"),
        (torch.zeros(3, 4, 6), "a picture is a file, a PIL image or a numpy array, and no Tensor"),
        ("gone.jpg", r"gone\.jpg: no such file"),
        (".", r"\.: not a readable picture"),
    ],
)
def test_what_is_no_picture_is_named(source, expected):
    with pytest.raises(UserError, match=expected):
        read_rgb(source)
