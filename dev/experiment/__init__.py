"""Comparing systems on an equal footing: the same data, budget and seeds, and a learning rate chosen with equal effort.

figures     reading what runs have left; mean and spread over seeds
system      what is compared, and its config at an experiment's budget
settings    a finished run is taken up again only if everything it depends on is the same
fold        a part of the training images, held out for choices
two_stage   the systems of a Faster R-CNN: a proposal generator and remedies
run         trains and evaluates a system, or takes up what an earlier call has left; chooses its learning rate
"""

from dev.experiment.fold import split
from dev.experiment.run import best_rate, run
from dev.experiment.run_files import by_system, mean_and_spread, read_results
from dev.experiment.settings import require_same_settings
from dev.experiment.system import Experiment, System, add_experiment_arguments, experiment_from, iterations

__all__ = [
    "Experiment",
    "System",
    "add_experiment_arguments",
    "best_rate",
    "by_system",
    "experiment_from",
    "iterations",
    "mean_and_spread",
    "read_results",
    "require_same_settings",
    "run",
    "split",
]
