"""Train and evaluate a system, or take up what an earlier call has left; choose its learning rate."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng

from dev.experiment.fold import split
from dev.experiment.run_files import figures_by_iteration, read_json
from dev.experiment.settings import require_same_settings, settings_of
from dev.experiment.system import Experiment
from fcos_rpn.checkpoint import FCOSCheckpointer
from fcos_rpn.engine.progress import training_seconds
from fcos_rpn.engine.setup import use_datasets
from fcos_rpn.engine.trainer import TrainingDiverged
from fcos_rpn.errors import UserError
from fcos_rpn.evaluation import write_results


def best_rate(experiment: Experiment, name: str) -> float:
    """The learning rate with the highest criterion on a fold of the training images, at a part of the budget; where
    there is but one, it is taken without a trial.

    Raises:
        UserError: if the training diverges at all of them, or there are too few images.
    """
    system = experiment.systems[name]
    if system.weights_of:
        return best_rate(experiment, system.weights_of)
    if len(experiment.rates) == 1:
        return experiment.rates[0]
    fold = split(Path(experiment.train[1]), experiment.output / "fold")
    found = {rate: run(experiment, name, rate=rate, seed=0, fold=fold) for rate in experiment.rates}
    figures = {rate: figures[experiment.criterion[1]] for rate, figures in found.items() if "diverged" not in figures}
    if not figures:
        raise UserError(f"{system.title}: training diverges at every learning rate of --rates; give lower ones")
    return max(figures, key=lambda rate: figures[rate])


def run(
    experiment: Experiment, name: str, *, rate: float, seed: int, fold: Sequence[Path] | None = None
) -> dict[str, Any]:
    """What `Experiment.summarize` keeps of the last evaluation, `by_iteration` and `seconds` of training.

    On a fold, training that diverges is a finding, too: the only entry is then `diverged`, the reason.

    Args:
        experiment, name: a system of an experiment.
        rate: learning rate.
        seed: of all randomness.
        fold: two jsons of the training images, to train on and to evaluate on; a part of the budget is spent there.

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
    require_same_settings(output, settings_of(experiment, name, rate=rate, on_fold=fold is not None))
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
    found = read_json(output / "run.json")
    assert isinstance(found, dict)
    return found


def train(experiment: Experiment, cfg: CfgNode, title: str) -> dict[str, Any]:
    """From the last checkpoint, if there is one."""
    output = Path(cfg.OUTPUT_DIR)
    use_datasets(cfg)
    cfg.freeze()
    seed_all_rng(cfg.SEED)
    trainer = experiment.trainer(cfg, title=title, reset_class_layers=True)
    trainer.resume_or_load(resume=True)
    with contextlib.redirect_stdout(io.StringIO()):  # the table at the end says it all
        trainer.train()
    (found,) = read_json(output / "results.json").values()  # of the last evaluation
    task = experiment.criterion[0]
    return {
        **experiment.summarize(found),
        "by_iteration": figures_by_iteration(output / "metrics.json", cfg.SOLVER.MAX_ITER, task, experiment.followed),
        "seconds": training_seconds(output / "metrics.json"),
    }


def evaluate(experiment: Experiment, cfg: CfgNode, title: str) -> dict[str, Any]:
    """With the weights of another system."""
    print(title)
    use_datasets(cfg, is_training=False)
    cfg.freeze()
    model = experiment.trainer.build_model(cfg)
    FCOSCheckpointer(model, require_all=True).load(cfg.MODEL.WEIGHTS)
    with contextlib.redirect_stdout(io.StringIO()):
        found = experiment.trainer.test(cfg, model)
    return {**experiment.summarize(found), "by_iteration": {}, "seconds": 0.0}
