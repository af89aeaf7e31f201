"""Resume a finished run only if everything that it depends on is the same."""

import json
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from dev.experiment.summary import read_json
from dev.experiment.system import Experiment
from fcos_rpn.errors import UserError
from fcos_rpn.evaluation import write_results


def settings_of(experiment: Experiment, name: str, *, rate: float, on_fold: bool) -> dict[str, Any]:
    """All that the figures of a run depend on, except the system and the seed, which its folder is named after."""
    return {
        "--train": [str(Path(path).resolve()) for path in experiment.train],
        "--test": [str(Path(path).resolve()) for path in experiment.test],
        "--weights": str(Path(experiment.weights).resolve()),
        "--iterations": experiment.iterations,
        "--batch": experiment.batch,
        "--short-side": experiment.short_side,
        **({"--fold-part": experiment.fold_part} if on_fold else {}),
        "rate": rate,
        **_flatten(experiment.systems[name].read_config()),
    }


def require_same_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new run, or compare them with those of an earlier one.

    Raises:
        UserError: if the folder holds a run with others.
    """
    file = folder / "settings.json"
    if not file.exists() and not (folder / "metrics.json").exists():  # the log of a run that has begun
        write_results(file, settings)
    before, now = read_json(file), json.loads(json.dumps(settings))  # JSON has lists for tuples
    differences = [
        f"{key} {before.get(key)}, now {now.get(key)}"
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key)
    ]
    if differences:
        message = f"{folder} holds a run with other settings; give another --output or delete that folder:"
        raise UserError("\n  ".join([message, *differences]))


def _flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in node.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}": value})
    return flat
