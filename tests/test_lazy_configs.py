"""Every LazyConfig of configs/lazy/ is the YAML of its name: the same model, data, optimizer and schedule."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.config import LazyCall as L
from detectron2.modeling import build_model
from detectron2.modeling.backbone import SwinTransformer
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from fcos_rpn import FCOSAssigner, FCOSLosses, FCOSPostProcessor, model_zoo
from fcos_rpn.data import CheckedDatasetMapper
from fcos_rpn.engine import lazy
from tests.tiny import tiny_batch

FOLDER = Path(__file__).parents[1] / "configs" / "lazy"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
PARTS = FCOSAssigner, FCOSLosses, FCOSPostProcessor, Matcher, Box2BoxTransform
"""Of a model, that are no modules."""


@pytest.fixture(params=NAMES)
def pair(request) -> tuple[CfgNode, DictConfig]:
    """The YAML and the LazyConfig of a name."""
    return (
        model_zoo.get_config(f"COCO-Detection/{request.param}.yaml"),
        model_zoo.get_config(f"lazy/{request.param}.py"),
    )


def test_there_is_one_of_each_role():
    targets = {model_zoo.get_config(f"lazy/{name}.py").model._target_.__name__ for name in NAMES}
    assert targets == {"FCOS", "BatchedProposalNetwork", "GeneralizedRCNNWithProposals"}


def plain(value: Any) -> Any:
    """Without what tells apart lists from omegaconf's and from tuples."""
    if isinstance(value, list | tuple | ListConfig):
        return [plain(item) for item in value]
    if isinstance(value, PARTS):
        value = vars(value)
    if isinstance(value, dict | DictConfig):
        return {name: plain(item) for name, item in value.items()}
    return type(value).__name__ if isinstance(value, nn.Module) else value


def settings(model: nn.Module) -> dict[str, Any]:
    """The hyper-parameters of all modules and of the parts that are none."""
    kinds = int, float, str, list, tuple, ListConfig, dict, DictConfig, *PARTS
    return {
        f"{path}.{name}": plain(value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, kinds) and not name.startswith("_")
    }


def test_models_are_the_same(pair):
    """Of full size, and without memory for their weights."""
    cfg, config = pair
    cfg.MODEL.DEVICE = config.train.device = "meta"
    with torch.device("meta"):
        one, other = build_model(cfg), lazy.build_model(config)
    assert repr(one) == repr(other)
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (one, other)]
    assert shapes[0] == shapes[1]
    trained = [{key for key, value in model.named_parameters() if value.requires_grad} for model in (one, other)]
    assert trained[0] == trained[1]
    found, expected = settings(other), settings(one)
    assert found == expected
    for part in ("core.assigner", "core.loss_functions", "postprocessor"):
        assert any(key.endswith(part) for key in expected)
    assert plain(config.model.pixel_mean) == cfg.MODEL.PIXEL_MEAN
    assert plain(config.model.pixel_std) == cfg.MODEL.PIXEL_STD


def test_data_is_the_same(pair):
    cfg, config = pair
    data = config.dataloader
    assert data.train.dataset.names == list(cfg.DATASETS.TRAIN)
    assert (data.test.dataset.names,) == tuple(cfg.DATASETS.TEST)
    assert data.train.dataset.filter_empty == cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert data.train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert data.train.num_workers == data.test.num_workers == cfg.DATALOADER.NUM_WORKERS
    for part, is_train in (("train", True), ("test", False)):
        one, other = CheckedDatasetMapper(cfg, is_train), instantiate(data[part].mapper)
        resized, expected = (
            [
                (type(step), {name: plain(value) for name, value in vars(step).items()})
                for step in mapper.augmentations.augs
            ]
            for mapper in (other, one)
        )
        assert resized == expected
        compared = ("is_train", "image_format", "use_instance_mask", "use_keypoint", "recompute_boxes")
        assert [getattr(other, name) for name in compared] == [getattr(one, name) for name in compared]


def test_optimizer_and_schedule_are_the_same(pair):
    cfg, config = pair
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))
    one = build_optimizer(cfg, model)
    config.optimizer.params.model = model
    other = instantiate(config.optimizer)
    assert type(one).__name__ == type(other).__name__ == "SGD"
    compared = ("lr", "momentum", "nesterov", "weight_decay")
    groups = [
        [{name: group[name] for name in compared} for group in optimizer.param_groups] for optimizer in (one, other)
    ]
    assert groups[0] == groups[1]

    schedule, multiplier = build_lr_scheduler(cfg, one), instantiate(config.lr_multiplier)
    for iteration in (0, 1, 499, 500, 999, 1000, 59_999, 60_000, 79_999, 80_000, 89_999):
        expected = schedule._multiplier(iteration / cfg.SOLVER.MAX_ITER)
        assert multiplier(iteration / config.train.max_iter) == pytest.approx(expected), iteration


def test_the_rest_of_the_training_is_the_same(pair):
    cfg, config = pair
    train = config.train
    assert (train.init_checkpoint, train.max_iter) == (cfg.MODEL.WEIGHTS, cfg.SOLVER.MAX_ITER)
    assert (train.device, train.seed, train.output_dir) == (cfg.MODEL.DEVICE, cfg.SEED, cfg.OUTPUT_DIR)
    assert (train.checkpointer.period, train.eval_period) == (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD)


@pytest.mark.parametrize(("centerness", "predicts_iou", "computes"), [("iou", True, False), ("computed", False, True)])
def test_what_follows_from_a_value_follows_when_it_changes(centerness, predicts_iou, computes):
    """In YAML `from_config` derives it; here interpolations do."""
    for name in NAMES:
        model = model_zoo.get_config(f"lazy/{name}.py").model
        role = model.get("proposal_generator", model)
        role.core.head.centerness = centerness
        role.core.head.num_classes = 7
        assert role.core.assigner.num_classes == 7
        assert role.core.loss_functions.predicts_iou is predicts_iou
        selections = [role[key] for key in role if key.endswith("postprocessor")]
        assert selections
        assert all(selection.computes_centerness is computes for selection in selections)


def test_a_network_of_detectron2_without_a_builder_for_yaml_trains_a_step():
    config = model_zoo.get_config("lazy/fcos_R_50_FPN_1x.py")
    backbone = config.model.backbone
    backbone.bottom_up = L(SwinTransformer)(
        embed_dim=8,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_size=2,
        drop_path_rate=0.0,
        out_indices=(1, 2, 3),
    )
    backbone.in_features = ["p1", "p2", "p3"]
    backbone.out_channels = 32
    config.train.device = "cpu"
    model = lazy.build_model(config)
    shapes = model.backbone.output_shape()
    assert {level: shape.stride for level, shape in shapes.items()} == {f"p{n}": 2**n for n in range(3, 8)}
    with EventStorage():
        losses = model(tiny_batch([(128, 128), (128, 128)], (2, 0)))
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_saved_config_is_the_same_model(pair, tmp_path):
    _, config = pair
    lazy.LazyConfig.save(config, str(tmp_path / "config.yaml"))
    assert not (tmp_path / "config.yaml.pkl").exists()
    saved = lazy.load(str(tmp_path / "config.yaml"))
    assert OmegaConf.select(saved, "model.backbone.bottom_up.stages.depth") == 50
    with torch.device("meta"):
        assert repr(instantiate(saved.model)) == repr(instantiate(config.model))
