"""Before a model is built: register the config's data sets, count their classes, look for the device."""

import logging
from collections.abc import Sequence
from reprlib import repr as short_repr

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..checkpoint.safe_loading import load_pickle
from ..data import class_names, register_coco_folder, require_files
from ..errors import UserError

logger = logging.getLogger(__name__)


COCO_KEYPOINTS = 17
DEFAULT_NUM_CLASSES = 80
"""Of a config that says nothing."""


def use_datasets(cfg: CfgNode, *, is_training: bool = True) -> None:
    """Register the folders of a config, and take the number of classes from the data sets.

    `DATASETS.TRAIN_FOLDERS` and `TEST_FOLDERS` replace `DATASETS.TRAIN` and `TEST`. Folders to train on without any to
    test on mean that nothing is evaluated: the config's own test set has other classes.

    Args:
        cfg: changed in place: `DATASETS.{TRAIN,TEST}` and `MODEL.{FCOS,RETINANET,ROI_HEADS}.NUM_CLASSES`.
        is_training: whether the training data will be needed.

    Raises:
        UserError: if a data set is missing, unknown or broken, or two have different classes, or a file of proposals
            is missing or holds code.
    """
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
                mask_format=mask_format,
            )
            for images, json in folders
        )
        for folders, mask_format in (
            (cfg.DATASETS.TRAIN_FOLDERS if is_training else [], cfg.INPUT.MASK_FORMAT),
            (cfg.DATASETS.TEST_FOLDERS, "bitmask"),  # evaluation reads run-length encodings, too
        )
    )
    if train or test:
        cfg.DATASETS.TRAIN = train or cfg.DATASETS.TRAIN
        cfg.DATASETS.TEST = test
    if is_training and not cfg.DATASETS.TRAIN:
        raise UserError("there is nothing to train on: give --train IMAGES JSON, or name data sets in DATASETS.TRAIN")
    used = (*(cfg.DATASETS.TRAIN if is_training else ()), *cfg.DATASETS.TEST)
    for name in used:
        require_files(name)
    if cfg.MODEL.LOAD_PROPOSALS:
        for part in ("TRAIN", "TEST") if is_training else ("TEST",):
            _require_proposals(
                f"DATASETS.PROPOSAL_FILES_{part}", cfg.DATASETS[f"PROPOSAL_FILES_{part}"], cfg.DATASETS[part]
            )
    if cfg.MODEL.KEYPOINT_ON:
        for name in used:
            if problem := keypoints_problem(cfg, len(MetadataCatalog.get(name).get("keypoint_names", ()))):
                raise UserError(f"data set {name!r}: {problem}")
    num_classes = len(class_names(used))
    node = cfg.MODEL.FCOS if cfg.MODEL.META_ARCHITECTURE == "FCOS" else cfg.MODEL.ROI_HEADS
    if node.NUM_CLASSES not in (num_classes, DEFAULT_NUM_CLASSES):
        logger.warning(
            "NUM_CLASSES %d of the config is replaced by %d, the number of the data sets' classes",
            node.NUM_CLASSES,
            num_classes,
        )
    set_num_classes(cfg, num_classes)


def _require_proposals(key: str, files: Sequence[str], names: Sequence[str]) -> None:
    """Require a file of proposals for each data set, and refuse a pickle that holds code: Detectron2 would run it."""
    if len(files) != len(names):
        raise UserError(
            f"{key}: {len(files)} files for {len(names)} data sets; MODEL.LOAD_PROPOSALS True wants one for each, such "
            "as the box_proposals.pkl that an evaluation of a model with a proposal generator writes"
        )
    for file in files:
        try:
            load_pickle(PathManager.get_local_path(file))
        except Exception as error:  # a broken file stops its reader with nearly any exception
            raise UserError(f"{key}: {file} is not read: {error}") from error


def keypoints_problem(cfg: CfgNode, num_annotated: int) -> str | None:
    """Say which key of a keypoint model does not fit the number of keypoints that the categories name (0: none do)."""
    num_predicted = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    num_sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or COCO_KEYPOINTS
    if num_annotated and num_predicted != num_annotated:
        return (
            f"its categories name {num_annotated} keypoints, but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is "
            f"{num_predicted}; set it {num_annotated}"
        )
    if num_annotated and num_sigmas != num_annotated:
        return (
            f"its categories name {num_annotated} keypoints, but TEST.KEYPOINT_OKS_SIGMAS has {num_sigmas} values (an "
            f"empty list has COCO's {COCO_KEYPOINTS}); set one for each keypoint, such as 0.1"
        )
    return None


def set_num_classes(cfg: CfgNode, num_classes: int) -> None:
    """Set it for every architecture."""
    cfg.MODEL.FCOS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes


def require_device(
    device: str, num_processes: int, *, key: str = "MODEL.DEVICE", on_cpu: str = "MODEL.DEVICE cpu"
) -> None:
    """Raise a UserError if the device, or as many of it as there are processes, is not there.

    Args:
        key: what the message calls the device's setting.
        on_cpu: the words on the command line that set it to the CPU.
    """
    try:
        wanted = torch.device(device)
        num_devices = torch.get_device_module(wanted).device_count()
    except (RuntimeError, AttributeError) as error:
        raise UserError(
            f"{key} is {device!r}, on which this PyTorch cannot compute; name cpu, cuda or mps, or one of "
            "several, such as cuda:1"
        ) from error
    num_wanted = max(1, num_processes, (wanted.index or 0) + 1)
    if wanted.type != "cpu" and num_devices < num_wanted:
        raise UserError(
            f"{key} is {device} and {num_wanted} of it are asked for, but this machine shows {num_devices}. "
            f"Train on the CPU with --num-gpus 0, or on N processes of it with --num-gpus N {on_cpu}"
        )
