"""From a LazyConfig to the parts of a training and of an evaluation.

A LazyConfig is a Python file that defines `model`, `dataloader`, `optimizer`, `lr_multiplier` and `train`.
`configs/lazy/` has examples.
"""

import argparse
import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_setup
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ..config import LAZY_GROUPS
from ..data import TrainLoader, class_names, register_coco_folder, require_files
from ..data.loader import ImageOrder, Record, are_wide
from ..errors import UserError, make_folder
from ..model_zoo import find_config
from ..modeling.find import find_fcos
from .evaluate import EvaluationSet, evaluate_model, load_all_weights
from .setup import require_device
from .trainer import Trainer, autocast_precision, in_fast_layout, require_divisible

KEYS = {
    "lr": "optimizer.lr",
    "warmup": "lr_multiplier.warmup_length",
    "momentum": "optimizer.momentum",
    "weight_decay": "optimizer.weight_decay",
    "clipping": "a clipping optimizer",
    "seed": "train.seed",
    "weights": "train.init_checkpoint",
    "output_dir": "train.output_dir",
}
"""What messages of the `Trainer` call its settings."""

# For values that follow from another one: "${fcos_rpn.equal:${..head.centerness},iou}".
OmegaConf.register_new_resolver("fcos_rpn.equal", lambda one, other: one == other, replace=True)


def prepare(args: argparse.Namespace, num_processes: int) -> tuple[str, Callable[[], None]]:
    """Read the config of a command line; see `launch.Prepare`."""
    device = read_config(args, num_processes).train.device
    return device, functools.partial(run, args, num_processes)  # a config holds code, which each process reads itself


def read_config(args: argparse.Namespace, num_processes: int = 1) -> DictConfig:
    """Read config file, overrides and flags, in this order, for as many processes on this machine.

    Raises:
        UserError: on a mistake in them, a missing device, or an output folder that cannot be made.
    """
    args.config_file = str(find_config(args.config_file))  # Detectron2's setup reads the file once more
    cfg = load(args.config_file, args.opts)
    if args.num_gpus == 0:
        cfg.train.device = "cpu"
    folders = cfg.train.get("folders", {})
    cfg.train.folders = {"train": args.train or folders.get("train", []), "test": args.test or folders.get("test", [])}
    require_device(cfg.train.device, num_processes, key="train.device", on_cpu="train.device=cpu")
    make_folder(Path(cfg.train.output_dir))
    return cfg


def run(args: argparse.Namespace, num_processes: int) -> None:
    """Train or evaluate in one process of a job."""
    cfg = read_config(args, num_processes)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="fcos_rpn", abbrev_name="fcos_rpn")
    use_folders(cfg, is_training=not args.eval_only)
    default_setup(cfg, args)
    if args.eval_only:
        evaluate_weights(cfg, resume=args.resume)
    else:
        trainer = build_trainer(cfg, reset_class_layers=args.reset_class_layers)
        trainer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
        trainer.train()


def load(path: str, overrides: Sequence[str] = ()) -> DictConfig:
    """A config file, Python or the YAML that a training wrote, with the command line's KEY=VALUE pairs.

    Both are code of the user's own and can run anything.

    Raises:
        UserError: if the file is missing, fails or lacks a group, a key is unknown, or an interpolation leads nowhere.
    """
    if not Path(path).is_file():
        raise UserError(f"no config file {path!r}; name one like configs/lazy/fcos_R_50_FPN_1x.py with --config-file")
    try:
        cfg = LazyConfig.load(path)
    except Exception as error:  # whatever its code raises
        raise UserError(f"config file {path}: {type(error).__name__}: {error}") from error
    if missing := [group for group in LAZY_GROUPS if group not in cfg]:
        raise UserError(
            f"config file {path} defines no {', '.join(missing)}; a LazyConfig has {', '.join(LAZY_GROUPS)}. "
            "A config with keys such as MODEL.WEIGHTS is a YAML file"
        )
    _override(cfg, overrides)
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"config file {path}: {' '.join(str(error).split())}") from error
    return cfg


def _override(cfg: DictConfig, overrides: Sequence[str]) -> None:
    known = _keys(cfg)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise UserError(f"command line: {override!r} is no KEY=VALUE pair, such as train.max_iter=1000")
        if not key.startswith("+") and key not in known:
            similar = difflib.get_close_matches(key, known, n=3)
            hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
            raise UserError(f"command line: there is no config key {key}.{hint} To add one, write +{override}")
    try:
        LazyConfig.apply_overrides(cfg, list(overrides))
    except (OverrideParseException, OmegaConfBaseException, KeyError, NotImplementedError) as error:
        raise UserError(f"command line: {str(error).splitlines()[0]}") from error


def _keys(node: Any, prefix: str = "") -> set[str]:
    """All of them, groups and items of lists included; what an interpolation points to is not looked into."""
    names = range(len(node)) if isinstance(node, ListConfig) else node
    keys = {f"{prefix}{name}" for name in names}
    for name in names:
        if not OmegaConf.is_interpolation(node, name) and OmegaConf.is_config(node[name]):
            keys |= _keys(node[name], f"{prefix}{name}.")
    return keys


def use_folders(cfg: DictConfig, *, is_training: bool = True) -> None:
    """Register the folders in COCO's format of `train.folders`, and take the number of classes from the data sets.

    They replace the data sets of `dataloader`. Folders to train on without one to test on mean that nothing is
    evaluated: the config's own test set has other classes.

    Args:
        cfg: changed in place: data sets and numbers of classes.
        is_training: whether the training data will be needed.

    Raises:
        UserError: if a data set is missing, unknown or broken, two have different classes, or there are two to test on.
    """
    folders, data, output_dir = cfg.train.get("folders", {}), cfg.dataloader, cfg.train.output_dir
    train, test = folders.get("train", []), folders.get("test", [])
    if len(test) > 1:
        raise UserError("--test: a LazyConfig evaluates one data set; give one folder")
    roi_heads = cfg.model.get("roi_heads") or {}
    register = functools.partial(
        register_coco_folder,
        output_dir=output_dir,
        with_masks=bool(roi_heads.get("mask_head")),
        with_keypoints=bool(roi_heads.get("keypoint_head")),
    )
    if is_training and train:
        mask_format = (data.train.get("mapper") or {}).get("instance_mask_format", "polygon")
        data.train.dataset.names = [register(*folder, mask_format=mask_format) for folder in train]
    if test:
        data.test.dataset.names = register(*test[0], mask_format="bitmask")
    used = [*(_names(data.train) if is_training else ()), *_test_names(cfg)]
    if not used:
        raise UserError("there is nothing to evaluate: name a data set in dataloader.test, or give --test IMAGES JSON")
    for name in used:
        require_files(name)
    set_num_classes(cfg.model, len(class_names(used)))


def _names(loader: DictConfig) -> list[str]:
    names = loader.dataset.names
    return [names] if isinstance(names, str) else list(names)


def _test_names(cfg: DictConfig) -> list[str]:
    folders = cfg.train.get("folders", {})
    is_evaluated = folders.get("test") or not folders.get("train")
    return _names(cfg.dataloader.test) if is_evaluated and cfg.dataloader.get("test") else []


def set_num_classes(model: DictConfig, num_classes: int) -> None:
    """Of either role; what else depends on the number follows from it."""
    if "roi_heads" in model:
        model.roi_heads.num_classes = num_classes
    elif "core" in model:
        model.core.head.num_classes = num_classes


def train_loader(
    dataset: Sequence[Record],
    *,
    mapper: Callable[[Record], Any],
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
) -> TrainLoader:
    """A `TrainLoader` by the arguments of Detectron2's `build_detection_train_loader`, in whose place it stands."""
    is_wide = are_wide(dataset) if aspect_ratio_grouping else [False] * len(dataset)
    order = ImageOrder(is_wide)
    return TrainLoader(dataset, mapper, order=order, batch_size=total_batch_size, num_workers=num_workers)


def build_model(cfg: DictConfig) -> nn.Module:
    """
    Raises:
        UserError: if an argument is unknown or missing, or strides are not those of the backbone.
    """
    try:
        model = instantiate(cfg.model)
    except TypeError as error:
        raise UserError(f"config: the model cannot be built: {error}") from error
    _require_strides(model)
    return in_fast_layout(model.to(cfg.train.device), cfg.train.device)


def _require_strides(model: nn.Module) -> None:
    """Compare the strides that the config writes down with those of the backbone."""
    parts = find_fcos(model)
    if parts is None:
        return
    core = parts.core
    backbone: Any = model.backbone
    shapes = backbone.output_shape()
    if unknown := [level for level in core.in_features if level not in shapes]:
        raise UserError(f"core.in_features: the backbone has no {', '.join(unknown)}; it gives {', '.join(shapes)}")
    strides = [shapes[level].stride for level in core.in_features]
    if strides != core.strides:
        raise UserError(f"core.strides is {core.strides}, but {', '.join(core.in_features)} have {strides}")


def build_trainer(cfg: DictConfig, **instead: Any) -> Trainer:
    """Build the training of a config.

    Args:
        cfg: its data sets are registered.
        instead: arguments of `Trainer` that take the place of the config's. The optimizer is built for a model that is
            given here, and the schedule for an optimizer.
    """
    batch_size = cfg.dataloader.train.total_batch_size
    require_divisible("dataloader.train.total_batch_size", batch_size, "optimizer.lr")
    options = cfg.train
    precision = precision_of(cfg)
    model = instead["model"] if "model" in instead else build_model(cfg)
    cfg.optimizer.params.model = model
    optimizer = instead.get("optimizer") or instantiate(cfg.optimizer)
    parts = {
        "model": model,
        "loader": instantiate(cfg.dataloader.train),
        "optimizer": optimizer,
        "scheduler": LRMultiplier(optimizer, instantiate(cfg.lr_multiplier), options.max_iter),
        "max_iter": options.max_iter,
        "output_dir": options.output_dir,
        "evaluate": functools.partial(evaluate, cfg) if _test_names(cfg) else None,
        "eval_period": options.eval_period,
        "checkpoint_period": options.checkpointer.period,
        "checkpoints_kept": options.checkpointer.get("max_to_keep"),
        "log_period": options.log_period,
        "seed": options.get("seed", -1),
        "precision": precision,
        "max_skipped_in_a_row": options.get("skip_nonfinite_losses", 0),
        "class_names": class_names(_names(cfg.dataloader.train)),
        "ddp": options.ddp,
        "keys": KEYS,
    }
    return Trainer(**{**parts, **instead})


def precision_of(cfg: DictConfig) -> torch.dtype | None:
    amp, key = cfg.train.amp, "train.amp.precision"
    return autocast_precision(amp.get("precision", "float16"), cfg.train.device, key=key, is_enabled=amp.enabled)


def evaluate_weights(cfg: DictConfig, *, resume: bool = False) -> Mapping[str, Any]:
    """Evaluate `train.init_checkpoint` or, with `resume`, the last checkpoint of `train.output_dir`."""
    model = build_model(cfg)
    weights, output_dir = cfg.train.init_checkpoint, cfg.train.output_dir
    names = class_names(_test_names(cfg))
    load_all_weights(model, weights, output_dir=output_dir, resume=resume, class_names=names)
    return evaluate(cfg, model)


def evaluate(cfg: DictConfig, model: nn.Module) -> Mapping[str, Any]:
    """Evaluate a model on the config's test set; see `evaluate_model`. {} without one."""
    if not (names := _test_names(cfg)):
        return {}
    data = cfg.dataloader
    test_set = EvaluationSet(
        ", ".join(names), functools.partial(instantiate, data.test), functools.partial(instantiate, data.evaluator)
    )
    return evaluate_model(model, [test_set], output_dir=cfg.train.output_dir, precision=precision_of(cfg))
