"""The network of a model, and its graph for images of any size."""

import warnings
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork
from torch import nn
from torch.export import Dim, ExportedProgram

from ..errors import UserError
from ..modeling.meta_arch import FCOS
from ..modeling.proposal_generator import FCOSRPN
from .network import BoxNetwork
from .rcnn import TwoStageNetwork, why_not


def network_of(model: nn.Module) -> BoxNetwork | TwoStageNetwork:
    """Return the model's own layers as a network that can be exported, in evaluation mode.

    Raises:
        UserError: if the model is neither `FCOS`, nor a `ProposalNetwork` or a plain Faster R-CNN with FCOSRPN.
    """
    generator = getattr(model, "proposal_generator", None)
    if isinstance(model, FCOS):
        num_classes = model.core.head.cls_logits.out_channels
        return _box_network(model, core=model.core, postprocessor=model.postprocessor, num_classes=num_classes)
    if not isinstance(model, ProposalNetwork | GeneralizedRCNN) or not isinstance(generator, FCOSRPN):
        name = f"{type(model).__name__}{f' with {type(generator).__name__}' if generator is not None else ''}"
        raise UserError(
            f"{name} cannot be exported. MODEL.META_ARCHITECTURE FCOS can, and ProposalNetwork and Faster R-CNN with "
            "MODEL.PROPOSAL_GENERATOR.NAME FCOSRPN; Detectron2's anchors cannot"
        )
    stage = _box_network(model, core=generator.core, postprocessor=generator.test_postprocessor, num_classes=None)
    if isinstance(model, ProposalNetwork):
        return stage
    if reason := why_not(model.roi_heads):
        raise UserError(
            f"this {type(model).__name__} cannot be exported whole: {reason}. Its first stage can be, with the same "
            "weights: MODEL.META_ARCHITECTURE ProposalNetwork"
        )
    return TwoStageNetwork(stage, model.roi_heads).eval()


def _box_network(model: nn.Module, **parts: Any) -> BoxNetwork:
    shared: dict[str, Any] = {name: getattr(model, name) for name in ("backbone", "pixel_mean", "pixel_std")}
    network = BoxNetwork(**shared, **parts)
    if network.backbone.padding_constraints.get("square_size"):
        raise UserError(
            f"the backbone {type(network.backbone).__name__} pads images in its own way "
            f"({network.backbone.padding_constraints}), which export does not support; choose a backbone that only "
            "needs divisible sides"
        )
    return network.eval()


@torch.no_grad()
def export_graph(network: BoxNetwork | TwoStageNetwork, *, size: tuple[int, int]) -> ExportedProgram:
    """Trace a network.

    Args:
        network: in evaluation mode.
        size: (height, width) to trace with; the graph takes other sizes, too.

    Raises:
        UserError: if the size is too small.
    """
    if min(size) < network.min_side:
        raise UserError(f"--size {size[0]} {size[1]}: height and width must be {network.min_side} or more")
    image = torch.zeros(len(network.pixel_mean), *size, device=network.pixel_mean.device)
    sides = {1: Dim("height", min=network.min_side), 2: Dim("width", min=network.min_side)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # torchvision's nms tells its size in an old way
        return torch.export.export(network, (image,), dynamic_shapes=(sides,))
