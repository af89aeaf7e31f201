"""Evaluation of a model on data sets: AP and AR from one run, as tables and as `results.json`."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.utils import comm
from torch import nn
from tqdm import tqdm

from ..checkpoint import FCOSCheckpointer
from ..evaluation import FCOSWithProposals, results_table, write_results
from ..modeling.meta_arch import FCOS
from ..modeling.optimize import optimize_for_inference

logger = logging.getLogger(__name__)


def with_proposals(model: nn.Module) -> nn.Module:
    """Let a one-stage detector show its class-agnostic boxes, too, so that it gets AP and AR."""
    return FCOSWithProposals(model) if isinstance(model, FCOS) else model


class EvaluationSet(NamedTuple):
    """A data set, and how a model is evaluated on it."""

    name: str
    build_loader: Callable[[], Any]
    build_evaluator: Callable[[], DatasetEvaluator]
    suffix: str = ""
    """Behind the names of the tasks in the results."""
    wrap: Callable[[nn.Module], nn.Module] = with_proposals
    """The module to run in place of the model."""


def evaluate_model(
    model: nn.Module,
    test_sets: Iterable[EvaluationSet],
    *,
    output_dir: str,
    precision: torch.dtype | None = None,
    show_progress: bool = False,
) -> "OrderedDict[str, Any]":
    """Evaluate a model on every test set, log tables and write `results.json`.

    Args:
        model: of either role, in any mode; it stays as it is.
        test_sets: several of one name share a table.
        output_dir: where `results.json` goes.
        precision: of autocast; None evaluates in float32.
        show_progress: draw a bar of the batches.

    Returns:
        As Detectron2: results by task and metric, in percent, below the data set's name if there are several; empty on
        all processes but the main one.
    """
    optimized = optimize_for_inference(model)
    results: OrderedDict[str, Any] = OrderedDict()
    for test_set in test_sets:
        loader = tqdm(test_set.build_loader(), desc="  evaluating", unit="image", disable=not show_progress)
        device_type = next(model.parameters()).device.type
        with torch.autocast(device_type, dtype=precision, enabled=precision is not None):
            found = inference_on_dataset(test_set.wrap(optimized), loader, test_set.build_evaluator())
        if comm.is_main_process():
            tasks = results.setdefault(test_set.name, {})
            tasks.update({f"{task}{test_set.suffix}": figures for task, figures in found.items()})
    for name, tasks in results.items():
        if tasks:
            logger.info("Results on %s, in percent:\n%s", name, results_table(tasks))
    if comm.is_main_process():
        write_results(Path(output_dir) / "results.json", results)
    return next(iter(results.values())) if len(results) == 1 else results


def load_all_weights(model: nn.Module, weights: str, *, output_dir: str, resume: bool, class_names: list[str]) -> None:
    """Load all weights of a file or, with `resume`, of the last checkpoint of a training's output folder.

    Args:
        class_names: of the data sets; the checkpoint's are compared with them.

    Raises:
        UserError: if there are no weights, or they do not fit the model.
    """
    checkpointer = FCOSCheckpointer(model, output_dir, require_all=True, class_names=class_names)
    checkpointer.resume_or_load(weights, resume=resume)
