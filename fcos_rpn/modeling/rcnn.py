"""R-CNN that also returns its proposals, RoI heads that fuse the scores of both stages, and a proposal network.

Shapes: K boxes of one image, C foreground classes. Boxes are in pixels of the network's input image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, GeneralizedRCNN, ProposalNetwork
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..errors import ArgumentError
from . import keys
from .meta_arch import batch_images
from .postprocess import rescale


@META_ARCH_REGISTRY.register()
class GeneralizedRCNNWithProposals(GeneralizedRCNN):
    """Returns `{"instances": ..., "proposals": ...}` for each image at inference, so that one run gives AP and AR.

    Weights and training are those of `GeneralizedRCNN`. Any proposal generator and any RoI heads work.
    """

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """Detect objects and return the proposals beside them.

        Args:
            batched_inputs: as in `GeneralizedRCNN`.
            detected_instances, do_postprocess: as in `GeneralizedRCNN`. If either is set, as by test-time augmentation,
                the result is that of `GeneralizedRCNN`, without proposals.

        Returns:
            `instances` and `proposals`, both in pixels of the wanted output.
        """
        if detected_instances is not None or not do_postprocess or self.proposal_generator is None:
            return super().inference(batched_inputs, detected_instances, do_postprocess)

        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, _ = self.proposal_generator(images, features, None)
        detections, _ = self.roi_heads(images, features, proposals, None)
        shown = [_clone(found) for found in proposals]
        return [
            {"instances": found, "proposals": proposed}
            for found, proposed in zip(rescale(detections, batched_inputs), rescale(shown, batched_inputs), strict=True)
        ]


@META_ARCH_REGISTRY.register()
class BatchedProposalNetwork(ProposalNetwork):
    """Detectron2's `ProposalNetwork`, which rescales the proposals of a batch together: see `rescale`."""

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Take and return what `ProposalNetwork` does."""
        if self.training:
            return super().forward(batched_inputs)
        images = batch_images(batched_inputs, self.backbone, self.pixel_mean, self.pixel_std)
        proposals, _ = self.proposal_generator(images, self.backbone(images.tensor), None)
        return [{"proposals": found} for found in rescale(proposals, batched_inputs)]


def _clone(proposals: Instances) -> Instances:
    """Copy the boxes: rescaling works in place, and the RoI heads' results may share memory with the proposals."""
    fields = {**proposals.get_fields(), "proposal_boxes": Boxes(proposals.proposal_boxes.tensor.clone())}
    return Instances(proposals.image_size, **fields)


def fuse_scores(class_scores: Tensor, objectness_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return √(proposal score · class score), as FCOS fuses class and centerness.

    Args:
        class_scores: (K, C + 1) probabilities, the background last.
        objectness_logits: (K,) of the proposals.
        temperature: divides these logits; above 1 the proposal's score counts less.

    Returns:
        (K, C + 1); the background's column is not changed, since nothing is selected by it.
    """
    objectness = (objectness_logits / temperature).sigmoid()[:, None]
    return torch.cat([(objectness * class_scores[:, :-1]).sqrt(), class_scores[:, -1:]], dim=1)


def _require_temperature(objectness_temperature: float) -> float:
    if not objectness_temperature > 0:
        raise ArgumentError("objectness_temperature", f"must be positive, not {objectness_temperature:g}")
    return objectness_temperature


class _FusesScores:
    """Ranks boxes by the scores of both stages at inference; a mix-in of the RoI heads below.

    Stock heads ignore the proposals' scores. Training and weights are those of the stock class.
    """

    box_in_features: list[str]
    training: bool

    def __init__(self, *, objectness_temperature: float = 1.0, **kwargs: Any) -> None:
        """
        Args:
            objectness_temperature: see `fuse_scores`.
            kwargs: those of the stock RoI heads.

        Raises:
            ArgumentError: if the temperature is not positive.
        """
        super().__init__(**kwargs)
        self.objectness_temperature = _require_temperature(objectness_temperature)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        temperature = keys.build(_require_temperature, cfg, keys.ROI_HEADS)
        return {**super().from_config(cfg, input_shape), "objectness_temperature": temperature}  # type: ignore[misc]

    def _forward_box(self, features: Mapping[str, Tensor], proposals: list[Instances], *targets: Any) -> Any:
        if self.training:
            return super()._forward_box(features, proposals, *targets)  # type: ignore[misc]
        boxes, class_scores, predictor = self._predict([features[name] for name in self.box_in_features], proposals)
        scores = [
            fuse_scores(of_image, proposed.objectness_logits, temperature=self.objectness_temperature)
            for of_image, proposed in zip(class_scores, proposals, strict=True)
        ]
        detections, _ = fast_rcnn_inference(
            boxes,
            scores,
            [proposed.image_size for proposed in proposals],
            predictor.test_score_thresh,
            predictor.test_nms_thresh,
            predictor.test_topk_per_image,
        )
        return detections

    def _predict(
        self, features: list[Tensor], proposals: list[Instances]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], FastRCNNOutputLayers]:
        """Return for each image boxes, (K, 4) or (K, C·4), and (K, C + 1) class scores; and the last predictor."""
        raise NotImplementedError


@ROI_HEADS_REGISTRY.register()
class FusedScoreROIHeads(_FusesScores, StandardROIHeads):
    """Detectron2's standard heads with the scores of both stages fused."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def _predict(
        self, features: list[Tensor], proposals: list[Instances]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], FastRCNNOutputLayers]:
        pooled = self.box_pooler(features, [proposed.proposal_boxes for proposed in proposals])
        predictor = self.box_predictor
        predictions = predictor(self.box_head(pooled))
        return (
            predictor.predict_boxes(predictions, proposals),
            predictor.predict_probs(predictions, proposals),
            predictor,
        )


@ROI_HEADS_REGISTRY.register()
class FusedScoreCascadeROIHeads(_FusesScores, CascadeROIHeads):
    """Detectron2's cascade with its stages' mean class score fused with the proposal's score."""

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def _predict(
        self, features: list[Tensor], proposals: list[Instances]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], FastRCNNOutputLayers]:
        image_sizes = [proposed.image_size for proposed in proposals]
        boxes: Sequence[Tensor] = ()
        stage_scores = []
        for stage, predictor in enumerate(self.box_predictor):
            if stage > 0:
                proposals = self._create_proposals_from_boxes(boxes, image_sizes)
            predictions = self._run_stage(features, proposals, stage)
            boxes = predictor.predict_boxes(predictions, proposals)
            stage_scores.append(predictor.predict_probs(predictions, proposals))
        mean_scores = [torch.stack(of_image).mean(dim=0) for of_image in zip(*stage_scores, strict=True)]
        return boxes, mean_scores, predictor
