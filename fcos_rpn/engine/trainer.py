"""The training loop, made of parts that a config front (`yaml`, `lazy`) or a user's own code puts together."""

import functools
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase, SimpleTrainer, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventStorage, EventWriter, TensorboardXWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..checkpoint import FCOSCheckpointer
from ..errors import UserError, is_death_of_a_worker, make_folder, require_one_of
from ..evaluation import StrictJSONWriter
from .divergence import DivergenceGuard
from .replay import Replay, settings_of, warn_of_ignored

logger = logging.getLogger(__name__)


class Trainer(SimpleTrainer):
    """Trains any model that maps a batch to its losses: on any device, in any number of processes.

    A training that is killed and resumed ends with the same bits as one that was not disturbed. A loss that is not
    finite stops the training, or its step is skipped (`DivergenceGuard`).
    """

    iter: int
    _hooks: list[HookBase]

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        *,
        max_iter: int,
        output_dir: str,
        evaluate: Callable[[nn.Module], Mapping[str, Any]] | None = None,
        eval_period: int = 0,
        checkpoint_period: int = 5000,
        checkpoints_kept: int | None = None,
        writers: Sequence[EventWriter] | None = None,
        log_period: int = 20,
        seed: int = -1,
        precision: torch.dtype | None = None,
        max_skipped_in_a_row: int = 0,
        class_names: Sequence[str] | None = None,
        reset_class_layers: bool = False,
        before_evaluation: Sequence[HookBase] = (),
        ddp: Mapping[str, Any] | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            model: on its device; maps a batch to a dict of scalar losses.
            loader: endless batches; a `TrainLoader` is resumed where it was.
            optimizer: of the model's parameters.
            scheduler: its learning rates, stepped after every iteration.
            max_iter: iterations of the whole training.
            output_dir: where checkpoints go.
            evaluate: maps the model to results by task and metric; called every `eval_period` iterations, if that is
                above 0, and at the end. None evaluates never.
            checkpoint_period: iterations from one checkpoint to the next.
            checkpoints_kept: how many of them are kept; None keeps all.
            writers: of the training log, on the main process, every `log_period` iterations; None takes Detectron2's,
                with strict JSON in metrics.json.
            seed: of all randomness; below 0 draws one.
            precision: of autocast, torch.float16 or torch.bfloat16; None trains in float32.
            max_skipped_in_a_row: steps whose loss is not finite that are skipped before the training stops.
            class_names: saved in checkpoints and compared with those of loaded ones; the position is the label.
            reset_class_layers: class layers of the first weights that have another shape keep their initial weights.
            before_evaluation: hooks that run before checkpoints are written and the model is evaluated.
            ddp: arguments of DistributedDataParallel, for several processes.
            keys: what messages call `lr`, `warmup`, `momentum`, `weight_decay`, `clipping`, `seed`, `weights` and
                `output_dir`.
        """
        self.device_type = next(model.parameters()).device.type
        device_ids = None if self.device_type == "cpu" else [comm.get_local_rank()]
        options = {"broadcast_buffers": False, "device_ids": device_ids, **(ddp or {})}
        super().__init__(create_ddp_model(model, **options), loader, optimizer)
        self.scheduler = scheduler
        self.max_iter = max_iter
        self.output_dir = output_dir
        self.precision = precision
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=precision == torch.float16)
        self.keys = {name: name for name in KEYS} | dict(keys or {})
        self.results: Mapping[str, Any] = {}
        """Results of the last evaluation; empty on all processes but the main one."""
        self.checkpointer = FCOSCheckpointer(
            model,
            output_dir,
            reset_class_layers=reset_class_layers,
            class_names=class_names,
            trainer=weakref.proxy(self),
        )
        self.guard = DivergenceGuard(
            max_skipped_in_a_row=max_skipped_in_a_row,
            last_finite=self.checkpointer.last_finite,
            advice="Lower {lr}, lengthen {warmup}, or set {clipping}".format(**self.keys),
        )

        def evaluate_and_keep() -> Mapping[str, Any]:
            assert evaluate is not None
            self.results = evaluate(self.raw_model)
            return self.results

        is_main = comm.is_main_process()
        if writers is None and is_main:
            make_folder(Path(output_dir))
            log = StrictJSONWriter(str(Path(output_dir) / "metrics.json"))
            writers = [CommonMetricPrinter(max_iter), log, TensorboardXWriter(output_dir)]
        self.register_hooks(
            [
                self.guard,
                Replay(seed, key=self.keys["seed"]),
                hooks.IterationTimer(),
                hooks.LRScheduler(optimizer, scheduler),
                *before_evaluation,
                hooks.PeriodicCheckpointer(self.checkpointer, checkpoint_period, max_to_keep=checkpoints_kept)
                if is_main
                else None,
                hooks.EvalHook(eval_period, evaluate_and_keep) if evaluate else None,
                hooks.PeriodicWriter(list(writers or ()), log_period) if is_main else None,
            ]
        )

    @property
    def raw_model(self) -> nn.Module:
        """The model as it was given, not wrapped for several processes."""
        return self.model.module if isinstance(self.model, DistributedDataParallel) else self.model

    def resume_or_load(self, weights: str = "", *, resume: bool = True) -> None:
        """Continue from the last checkpoint in the output folder, or start from given weights.

        Args:
            weights: to start from where there is nothing to resume; "" keeps the model's own.
            resume: continue, if there is a checkpoint.

        Raises:
            UserError: if the weights do not fit, or no checkpoint is whole.
        """
        given = settings_of(self.optimizer)
        self.checkpointer.resume_or_load(weights, resume=resume)
        if not (resume and self.checkpointer.has_checkpoint()):
            return
        self.start_iter = self.iter + 1
        warn_of_ignored(given, settings_of(self.optimizer), self.checkpointer.get_checkpoint_file(), self.keys)
        if self.start_iter == self.max_iter:  # perhaps killed between the last checkpoint and this one
            self.checkpointer.save("model_final", iteration=self.iter)

    def train(self) -> Mapping[str, Any]:
        """Run the iterations that are left, and evaluate.

        Returns:
            The last evaluation's results; empty without one, and on all processes but the main one.

        Raises:
            TrainingDiverged: if a loss is not finite.
        """
        logger.info("Training from iteration %d to %d", self.start_iter, self.max_iter)
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < self.max_iter:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except UserError:  # whoever catches it prints it
                raise
            except Exception as error:
                if not is_death_of_a_worker(error):
                    logger.exception("Training failed at iteration %d", self.iter)
                raise
            finally:
                self.after_train()
        return self.results

    def run_step(self) -> None:
        """Run one iteration.

        Raises:
            TrainingDiverged: the weights are still those of before the step.
        """
        with self.guard.watch(self.model):
            start = time.perf_counter()
            batch = next(self._data_loader_iter)
            data_time = time.perf_counter() - start
            with torch.autocast(self.device_type, dtype=self.precision, enabled=self.precision is not None):
                losses = self._losses(batch)
            self.optimizer.zero_grad()
            self.scaler.scale(functools.reduce(torch.add, losses.values())).backward()
            self.after_backward()
            self._write_metrics(losses, data_time)
            self.scaler.unscale_(self.optimizer)  # so that gradients are clipped at their true size
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _losses(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Raises:
            UserError: if a normalization has one value per channel, of which there is no variance.
        """
        try:
            losses: dict[str, Any] = self.model(batch)
        except ValueError as error:
            if not str(error).startswith("Expected more than 1 value per channel"):
                raise
            raise UserError(
                "a normalization gets a single value per channel, of which there is no variance: a feature map of the "
                "backbone or a level of the pyramid has one cell, and the batch one image a process. Train on larger "
                "images or batches, or normalize with GN instead of BN (in the head, the key NORM) or keep the "
                f"backbone's FrozenBN ({error})"
            ) from error
        return losses

    def after_train(self) -> None:
        # After an error in the last iteration Detectron2 would still evaluate.
        if self.iter < self.max_iter:
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, hooks.EvalHook)]
        super().after_train()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Detectron2's DefaultTrainer has the optimizer one level deeper.
        state = {**state_dict.get("_trainer", {}), **state_dict}
        super().load_state_dict(state)
        if scaler := state.get("scaler") or state.get("grad_scaler"):  # Detectron2's own name
            self.scaler.load_state_dict(scaler)


KEYS = ("lr", "warmup", "momentum", "weight_decay", "clipping", "seed", "weights", "output_dir")
"""Settings that messages name; a front gives its own config keys for them."""


def in_fast_layout(model: nn.Module, device: str) -> nn.Module:
    """Lay weights out channels-last on CPUs with AVX-512; with AVX2, convolutions and GN learn more slowly in it."""
    is_faster = device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return model.to(memory_format=torch.channels_last) if is_faster else model


def require_divisible(key: str, batch_size: int, advice: str) -> None:
    """Raise a UserError if a batch cannot be divided among the processes.

    Args:
        key: the batch size's config key.
        advice: what else to change with it.
    """
    if batch_size % comm.get_world_size():
        raise UserError(
            f"{key} {batch_size} cannot be divided among {comm.get_world_size()} processes: choose a multiple, and "
            f"{advice} with it"
        )


PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def autocast_precision(name: str, device: str, *, key: str, is_enabled: bool = True) -> torch.dtype | None:
    """Return the precision of this name, or None for float32 if mixed precision is not enabled.

    Args:
        key: the config key that the name comes from.

    Raises:
        UserError: if there is no such precision, or the device does not have it.
    """
    if not is_enabled:
        return None
    require_one_of(key, name, PRECISIONS)
    if device == "cpu" and name == "float16":
        raise UserError(f"{key} float16 needs a GPU; set it bfloat16 to train in mixed precision on the CPU")
    return PRECISIONS[name]
