"""Feature pyramids and the networks below them."""

from . import fpn  # noqa: F401  registers the builders
from .timm import TimmBackbone
from .torchvision import TorchvisionBackbone

__all__ = ["TimmBackbone", "TorchvisionBackbone"]
