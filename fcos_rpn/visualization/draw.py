"""Pictures of what FCOS learns and finds: detections, proposals, assignment by level, centerness to learn and found.

Every function takes the image as (H, W, 3) uint8 RGB, as Detectron2's `read_image(file, "RGB")` returns it, with boxes
and locations in its pixels, on any device. It returns a sheet of panels, each the image with something drawn over it,
enlarged or reduced to suit a screen: again (h, w, 3) uint8 RGB, for `PIL.Image.fromarray(picture).save(file)`.

Shapes: R locations, C classes, M ground-truth boxes, P positives, K detections or proposals.
"""

import math
from collections.abc import Iterable, Sequence, Sized
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances, pairwise_iou
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..modeling.assigner import FCOSTargets
from ..modeling.geometry import Locations, compute_centerness
from ..modeling.head import FCOSPredictions
from ..modeling.postprocess import FCOSPostProcessor
from .sheet import AS_PIXELS, INK, Picture, Sheet, add_tag, draw_boxes

PALETTE = ["#ff4d5e", "#2f9bff", "#ffc21a", "#35d07f", "#b06bff", "#ff8a1f", "#19d3da", "#ff6ec7", "#b5e61d", "#c98f63"]
"""Colors of the classes, or of the boxes of an image, in turn."""
MATCHES = [(0.7, "IoU ≥ 0.7", "#35d07f"), (0.5, "≥ 0.5", "#ffc21a"), (0.0, "below", "#f4f4f6")]
"""Least IoU, name and color of the kinds of boxes that `draw_proposals` tells apart."""

FUSIONS = {"geometric": "geometric mean", "product": "product"}
"""Of the post-processor -> in words."""

MIN_DOT, MAX_DOT = 5, 16  # where the centerness is 1


def _heat_colors(alphas: NDArray[np.float64]) -> ListedColormap:
    """From violet at 0 to yellow at 1."""
    colors = colormaps["inferno"](np.linspace(0.3, 1, 256))
    colors[:, 3] = alphas
    return ListedColormap(colors)


FADING_HEAT = _heat_colors(np.linspace(-0.1, 1.8, 256).clip(0, 0.9))  # transparent at 0
SOLID_HEAT = _heat_colors(np.full(256, 0.85))


def draw_detections(
    image: Picture,
    detections: Instances,
    ground_truth: Instances | None,
    class_names: Sequence[str],
    *,
    score_thresh: float = 0.5,
) -> Picture:
    """Ground truth on the left, if there is any to show, and detections on the right, colored by class.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: K with `pred_boxes`, `scores` and `pred_classes`.
        ground_truth: M with `gt_boxes` and `gt_classes`.
        class_names: C names.
        score_thresh: detections of a lower score are left out.
    """
    detections = detections[detections.scores >= score_thresh]
    classes, scores = detections.pred_classes.tolist(), detections.scores.tolist()
    gt_classes = [] if ground_truth is None else ground_truth.gt_classes.tolist()
    # Where the classes outnumber the colors, only those to be seen share them out.
    shown = range(len(class_names)) if len(class_names) <= len(PALETTE) else sorted({*gt_classes, *classes})

    sheet = Sheet(image, num_panels=1 if ground_truth is None else 2)
    if ground_truth is not None:
        panel = sheet.add_panel("Ground truth", _count_boxes(gt_classes))
        labels = [class_names[label] for label in gt_classes]
        draw_boxes(panel, ground_truth.gt_boxes.tensor, _palette(map(shown.index, gt_classes)), labels)
    panel = sheet.add_panel("Detections", f"{_count_boxes(classes)} with score ≥ {score_thresh:g}")
    labels = [f"{class_names[label]} {score:.2f}" for label, score in zip(classes, scores, strict=True)]
    draw_boxes(panel, detections.pred_boxes.tensor, _palette(map(shown.index, classes)), labels)
    return sheet.render()


def draw_proposals(image: Picture, proposals: Instances, ground_truth: Instances, *, limit: int = 100) -> Picture:
    """Ground truth on the left, proposals on the right, each box colored by its best IoU with the other side.

    Args:
        image: (H, W, 3) uint8 RGB.
        proposals: K with `proposal_boxes` and `objectness_logits`; the less objectness, the fainter.
        ground_truth: M with `gt_boxes`.
        limit: how many proposals, the best ones, are looked at.
    """
    proposals, gt_boxes = proposals.to("cpu"), ground_truth.gt_boxes.to("cpu")
    best_first = proposals.objectness_logits.argsort(descending=True)
    proposals = proposals[best_first[:limit].flip(0)]  # what comes later is drawn on top
    # A box with nothing on the other side finds the zero of the padding.
    iou = F.pad(pairwise_iou(gt_boxes, proposals.proposal_boxes), (0, 1, 0, 1))  # (M + 1, K + 1)
    gt_iou, proposal_iou = iou[:-1].amax(dim=1).tolist(), iou[:, :-1].amax(dim=0).tolist()

    sheet = Sheet(image, num_panels=2)
    panel = sheet.add_panel("Ground truth", _count_boxes(gt_iou), is_muted=True)
    _add_match_legend(sheet, panel, gt_iou)
    labels = [f"{math.floor(100 * value) / 100:.2f}" for value in gt_iou]  # 0.699 is not yet 0.70
    draw_boxes(panel, gt_boxes.tensor, _match_colors(gt_iou), labels)
    panel = sheet.add_panel("Proposals", f"best {len(proposals)}", is_muted=True)
    _add_match_legend(sheet, panel, proposal_iou)
    alphas = 0.25 + 0.75 * proposals.objectness_logits.sigmoid()
    draw_boxes(panel, proposals.proposal_boxes.tensor, _match_colors(proposal_iou), alphas=alphas.tolist())
    return sheet.render()


def draw_best_proposals(image: Picture, proposals: Instances) -> Picture:
    """Proposals by themselves, where there is no ground truth: the best on top, the less objectness the fainter.

    Args:
        image: (H, W, 3) uint8 RGB.
        proposals: K with `proposal_boxes` and `objectness_logits`, best first.
    """
    boxes = proposals.proposal_boxes.tensor.flip(0)
    alphas = 0.25 + 0.75 * proposals.objectness_logits.flip(0).sigmoid()
    sheet = Sheet(image, num_panels=1)
    panel = sheet.add_panel("Proposals", f"best {len(proposals)}", is_muted=True)
    draw_boxes(panel, boxes, [PALETTE[2]] * len(boxes), alphas=alphas.tolist())
    return sheet.render()


def draw_assignment(
    image: Picture,
    locations: Locations,
    targets: FCOSTargets,
    ground_truth: Instances,
    *,
    num_candidates: Tensor | None = None,
) -> Picture:
    """Which location learns which box: a panel of all boxes, dashed where none learns them, and one for each level.

    A dot is a location, in the color of the box it learns; the larger, the greater the centerness it is to predict.
    Levels that learn nothing are left out.

    Args:
        image: (H, W, 3) uint8 RGB.
        locations: R of the image.
        targets: of this one image (N = 1).
        ground_truth: M with `gt_boxes`, from which the targets were made.
        num_candidates: (R,) how many boxes each location could learn; where there are several, which is ambiguous
            (paper, figure 1), its dot is ringed in white.
    """
    (matched_idxs,) = targets.matched_idxs.cpu()  # (R,)
    positives, centerness = targets.positives.cpu(), compute_centerness(targets.ltrb).cpu()  # (P,)
    points, strides = locations.points.cpu(), locations.strides.cpu()
    boxes = ground_truth.gt_boxes.tensor.cpu()
    learning_strides = strides[positives].unique().tolist()

    sheet = Sheet(image, num_panels=1 + len(learning_strides))
    _add_learned_boxes(sheet, boxes, matched_idxs)
    for stride in learning_strides:
        is_here = strides[positives] == stride  # (P,)
        matched = matched_idxs[positives[is_here]]
        detail = f"stride {stride:g}, {len(matched)} positives"
        is_ambiguous = torch.zeros_like(matched, dtype=torch.bool)
        if num_candidates is not None:
            is_ambiguous = num_candidates.cpu()[positives[is_here]] > 1
            detail += f", {int(is_ambiguous.sum()) or 'none'} ambiguous"
        panel = sheet.add_panel(_level_name(stride), detail, is_muted=True)
        draw_boxes(panel, boxes[matched.unique()], _palette(matched.unique().tolist()))
        pitch = stride * sheet.scale  # of the locations, in pixels of the picture
        x, y = points[strides == stride].T.tolist()
        panel.scatter(x, y, min(2.0, 0.2 * pitch) ** 2, color="white", alpha=0.5, linewidths=0)
        x, y = points[positives[is_here]].T.tolist()
        diameter = min(max(0.85 * pitch, MIN_DOT), MAX_DOT)
        areas = diameter**2 * centerness[is_here].clamp(min=0.1)
        outlines: dict[str, Any] = {
            "edgecolors": ["white" if ambiguous else INK for ambiguous in is_ambiguous],
            "linewidths": ((1 + is_ambiguous.int()) * diameter / MAX_DOT).tolist(),
        }
        panel.scatter(x, y, areas.tolist(), c=_palette(matched.tolist()), zorder=3, **outlines)
    return sheet.render()


def draw_target_centerness(
    image: Picture, locations: Locations, targets: FCOSTargets, ground_truth: Instances
) -> Picture:
    """The centerness that is to be learned, as a heat map (paper, figure 3): panels as those of `draw_assignment`.

    A cell is a location that learns a box; the others, which learn no centerness, are left as they are.

    Args:
        image, locations, targets, ground_truth: see `draw_assignment`.
    """
    (matched_idxs,) = targets.matched_idxs.cpu()  # (R,)
    positives, strides = targets.positives.cpu(), locations.strides.cpu()
    boxes = ground_truth.gt_boxes.tensor.cpu()
    centerness = torch.full_like(strides, math.nan)  # (R,)
    centerness[positives] = compute_centerness(targets.ltrb).cpu()
    learning_strides = strides[positives].unique().tolist()

    sheet = Sheet(image, num_panels=1 + len(learning_strides))
    panel = _add_learned_boxes(sheet, boxes, matched_idxs)
    for stride in learning_strides:
        is_here = strides == stride  # (R,)
        matched = matched_idxs[is_here & (matched_idxs >= 0)]
        panel = sheet.add_panel(_level_name(stride), f"stride {stride:g}, {len(matched)} positives", is_muted=True)
        _draw_heat(panel, locations.points.cpu()[is_here], stride, centerness[is_here], SOLID_HEAT)
        draw_boxes(panel, boxes[matched.unique()], ["white"] * len(matched.unique()))
    if learning_strides:
        _add_heat_legend(sheet, panel, SOLID_HEAT)
    return sheet.render()


@torch.no_grad()
def draw_centerness(
    image: Picture, predictions: FCOSPredictions, locations: Locations, postprocessor: FCOSPostProcessor
) -> Picture:
    """Draw heat maps of class probability, centerness and the score made of both: a row each, a column per level.

    Without a centerness, only the class probability is drawn.

    Args:
        image: (H, W, 3) uint8 RGB.
        predictions: of this one image (N = 1).
        locations: R of the image.
        postprocessor: the model's, which fuses the score.
    """
    (class_scores,), (scores,) = postprocessor.score(predictions)  # (R, C) each
    rows = [("Class probability", "of the likeliest class", class_scores.amax(dim=1))]
    centerness = postprocessor.centerness(predictions)
    if centerness is not None:
        rows.append(("Centerness", "of the location in its box", centerness[0]))
        rows.append(("Score", f"{FUSIONS[postprocessor.score_fusion]} of both", scores.amax(dim=1)))
    num_levels = len(locations.grid_sizes)
    sheet = Sheet(image, num_panels=len(rows) * num_levels, columns=num_levels)
    for title, detail, values in rows:
        parts = (part.cpu().split(locations.num_per_level) for part in (locations.points, locations.strides, values))
        for level, (points, strides, level_values) in enumerate(zip(*parts, strict=True)):
            panel = sheet.add_panel(*((title, detail) if level == 0 else ("", "")), is_muted=True)
            _draw_heat(panel, points, float(strides[0]), level_values, FADING_HEAT)
            add_tag(panel, _level_name(float(strides[0])))
        _add_heat_legend(sheet, panel, FADING_HEAT)
    return sheet.render()


def _add_learned_boxes(sheet: Sheet, boxes: Tensor, matched_idxs: Tensor) -> Axes:
    """A panel of (M, 4) boxes, each in its color, dashed where it is not among the (R,) boxes that are learned."""
    is_learned = torch.isin(torch.arange(len(boxes)), matched_idxs)  # (M,)
    num_left = len(boxes) - int(is_learned.sum())
    panel = sheet.add_panel("Ground truth", f"{_count_boxes(boxes)}, {num_left or 'none'} unassigned")
    styles = ["solid" if learned else "dashed" for learned in is_learned]
    draw_boxes(panel, boxes, _palette(range(len(boxes))), styles=styles)
    return panel


def _draw_heat(panel: Axes, points: Tensor, stride: float, values: Tensor, colors: Colormap) -> None:
    """A cell around each of the (h·w, 2) points of a level, in the color of its value in [0, 1]; none for NaN."""
    width = len(points[:, 0].unique())
    left, top = (points[0] - stride / 2).tolist()
    right, bottom = (points[-1] + stride / 2).tolist()
    heat = np.ma.masked_invalid(values.view(-1, width).numpy())
    panel.imshow(heat, colors, extent=(left, right, bottom, top), vmin=0, vmax=1, **AS_PIXELS)


def _add_match_legend(sheet: Sheet, panel: Axes, ious: Sequence[float]) -> None:
    _, names, colors = zip(*MATCHES, strict=True)
    found = _match_colors(ious)
    sheet.add_legend(
        panel, colors, [f"{name}: {found.count(color)}" for name, color in zip(names, colors, strict=True)]
    )


def _add_heat_legend(sheet: Sheet, panel: Axes, colormap: Colormap) -> None:
    values = np.linspace(0, 1, 5)
    colors = colormap(values)
    over_gray = colors[:, :3] * colors[:, 3:] + 0.5 * (1 - colors[:, 3:])
    sheet.add_legend(panel, over_gray, [f"{value:g}" for value in values])


def _palette(indices: Iterable[int]) -> list[str]:
    return [PALETTE[index % len(PALETTE)] for index in indices]


def _match_colors(ious: Iterable[float]) -> list[str]:
    return [next(color for least, _, color in MATCHES if iou >= least) for iou in ious]


def _count_boxes(boxes: Sized) -> str:
    return "1 box" if len(boxes) == 1 else f"{len(boxes)} boxes"


def _level_name(stride: float) -> str:
    return f"P{round(math.log2(stride))}"
