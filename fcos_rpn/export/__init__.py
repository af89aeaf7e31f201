"""Trained models as files that run without this package: ONNX and torch.export.

network   a model as a function of one image tensor that gives plain tensors, and its graph
formats   the graph in a file
"""

from .formats import FORMATS, Format, as_onnx, as_torch_export, require_packages, write_whole
from .network import BoxNetwork, box_network_of, export_graph

__all__ = [
    "FORMATS",
    "BoxNetwork",
    "Format",
    "as_onnx",
    "as_torch_export",
    "box_network_of",
    "export_graph",
    "require_packages",
    "write_whole",
]
