"""One thread for all tests: their models are too small for more."""

import logging
import os

os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import HealthCheck, Phase, settings

from tests.processes import forked as forked

torch.set_num_threads(1)

# The same examples in every run, as few as take seconds on a slow core.
settings.register_profile(
    "deterministic",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("deterministic")


@pytest.fixture
def detectron2_restored():
    """Takes back what a run leaves behind in Detectron2: registered data sets, and loggers whose messages go to the
    run's handlers and no longer to pytest's."""
    data_sets = set(DatasetCatalog)
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "fcos_rpn")]
    before = [(logger, logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for name in set(DatasetCatalog) - data_sets:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for logger, level, propagate, handlers in before:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.setLevel(level)  # which also forgets what child loggers know of the level
        logger.propagate, logger.handlers = propagate, handlers
