import contextlib
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode

from fcos_rpn import UserError
from fcos_rpn.commands.train_net import build_argument_parser
from fcos_rpn.engine import lazy, yaml
from fcos_rpn.engine.setup import require_device, use_datasets
from tests.data.small_coco import coco_with_shapes, write_coco
from tests.tiny import tiny_config, write_coco_folder
from tests.traps import Trap


def test_classes_are_those_of_the_data_and_an_overruled_number_is_said(coco_folder, caplog):
    logging.getLogger("fcos_rpn.engine.setup").addHandler(caplog.handler)
    for num_classes in (80, 2, 5):  # the default, the data's own, another one
        cfg = tiny_config()
        cfg.MODEL.FCOS.NUM_CLASSES = num_classes
        cfg.DATASETS.TRAIN_FOLDERS = [coco_folder]
        use_datasets(cfg)
        assert cfg.MODEL.FCOS.NUM_CLASSES == cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    logging.getLogger("fcos_rpn.engine.setup").removeHandler(caplog.handler)
    assert {record.getMessage() for record in caplog.records if "NUM_CLASSES" in record.getMessage()} == {
        "NUM_CLASSES 5 of the config is replaced by 2, the number of the data sets' classes"
    }


def test_folders_to_train_on_without_any_to_test_on_mean_no_evaluation(coco_folder):
    cfg = tiny_config()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_2017_train",), ("coco_2017_val",)
    cfg.DATASETS.TRAIN_FOLDERS = [coco_folder]
    use_datasets(cfg)
    assert "coco_2017_train" not in cfg.DATASETS.TRAIN
    assert cfg.DATASETS.TEST == ()


@pytest.mark.usefixtures("detectron2_restored")
def test_run_length_encodings_stop_the_training_of_polygons_only(tmp_path):
    folder = [*map(str, write_coco(tmp_path, coco_with_shapes()))]
    for part, mask_format, is_refused in (
        ("TEST", "polygon", False),
        ("TRAIN", "polygon", True),
        ("TRAIN", "bitmask", False),
    ):
        cfg = tiny_config()
        cfg.OUTPUT_DIR = str(tmp_path)
        cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, mask_format
        cfg.DATASETS[f"{part}_FOLDERS"] = [folder]
        with pytest.raises(UserError, match=r"set INPUT\.MASK_FORMAT") if is_refused else contextlib.nullcontext():
            use_datasets(cfg, is_training=part == "TRAIN")


def test_evaluation_does_not_need_the_training_data(tmp_path, coco_folder):
    cfg = tiny_config()
    cfg.DATASETS.TRAIN = ("coco_2017_train",)  # is not on this machine, or does not matter
    cfg.DATASETS.TRAIN_FOLDERS = [[str(tmp_path / "gone"), str(tmp_path / "gone.json")]]
    cfg.DATASETS.TEST_FOLDERS = [coco_folder]
    cfg.MODEL.FCOS.NUM_CLASSES = 80
    use_datasets(cfg, is_training=False)
    assert len(cfg.DATASETS.TEST) == 1
    assert cfg.MODEL.FCOS.NUM_CLASSES == 2


def test_training_and_test_data_have_the_same_classes(tmp_path, coco_folder):
    other_json = tmp_path / "other.json"
    other_json.write_text(Path(coco_folder[1]).read_text().replace('"blue"', '"green"'))
    cfg = tiny_config()
    cfg.DATASETS.TRAIN_FOLDERS = [coco_folder]
    cfg.DATASETS.TEST_FOLDERS = [[coco_folder[0], str(other_json)]]
    with pytest.raises(UserError, match=r"different classes: only .* has blue; only .* has green"):
        use_datasets(cfg)


@pytest.mark.parametrize("is_training", [True, False])
def test_without_any_data_set_the_ways_to_name_one_are_said(is_training):
    with pytest.raises(UserError, match="--train IMAGES JSON" if is_training else "--train or --test"):
        use_datasets(tiny_config(), is_training=is_training)


def test_folders_are_pairs():
    cfg = tiny_config()
    cfg.DATASETS.TRAIN_FOLDERS = ["images", "instances.json"]
    with pytest.raises(UserError, match=r"TRAIN_FOLDERS must be a list of \[images, json\], so 'images' does not fit"):
        use_datasets(cfg)


def with_proposals(part: str, folder: list[str], *files: Path) -> CfgNode:
    cfg = tiny_config()
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.DATASETS[f"{part}_FOLDERS"] = [folder]
    cfg.DATASETS[f"PROPOSAL_FILES_{part}"] = tuple(map(str, files))
    return cfg


@pytest.mark.parametrize("part", ["TRAIN", "TEST"])
def test_files_of_proposals_hold_numbers_alone(tmp_path, coco_folder, part):
    path = tmp_path / "proposals.pkl"

    def use():
        use_datasets(with_proposals(part, coco_folder, path), is_training=part == "TRAIN")

    with pytest.raises(UserError, match=f"DATASETS.PROPOSAL_FILES_{part}: {path} is not read: .*No such file"):
        use()
    path.write_bytes(pickle.dumps({"ids": [1], "boxes": [Trap(tmp_path / "trap")]}))
    with pytest.raises(UserError, match=rf"PROPOSAL_FILES_{part}: {path} is not read: it holds more than weights"):
        use()
    assert not (tmp_path / "trap").exists()
    path.write_bytes(pickle.dumps({"ids": [1], "boxes": [np.zeros((2, 4))], "objectness_logits": [np.zeros(2)]}))
    use()


def test_every_data_set_has_a_file_of_proposals(coco_folder):
    with pytest.raises(UserError, match=r"PROPOSAL_FILES_TEST: 0 files for 1 data sets; .*box_proposals\.pkl"):
        use_datasets(with_proposals("TEST", coco_folder), is_training=False)


def test_registered_data_set_without_files_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg = tiny_config()
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    with pytest.raises(UserError, match=r"'coco_2017_train': json_file .* does not exist; .*DETECTRON2_DATASETS"):
        use_datasets(cfg)


def test_devices_that_are_missing(monkeypatch):
    for device, num_processes, num_gpus in (("cpu", 2, 0), ("cuda", 0, 1), ("cuda:0", 2, 2)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda num_gpus=num_gpus: num_gpus)
        require_device(device, num_processes)
    message = r"MODEL.DEVICE is cuda:0 and 4 of it are asked for, but this machine shows 2\. .*--num-gpus 0"
    with pytest.raises(UserError, match=message):
        require_device("cuda:0", 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="cuda and 1 of it"):
        require_device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_device("cuda:1", 1)
    with pytest.raises(UserError, match="cuda:2 and 3 of it"):
        require_device("cuda:2", 1)


def test_mps_is_looked_for(monkeypatch):
    monkeypatch.setattr(torch.mps, "device_count", lambda: 1)
    require_device("mps", 1)
    monkeypatch.setattr(torch.mps, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"MODEL.DEVICE is mps and 1 of it .* shows 0\. Train on the CPU"):
        require_device("mps", 1)


@pytest.mark.parametrize("device", ["gpu", "CUDA", "0", "meta", "", "cuda:one"])
def test_devices_that_pytorch_does_not_know(device):
    with pytest.raises(UserError, match=f"is '{device}', on which this PyTorch cannot compute; name cpu, cuda or mps"):
        require_device(device, 1)


def test_numbers_of_keypoints_that_do_not_fit_are_named(tmp_path, detectron2_restored):
    images, json_file = write_coco_folder(tmp_path / "coco")
    content = json.loads(Path(json_file).read_text())
    content["categories"][0]["keypoints"] = ["head", "tail"]
    Path(json_file).write_text(json.dumps(content))
    cfg = tiny_config("GeneralizedRCNNWithProposals")
    cfg.MODEL.KEYPOINT_ON = True
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.TRAIN_FOLDERS = [[images, json_file]]
    with pytest.raises(UserError, match=r"name 2 keypoints, but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is 17; set it 2"):
        use_datasets(cfg)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 2
    with pytest.raises(UserError, match=r"TEST.KEYPOINT_OKS_SIGMAS has 17 values .*; set one for each"):
        use_datasets(cfg)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1, 0.1]
    use_datasets(cfg)


def test_a_packaged_config_by_name_becomes_its_file(tmp_path):
    for front, name in ((yaml, "custom/fcos_mobilenet_v2.yaml"), (lazy, "lazy/fcos_R_50_FPN_1x.py")):
        args = build_argument_parser().parse_args(["--config-file", name, "--num-gpus", "0"])
        args.opts = [f"train.output_dir={tmp_path}"] if front is lazy else ["OUTPUT_DIR", str(tmp_path)]
        front.read_config(args)
        assert Path(args.config_file).is_file()  # which Detectron2's setup opens
        assert args.config_file.endswith(name)
