"""What becomes of a training step whose loss is not finite: the training stops with the facts, or skips the step.

The losses are looked at between the forward and the backward pass, in all processes together, so that these decide
alike and the weights are still those of before the step.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

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


class NonFiniteLoss(FloatingPointError):  # noqa: N818
    """Ends a step in all processes and says what each of them found."""


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
            what, flag = str(error), torch.ones((), device=next(model.parameters()).device)
            self._skip_or_stop(NonFiniteLoss(self._gather(flag, lambda: what)), error)
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
        """Keep the names of the images, but not the batch itself."""
        records = (x for x in inputs[0] if isinstance(x, Mapping))  # other models take other batches
        self._images = [str(x.get("file_name", f"image {x.get('image_id')}")) for x in records]

    def _require_finite(self, _: nn.Module, __: Any, losses: Mapping[str, Tensor]) -> None:
        values = torch.stack([loss.detach().float().reshape(()) for loss in losses.values()])

        def find() -> str:
            pairs = zip(losses, values.tolist(), strict=True)
            return ", ".join(f"{name} is {value}" for name, value in pairs if not math.isfinite(value))

        if found := self._gather((~values.isfinite()).any().float(), find):
            raise NonFiniteLoss(found)

    def _gather(self, flag: Tensor, find: Callable[[], str]) -> str:
        """Say what all processes found, and nothing if none has raised its flag. All of them have to take part.

        Args:
            flag: above 0 if this process has found something; on the device that processes exchange tensors on.
            find: says what; "" if this process has found nothing.
        """
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(flag)
        if not flag:
            return ""
        what = find()
        found: list[str] = comm.all_gather(f"{what}\nImages: {', '.join(self._images)}" if what else "")
        if len(found) > 1:
            found = [f"process {rank}: {text}" for rank, text in enumerate(found) if text]
        return "\n".join(found)

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
