"""Loading weights so that nothing is skipped in silence, and saving them so that a kill leaves no broken file.

Detectron2's checkpointer only warns when shapes differ or keys are missing. Here that is an error, except for the
layers that depend on the classes, which a caller may ask to start anew, and for weights that a training need not find.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from ..errors import PARTIAL, UserError, write_whole
from .checkpoint_file import compare_class_names, first_line, read_checkpoint
from .safe_loading import load_torch

CLASS_LAYERS = (
    "core.head.cls_logits.",
    "roi_heads.box_predictor.",
    "roi_heads.mask_head.predictor.",
    "roi_heads.keypoint_head.score_lowres.",
    "head.cls_score.",  # of RetinaNet
)
"""Layers whose shapes depend on the number of classes or keypoints; a cascade numbers its predictors."""

DETECTORS = ("core.head.cls_logits.", "roi_heads.box_predictor.", "roi_heads.mask_head.predictor.", "head.cls_score.")
"""Beginnings of names of layers that tell the data's classes apart, unlike those of a proposal generator."""

RENAMES = (
    ("core.", "proposal_generator.core."),  # warm start: a one-stage FCOS into an R-CNN's FCOSRPN
    ("proposal_generator.core.", "core."),
    ("", "backbone.bottom_up."),  # Detectron2's ImageNet weights
    ("", "backbone.bottom_up.body."),  # torchvision's
    ("", "backbone.bottom_up.body.features."),  # their `features` alone
)
"""(prefix in the file, prefix in the model), tried in order for keys that the model does not have."""

WRAPPED = re.compile(r"^((module|model)\.)+")
"""What DistributedDataParallel, AveragedModel and Lightning put in front of names."""

COMPILED = re.compile(r"(?<![^.])_orig_mod\.")
"""What torch.compile puts into names."""

NUMBERED = re.compile(r"model_(\d+)\.pth")
"""Names of checkpoints by iteration."""


class FCOSCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, strict."""

    def __init__(
        self,
        model: torch.nn.Module,
        save_dir: str = "",
        *,
        require_all: bool = False,
        reset_class_layers: bool = False,
        class_names: Sequence[str] | None = None,
        **checkpointables: Any,
    ) -> None:
        """
        Args:
            model: to load into and save from; wrapped for several processes, compiled or neither.
            save_dir: where checkpoints go.
            require_all: every weight of the model must be in the file, as for evaluation.
            reset_class_layers: where the file has other classes, class layers keep their initial weights.
            class_names: of the data; the position is the label. Saved with the model, and compared with those of a
                file that is loaded.
            checkpointables: as in Detectron2.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.require_all = require_all
        self.reset_class_layers = reset_class_layers
        self.class_names = class_names
        self._last: Path | None = None  # what this run has saved or resumed from

    def save(self, name: str, **kwargs: Any) -> None:
        """Save as Detectron2 does, but so that a file of the final name is always whole.

        Raises:
            UserError: if the file cannot be written, for example because the disk is full.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        parts: dict[str, Any] = {key: part.state_dict() for key, part in self.checkpointables.items()}
        if self.class_names is not None:
            parts["class_names"] = list(self.class_names)
        weights = {plain_name(key): weight for key, weight in self.model.state_dict().items()}
        path = Path(self.save_dir) / f"{name}.pth"
        try:
            with write_whole(path) as file:
                torch.save({"model": weights, **parts, **kwargs}, file)
            self.tag_last_checkpoint(path.name)
        except UserError as error:
            last = f"--resume continues from {self._last}" if self._last else "No checkpoint was written before it"
            raise UserError(f"checkpoint {error}. {last}") from error
        self._last = path

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with write_whole(Path(self.save_dir) / "last_checkpoint") as file:
            file.write(last_filename_basename.encode())

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load the last checkpoint, or given weights if there is none.

        A last checkpoint that is missing, truncated or another program's is passed over for the one before it, with a
        warning. One that is whole and does not fit the model is an error. A training, which has checkpointables, first
        removes what a killed one left half-written.

        Args:
            path: weights to load if there is nothing to resume; "" for none.
            resume: take what `last_checkpoint` names, if there is such a file.

        Raises:
            UserError: if there is something to resume and none of it is whole; else as `load`.
        """
        if self.checkpointables and self.save_dir and self.save_to_disk:
            for partial in Path(self.save_dir).glob("*" + PARTIAL):
                partial.unlink(missing_ok=True)
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        problems: list[str] = []
        for file in _newest_first(Path(self.get_checkpoint_file())):
            if problem := self._why_not_whole(file):
                problems.append(f"{file}: {problem}")
                continue
            if problems:
                self.logger.warning("%s\nContinuing from %s instead", "\n".join(problems), file)
            others = self.load(str(file))
            self._last = file
            return others
        raise UserError(
            "there is no whole checkpoint to continue from:\n"
            + "\n".join(problems)
            + f"\nGet one of them again, or remove {self.save_dir}/last_checkpoint to start from the beginning"
        )

    def _why_not_whole(self, file: Path) -> str:
        """Say why nothing can continue from a file; "" if something can."""
        if not file.is_file():
            return "there is no such file, though last_checkpoint names it"
        try:
            content = load_torch(file, mmap=True)
        except Exception as error:  # a broken file stops its reader with nearly any exception
            return f"it is truncated, or no checkpoint ({first_line(error)})"
        parts = content if isinstance(content, dict) else {}
        missing = [part for part in ("model", *self.checkpointables) if part not in parts]
        return f"it is not a checkpoint of a training: it lacks {', '.join(missing)}" if missing else ""

    def last_finite(self) -> Path | None:
        """Find the newest checkpoint of this training whose weights are all finite; None if there is none yet."""
        for file in _newest_first(self._last) if self._last else []:
            if not self._why_not_whole(file):
                weights = load_torch(file, mmap=True)["model"].values()
                if all(torch.isfinite(weight).all() for weight in weights):
                    return file
        return None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights, and the state of a training.

        Args:
            path: see `read_checkpoint`; "" loads nothing.
            checkpointables: names of the parts whose state is loaded, too; None for all.

        Returns:
            What else the file holds.

        Raises:
            UserError: if weights are required and none are named, the file cannot be read, or it does not fit the
                model, its classes or the training.
        """
        if not path:
            if self.require_all:
                raise UserError("evaluation needs weights: give MODEL.WEIGHTS a checkpoint, or train first")
            return {}
        self.logger.info("Loading %s", path)
        parts = list(self.checkpointables) if checkpointables is None else checkpointables
        weights, others, class_names, is_heuristic = read_checkpoint(path, with_averages=not parts)
        model = {plain_name(key): weight for key, weight in self.model.state_dict().items()}
        weights = rename(weights, model)
        try:
            self._settle_class_layers(weights, model, class_names, is_resumed=bool(parts))
            incompatible = self._load_model({"model": weights, "matching_heuristics": is_heuristic})
            self._log_incompatible_keys(incompatible)
            for name in parts:
                if name in others:
                    self._load_part(name, others.pop(name))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        return others

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        own_names = {plain_name(key): key for key in self.model.state_dict()}
        weights = checkpoint["model"]
        checkpoint["model"] = {own_names.get(name, name): weight for name, weight in weights.items()}
        incompatible = super()._load_model(checkpoint)
        # Not by what is missing: a frozen batch normalization fills in its own statistics.
        if len(incompatible.unexpected_keys) == len(weights):
            raise UserError(f"none of the checkpoint's {len(weights)} weights is one of the model's {len(own_names)}")
        if self.require_all and incompatible.missing_keys:
            missing = [plain_name(key) for key in incompatible.missing_keys]
            raise UserError(
                f"the checkpoint lacks {len(missing)} of the model's {len(own_names)} weights, among them "
                f"{', '.join(missing[:5])}. Evaluation needs all: is it a backbone's file, or another model's?"
            )
        return incompatible

    def _settle_class_layers(
        self, weights: dict[str, Any], model: Mapping[str, Any], class_names: Sequence[str] | None, *, is_resumed: bool
    ) -> None:
        """Remove class layers that are to start anew.

        Raises:
            UserError: on other shapes, of class layers only where they may not start anew, or classes in another order.
        """
        may_reset = self.reset_class_layers and not self.require_all and not is_resumed
        if is_resumed:
            advice = (
                f"A training continues with its own classes. To change them, {START_ANEW}, and --reset-class-layers"
            )
        elif self.require_all:
            advice = "Give the data and the model the classes that it was trained on, in that order"
        else:
            advice = "Give the data the classes it was trained on, or start these layers anew: --reset-class-layers"

        misfits = [key for key, value in weights.items() if key in model and value.shape != model[key].shape]
        shapes = "\n".join(
            f"  {key}: {tuple(weights[key].shape)} in the file, {tuple(model[key].shape)} in the model"
            for key in misfits
        )
        if not all(any(layer in key for layer in CLASS_LAYERS) for key in misfits):
            raise UserError(f"the checkpoint does not fit the model:\n{shapes}")
        if misfits and not may_reset:
            names = f" ({', '.join(class_names)})" if class_names else ""
            raise UserError(f"the checkpoint was trained on other classes{names}:\n{shapes}\n{advice}")
        if misfits:
            self.logger.warning("Class layers of another shape start anew:\n%s", shapes)

        detector = [key for key in weights if key in model and key.startswith(DETECTORS) and key not in misfits]
        if detector and class_names and self.class_names:
            if may_reset and list(class_names) != list(self.class_names):
                self.logger.warning("The classes have other names, so their layers start anew: %s", ", ".join(detector))
                misfits += detector
            elif difference := compare_class_names(class_names, self.class_names, advice):
                self.logger.warning("%s", difference)
        for key in misfits:
            del weights[key]

    def _load_part(self, name: str, state: Any) -> None:
        """Load the state of a checkpointable, such as a trainer with its optimizer."""
        part = self.checkpointables[name]
        problem = _other_optimizer(state, part.state_dict())
        try:
            if not problem:
                part.load_state_dict(state)
        except UserError:
            raise
        except Exception as error:  # whatever a part raises on a state that is not its own
            problem = f"{type(error).__name__}: {first_line(error)}"
        if problem:
            raise UserError(
                f"its weights fit, but the state of its {name} is not that of this training: {problem}.\n"
                f"Resume with the config that it was trained with, or {START_ANEW}"
            )


START_ANEW = (
    "start a new training from these weights: without --resume, with the file as MODEL.WEIGHTS or "
    "train.init_checkpoint, with another output folder"
)


def plain_name(name: str) -> str:
    """Remove what torch.compile puts into the name of a weight."""
    return COMPILED.sub("", name)


def rename(weights: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Give weights the names under which the model has them, by the table `RENAMES`.

    Weights that the model does not have lose only what wrappers put in front of their names.
    """
    renamed = {}
    for key, value in weights.items():
        name = plain_name(key)
        bare = WRAPPED.sub("", name)
        candidates = [new + bare[len(old) :] for old, new in RENAMES if bare.startswith(old)]
        renamed[next((candidate for candidate in (name, bare, *candidates) if candidate in model), bare)] = value
    return renamed


def _other_optimizer(state: Any, own_state: Any) -> str:
    """Say how the optimizers in a state differ from a training's own; "" if they do not, or there are none."""
    for groups, own_groups in zip(_parameter_groups(state), _parameter_groups(own_state), strict=False):
        sizes, own_sizes = ([len(group["params"]) for group in found] for found in (groups, own_groups))
        if sizes != own_sizes:
            return f"its optimizer has groups of {sizes} parameters, this one's {own_sizes}"
        # Flags may be missing, since versions of torch add them with defaults.
        missing = [
            key for key, value in own_groups[0].items() if key not in groups[0] and isinstance(value, float | tuple)
        ]
        if missing:
            return f"it has another optimizer, without {', '.join(missing)}"
    return ""


def _parameter_groups(state: Any) -> Iterator[list[dict[str, Any]]]:
    """Find the parameter groups of every optimizer in a nested state."""
    if isinstance(state, Mapping):
        if "param_groups" in state:
            yield state["param_groups"]
        for value in state.values():
            yield from _parameter_groups(value)


def _newest_first(last: Path) -> list[Path]:
    """List a checkpoint and the numbered ones before it: of earlier iterations, unless it has no number itself."""
    files = {int(match[1]): file for file in last.parent.glob("*") if (match := NUMBERED.fullmatch(file.name))}
    own = NUMBERED.fullmatch(last.name)
    return [last, *(files[number] for number in sorted(files, reverse=True) if not own or number < int(own[1]))]
