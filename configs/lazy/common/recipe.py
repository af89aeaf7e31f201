"""Data, optimizer, schedule and the rest of a training, as `fcos_rpn.engine.yaml` takes them from a config."""

import torch
from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.data.transforms import RandomFlip, ResizeShortestEdge
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig

from fcos_rpn.data import CheckedDatasetMapper
from fcos_rpn.data.loader import load_records
from fcos_rpn.engine.lazy import train_loader
from fcos_rpn.evaluation import build_evaluator


def coco(cfg: CfgNode) -> dict[str, DictConfig]:
    """`dataloader`: of `DATASETS`, `INPUT`, `DATALOADER` and the batch of `SOLVER`; one data set to test on."""
    (test_set,) = cfg.DATASETS.TEST
    resize = L(ResizeShortestEdge)(
        short_edge_length=cfg.INPUT.MIN_SIZE_TRAIN,
        max_size=cfg.INPUT.MAX_SIZE_TRAIN,
        sample_style=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
    )
    return {
        "train": L(train_loader)(
            dataset=L(load_records)(names=cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS),
            mapper=L(CheckedDatasetMapper)(
                is_train=True,
                augmentations=[resize, L(RandomFlip)(horizontal=True)],
                image_format=cfg.INPUT.FORMAT,
            ),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        ),
        "test": L(build_detection_test_loader)(
            dataset=L(get_detection_dataset_dicts)(names=test_set, filter_empty=False),
            mapper=L(CheckedDatasetMapper)(
                is_train=False,
                augmentations=[
                    L(ResizeShortestEdge)(
                        short_edge_length=cfg.INPUT.MIN_SIZE_TEST,
                        max_size=cfg.INPUT.MAX_SIZE_TEST,
                        sample_style="choice",
                    )
                ],
                image_format="${...train.mapper.image_format}",
            ),
            num_workers="${..train.num_workers}",
        ),
        "evaluator": L(build_evaluator)(
            dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}/inference/${.dataset_name}"
        ),
    }


def sgd(cfg: CfgNode) -> DictConfig:
    """`optimizer`; the model is put in as `params.model` before it is built."""
    solver = cfg.SOLVER
    return L(torch.optim.SGD)(
        params=L(get_default_optimizer_params)(
            base_lr="${..lr}",
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        ),
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
    )


def steps(cfg: CfgNode) -> DictConfig:
    """`lr_multiplier`; it stretches and shrinks with `train.max_iter`."""
    solver = cfg.SOLVER
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[solver.GAMMA**step for step in range(len(solver.STEPS) + 1)],
            milestones=solver.STEPS,
            num_updates=solver.MAX_ITER,
        ),
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_length=solver.WARMUP_ITERS / solver.MAX_ITER,
        warmup_method=solver.WARMUP_METHOD,
        rescale_interval=solver.RESCALE_INTERVAL,
    )


def train(cfg: CfgNode) -> dict[str, object]:
    """`train`: what `tools/lazyconfig_train_net.py` itself reads."""
    return {
        "output_dir": cfg.OUTPUT_DIR,
        # In COCO's format, [[images, json], ...]; they replace the data sets of `dataloader`.
        "folders": {"train": cfg.DATASETS.TRAIN_FOLDERS, "test": cfg.DATASETS.TEST_FOLDERS},
        "init_checkpoint": cfg.MODEL.WEIGHTS,
        "device": cfg.MODEL.DEVICE,
        "seed": cfg.SEED,
        "cudnn_benchmark": cfg.CUDNN_BENCHMARK,
        "max_iter": cfg.SOLVER.MAX_ITER,
        "amp": {"enabled": cfg.SOLVER.AMP.ENABLED},
        "ddp": {"broadcast_buffers": False},
        "checkpointer": {"period": cfg.SOLVER.CHECKPOINT_PERIOD},
        "eval_period": cfg.TEST.EVAL_PERIOD,
        "log_period": 20,
    }
