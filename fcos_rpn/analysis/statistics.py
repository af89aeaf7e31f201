"""The figures of a json under a config: best possible recall, ambiguity, positives per level and box, and costs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from .anchors import AnchorSampler
from .annotated_boxes import Annotations, group_images, input_boxes, input_sizes, padded_sizes
from .assignment import LocationSampler, percent

Sampler: TypeAlias = LocationSampler | AnchorSampler


class PerImage(NamedTuple):
    """A number per image, over all images of the json."""

    mean: float
    min: int
    max: int


class UnlearnedBox(NamedTuple):
    """A box that no location or anchor learns."""

    id: int
    """Id of the annotation."""
    image_id: int
    width: float
    """In pixels of the original image, as `height`."""
    height: float
    input_width: float
    """In pixels of the network's input, as `input_height`."""
    input_height: float


class Analysis(NamedTuple):
    """Which boxes of a json a config's samples, locations or anchors, learn. Shares are in percent."""

    best_possible_recall: float
    """Share of the boxes that at least one sample learns (paper, table 1)."""
    ambiguous: float
    """Share of the positives that are candidates of several boxes (paper, table 2): locations that lie in several, or
    anchors that overlap several by the upper IoU threshold."""
    ambiguous_across_classes: float
    """Share of the positives that are candidates of boxes of several classes."""
    num_images: int
    num_boxes: int
    """Without crowd regions."""
    num_positives: int
    """Samples that learn a box."""
    positives_per_level: dict[str, int]
    positives_per_box: dict[int, int]
    """Number of positives -> number of boxes that have as many, ascending."""
    unlearned_boxes: list[UnlearnedBox]
    samples_per_image: PerImage
    """Locations or anchors."""
    outputs_per_image: PerImage
    """Output variables of the head."""
    best_possible_recall_by_rule: dict[str, float]
    """By rule for low-quality matches of anchors (paper, table 1); empty for FCOS."""
    input_shorter_sides: Tensor
    """(M,) of all boxes, in pixels of the network's input."""
    is_learned: Tensor
    """(M,) bool."""

    @property
    def unlearned(self) -> float:
        """Share of the boxes that no sample learns."""
        return percent(len(self.unlearned_boxes), self.num_boxes)

    def to_json(self) -> dict[str, Any]:
        """Return all but the tensors, for `json.dump`."""
        content = self._asdict()
        del content["input_shorter_sides"], content["is_learned"]
        return content | {
            "unlearned": self.unlearned,
            "unlearned_boxes": [box._asdict() for box in self.unlearned_boxes],
            "samples_per_image": self.samples_per_image._asdict(),
            "outputs_per_image": self.outputs_per_image._asdict(),
        }


def build_sampler(cfg: CfgNode, num_classes: int, *, box_convention: str = "modern") -> tuple[Sampler, int]:
    """Build the locations or anchors of a config.

    Args:
        cfg: with META_ARCHITECTURE FCOS or RetinaNet, or any other with PROPOSAL_GENERATOR FCOSRPN or RPN.
        num_classes: of the data; a proposal generator has one.
        box_convention: a key of `BOX_CONVENTIONS`, which anchors follow.

    Returns:
        The locations or anchors, and the divisor of the input's sides.

    Raises:
        UserError: the config has neither, or its levels are not the backbone's.
    """
    architecture, generator = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PROPOSAL_GENERATOR.NAME
    sampler_type: Callable[..., Sampler]
    anchor_sampler = functools.partial(AnchorSampler, counts_pixels=box_convention == "legacy")
    if architecture == "FCOS":
        sampler_type, in_features = LocationSampler, cfg.MODEL.FCOS.IN_FEATURES
    elif architecture == "RetinaNet":
        sampler_type, in_features = anchor_sampler, cfg.MODEL.RETINANET.IN_FEATURES
    elif generator in ("FCOSRPN", "RPN"):
        sampler_type = LocationSampler if generator == "FCOSRPN" else anchor_sampler
        in_features, num_classes = cfg.MODEL.RPN.IN_FEATURES, 1
    else:
        raise UserError(
            f"MODEL.META_ARCHITECTURE {architecture} with MODEL.PROPOSAL_GENERATOR.NAME {generator} cannot be "
            "analyzed; it takes FCOS or RetinaNet, or an R-CNN or ProposalNetwork with FCOSRPN or RPN"
        )
    backbone = build_backbone(cfg)
    sampler = sampler_type(cfg, backbone.output_shape(), in_features=in_features, num_classes=num_classes)
    return sampler, backbone.size_divisibility


def analyze(
    cfg: CfgNode, annotations: Annotations, *, box_convention: str = "modern", show_progress: bool = False
) -> Analysis:
    """Compute which of these boxes a config learns, with images of the size of INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST.

    Args:
        cfg: see `build_sampler`.
        annotations: see `read_boxes`.
        box_convention: a key of `BOX_CONVENTIONS`.
        show_progress: draws a bar of the images.
    """
    sampler, size_divisibility = build_sampler(cfg, annotations.num_classes, box_convention=box_convention)
    sizes = input_sizes(annotations, min_size=cfg.INPUT.MIN_SIZE_TEST, max_size=cfg.INPUT.MAX_SIZE_TEST)
    return measure(
        sampler,
        annotations,
        boxes=input_boxes(annotations, sizes, convention=box_convention),
        padded=padded_sizes(sizes, size_divisibility),
        show_progress=show_progress,
    )


def measure(
    sampler: Sampler, annotations: Annotations, *, boxes: Tensor, padded: Tensor, show_progress: bool = False
) -> Analysis:
    """Compute which boxes the samples learn; see `analyze`.

    Args:
        sampler: locations or anchors.
        annotations: M boxes of N images.
        boxes: (M, 4) in pixels of the network's input, see `input_boxes`.
        padded: (N, 2) sizes of the network's input, see `padded_sizes`.
        show_progress: draws a bar of the images.
    """
    positives_per_box = torch.zeros(len(boxes), dtype=torch.int64)
    positives_per_level = torch.zeros(len(sampler.level_names), dtype=torch.int64)
    learned_by_rule: dict[str, int] = {}
    num_ambiguous = num_across_classes = 0
    with tqdm(total=len(padded), desc="analyzing", unit="image", disable=not show_progress) as progress:
        for group in group_images(annotations, boxes, padded):
            found = sampler.assign(group)
            positives_per_box[group.rows] = found.positives_per_box
            positives_per_level += found.positives_per_level
            num_ambiguous += found.num_ambiguous
            num_across_classes += found.num_ambiguous_across_classes
            for rule, is_learned in found.is_learned_by_rule.items():
                learned_by_rule[rule] = learned_by_rule.get(rule, 0) + int(is_learned.sum())
            progress.update(group.num_images)
        progress.update(len(padded) - progress.n)  # the images without boxes

    num_positives = int(positives_per_box.sum())
    is_learned = positives_per_box > 0
    numbers, counts = positives_per_box.unique(return_counts=True)
    samples = [sum(sampler.num_per_level((height, width))) for height, width in padded.tolist()]
    return Analysis(
        best_possible_recall=percent(int(is_learned.sum()), len(boxes)),
        ambiguous=percent(num_ambiguous, num_positives),
        ambiguous_across_classes=percent(num_across_classes, num_positives),
        num_images=len(padded),
        num_boxes=len(boxes),
        num_positives=num_positives,
        positives_per_level=dict(zip(sampler.level_names, positives_per_level.tolist(), strict=True)),
        positives_per_box=dict(zip(numbers.tolist(), counts.tolist(), strict=True)),
        unlearned_boxes=_describe(annotations, boxes, ~is_learned),
        samples_per_image=_per_image(samples, 1),
        outputs_per_image=_per_image(samples, sampler.outputs_per_sample),
        best_possible_recall_by_rule={rule: percent(n, len(boxes)) for rule, n in learned_by_rule.items()},
        input_shorter_sides=(boxes[:, 2:] - boxes[:, :2]).min(dim=1).values,
        is_learned=is_learned,
    )


def _per_image(samples: list[int], factor: int) -> PerImage:
    return PerImage(factor * sum(samples) / len(samples), factor * min(samples), factor * max(samples))


def _describe(annotations: Annotations, boxes: Tensor, chosen: Tensor) -> list[UnlearnedBox]:
    original = annotations.boxes[chosen, 2:].tolist()
    resized = (boxes[chosen, 2:] - boxes[chosen, :2]).tolist()
    ids = annotations.ids[chosen].tolist()
    image_ids = annotations.image_ids[annotations.image_idxs[chosen]].tolist()
    return [
        UnlearnedBox(id_, image_id, *sides, *(round(side, 2) for side in input_sides))
        for id_, image_id, sides, input_sides in zip(ids, image_ids, original, resized, strict=True)
    ]
