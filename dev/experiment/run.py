"""Train and evaluate a system, or take up what an earlier call has left; choose its learning rate."""

import contextlib
import functools
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from torch import nn

from dev.experiment.fold import split
from dev.experiment.summary import figures_by_iteration
from dev.experiment.system import Experiment
from fcos_rpn.checkpoint import FCOSCheckpointer
from fcos_rpn.config import flatten
from fcos_rpn.engine import yaml
from fcos_rpn.engine.divergence import TrainingDiverged
from fcos_rpn.engine.progress import progress_writers, training_seconds
from fcos_rpn.engine.setup import use_datasets
from fcos_rpn.errors import UserError
from fcos_rpn.evaluation import write_results


def best_rate(experiment: Experiment, name: str) -> float:
    """Choose the learning rate with the highest criterion on a fold of the training images, at a part of the budget.
    A single rate needs no trial.

    Raises:
        UserError: if the training diverges at all of them, or there are too few images.
    """
    system = experiment.systems[name]
    if system.weights_of:
        return best_rate(experiment, system.weights_of)
    if len(experiment.args.rates) == 1:
        return experiment.args.rates[0]
    fold = split(Path(experiment.args.train[1]), experiment.args.output / "fold")
    found = {rate: run(experiment, name, rate=rate, seed=0, fold=fold) for rate in experiment.args.rates}
    figures = {rate: figures[experiment.criterion[1]] for rate, figures in found.items() if "diverged" not in figures}
    if not figures:
        raise UserError(f"{system.title}: training diverges at every learning rate of --rates; give lower ones")
    return max(figures, key=lambda rate: figures[rate])


def run(
    experiment: Experiment, name: str, *, rate: float, seed: int, fold: Sequence[Path] | None = None
) -> dict[str, Any]:
    """Run a system, unless an earlier call has.

    Args:
        experiment, name: a system of an experiment.
        rate: learning rate.
        seed: of all randomness.
        fold: two jsons of the training images, to train on and to evaluate on, at a part of the budget.

    Returns:
        What `Experiment.summarize` keeps of the last evaluation, `by_iteration` and `seconds` of training. If the
        training diverges on a fold, only `diverged`, the reason.

    Raises:
        TrainingDiverged: at the whole budget.
        UserError: if the run's folder holds another run.
    """
    cfg = experiment.build_config(name, rate=rate, seed=seed, fold=fold)
    system, output = experiment.systems[name], Path(cfg.OUTPUT_DIR)
    if other := system.weights_of or system.starts_from:
        others_rate = rate if system.weights_of else best_rate(experiment, other)
        run(experiment, other, rate=others_rate, seed=seed, fold=fold)
        others = experiment.build_config(other, rate=others_rate, seed=seed, fold=fold)
        cfg.MODEL.WEIGHTS = str(Path(others.OUTPUT_DIR) / "model_final.pth")
    require_same_settings(output, {"--train": experiment.args.train, **flatten(cfg)})
    if not (output / "run.json").exists():
        title = f"{system.title}, {f'rate {rate:g}' if fold else f'seed {seed}'}"
        try:
            found = evaluate(experiment, cfg, title) if system.weights_of else train(experiment, cfg, title)
        except TrainingDiverged as error:
            if not fold:
                raise
            print(f"{title}: training diverged")
            found = {"diverged": str(error)}
        write_results(output / "run.json", found)
    return dict(json.loads((output / "run.json").read_text(encoding="utf-8")))


def require_same_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new run, or compare them with those of an earlier one.

    Raises:
        UserError: if the folder holds a run with others.
    """
    file = folder / "settings.json"
    if not file.exists() and not (folder / "metrics.json").exists():  # the log of a run that has begun
        write_results(file, settings)
    before = json.loads(file.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(settings))  # JSON has lists for tuples
    free = ("TEST.EVAL_PERIOD", "OUTPUT_DIR")
    differences = [
        f"{key} {before.get(key)}, now {now.get(key)}"
        for key in dict.fromkeys([*now, *before])
        if key not in free and before.get(key) != now.get(key)
    ]
    if differences:
        message = f"{folder} holds a run with other settings; give another --output or delete that folder:"
        raise UserError("\n  ".join([message, *differences]))


def train(experiment: Experiment, cfg: CfgNode, title: str) -> dict[str, Any]:
    """Train from the last checkpoint, if there is one, and evaluate."""
    use_datasets(cfg)
    cfg.freeze()
    seed_all_rng(cfg.SEED)
    trainer = yaml.build_trainer(
        cfg,
        evaluate=functools.partial(evaluate_quietly, cfg),
        writers=progress_writers(title, cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR),
        reset_class_layers=True,
    )
    trainer.resume_or_load(cfg.MODEL.WEIGHTS)
    found = trainer.train()
    task, metrics = experiment.criterion[0], Path(cfg.OUTPUT_DIR) / "metrics.json"
    return {
        **experiment.summarize(found, cfg),
        "by_iteration": figures_by_iteration(metrics, cfg.SOLVER.MAX_ITER, task, experiment.followed),
        "seconds": training_seconds(metrics),
    }


def evaluate(experiment: Experiment, cfg: CfgNode, title: str) -> dict[str, Any]:
    """Evaluate with the weights of another system."""
    print(title)
    found = evaluate_quietly(cfg, load_model(cfg, cfg.MODEL.WEIGHTS))
    return {**experiment.summarize(found, cfg), "by_iteration": {}, "seconds": 0.0}


def load_model(cfg: CfgNode, weights: str) -> nn.Module:
    """Build a model with the weights of a training."""
    use_datasets(cfg, is_training=False)
    model = yaml.build_model(cfg)
    FCOSCheckpointer(model, require_all=True).load(weights)
    return model


def evaluate_quietly(cfg: CfgNode, model: nn.Module) -> Mapping[str, Any]:
    """Evaluate without the tables of the COCO library: that of the command says it all."""
    with contextlib.redirect_stdout(io.StringIO()):
        return yaml.evaluate(cfg, model, show_progress=True)
