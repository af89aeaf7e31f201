"""R-CNN that also shows its proposals, so that AP and AR come from one run."""

from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Boxes, Instances

from .postprocess import rescale


@META_ARCH_REGISTRY.register()
class GeneralizedRCNNWithProposals(GeneralizedRCNN):
    """Detectron2's R-CNN; at inference each image gets `{"instances": ..., "proposals": ...}`.

    Weights and training are those of `GeneralizedRCNN`; any proposal generator and any RoI heads work.
    """

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """
        Args:
            batched_inputs: as in `GeneralizedRCNN`.
            detected_instances, do_postprocess: as in `GeneralizedRCNN`; with either of them (test-time augmentation
                uses both) the result is that of `GeneralizedRCNN`, without proposals.

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


def _clone(proposals: Instances) -> Instances:
    """Rescaling works in place, and what the RoI heads return may share memory with the proposals."""
    fields = {**proposals.get_fields(), "proposal_boxes": Boxes(proposals.proposal_boxes.tensor.clone())}
    return Instances(proposals.image_size, **fields)
