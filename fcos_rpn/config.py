"""Every config key that this package reads and Detectron2 lacks, and merging that says what is wrong."""

import difflib
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2 import model_zoo as detectron2_model_zoo
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
)

from .errors import UserError


def add_fcos_config(cfg: CfgNode) -> None:
    """Add the keys and their defaults, the authors' improved recipe, to a config from Detectron2's `get_cfg()`.

    Raises:
        UserError: if the config has one of the groups of keys already; its values stay.
    """
    if taken := [group for group in ("MODEL.FCOS", "MODEL.TORCHVISION", "MODEL.TIMM") if _is_node(cfg, group)]:
        raise UserError(
            f"add_fcos_config: the config already has {' and '.join(taken)}, from an earlier call or from another "
            "package of detectors, such as AdelaiDet (adet.config.get_cfg has MODEL.FCOS); call it once, on a config "
            "from detectron2.config.get_cfg"
        )
    fcos = cfg.MODEL.FCOS = CfgNode()
    # Foreground classes of the one-stage role; the RPN role has one.
    fcos.NUM_CLASSES = 80
    # Levels of the one-stage role; the RPN role reads MODEL.RPN.IN_FEATURES.
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Upper ends m_i of all levels but the last, in pixels; [] is 8 x the stride of each level.
    fcos.SIZES_OF_INTEREST = []
    # In strides; 0.0 takes the whole box.
    fcos.CENTER_SAMPLING_RADIUS = 1.5
    # Where in its cell a location lies; as MODEL.ANCHOR_GENERATOR.OFFSET.
    fcos.LOCATION_OFFSET = 0.5

    # Depth and normalization of the two towers: "GN", "BN" or "SyncBN", both with statistics per level, or "" for none.
    fcos.NUM_CONVS = 4
    # Depth of a tower that both stand on; with NUM_CONVS 0 they are nothing but that.
    fcos.NUM_SHARED_CONVS = 0
    fcos.NORM = "GN"
    # A bias before the normalization, as in converted checkpoints; without a normalization there always is one.
    fcos.TOWER_BIAS = False
    # Makes the last convolution of both towers a deformable one.
    fcos.USE_DEFORMABLE = False
    # From the regression to distances: "relu", in strides, or "exp", in pixels.
    fcos.BBOX_ACTIVATION = "relu"
    # One learnable factor of the regression per level.
    fcos.USE_SCALE = True
    # Predicted on the "reg" or the "cls" tower; "none"; "computed" from the predicted box; or "iou" in its place.
    fcos.CENTERNESS = "reg"
    # What a new head predicts for every class.
    fcos.PRIOR_PROB = 0.01

    fcos.FOCAL_LOSS_ALPHA = 0.25
    fcos.FOCAL_LOSS_GAMMA = 2.0
    # "iou", "linear_iou", "giou", "diou", "ciou", "smooth_l1" or "l2".
    fcos.BBOX_REG_LOSS_TYPE = "giou"
    # What the box loss of a location counts: its "centerness", or 1 ("none").
    fcos.BBOX_REG_LOSS_WEIGHT_BY = "centerness"
    fcos.LOSS_WEIGHTS = CfgNode({"CLS": 1.0, "LOC": 1.0, "CTR": 1.0})

    # Of class and centerness: "geometric" mean or "product".
    fcos.SCORE_FUSION = "geometric"

    # Selection of the one-stage role. Boxes of an image: TEST.DETECTIONS_PER_IMAGE.
    fcos.SCORE_THRESH_TEST = 0.05
    # The "class" probability or the "fused" score.
    fcos.THRESH_ON = "class"
    fcos.TOPK_CANDIDATES_TEST = 1000
    fcos.NMS_THRESH_TEST = 0.6
    # Proposals suppress each other within a level, as in Detectron2's RPN, or over all levels. The rest of the
    # RPN role's selection is Detectron2's MODEL.RPN and MODEL.PROPOSAL_GENERATOR.
    fcos.PROPOSAL_NMS_PER_LEVEL = True

    # Normalization of NormRPNHead, any that Detectron2 knows; its depth is the length of MODEL.RPN.CONV_DIMS.
    cfg.MODEL.RPN.NORM = "GN"

    # For FusedScoreROIHeads and FusedScoreCascadeROIHeads: above 1.0 a proposal's score counts less.
    cfg.MODEL.ROI_HEADS.OBJECTNESS_TEMPERATURE = 1.0

    # For build_torchvision_fpn_backbone.
    torchvision = cfg.MODEL.TORCHVISION = CfgNode()
    torchvision.NAME = "mobilenet_v2"
    # Modules that give res2, res3, res4 and res5; [] takes the last block of each stride.
    torchvision.NODES = []
    # "FrozenBN" or "BN".
    torchvision.NORM = "FrozenBN"

    # For build_timm_fpn_backbone and build_timm_p6_fpn_backbone.
    timm = cfg.MODEL.TIMM = CfgNode()
    timm.NAME = "hrnet_w32"
    # "FrozenBN" or "BN".
    timm.NORM = "FrozenBN"

    # Steps in a row whose loss is not finite that a training skips; at one more it stops.
    cfg.SOLVER.SKIP_NONFINITE_LOSSES = 0

    # Precision of SOLVER.AMP.ENABLED: "float16", which needs a GPU, or "bfloat16".
    cfg.SOLVER.AMP.PRECISION = "float16"

    # What AP and AR are computed by: "hotcoco", or "pycocotools".
    cfg.TEST.COCO_API = "hotcoco"
    # Reports Detectron2's own AR besides COCO's.
    cfg.TEST.DETECTRON2_AR = False

    # Data sets in COCO's format besides the registered ones of DATASETS.TRAIN and TEST: [[images, json], ...].
    cfg.DATASETS.TRAIN_FOLDERS = []
    cfg.DATASETS.TEST_FOLDERS = []


def merge_file(cfg: CfgNode, path: str | Path) -> None:
    """Merge a YAML file, without executing code that it may contain.

    Raises:
        UserError: if it is missing or not YAML, or a key or a type is wrong.
    """
    if not Path(path).is_file():
        raise UserError(f"no config file {path}")
    try:
        content = CfgNode.load_yaml_with_base(str(path))
        given = flatten(content) if isinstance(content, Mapping) else None
    except TypeError:  # the loader's answer to a file, or a base of it, that is empty or a mere number
        given = None
    except RecursionError as error:
        raise UserError(
            f"config file {path}: its _BASE_ leads back to itself, or one of its values holds itself"
        ) from error
    except Exception as error:  # YAML's tags stop its reader with nearly any exception
        raise UserError(f"cannot read config file {path}: {error}") from error
    if given is None:
        raise UserError(f"config file {path}: it, or its _BASE_, holds no KEY: VALUE pairs")
    _require_known(cfg, given, f"config file {path}")
    try:
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise UserError(f"config file {path}: {_why(cfg, given, error)}") from error


def merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Merge the command line's KEY VALUE pairs.

    Raises:
        UserError: if a value is missing, or a key or a type is wrong.
    """
    if len(overrides) % 2:
        raise UserError(f"the command line's overrides are not KEY VALUE pairs: {' '.join(overrides)}")
    given = dict(zip(overrides[::2], map(_parse, overrides[1::2]), strict=True))
    _require_known(cfg, given, "command line")
    try:
        cfg.merge_from_list(list(overrides))
    except (KeyError, ValueError, TypeError, AssertionError) as error:
        raise UserError(f"command line: {_why(cfg, given, error)}") from error


def _require_known(cfg: CfgNode, given: Mapping[str, Any], source: str) -> None:
    known = flatten(cfg)
    for key in given:
        if key not in known and _is_node(cfg, key):
            member = next(name for name in known if name.startswith(f"{key}."))
            raise UserError(f"{source}: {key} is a group of keys and has no value; set its members, such as {member}")
        # VERSION and _BASE_ belong to Detectron2's loader.
        if key not in known and key not in ("VERSION", "_BASE_"):
            similar = difflib.get_close_matches(key, known, n=3)
            hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
            raise UserError(f"{source}: there is no config key {key}.{hint}")


def _why(cfg: CfgNode, given: Mapping[str, Any], error: Exception) -> str:
    known = flatten(cfg)
    for key, value in given.items():
        if isinstance(known.get(key), float) and type(value) is int:
            return f"{key} is a float and wants a point: {value}.0, not {value}"
    return str(error.args[0] if error.args else error)


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Map every key of a config, such as `MODEL.FCOS.NORM`, to its value."""
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value})
    return flat


def _is_node(cfg: CfgNode, key: str) -> bool:
    node: Any = cfg
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return False
        node = node[name]
    return True


def _parse(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


LAZY_GROUPS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
"""What a LazyConfig must define, as in Detectron2."""


def is_lazy(config_file: str | Path) -> bool:
    """Tell a LazyConfig, Python or the YAML that a training from one wrote, from a YAML config with keys such as
    MODEL.WEIGHTS."""
    if Path(config_file).suffix == ".py":
        return True
    try:
        lines = Path(config_file).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # whoever reads it says what is wrong with it
        return False
    return {*LAZY_GROUPS} <= {line.partition(":")[0] for line in lines}


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a YAML config with the command line's KEY VALUE pairs.

    Raises:
        UserError: on a LazyConfig, or a wrong key, type or name.
    """
    if is_lazy(path):
        raise UserError(
            f"config file {path} is a LazyConfig, which only `fcos-rpn train` reads, to train and with --eval-only; "
            "give a YAML config with keys such as MODEL.WEIGHTS"
        )
    cfg = get_cfg()
    add_fcos_config(cfg)
    if Path(detectron2_model_zoo.__file__).resolve().parent in Path(path).resolve().parents:
        # Its RetinaNet's holds code, which merge_file refuses; it is as safe as Detectron2 itself.
        cfg.merge_from_file(str(path), allow_unsafe=True)
    else:
        merge_file(cfg, path)
    merge_overrides(cfg, overrides)
    require_registered_parts(cfg)
    return cfg


PARTS = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "MODEL.ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
    "MODEL.ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
}
"""Config key -> where Detectron2 looks its value up."""


def require_registered_parts(cfg: CfgNode) -> None:
    """
    Raises:
        UserError: if the config names a part that nobody registered.
    """
    for key, registry in PARTS.items():
        name = operator.attrgetter(key)(cfg)
        # Detectron2 registers no part under its name for proposals from files.
        if name and name != "PrecomputedProposals" and name not in registry:
            raise UserError(f"{key}: there is no {name!r}; registered are {', '.join(sorted(n for n, _ in registry))}")
