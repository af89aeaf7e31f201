"""What becomes of a training step whose loss is not finite: the training stops with the facts, or skips the step.

The losses are looked at between the forward and the backward pass, in all processes together, so that these decide
alike and the weights are still those of before the step.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor, nn

from ..errors import UserError

logger = logging.getLogger(__name__)

NUM_SKIPPED = "num_skipped_steps"
"""Scalar of Detectron2's log: how many steps of the training have been skipped; put there with each of them."""


class TrainingDiverged(UserError):  # noqa: N818
    """The loss or what the network predicts is no longer finite; raised by all processes of a training."""


class Finding(NamedTuple):
    """What one process found in a step."""

    what: str
    """Such as "loss_fcos_loc is nan"."""
    images: list[str]
    """Files of the process' images."""


class NonFiniteLoss(FloatingPointError):  # noqa: N818
    """Ends a step in all processes."""

    def __init__(self, findings: Mapping[int, Finding]) -> None:
        """
        Args:
            findings: number of a process -> what it found; without those that found nothing.
        """
        super().__init__(_in_words(findings))
        self.findings = findings


class DivergenceGuard(HookBase):
    """Stops a training whose loss is not finite, or skips such steps, counts them and says so.

    The counts are saved in every checkpoint.
    """

    def __init__(self, *, max_skipped_in_a_row: int = 0, last_finite: Callable[[], Path | None], advice: str) -> None:
        """
        Args:
            max_skipped_in_a_row: the training stops at one step more; 0 skips none.
            last_finite: tells the newest checkpoint with finite weights.
            advice: the last sentence of the message that the training stops with.
        """
        self.max_skipped_in_a_row = max_skipped_in_a_row
        self.last_finite = last_finite
        self.advice = advice
        self.num_skipped = 0
        self.num_in_a_row = 0
        self._images: list[str] = []

    @contextlib.contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Around one step of the training, in which the model maps a batch to its losses.

        A skipped step leaves weights, momenta and the statistics of normalizations as they were.

        Args:
            model: that of the step, wrapped for several processes or not.

        Raises:
            TrainingDiverged: if the step's loss is not finite and the step may not be skipped.
        """
        before = [buffer.clone() for buffer in model.buffers()] if self.max_skipped_in_a_row else []
        handles = [
            model.register_forward_pre_hook(self._note_images),
            model.register_forward_hook(self._require_finite),
        ]
        try:
            yield
        except NonFiniteLoss as error:
            self._skip_or_stop(error)
        except FloatingPointError as error:
            # Of this process perhaps alone: the others are asking then whether all losses are finite.
            finding = Finding(str(error), self._images)
            flag = torch.ones((), device=next(model.parameters()).device)
            self._skip_or_stop(NonFiniteLoss(_gather(flag, lambda: finding)), error)
        else:
            self.num_in_a_row = 0
            return
        finally:
            for handle in handles:
                handle.remove()
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), before, strict=True):
                buffer.copy_(value)

    def _note_images(self, _: nn.Module, inputs: tuple[list[dict[str, Any]], ...]) -> None:
        """Of the batch its names alone, so that it is not kept alive."""
        self._images = [str(x.get("file_name", f"image {x.get('image_id')}")) for x in inputs[0]]

    def _require_finite(self, _: nn.Module, __: Any, losses: Mapping[str, Tensor]) -> None:
        values = torch.stack([loss.detach().float().reshape(()) for loss in losses.values()])

        def find() -> Finding | None:
            wrong = torch.nonzero(~values.isfinite()).flatten().tolist()
            names = [*losses]
            words = ", ".join(f"{names[index]} is {values[index].item()}" for index in wrong)
            return Finding(words, self._images) if wrong else None

        if findings := _gather((~values.isfinite()).any().float(), find):
            raise NonFiniteLoss(findings)

    def _skip_or_stop(self, error: NonFiniteLoss, cause: Exception | None = None) -> None:
        rate = self.trainer.optimizer.param_groups[0]["lr"]
        facts = f"at iteration {self.trainer.iter}, learning rate {rate:g}: {error}"
        if self.num_in_a_row == self.max_skipped_in_a_row:
            skipped = f"\n{self.num_in_a_row} steps before it were skipped" if self.num_in_a_row else ""
            last = comm.all_gather(self.last_finite() if comm.is_main_process() else None)[0]  # the same to all
            found = f"The last checkpoint with finite weights is {last}" if last else "There is no checkpoint yet"
            raise TrainingDiverged(f"training diverged {facts}{skipped}\n{found}. {self.advice}") from cause or error
        self.num_skipped += 1
        self.num_in_a_row += 1
        self.trainer.storage.put_scalar(NUM_SKIPPED, self.num_skipped, smoothing_hint=False)
        logger.warning(
            "Step skipped %s\nSkipped: %d in a row, at most %d; %d of the whole training",
            facts,
            self.num_in_a_row,
            self.max_skipped_in_a_row,
            self.num_skipped,
        )

    def after_train(self) -> None:
        if self.num_skipped:
            logger.warning("%d steps of this training were skipped: their loss was not finite", self.num_skipped)

    def state_dict(self) -> dict[str, int]:
        return {"num_skipped": self.num_skipped, "num_in_a_row": self.num_in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.num_skipped, self.num_in_a_row = state["num_skipped"], state["num_in_a_row"]


def _gather(flag: Tensor, find: Callable[[], Finding | None]) -> dict[int, Finding]:
    """What all processes found, asked for only if one has raised its flag. All of them have to take part.

    Args:
        flag: above 0 if this process has found something; on the device that processes exchange tensors on.
        find: says what.
    """
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(flag)
    if not flag:
        return {}
    return {rank: finding for rank, finding in enumerate(comm.all_gather(find())) if finding is not None}


def _in_words(findings: Mapping[int, Finding]) -> str:
    lines = []
    for rank, finding in findings.items():
        process = f"process {rank}: " if comm.get_world_size() > 1 else ""
        lines += [f"{process}{finding.what}", f"Images: {', '.join(finding.images)}"]
    return "\n".join(lines)
