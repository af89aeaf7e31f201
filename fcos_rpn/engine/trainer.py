"""Detectron2's default trainer, made to run on any device, to evaluate AP and AR, and to say what went wrong."""

import logging
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase
from detectron2.engine.defaults import create_ddp_model
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.utils import comm
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..config import require_registered_parts
from ..data import CheckedDatasetMapper, TrainLoader, class_names
from ..errors import UserError, require_one_of
from ..evaluation import FCOSEvaluator, FCOSWithProposals, results_table, write_results
from ..modeling.meta_arch import FCOS
from ..modeling.optimize import optimize_for_inference
from ..modeling.tta import FCOSWithTTA
from .divergence import DivergenceGuard
from .divergence import TrainingDiverged as TrainingDiverged
from .replay import Replay, settings_of, warn_of_ignored

CLIP_TYPES = ("value", "norm", "full_model")


class Trainer(DefaultTrainer):
    """Trains and evaluates `FCOS`, `ProposalNetwork` and the R-CNNs from a config."""

    def __init__(self, cfg: CfgNode, *, reset_class_layers: bool = False) -> None:
        """
        Args:
            cfg: the whole config; its data sets are registered.
            reset_class_layers: class layers of `MODEL.WEIGHTS` that have another shape start anew.
        """
        # DefaultTrainer's own constructor wraps the model for GPUs only and takes the lenient checkpointer.
        TrainerBase.__init__(self)
        if (reference := cfg.SOLVER.REFERENCE_WORLD_SIZE) and cfg.SOLVER.IMS_PER_BATCH % reference:
            raise UserError(
                f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among the "
                f"SOLVER.REFERENCE_WORLD_SIZE of {reference} processes that it is meant for"
            )
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        if cfg.SOLVER.IMS_PER_BATCH % comm.get_world_size():
            raise UserError(
                f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {comm.get_world_size()} "
                "processes: choose a multiple, and SOLVER.BASE_LR with it"
            )
        if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
            raise UserError("SOLVER.AMP.ENABLED True needs a GPU: Detectron2's mixed precision has none for the CPU")
        self.cfg = cfg
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        device_ids = None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()]
        step = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = step(
            create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids),
            self.build_train_loader(cfg),
            optimizer,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = FCOSCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            reset_class_layers=reset_class_layers,
            class_names=class_names(cfg.DATASETS.TRAIN),
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.guard = DivergenceGuard(
            max_skipped_in_a_row=cfg.SOLVER.SKIP_NONFINITE_LOSSES,
            last_finite=self.checkpointer.last_finite,
            advice="Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS, or set SOLVER.CLIP_GRADIENTS.ENABLED True",
        )
        self.register_hooks(self.build_hooks())

    def run_step(self) -> None:
        """
        Raises:
            TrainingDiverged: the weights are still those of before the step.
        """
        with self.guard.watch(self._trainer.model):
            super().run_step()

    def resume_or_load(self, resume: bool = True) -> None:
        given = settings_of(self.optimizer)
        super().resume_or_load(resume)
        warn_of_ignored(given, settings_of(self.optimizer), self.checkpointer.get_checkpoint_file())
        if 0 < self.start_iter == self.max_iter:  # perhaps killed between the last checkpoint and this one
            self.checkpointer.save("model_final", iteration=self.iter)

    def build_hooks(self) -> list[Any]:
        return [self.guard, Replay(self.cfg.SEED), *super().build_hooks()]

    def after_train(self) -> None:
        # After an error in the last iteration Detectron2 would still evaluate.
        if self.iter < self.max_iter:
            self._hooks[:] = [hook for hook in self._hooks if not isinstance(hook, EvalHook)]
        super().after_train()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        require_registered_parts(cfg)
        return in_fast_layout(super().build_model(cfg), cfg.MODEL.DEVICE)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Detectron2's, with one more `SOLVER.CLIP_GRADIENTS.CLIP_TYPE`: "full_model" bounds the norm of all gradients
        together, where "norm" bounds that of each parameter."""
        clipping = cfg.SOLVER.CLIP_GRADIENTS
        if clipping.ENABLED:
            require_one_of("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clipping.CLIP_TYPE, CLIP_TYPES)
        if not clipping.ENABLED or clipping.CLIP_TYPE != "full_model":
            return super().build_optimizer(cfg, model)
        unclipped = cfg.clone()
        unclipped.defrost()
        unclipped.SOLVER.CLIP_GRADIENTS.ENABLED = False
        optimizer = super().build_optimizer(unclipped, model)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

        def clip(*step: Any) -> None:
            nn.utils.clip_grad_norm_(parameters, clipping.CLIP_VALUE, clipping.NORM_TYPE)

        optimizer.register_step_pre_hook(clip)
        return optimizer

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return TrainLoader(cfg, CheckedDatasetMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        mapper = CheckedDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> FCOSEvaluator:
        return FCOSEvaluator(
            dataset_name,
            output_dir=str(Path(cfg.OUTPUT_DIR) / "inference" / dataset_name),
            kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
            api=cfg.TEST.COCO_API,
        )

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, *, with_tta: bool = False) -> "OrderedDict[str, Any]":
        """Evaluate on all of `DATASETS.TEST`; print tables and write `OUTPUT_DIR/results.json`.

        The one-stage role shows its class-agnostic boxes besides its detections, so that it gets AP and AR as well.

        Args:
            cfg: the whole config; its data sets are registered.
            model: with the weights to evaluate.
            with_tta: a second time with test-time augmentation; its tasks have `_TTA` behind their names, and its
                files are in `OUTPUT_DIR/TTA`.

        Returns:
            As Detectron2: results by task and metric, in percent, below the data set's name if there are several;
            empty but on the main process.
        """
        model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        was_training = model.training
        optimize_for_inference(model.eval())
        shown = FCOSWithProposals(model) if isinstance(model, FCOS) else model
        augmented = with_test_time_augmentation(cfg, model) if with_tta else None
        results: OrderedDict[str, Any] = OrderedDict()
        for name in cfg.DATASETS.TEST:
            loader = cls.build_test_loader(cfg, name)
            found = inference_on_dataset(shown, loader, cls.build_evaluator(cfg, name))
            if augmented is not None:
                tta_cfg = _config_with_tta(cfg)
                loader = cls.build_test_loader(tta_cfg, name)
                found_with_tta = inference_on_dataset(augmented, loader, cls.build_evaluator(tta_cfg, name))
                found = {**found, **{f"{task}_TTA": figures for task, figures in found_with_tta.items()}}
            if comm.is_main_process():
                results[name] = found
                logging.getLogger(__name__).info("Results on %s, in percent:\n%s", name, results_table(found))
        model.train(was_training)
        if comm.is_main_process():
            write_results(Path(cfg.OUTPUT_DIR) / "results.json", results)
        return next(iter(results.values())) if len(results) == 1 else results


def in_fast_layout(model: nn.Module, device: str) -> nn.Module:
    """Channels-last where it makes training faster; shapes and names stay, and maps follow weights into it.

    That is on CPUs with AVX-512. With AVX2 the backward passes of convolutions and GN are slower in it, and so is the
    whole step.
    """
    is_faster = device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return model.to(memory_format=torch.channels_last) if is_faster else model


def evaluate(cfg: CfgNode, *, resume: bool = False) -> "OrderedDict[str, Any]":
    """`Trainer.test` a new model with all of its weights from `MODEL.WEIGHTS`; with `TEST.AUG.ENABLED` also augmented.

    Args:
        cfg: the whole config; its data sets are registered.
        resume: take the last checkpoint in `OUTPUT_DIR` instead, if there is one.

    Raises:
        UserError: if there are no weights, or they do not fit the model.
    """
    model = Trainer.build_model(cfg)
    FCOSCheckpointer(model, cfg.OUTPUT_DIR, require_all=True).resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    return Trainer.test(cfg, model, with_tta=cfg.TEST.AUG.ENABLED)


def with_test_time_augmentation(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model run on several sizes of an image, and mirrored: Detectron2's `TEST.AUG`.

    Raises:
        UserError: if there is none for the model, or no size to run it on.
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


def _config_with_tta(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST = 0  # loads pictures as they are: the augmentation resizes them, and twice would blur
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "TTA")
    return cfg


def _is_not_for_the_user(record: logging.LogRecord) -> bool:
    """Detectron2 logs a traceback of every exception that leaves a step; whoever catches ours prints it once."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, UserError | FloatingPointError)


logging.getLogger("detectron2.engine.train_loop").addFilter(_is_not_for_the_user)
