"""Training and evaluation of LazyConfigs: `model`, `dataloader`, `optimizer`, `lr_multiplier`, `train` in Python files.

The parts are `engine`'s: strict weights, checked data, resuming, AP and AR, messages for mistakes. `configs/lazy/` has
configs.
"""

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig, instantiate
from detectron2.engine import AMPTrainer, SimpleTrainer, default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset
from detectron2.utils import comm
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..data import TrainLoader, class_names, register_coco_folder, require_files
from ..data.loader import ImageOrder, Record, are_wide
from ..errors import UserError
from ..evaluation import FCOSWithProposals, results_table, write_results
from ..modeling.meta_arch import FCOS
from ..modeling.optimize import optimize_for_inference
from .divergence import DivergenceGuard
from .replay import Replay
from .trainer import in_fast_layout

GROUPS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
"""What a LazyConfig must define, as in Detectron2."""

# For values that follow from another one: "${fcos_rpn.equal:${..head.centerness},iou}".
OmegaConf.register_new_resolver("fcos_rpn.equal", lambda one, other: one == other, replace=True)


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
    if missing := [group for group in GROUPS if group not in cfg]:
        raise UserError(
            f"config file {path} defines no {', '.join(missing)}; a LazyConfig has {', '.join(GROUPS)}. "
            "YAML configs with keys such as MODEL.WEIGHTS belong to tools/train_net.py"
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
    if is_training and train:
        data.train.dataset.names = [register_coco_folder(*folder, output_dir=output_dir) for folder in train]
    if test:
        data.test.dataset.names = register_coco_folder(*test[0], output_dir=output_dir)
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
    """From YAML the strides come from the backbone; here they are written down."""
    core = getattr(getattr(model, "proposal_generator", model), "core", None)
    if core is None:
        return
    backbone: Any = model.backbone
    shapes = backbone.output_shape()
    if unknown := [level for level in core.in_features if level not in shapes]:
        raise UserError(f"core.in_features: the backbone has no {', '.join(unknown)}; it gives {', '.join(shapes)}")
    strides = [shapes[level].stride for level in core.in_features]
    if strides != core.strides:
        raise UserError(f"core.strides is {core.strides}, but {', '.join(core.in_features)} have {strides}")


def train(cfg: DictConfig, *, resume: bool = False, reset_class_layers: bool = False) -> Mapping[str, Any]:
    """Train from `train.init_checkpoint`, or with `resume` from the last checkpoint in `train.output_dir`.

    Args:
        cfg: its data sets are registered.
        resume: go on from the last checkpoint, if there is one.
        reset_class_layers: class layers of another shape start anew.

    Returns:
        What `evaluate_model` says in the end; {} without a data set to test on.

    Raises:
        UserError: if the weights do not fit, or the training diverged.
    """
    options = cfg.train
    num_processes, batch_size = comm.get_world_size(), cfg.dataloader.train.total_batch_size
    if batch_size % num_processes:
        raise UserError(
            f"dataloader.train.total_batch_size {batch_size} cannot be divided among {num_processes} processes: choose "
            "a multiple, and optimizer.lr with it"
        )
    if options.amp.enabled and options.device == "cpu":
        raise UserError("train.amp.enabled=True needs a GPU: Detectron2's mixed precision has none for the CPU")
    model = build_model(cfg)
    cfg.optimizer.params.model = model
    device_ids = None if options.device == "cpu" else [comm.get_local_rank()]
    trainer = (_GuardedAMPTrainer if options.amp.enabled else _GuardedTrainer)(
        create_ddp_model(model, device_ids=device_ids, **options.ddp),
        instantiate(cfg.dataloader.train),
        instantiate(cfg.optimizer),
    )
    checkpointer = FCOSCheckpointer(
        model,
        options.output_dir,
        reset_class_layers=reset_class_layers,
        class_names=class_names(_names(cfg.dataloader.train)),
        trainer=trainer,
    )
    trainer.guard = DivergenceGuard(
        max_skipped_in_a_row=options.get("skip_nonfinite_losses", 0),
        last_finite=checkpointer.last_finite,
        advice="Lower optimizer.lr, or lengthen lr_multiplier.warmup_length",
    )
    trainer.register_hooks(
        [
            trainer.guard,
            Replay(options.get("seed", -1)),
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.EvalHook(options.eval_period, lambda: evaluate_model(cfg, model), eval_after_train=False),
        ]
    )
    if comm.is_main_process():
        writers = default_writers(options.output_dir, options.max_iter)
        trainer.register_hooks(
            [
                hooks.PeriodicCheckpointer(checkpointer, **options.checkpointer),
                hooks.PeriodicWriter(writers, options.log_period),
            ]
        )
    checkpointer.resume_or_load(options.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.train(start, options.max_iter)
    return evaluate_model(cfg, model)


class _GuardedTrainer(SimpleTrainer):
    """Stops, or skips a step, where the loss is not finite."""

    guard: DivergenceGuard

    def run_step(self) -> None:
        with self.guard.watch(self.model):
            super().run_step()


class _GuardedAMPTrainer(_GuardedTrainer, AMPTrainer):
    """The same in mixed precision."""


def evaluate(cfg: DictConfig, *, resume: bool = False) -> Mapping[str, Any]:
    """`evaluate_model` of a new model with all of its weights from `train.init_checkpoint`, or the last checkpoint.

    Raises:
        UserError: if there are no weights, or they do not fit the model.
    """
    model = build_model(cfg)
    FCOSCheckpointer(model, cfg.train.output_dir, require_all=True).resume_or_load(
        cfg.train.init_checkpoint, resume=resume
    )
    return evaluate_model(cfg, model)


def evaluate_model(cfg: DictConfig, model: nn.Module) -> Mapping[str, Any]:
    """Results by task and metric, in percent; prints a table and writes `results.json`. {} but on the main process."""
    if not (names := _test_names(cfg)):
        return {}
    was_training = model.training
    optimize_for_inference(model.eval())
    shown = FCOSWithProposals(model) if isinstance(model, FCOS) else model
    found = inference_on_dataset(shown, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator))
    model.train(was_training)
    if comm.is_main_process():
        name = ", ".join(names)
        logging.getLogger(__name__).info("Results on %s, in percent:\n%s", name, results_table(found))
        write_results(Path(cfg.train.output_dir) / "results.json", {name: found})
    return found
