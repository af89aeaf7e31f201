"""Before a model is built: register the config's data sets, count their classes, look for the device."""

from reprlib import repr as short_repr

import torch
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ..checkpoint.safe_loading import load_pickle
from ..data import class_names, register_coco_folder, require_files
from ..errors import UserError


def use_datasets(cfg: CfgNode, *, is_training: bool = True) -> None:
    """Register the folders of a config, and take the number of classes from the data sets.

    `DATASETS.TRAIN_FOLDERS` and `TEST_FOLDERS` replace `DATASETS.TRAIN` and `TEST`. Folders to train on without any to
    test on mean that nothing is evaluated: the config's own test set has other classes.

    Args:
        cfg: changed in place: `DATASETS.{TRAIN,TEST}` and `MODEL.{FCOS,RETINANET,ROI_HEADS}.NUM_CLASSES`.
        is_training: whether the training data will be needed.

    Raises:
        UserError: if a data set is missing, unknown or broken, or two have different classes, or a file of proposals
            holds more than these.
    """
    if cfg.MODEL.LOAD_PROPOSALS:
        for key in ("PROPOSAL_FILES_TRAIN", "PROPOSAL_FILES_TEST")[0 if is_training else 1 :]:
            for file in cfg.DATASETS[key]:
                _require_plain(f"DATASETS.{key}", file)
    for key in ("TRAIN_FOLDERS", "TEST_FOLDERS"):
        for pair in cfg.DATASETS[key]:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                misfit = short_repr(pair)
                raise UserError(f"DATASETS.{key} must be a list of [images, json], so {misfit} does not fit in")
    train, test = (
        tuple(
            register_coco_folder(
                images,
                json,
                output_dir=cfg.OUTPUT_DIR,
                with_masks=cfg.MODEL.MASK_ON,
                with_keypoints=cfg.MODEL.KEYPOINT_ON,
            )
            for images, json in folders
        )
        for folders in (cfg.DATASETS.TRAIN_FOLDERS if is_training else [], cfg.DATASETS.TEST_FOLDERS)
    )
    if train or test:
        cfg.DATASETS.TRAIN = train or cfg.DATASETS.TRAIN
        cfg.DATASETS.TEST = test
    if is_training and not cfg.DATASETS.TRAIN:
        raise UserError("there is nothing to train on: give --train IMAGES JSON, or name data sets in DATASETS.TRAIN")
    used = (*(cfg.DATASETS.TRAIN if is_training else ()), *cfg.DATASETS.TEST)
    for name in used:
        require_files(name)
    set_num_classes(cfg, len(class_names(used)))


def _require_plain(key: str, file: str) -> None:
    """Of a pickle, which Detectron2 will read with all code that it may hold."""
    try:
        load_pickle(PathManager.get_local_path(file))
    except Exception as error:  # a broken file stops its reader with nearly any exception
        raise UserError(f"{key}: {file} is not read: {error}") from error


def set_num_classes(cfg: CfgNode, num_classes: int) -> None:
    """Of whichever model the config builds."""
    cfg.MODEL.FCOS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes


def require_device(device: str, num_processes: int) -> None:
    """
    Raises:
        UserError: if the device, or as many of it as there are processes, is not there.
    """
    if device.startswith("cuda") and torch.cuda.device_count() < max(1, num_processes):
        raise UserError(
            f"MODEL.DEVICE is {device} and {max(1, num_processes)} of it are asked for, but this machine shows "
            f"{torch.cuda.device_count()}. Train on the CPU with --num-gpus 0, or on N processes of it with "
            "--num-gpus N MODEL.DEVICE cpu"
        )
