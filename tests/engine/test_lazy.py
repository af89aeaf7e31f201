"""The mistakes and the bookkeeping of LazyConfigs; `test_train_net` trains and evaluates one."""

import itertools

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from fcos_rpn import UserError
from fcos_rpn.engine import lazy
from fcos_rpn.engine.yaml import build_train_loader
from fcos_rpn.model_zoo import get_config, get_config_file
from tests.data.small_coco import coco_with_shapes, write_coco

FILE = get_config_file("lazy/fcos_R_50_FPN_1x.py")


def test_overrides_change_values_and_reach_into_lists():
    shortest = "dataloader.train.mapper.augmentations.0.short_edge_length=[160,320]"
    cfg = lazy.load(FILE, ["model.core.head.norm=BN", "optimizer.lr=0.5", "+train.note=mine", shortest])
    assert (cfg.model.core.head.norm, cfg.optimizer.lr, cfg.train.note) == ("BN", 0.5, "mine")
    assert cfg.dataloader.train.mapper.augmentations[0].short_edge_length == [160, 320]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.core.head.nrom=BN", r"no config key model\.core\.head\.nrom\. Did you mean model\.core\.head\.norm"),
        ("optimizer.lr", r"'optimizer\.lr' is no KEY=VALUE pair"),
        ("optimizer.lr=[0.1", r"command line: "),
        ("dataloader.train.mapper.augmentations.9.x=1", r"no config key dataloader\.train\.mapper\.augmentations\.9"),
    ],
)
def test_mistakes_in_overrides_are_named(override, message):
    with pytest.raises(UserError, match=message) as error:
        lazy.load(FILE, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model = {", "SyntaxError"),
        ("from fcos_rpn import Missing", "ImportError: .*Missing"),
        ("model = dict()\ntrain = dict()", "defines no dataloader, optimizer, lr_multiplier;"),
        (
            "model = train = dataloader = optimizer = lr_multiplier = dict(a='${model.b}')",
            "Interpolation key 'model.b' not found",
        ),
    ],
)
def test_config_files_that_fail_are_named(tmp_path, content, message):
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UserError, match=rf"config file {tmp_path}/mine\.py.*{message}"):
        lazy.load(str(tmp_path / "mine.py"))
    with pytest.raises(UserError, match=r"no config file .*gone\.py"):
        lazy.load(str(tmp_path / "gone.py"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+model.core.head.depth=3", "the model cannot be built: .*depth"),
        ("model.core.strides=[4,8,16,32,64]", r"core\.strides is \[4, .*, but p3, .* have \[8, 16, 32, 64, 128\]"),
        ("model.core.in_features=[p2,p4,p5,p6,p7]", r"core\.in_features: the backbone has no p2; it gives p3"),
    ],
)
def test_models_that_do_not_fit_together_are_named(override, message):
    cfg = lazy.load(FILE, [override, "train.device=meta"])
    with torch.device("meta"), pytest.raises(UserError, match=message):
        lazy.build_model(cfg)


@pytest.mark.parametrize(
    ("name", "key", "agnostic"),
    [
        ("fcos_R_50_FPN_1x", "model.core.assigner.num_classes", None),
        (
            "faster_rcnn_fcos_rpn_R_50_FPN_1x",
            "model.roi_heads.box_predictor.num_classes",
            "model.proposal_generator.core.head.num_classes",
        ),
        ("fcos_rpn_R_50_FPN_1x", "model.proposal_generator.core.head.num_classes", None),
    ],
)
def test_folders_take_the_data_sets_place(coco_folder, tmp_path, name, key, agnostic):
    """The two classes of the data reach the role; proposals know one."""
    cfg = lazy.load(get_config_file(f"lazy/{name}.py"))
    cfg.train.output_dir = str(tmp_path / "output")
    cfg.train.folders = {"train": [coco_folder], "test": [coco_folder]}
    lazy.use_folders(cfg)
    assert len(cfg.dataloader.train.dataset.names) == 1
    assert cfg.dataloader.evaluator.dataset_name == cfg.dataloader.test.dataset.names != "coco_2017_val"
    assert OmegaConf.select(cfg, key) == (1 if name.startswith("fcos_rpn") else 2)
    assert agnostic is None or OmegaConf.select(cfg, agnostic) == 1


@pytest.mark.usefixtures("detectron2_restored")
def test_run_length_encodings_stop_the_training_of_polygons_only(tmp_path):
    folder = [*map(str, write_coco(tmp_path, coco_with_shapes()))]
    cfg = lazy.load(get_config_file("lazy/faster_rcnn_fcos_rpn_R_50_FPN_1x.py"))
    cfg.train.output_dir = str(tmp_path)
    cfg.model.roi_heads.mask_head = {"conv_dims": [8]}
    cfg.train.folders = {"train": [], "test": [folder]}
    lazy.use_folders(cfg, is_training=False)
    cfg.train.folders.train = [folder]
    with pytest.raises(UserError, match=r"set INPUT\.MASK_FORMAT bitmask \(in a LazyConfig instance_mask_format"):
        lazy.use_folders(cfg)
    cfg.dataloader.train.mapper.instance_mask_format = "bitmask"
    lazy.use_folders(cfg)


@pytest.mark.parametrize("grouping", [True, False])
def test_images_come_in_the_same_order_as_from_yaml(coco_folder, tmp_path, grouping):
    """One of the four images is wider than tall, so that grouping matters."""
    cfg = lazy.load(FILE, ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0"])
    cfg.train.output_dir = str(tmp_path / "output")
    cfg.train.folders = {"train": [coco_folder], "test": []}
    cfg.dataloader.train.aspect_ratio_grouping = grouping
    lazy.use_folders(cfg)
    yaml_cfg = get_config("COCO-Detection/fcos_R_50_FPN_1x.yaml")
    yaml_cfg.DATASETS.TRAIN = tuple(cfg.dataloader.train.dataset.names)
    yaml_cfg.SOLVER.IMS_PER_BATCH = 2
    yaml_cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    loaders = instantiate(cfg.dataloader.train), build_train_loader(yaml_cfg)
    found, expected = ([*itertools.islice(loader.places(), 9)] for loader in loaders)
    assert found == expected


def test_folders_to_train_on_without_one_to_test_on_mean_no_evaluation(coco_folder, tmp_path):
    cfg = lazy.load(FILE)
    cfg.train.output_dir = str(tmp_path / "output")
    cfg.train.folders = {"train": [coco_folder], "test": []}
    lazy.use_folders(cfg)  # does not look for COCO
    assert lazy.evaluate(cfg, torch.nn.Identity()) == {}
    with pytest.raises(UserError, match="--test IMAGES JSON"):
        lazy.use_folders(cfg, is_training=False)
    cfg.train.folders.test = [coco_folder, coco_folder]
    with pytest.raises(UserError, match="evaluates one data set"):
        lazy.use_folders(cfg)


def test_batch_must_be_divisible_among_the_processes(monkeypatch):
    monkeypatch.setattr("fcos_rpn.engine.trainer.comm.get_world_size", lambda: 3)
    with pytest.raises(UserError, match=r"total_batch_size 16 cannot be divided among 3 processes"):
        lazy.build_trainer(lazy.load(FILE))


def test_mixed_precision_on_the_cpu_is_refused():
    with pytest.raises(UserError, match=r"train\.amp\.precision float16 needs a GPU"):
        lazy.build_trainer(lazy.load(FILE, ["train.amp.enabled=True", "train.device=cpu"]))


def test_optimizer_and_schedule_are_those_of_a_model_that_is_given(coco_folder, tmp_path):
    cfg = lazy.load(FILE, ["train.device=cpu", "dataloader.train.num_workers=0"])
    cfg.train.output_dir = str(tmp_path / "output")
    cfg.train.folders = {"train": [list(coco_folder)], "test": []}
    lazy.use_folders(cfg)
    model = torch.nn.Linear(1, 1)
    trainer = lazy.build_trainer(cfg, model=model, evaluate=None)
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    assert {*map(id, parameters)} == {*map(id, model.parameters())}
    assert trainer.scheduler.optimizer is trainer.optimizer
