"""`FCOS`, or a `ProposalNetwork` with FCOSRPN, as a function of tensors.

Input: one image, (channels, height, width) float32 from 0 to 255, with its channels in the order of the config's
`INPUT.FORMAT`. Height and width are dynamic. They must be above the stride of the backbone's coarsest map, 129 or more
with P7: a graph traced on a map of a single row or column would not hold for others. Normalization and padding to
divisible sides are part of the graph; resizing is not.

Output: K boxes, best first. K differs from image to image and may be 0.

    boxes    (K, 4) float32 x0, y0, x1, y1 in pixels of the image, within it
    scores   (K,) float32 in [0, 1]; a proposal's objectness logit is the logit of its score
    classes  (K,) int64; of `FCOS` only

The backbone, core and post-processor are the model's own. Only the suppression differs, see `nms_on_tiles`.
"""

import math
from functools import partial

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from ..modeling.core import FCOSCore
from ..modeling.postprocess import FCOSPostProcessor, Selection


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
            num_classes: C; None for proposals.
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
        """The least height and width in pixels, with which the coarsest map has more than one row and column."""
        return max(level.stride for level in self.backbone.output_shape().values()) + 1

    @property
    def output_names(self) -> list[str]:
        return ["boxes", "scores", *(["classes"] if self.tells_classes else [])]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(channels, height, width) -> (K, 4) boxes, (K,) scores and, of a detector, (K,) classes."""
        _, found = self.find(image)
        if self.tells_classes:
            return found.boxes, found.scores, found.classes
        return found.boxes, found.scores

    def find(self, image: Tensor) -> tuple[dict[str, Tensor], Selection]:
        """(channels, height, width) -> the pyramid's maps by name, and what is selected in them."""
        height, width = image.shape[-2], image.shape[-1]
        step = max(1, self.backbone.size_divisibility)
        # Written so that the graph can tell that the backbone divides the sides.
        bottom, right = ((side + step - 1) // step * step - side for side in (height, width))
        padded = F.pad((image - self.pixel_mean) / self.pixel_std, (0, right, 0, bottom))
        features = self.backbone(padded[None])
        predictions, locations = self.core(features)
        found = self.postprocessor.select(
            self.postprocessor.candidate_scores(predictions)[0],
            predictions.ltrb[0].float(),
            locations,
            (height, width),
            suppress=partial(nms_on_tiles, image_size=(height, width), num_groups=self.num_groups),
        )
        return features, found


def nms_on_tiles(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, *, image_size: tuple[int, int], num_groups: int
) -> Tensor:
    """Compute torchvision's `batched_nms` without branches on its input, which a graph cannot have.

    The boxes of each group move to a tile of their own, so that groups do not overlap, and one suppression handles all.
    Moving rounds a box, the more the farther it goes. So the tiles form a square instead of `batched_nms`'s diagonal:
    with 80 classes in an image of 1333 pixels, sides are off by at most 1/2048 of a pixel.

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
    # torchvision's nms declares to a graph that at least two boxes stay. These two, outside of every image and worse
    # than all others, make that true.
    outside = boxes.new_tensor([[-2.0, -2.0, -1.0, -1.0], [-4.0, -4.0, -3.0, -3.0]])
    best_first = nms(torch.cat([boxes, outside]), torch.cat([scores, scores.new_full((2,), -1.0)]), iou_threshold)
    return best_first[:-2]
