"""Loading weights so that nothing is skipped in silence, and saving them so that a kill leaves no broken file.

Detectron2's checkpointer only warns when shapes differ or keys are missing. Here that is an error, but for the layers
that depend on the classes, which a caller may ask to start anew, and for weights that a training need not find.
"""

import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.utils.file_io import PathManager

from ..errors import UserError
from .safe_loading import UnsafeFile, load_pickle, load_torch

CLASS_LAYERS = (
    "core.head.cls_logits.",
    "roi_heads.box_predictor.",
    "roi_heads.mask_head.predictor.",
    "roi_heads.keypoint_head.score_lowres.",
)
"""Layers whose shapes depend on the number of classes or keypoints; a cascade numbers its predictors."""

RENAMES = (
    ("core.", "proposal_generator.core."),  # warm start: a one-stage FCOS into an R-CNN's FCOSRPN
    ("proposal_generator.core.", "core."),
    ("", "backbone.bottom_up."),  # Detectron2's ImageNet weights
    ("", "backbone.bottom_up.body."),  # torchvision's
    ("", "backbone.bottom_up.body.features."),  # their `features` alone
)
"""(prefix in the file, prefix in the model), tried in order for keys that the model does not have."""


NUMBERED = re.compile(r"model_(\d+)\.pth")
"""Names of checkpoints by iteration."""

PARTIAL = ".partial"
"""Behind the name of a file that is not yet whole."""


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
            model: to load into and save from.
            save_dir: where checkpoints go.
            require_all: every weight of the model must be in the file, as for evaluation.
            reset_class_layers: class layers of another shape keep their initial weights.
            class_names: saved with the model, for `read_class_names`; the position is the label.
            checkpointables: as in Detectron2.
        """
        super().__init__(model, save_dir, **checkpointables)
        self.require_all = require_all
        self.reset_class_layers = reset_class_layers
        self.class_names = class_names
        self._last: Path | None = None  # what this run has saved or resumed from

    def save(self, name: str, **kwargs: Any) -> None:
        """As in fvcore, but a file of the final name is always a whole one."""
        if not self.save_dir or not self.save_to_disk:
            return
        parts: dict[str, Any] = {key: part.state_dict() for key, part in self.checkpointables.items()}
        if self.class_names is not None:
            parts["class_names"] = list(self.class_names)
        content = io.BytesIO()
        torch.save({"model": self.model.state_dict(), **parts, **kwargs}, content)
        _write_atomically(Path(self.save_dir) / f"{name}.pth", content.getbuffer())
        self.tag_last_checkpoint(f"{name}.pth")
        self._last = Path(self.save_dir) / f"{name}.pth"

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        _write_atomically(Path(self.save_dir) / "last_checkpoint", last_filename_basename.encode())

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As in fvcore, but a last checkpoint that is missing, truncated or another program's is passed over for the
        one before it, with a warning. One that is whole and does not fit the model is an error.

        A training, which has checkpointables, first removes what a killed one had not written to its end.

        Args:
            path: weights to load if there is nothing to resume; "" for none.
            resume: go on from what `last_checkpoint` names, if there is such a file.

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
                self.logger.warning("%s\nGoing on from %s instead", "\n".join(problems), file)
            content = self.load(str(file))
            self._last = file
            return content
        raise UserError(
            "there is no whole checkpoint to go on from:\n"
            + "\n".join(problems)
            + f"\nGet one of them again, or remove {self.save_dir}/last_checkpoint to start from the beginning"
        )

    def _why_not_whole(self, file: Path) -> str:
        """Why nothing can go on from a file; empty if something can."""
        if not file.is_file():
            return "there is no such file, though last_checkpoint names it"
        try:
            content = load_torch(file, mmap=True)
        except Exception as error:  # a broken file stops its reader with nearly any exception
            return f"it is truncated, or no checkpoint ({_first_line(error)})"
        parts = content if isinstance(content, dict) else {}
        missing = [part for part in ("model", *self.checkpointables) if part not in parts]
        return f"it is not a checkpoint of a training: it lacks {', '.join(missing)}" if missing else ""

    def last_finite(self) -> Path | None:
        """The newest checkpoint of this training whose weights are all finite; None if it has written none yet."""
        for file in _newest_first(self._last) if self._last else []:
            if not self._why_not_whole(file):
                weights = load_torch(file, mmap=True)["model"].values()
                if all(torch.isfinite(weight).all() for weight in weights):
                    return file
        return None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """
        Raises:
            UserError: if weights are required and none are named, the file is missing or not a checkpoint, or it does
                not fit the model.
        """
        if not path and self.require_all:
            raise UserError("evaluation needs weights: give MODEL.WEIGHTS a checkpoint, or train first")
        if path and "://" not in path and not Path(path.partition("?")[0]).is_file():
            raise UserError(f"MODEL.WEIGHTS: there is no file {path}")
        try:
            return super().load(path, checkpointables)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except OSError as error:
            raise UserError(
                f"MODEL.WEIGHTS: cannot get {path} ({error}). Download it by other means and name the file, or set "
                'MODEL.WEIGHTS "" to train from random weights'
            ) from error
        except UnsafeFile as error:
            raise UserError(f"{path} is not read: {error}") from error
        except Exception as error:  # a broken file stops its reader with nearly any exception
            raise UserError(
                f"{path} is no checkpoint that can be read ({_first_line(error)}). It may be truncated: get it again, "
                "or remove it to start from an earlier one"
            ) from error
        finally:
            self._parsed_url_during_load = None  # Detectron2 forgets this after an error

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            content = load_pickle(filename)
            if "model" in content and "__author__" in content:
                return content
            blobs = content.get("blobs", content)
            weights = {key: value for key, value in blobs.items() if not key.endswith("_momentum")}
            self._convert_ndarray_to_tensor(weights)
            # Translated here and not by Detectron2, which would only warn of other shapes.
            weights, _ = convert_c2_detectron_names(weights)
            return {"model": weights, "matching_heuristics": True}
        if filename.endswith(".pyth"):  # of pycls; Detectron2 would read it by torch's default
            return {"model": load_torch(filename)["model_state"], "matching_heuristics": True}
        return super()._load_file(filename)

    def _torch_load(self, f: str) -> Any:
        return load_torch(f)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        model = self.model.state_dict()
        checkpoint["model"] = rename(checkpoint["model"], model)
        self._drop_misfits(checkpoint["model"], model)
        num_weights = len(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        # Not by what is missing: a frozen batch normalization fills in its own statistics.
        if len(incompatible.unexpected_keys) == num_weights:
            raise UserError(f"none of the checkpoint's {num_weights} weights is one of the model's {len(model)}")
        if self.require_all and incompatible.missing_keys:
            missing = incompatible.missing_keys
            raise UserError(
                f"the checkpoint lacks {len(missing)} of the model's {len(model)} weights, among them "
                f"{', '.join(missing[:5])}. Evaluation needs all: is it a backbone's file, or another model's?"
            )
        return incompatible

    def _drop_misfits(self, weights: dict[str, Any], model: Mapping[str, Any]) -> None:
        """Remove class layers of another shape if that is allowed; raise on every other difference of shape."""
        misfits = [
            (key, tuple(value.shape), tuple(model[key].shape))
            for key, value in weights.items()
            if key in model and tuple(value.shape) != tuple(model[key].shape)
        ]
        others = [misfit for misfit in misfits if not any(layer in misfit[0] for layer in CLASS_LAYERS)]
        if others:
            raise UserError("the checkpoint does not fit the model:\n" + _list_shapes(others))
        if misfits and (self.require_all or not self.reset_class_layers):
            raise UserError(
                "the checkpoint was trained on other classes:\n"
                + _list_shapes(misfits)
                + "\nSet the number of classes that it was trained on"
                + ("" if self.require_all else ", or start these layers anew: --reset-class-layers")
            )
        if misfits:
            self.logger.warning("Class layers of another shape start anew:\n%s", _list_shapes(misfits))
        for key, _, _ in misfits:
            del weights[key]


def read_class_names(path: str) -> list[str] | None:
    """The names of the classes that a checkpoint's model was trained on; the position is the label.

    None for a file that carries none: weights alone, or those of another program. Also for one that is missing or
    broken, of which `FCOSCheckpointer.load` says what is wrong with it.
    """
    try:
        file = PathManager.get_local_path(path.partition("?")[0])
        content = load_torch(file, mmap=True)
    except Exception:  # a broken file stops its reader with nearly any exception
        return None
    names = content.get("class_names") if isinstance(content, dict) else None
    is_ours = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_ours else None


def rename(weights: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Give the keys that the model does not have the name under which it has them, by the table `RENAMES`."""
    renamed = {}
    for key, value in weights.items():
        key = key.removeprefix("module.")  # of a model that was saved wrapped for several processes
        candidates = [new + key[len(old) :] for old, new in RENAMES if key.startswith(old)]
        renamed[next((name for name in [key, *candidates] if name in model), key)] = value
    return renamed


def _write_atomically(path: Path, content: bytes | memoryview) -> None:
    partial = path.with_name(path.name + PARTIAL)
    partial.write_bytes(content)
    os.replace(partial, path)


def _newest_first(last: Path) -> list[Path]:
    """A checkpoint and the numbered ones before it: of earlier iterations, unless it has no number itself."""
    files = {int(match[1]): file for file in last.parent.glob("*") if (match := NUMBERED.fullmatch(file.name))}
    own = NUMBERED.fullmatch(last.name)
    return [last, *(files[number] for number in sorted(files, reverse=True) if not own or number < int(own[1]))]


def _list_shapes(misfits: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> str:
    return "\n".join(f"  {key}: {in_file} in the file, {in_model} in the model" for key, in_file, in_model in misfits)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
