"""From a YAML config to the parts of a training and of an evaluation."""

import argparse
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, default_setup, hooks
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.modeling import build_model as detectron2_build_model
from detectron2.solver import build_lr_scheduler
from detectron2.solver import build_optimizer as detectron2_build_optimizer
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from .. import evaluation
from ..config import read_config as read_config_file
from ..config import require_registered_parts
from ..data import CheckedDatasetMapper, TrainLoader, class_names
from ..data.proposals import records_with_proposals
from ..errors import UserError, make_folder, require_one_of
from ..model_zoo import find_config
from ..modeling.meta_arch import FCOS
from ..modeling.tta import FCOSWithTTA
from .evaluate import EvaluationSet, evaluate_model, load_all_weights
from .setup import require_device, use_datasets
from .trainer import Trainer, autocast_precision, in_fast_layout, require_divisible

CLIP_TYPES = ("value", "norm", "full_model")

KEYS = {
    "lr": "SOLVER.BASE_LR",
    "warmup": "SOLVER.WARMUP_ITERS",
    "momentum": "SOLVER.MOMENTUM",
    "weight_decay": "SOLVER.WEIGHT_DECAY",
    "clipping": "SOLVER.CLIP_GRADIENTS.ENABLED True",
    "seed": "SEED",
    "weights": "MODEL.WEIGHTS",
    "output_dir": "OUTPUT_DIR",
}
"""What messages of the `Trainer` call its settings."""


def prepare(args: argparse.Namespace, num_processes: int) -> tuple[str, Callable[[], None]]:
    """Read the config of a command line; see `launch.Prepare`."""
    cfg = read_config(args, num_processes)
    return cfg.MODEL.DEVICE, functools.partial(run, cfg, args)


def read_config(args: argparse.Namespace, num_processes: int = 1) -> CfgNode:
    """Read config file, overrides and flags, in this order, for as many processes on this machine.

    Raises:
        UserError: on a mistake in them, a missing device, or an output folder that cannot be made.
    """
    args.config_file = str(find_config(args.config_file))  # Detectron2's setup reads the file once more
    cfg = read_config_file(args.config_file, args.opts)
    if args.num_gpus == 0:
        cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN_FOLDERS = args.train or cfg.DATASETS.TRAIN_FOLDERS
    cfg.DATASETS.TEST_FOLDERS = args.test or cfg.DATASETS.TEST_FOLDERS
    require_device(cfg.MODEL.DEVICE, num_processes)
    make_folder(Path(cfg.OUTPUT_DIR))
    return cfg


def run(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Train or evaluate in one process of a job."""
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fcos_rpn", abbrev_name="fcos_rpn")
    use_datasets(cfg, is_training=not args.eval_only)
    cfg.freeze()
    default_setup(cfg, args)
    if args.eval_only:
        evaluate_weights(cfg, resume=args.resume)
    else:
        trainer = build_trainer(cfg, reset_class_layers=args.reset_class_layers)
        trainer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        trainer.train()


def build_trainer(cfg: CfgNode, **instead: Any) -> Trainer:
    """Build the training of a config.

    Args:
        cfg: the whole config; its data sets are registered.
        instead: arguments of `Trainer` that take the place of the config's. The optimizer is built for a model that is
            given here, and the schedule for an optimizer.
    """
    if (reference := cfg.SOLVER.REFERENCE_WORLD_SIZE) and cfg.SOLVER.IMS_PER_BATCH % reference:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among the "
            f"SOLVER.REFERENCE_WORLD_SIZE of {reference} processes that it is meant for"
        )
    cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
    require_divisible("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, "SOLVER.BASE_LR")
    precision = precision_of(cfg)
    model = instead["model"] if "model" in instead else build_model(cfg)
    optimizer = instead.get("optimizer") or build_optimizer(cfg, model)
    parts = {
        "model": model,
        "loader": build_train_loader(cfg),
        "optimizer": optimizer,
        "scheduler": build_lr_scheduler(cfg, optimizer),
        "max_iter": cfg.SOLVER.MAX_ITER,
        "output_dir": cfg.OUTPUT_DIR,
        "evaluate": functools.partial(evaluate, cfg),
        "eval_period": cfg.TEST.EVAL_PERIOD,
        "checkpoint_period": cfg.SOLVER.CHECKPOINT_PERIOD,
        "seed": cfg.SEED,
        "precision": precision,
        "max_skipped_in_a_row": cfg.SOLVER.SKIP_NONFINITE_LOSSES,
        "class_names": class_names(cfg.DATASETS.TRAIN),
        "before_evaluation": precise_bn(cfg, model),
        "keys": KEYS,
    }
    return Trainer(**{**parts, **instead})


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model on its device, with random weights.

    Raises:
        UserError: if the config names a part that nobody registered, or parts do not fit together.
    """
    require_registered_parts(cfg)
    return in_fast_layout(detectron2_build_model(cfg), cfg.MODEL.DEVICE)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build Detectron2's optimizer, with one more `SOLVER.CLIP_GRADIENTS.CLIP_TYPE`: "full_model" bounds the norm of
    all gradients together, where "norm" bounds that of each parameter.

    Raises:
        UserError: if there is no such way to clip.
    """
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if clipping.ENABLED:
        require_one_of("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clipping.CLIP_TYPE, CLIP_TYPES)
    if not clipping.ENABLED or clipping.CLIP_TYPE != "full_model":
        return detectron2_build_optimizer(cfg, model)
    unclipped = cfg.clone()
    unclipped.defrost()
    unclipped.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = detectron2_build_optimizer(unclipped, model)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def clip(*step: Any) -> None:
        nn.utils.clip_grad_norm_(parameters, clipping.CLIP_VALUE, clipping.NORM_TYPE)

    optimizer.register_step_pre_hook(clip)
    return optimizer


def precision_of(cfg: CfgNode) -> torch.dtype | None:
    amp, key = cfg.SOLVER.AMP, "SOLVER.AMP.PRECISION"
    return autocast_precision(amp.PRECISION, cfg.MODEL.DEVICE, key=key, is_enabled=amp.ENABLED)


def precise_bn(cfg: CfgNode, model: nn.Module) -> list[HookBase]:
    """Detectron2's hook that measures the statistics of batch normalizations anew, if `TEST.PRECISE_BN` wants it."""
    if not (cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(model)):
        return []
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = 0
    loader = build_train_loader(cfg)
    return [hooks.PreciseBN(cfg.TEST.EVAL_PERIOD, model, loader, cfg.TEST.PRECISE_BN.NUM_ITER)]


def build_train_loader(cfg: CfgNode) -> TrainLoader:
    """Build the loader of the training images."""
    return TrainLoader(cfg, CheckedDatasetMapper(cfg, is_train=True))


def build_test_loader(cfg: CfgNode, dataset_name: str) -> Any:
    """Build the loader of a test set: every image once, in order."""
    mapper = CheckedDatasetMapper(cfg, is_train=False)
    if not cfg.MODEL.LOAD_PROPOSALS:
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)
    file = cfg.DATASETS.PROPOSAL_FILES_TEST[cfg.DATASETS.TEST.index(dataset_name)]
    records = records_with_proposals(dataset_name, file)
    return build_detection_test_loader(records, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS)


def build_evaluator(cfg: CfgNode, dataset_name: str) -> evaluation.FCOSEvaluator:
    """Build the evaluator of a test set."""
    return evaluation.build_evaluator(
        dataset_name,
        output_dir=Path(cfg.OUTPUT_DIR) / "inference" / dataset_name,
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        api=cfg.TEST.COCO_API,
        max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        detectron2_ar=cfg.TEST.DETECTRON2_AR,
    )


def evaluate_weights(cfg: CfgNode, *, resume: bool = False) -> Mapping[str, Any]:
    """Evaluate `MODEL.WEIGHTS` or, with `resume`, the last checkpoint of `OUTPUT_DIR`; see `load_all_weights`.

    With `TEST.AUG.ENABLED` it is evaluated a second time, with test-time augmentation.
    """
    model = build_model(cfg)
    names = class_names(cfg.DATASETS.TEST)
    load_all_weights(model, cfg.MODEL.WEIGHTS, output_dir=cfg.OUTPUT_DIR, resume=resume, class_names=names)
    return evaluate(cfg, model, with_tta=cfg.TEST.AUG.ENABLED)


def evaluate(
    cfg: CfgNode, model: nn.Module, *, with_tta: bool = False, show_progress: bool = False
) -> Mapping[str, Any]:
    """Evaluate a model on all of `DATASETS.TEST`; see `evaluate_model`.

    Args:
        with_tta: a second time with test-time augmentation. Its tasks end in `_TTA`; its files are in `OUTPUT_DIR/TTA`.
        show_progress: draw a bar.
    """
    return evaluate_model(
        model,
        evaluation_sets(cfg, with_tta=with_tta),
        output_dir=cfg.OUTPUT_DIR,
        precision=precision_of(cfg),
        show_progress=show_progress,
    )


def evaluation_sets(cfg: CfgNode, *, with_tta: bool = False) -> Iterator[EvaluationSet]:
    """Each of `DATASETS.TEST`; with test-time augmentation each twice."""
    augmented = cfg.clone()
    augmented.defrost()
    augmented.INPUT.MIN_SIZE_TEST = 0  # loads pictures as they are: the augmentation resizes them, and twice would blur
    augmented.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "TTA")
    for name in cfg.DATASETS.TEST:
        yield _evaluation_set(cfg, name)
        if with_tta:
            wrap = functools.partial(with_test_time_augmentation, augmented)
            yield _evaluation_set(augmented, name)._replace(suffix="_TTA", wrap=wrap)


def _evaluation_set(cfg: CfgNode, name: str) -> EvaluationSet:
    return EvaluationSet(
        name, functools.partial(build_test_loader, cfg, name), functools.partial(build_evaluator, cfg, name)
    )


def with_test_time_augmentation(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Run a model on several sizes of an image, and mirrored: Detectron2's `TEST.AUG`.

    Raises:
        UserError: if there is no such augmentation for the model, or no size to run it on.
    """
    if not cfg.TEST.AUG.MIN_SIZES:
        raise UserError("TEST.AUG.MIN_SIZES is empty: name at least one length of the shorter side, in pixels")
    if isinstance(model, FCOS):
        return FCOSWithTTA(cfg, model)
    if isinstance(model, GeneralizedRCNN) and not cfg.MODEL.KEYPOINT_ON and not cfg.MODEL.LOAD_PROPOSALS:
        return GeneralizedRCNNWithTTA(cfg, model)
    raise UserError(
        "TEST.AUG.ENABLED True: there is test-time augmentation for FCOS and for R-CNNs without keypoints that make "
        f"their own proposals, but not for this {cfg.MODEL.META_ARCHITECTURE}; set it False"
    )
