"""Trained models as files that run without this package: ONNX and torch.export.

network  FCOS, or a ProposalNetwork with FCOSRPN, as a function of one image tensor that returns plain tensors
rcnn     a Faster R-CNN with FCOSRPN likewise, best effort
graph    the network of a model, and its graph
writing  the graph in a file
"""

from .graph import export_graph, network_of
from .network import BoxNetwork
from .rcnn import TwoStageNetwork
from .writing import FORMATS, Format, as_onnx, as_torch_export, require_packages

__all__ = [
    "FORMATS",
    "BoxNetwork",
    "Format",
    "TwoStageNetwork",
    "as_onnx",
    "as_torch_export",
    "export_graph",
    "network_of",
    "require_packages",
]
