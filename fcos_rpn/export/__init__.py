"""Trained models as files that run without this package: ONNX and torch.export.

network    one stage of FCOS, detector or proposal generator, as a function of one image tensor that gives plain tensors
two_stage  a Faster R-CNN likewise, best effort
graph      which of them a model is, and its graph
formats    the graph in a file
"""

from .formats import FORMATS, Format, as_onnx, as_torch_export, require_packages
from .graph import export_graph, network_of
from .network import BoxNetwork
from .rcnn import TwoStageNetwork

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
