"""`FCOS`, or a `ProposalNetwork` with FCOSRPN, as a function of tensors, and its graph for images of any size.

Input: one image, (channels, height, width) float32 from 0 to 255, its channels in the order of the config's
`INPUT.FORMAT`. Height and width are dynamic: any number of pixels above the stride of the backbone's coarsest map, that
is from 129 up with P7 (on a map of a single row or column a graph would hold for no other). Normalization and padding,
to sides that the backbone can divide, are part of the graph, as they are of the model; resizing is not.

Output, K boxes, best first, where K differs from image to image and may be 0:

    boxes    (K, 4) float32 x0, y0, x1, y1 in pixels of the image, within it
    scores   (K,) float32 in [0, 1]; a proposal's objectness logit is the logit of its score
    classes  (K,) int64; of `FCOS` only

The backbone, core and post-processor are the model's own. Only suppression is done in another way, see `nms_on_tiles`.
"""

import math
import warnings
from functools import partial
from typing import Any

import torch
from detectron2.modeling import Backbone, ProposalNetwork
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F
from torchvision.ops import nms

from ..errors import UserError
from ..modeling.core import FCOSCore
from ..modeling.meta_arch import FCOS
from ..modeling.postprocess import FCOSPostProcessor
from ..modeling.proposal_generator import FCOSRPN


class BoxNetwork(nn.Module):
    """See the head of this module."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        core: FCOSCore,
        postprocessor: FCOSPostProcessor,
        pixel_mean: Tensor,
        pixel_std: Tensor,
        num_classes: int | None,
    ) -> None:
        """
        Args:
            backbone, core, postprocessor: the model's.
            pixel_mean, pixel_std: (channels, 1, 1), in the order and the range of the input image.
            num_classes: C; None where classes are not told.
        """
        super().__init__()
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.backbone = backbone
        self.core = core
        self.postprocessor = postprocessor
        self.tells_classes = num_classes is not None
        # Boxes suppress each other within a level, a class or, of proposals over all levels, the one class that is 0.
        self.num_groups = len(core.strides) if postprocessor.nms_per_level else num_classes or 1
        self.register_buffer("pixel_mean", pixel_mean.clone())
        self.register_buffer("pixel_std", pixel_std.clone())

    @property
    def min_side(self) -> int:
        """The least height and width, in pixels: with less, the coarsest map would have a single row or column."""
        return max(level.stride for level in self.backbone.output_shape().values()) + 1

    @property
    def output_names(self) -> list[str]:
        return ["boxes", "scores", *(["classes"] if self.tells_classes else [])]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(channels, height, width) -> (K, 4) boxes, (K,) scores and, of a detector, (K,) classes."""
        height, width = image.shape[-2], image.shape[-1]
        step = max(1, self.backbone.size_divisibility)
        # Written so that the graph can tell that the backbone divides the sides.
        bottom, right = ((side + step - 1) // step * step - side for side in (height, width))
        padded = F.pad((image - self.pixel_mean) / self.pixel_std, (0, right, 0, bottom))
        predictions, locations = self.core(self.backbone(padded[None]))
        found = self.postprocessor.select(
            self.postprocessor.candidate_scores(predictions)[0],
            predictions.ltrb[0].float(),
            locations,
            (height, width),
            suppress=partial(nms_on_tiles, image_size=(height, width), num_groups=self.num_groups),
        )
        if self.tells_classes:
            return found.boxes, found.scores, found.classes
        return found.boxes, found.scores


def nms_on_tiles(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, *, image_size: tuple[int, int], num_groups: int
) -> Tensor:
    """torchvision's `batched_nms`, which branches on its input, as one suppression, which a graph can hold.

    Each group's boxes move to a tile of their own, so that they touch no other group's. Moving rounds a box, the more
    the farther it goes: the tiles form a square and not, as in `batched_nms`, a diagonal, so that with 80 classes in an
    image of 1333 pixels no side is off by more than 1/2048 of a pixel, and an IoU must be that near the threshold to
    fall on its other side.

    Args:
        boxes: (K, 4) within the image.
        scores: (K,) >= 0.
        groups: (K,) int64 in [0, num_groups).
        iou_threshold: a box is dropped if its IoU with a better one of its group is above.
        image_size: (height, width) in pixels.
        num_groups: 1 leaves the boxes where they are.

    Returns:
        int64 indices of the boxes that stay, best first.
    """
    if num_groups > 1:
        tiles_per_row = math.ceil(math.sqrt(num_groups))
        height, width = image_size
        x, y = groups % tiles_per_row * (width + 1), groups // tiles_per_row * (height + 1)
        boxes = boxes + torch.stack([x, y, x, y], dim=1).to(boxes)
    # To a graph torchvision promises that at least two boxes stay. These two, outside of every image and worse than all
    # others, make it true.
    outside = boxes.new_tensor([[-2.0, -2.0, -1.0, -1.0], [-4.0, -4.0, -3.0, -3.0]])
    best_first = nms(torch.cat([boxes, outside]), torch.cat([scores, scores.new_full((2,), -1.0)]), iou_threshold)
    return best_first[:-2]


def box_network_of(model: nn.Module) -> BoxNetwork:
    """The model's own layers, in evaluation mode.

    Raises:
        UserError: if it is another model than those above.
    """
    parts: dict[str, Any] = {name: getattr(model, name, None) for name in ("backbone", "pixel_mean", "pixel_std")}
    if isinstance(model, FCOS):
        num_classes = model.core.head.cls_logits.out_channels
        network = BoxNetwork(core=model.core, postprocessor=model.postprocessor, num_classes=num_classes, **parts)
    elif isinstance(model, ProposalNetwork) and isinstance(model.proposal_generator, FCOSRPN):
        rpn = model.proposal_generator
        network = BoxNetwork(core=rpn.core, postprocessor=rpn.test_postprocessor, num_classes=None, **parts)
    else:
        generator = getattr(model, "proposal_generator", None)
        first_stage = (
            " Of this one the first stage can be, with the same weights: MODEL.META_ARCHITECTURE ProposalNetwork"
            if isinstance(generator, FCOSRPN)
            else ""
        )
        raise UserError(
            f"{type(model).__name__}{f' with {type(generator).__name__}' if generator is not None else ''} cannot be "
            "exported: MODEL.META_ARCHITECTURE FCOS can, and ProposalNetwork with MODEL.PROPOSAL_GENERATOR.NAME "
            f"FCOSRPN; Detectron2's RoI heads and anchors cannot be followed.{first_stage}"
        )
    if network.backbone.padding_constraints.get("square_size"):
        raise UserError(
            f"the backbone {type(network.backbone).__name__} pads images in its own way "
            f"({network.backbone.padding_constraints}), which export does not know: take one that needs no more than "
            "sides that it can divide"
        )
    return network.eval()


@torch.no_grad()
def export_graph(network: BoxNetwork, *, size: tuple[int, int]) -> ExportedProgram:
    """
    Args:
        network: in evaluation mode.
        size: (height, width) to trace with; the graph takes others as well.

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
