"""A Faster R-CNN with FCOSRPN as a function of tensors. Best effort, since its second half is Detectron2's.

Detectron2's RoI heads branch on what they find, which a graph cannot. The box head and the predictor run as they are;
pooling, decoding and selection are written here without branches. Only the plain `StandardROIHeads` are supported:
softmax, one stage, boxes alone.

Shapes: K proposals or detections, C classes.
"""

import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers, StandardROIHeads
from torch import Tensor, nn

from .network import BoxNetwork, nms_on_tiles


def why_not(roi_heads: nn.Module) -> str:
    """Say why these heads cannot be exported; empty if they can."""
    if type(roi_heads) is not StandardROIHeads:
        return f"its {type(roi_heads).__name__} are not Detectron2's StandardROIHeads"
    if roi_heads.mask_on or roi_heads.keypoint_on:
        return "it has masks or keypoints"
    if type(roi_heads.box_head) is not FastRCNNConvFCHead or type(roi_heads.box_predictor) is not FastRCNNOutputLayers:
        return "its box head or predictor is of its own kind"
    if getattr(roi_heads.box_predictor, "use_sigmoid_ce", False):
        return "its classes are sigmoids (MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE)"
    return ""


class TwoStageNetwork(nn.Module):
    """Has the inputs and outputs of a detector's `BoxNetwork`."""

    def __init__(self, first_stage: BoxNetwork, roi_heads: StandardROIHeads) -> None:
        """
        Args:
            first_stage: proposes.
            roi_heads: for which `why_not` is empty.
        """
        super().__init__()
        self.first_stage = first_stage
        self.in_features = roi_heads.box_in_features
        self.pooler = roi_heads.box_pooler
        self.box_head = roi_heads.box_head
        self.predictor = roi_heads.box_predictor
        self.num_classes = roi_heads.num_classes

    @property
    def pixel_mean(self) -> Tensor:
        return self.first_stage.pixel_mean

    @property
    def min_side(self) -> int:
        """See `BoxNetwork.min_side`."""
        return self.first_stage.min_side

    @property
    def output_names(self) -> list[str]:
        return ["boxes", "scores", "classes"]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(channels, height, width) -> (K, 4) boxes, (K,) scores and (K,) classes, best first."""
        image_size = image.shape[-2], image.shape[-1]
        features, proposed = self.first_stage.find(image)
        pooled = pool([features[name] for name in self.in_features], proposed.boxes, self.pooler)
        logits, deltas = self.predictor(self.box_head(pooled))
        scores = logits.softmax(dim=1)[:, :-1]  # (K, C): the last is the background
        boxes = self.predictor.box2box_transform.apply_deltas(deltas, proposed.boxes).unflatten(1, (-1, 4))
        return self._select(boxes, scores, image_size)

    def _select(self, boxes: Tensor, scores: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, ...]:
        """(K, C, 4) boxes, or (K, 1, 4) for all classes, and (K, C) scores: Detectron2's `fast_rcnn_inference`."""
        height, width = image_size
        is_finite = boxes.isfinite().all(dim=2).all(dim=1) & scores.isfinite().all(dim=1)
        is_candidate = (scores > self.predictor.test_score_thresh) & is_finite[:, None]
        where, classes = is_candidate.nonzero().unbind(dim=1)
        boxes = boxes.expand(-1, self.num_classes, -1)[where, classes]
        x, y = boxes[:, 0::2].clamp(min=0, max=width), boxes[:, 1::2].clamp(min=0, max=height)
        boxes, scores = torch.stack([x, y], dim=2).flatten(start_dim=1), scores[where, classes]
        kept = nms_on_tiles(
            boxes,
            scores,
            classes,
            self.predictor.test_nms_thresh,
            image_size=image_size,
            num_groups=self.num_classes,
        )[: self.predictor.test_topk_per_image]
        is_box = (boxes[kept, 2:] > boxes[kept, :2]).all(dim=1)
        kept = kept[is_box.nonzero().squeeze(1)]
        return boxes[kept], scores[kept], classes[kept]


def pool(features: list[Tensor], boxes: Tensor, pooler: ROIPooler) -> Tensor:
    """Pool boxes from the levels of one image, as a pooler does.

    Args:
        features: (1, channels, H, W), level by level.
        boxes: (K, 4) in pixels of the image.
        pooler: its rule for the level of a box is equation 1 of the FPN paper.

    Returns:
        (K, channels, rows, columns)
    """
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)  # the first is the index of the image
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    levels = (pooler.canonical_level + torch.log2(sizes / pooler.canonical_box_size + 1e-8)).floor()
    levels = levels.clamp(min=pooler.min_level, max=pooler.max_level).long() - pooler.min_level  # (K,)
    pooled = boxes.new_zeros((boxes.shape[0], features[0].shape[1], *pooler.output_size))
    for level, (feature, level_pooler) in enumerate(zip(features, pooler.level_poolers, strict=True)):
        of_level = (levels == level).nonzero().squeeze(1)
        pooled = pooled.index_put((of_level,), level_pooler(feature, rois[of_level]))
    return pooled
