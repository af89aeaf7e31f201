"""FCOS as a Detectron2 detector and as the proposal generator of its R-CNNs, from one code path.

Importing registers META_ARCH `FCOS`, `GeneralizedRCNNWithProposals` and `BatchedProposalNetwork`, PROPOSAL_GENERATOR
`FCOSRPN`, RPN_HEAD `NormRPNHead`, ROI_HEADS `FusedScoreROIHeads` and `FusedScoreCascadeROIHeads`, and BACKBONE
`build_{p5_p67,p2_p67}_resnet_fpn_backbone` and `build_{torchvision,timm}_{fpn,p6_fpn}_backbone`.

Reading order of the model; each module uses only those above it:

    modeling.geometry            locations of a pyramid, box <-> (l, t, r, b), centerness
    modeling.head                features -> FCOSPredictions
    modeling.assigner            locations and ground truth -> FCOSTargets
    modeling.losses              predictions and targets -> three losses
    modeling.postprocess         predictions -> Instances
    modeling.core                all that learns above the pyramid
    modeling.meta_arch           the one-stage role, FCOS: images -> detections
    modeling.proposal_generator  the proposal role, FCOSRPN: features -> proposals

The other packages use `modeling`, and it uses none of them:

    config, model_zoo            config keys, reading configs, the packaged configs by name
    data                         data sets, from files to batches
    checkpoint                   saving, loading and converting weights
    engine                       one training loop, built from a YAML or a LazyConfig
    evaluation                   AP and AR
    analysis, visualization      what a config can learn, what a model has learned; pictures of both
    export, predictor            a trained model as a file, and on single pictures
    commands                     `fcos-rpn COMMAND`
"""

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":  # what detectron2 itself needs names itself
        raise
    raise ModuleNotFoundError(
        "fcos_rpn needs detectron2, which no package index carries under its own name. Two ways to get it:\n"
        "  with a compiler:  pip install --no-build-isolation"
        " 'git+https://github.com/facebookresearch/detectron2.git'\n"
        "  without one:      pip install uv && uv pip install --python-version 3.10 --no-deps sal-detectron2==0.7.2"
        " && pip install '.[detectron2-deps]' in the checkout of fcos_rpn"
    ) from error

from . import model_zoo
from .analysis import ambiguous_samples, best_possible_recall
from .checkpoint.conversion import convert_state_dict
from .config import add_fcos_config
from .errors import UserError
from .modeling.assigner import FCOSAssigner, FCOSTargets
from .modeling.backbones import TimmBackbone, TorchvisionBackbone
from .modeling.backbones import fpn as backbone  # noqa: F401  registers the pyramids
from .modeling.core import FCOSCore
from .modeling.geometry import Locations, compute_centerness, compute_locations, decode_boxes, encode_boxes
from .modeling.head import FCOSHead, FCOSPredictions
from .modeling.losses import FCOSLosses
from .modeling.meta_arch import FCOS
from .modeling.optimize import optimize_for_inference
from .modeling.postprocess import FCOSPostProcessor
from .modeling.proposal_generator import FCOSRPN
from .modeling.rcnn import FusedScoreCascadeROIHeads, FusedScoreROIHeads, GeneralizedRCNNWithProposals
from .modeling.rpn_head import NormRPNHead
from .modeling.tta import FCOSWithTTA
from .predictor import Predictor

__all__ = [
    "FCOS",
    "FCOSRPN",
    "FCOSAssigner",
    "FCOSCore",
    "FCOSHead",
    "FCOSLosses",
    "FCOSPostProcessor",
    "FCOSPredictions",
    "FCOSTargets",
    "FCOSWithTTA",
    "FusedScoreCascadeROIHeads",
    "FusedScoreROIHeads",
    "GeneralizedRCNNWithProposals",
    "Locations",
    "NormRPNHead",
    "Predictor",
    "TimmBackbone",
    "TorchvisionBackbone",
    "UserError",
    "add_fcos_config",
    "ambiguous_samples",
    "best_possible_recall",
    "compute_centerness",
    "compute_locations",
    "convert_state_dict",
    "decode_boxes",
    "encode_boxes",
    "model_zoo",
    "optimize_for_inference",
]
