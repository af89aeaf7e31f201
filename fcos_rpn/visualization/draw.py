"""Pictures of what FCOS learns and finds: detections, proposals, assignment by level, target and predicted centerness.

Every function takes the image as (H, W, 3) uint8 RGB, as Detectron2's `read_image(file, "RGB")` returns it, with boxes
and locations in its pixels, on any device. It returns a sheet of panels that show the image, scaled to suit a screen,
with something drawn over it: (h, w, 3) uint8 RGB, for `PIL.Image.fromarray(picture).save(file)`.

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
"""Colors of classes, or of an image's boxes, in turn."""
MATCHES = [(0.7, "IoU ≥ 0.7", "#35d07f"), (0.5, "≥ 0.5", "#ffc21a"), (0.0, "below", "#f4f4f6")]
"""Least IoU, name and color of the kinds of boxes in `draw_proposals`."""

FUSIONS = {"geometric": "geometric mean", "product": "product"}
"""Score fusion of the post-processor -> its name in pictures."""

MIN_DOT, MAX_DOT = 5, 16  # where the centerness is 1


def _heat_colors(alphas: NDArray[np.float64]) -> ListedColormap:
    """Return a color map from violet at 0 to yellow at 1."""
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
    """Draw ground truth, if given, on the left and detections on the right, colored by class.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: K with `pred_boxes`, `scores` and `pred_classes`.
        ground_truth: M with `gt_boxes` and `gt_classes`.
        class_names: C names.
        score_thresh: leave out detections of a lower score.
    """
    detections = detections[detections.scores >= score_thresh]
    classes, scores = detections.pred_classes.tolist(), detections.scores.tolist()
    gt_classes = [] if ground_truth is None else ground_truth.gt_classes.tolist()
    # If there are more classes than colors, only the classes in the picture take one each.
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


def draw_proposals(
    image: Picture, proposals: Instances, ground_truth: Instances | None, *, limit: int = 100
) -> Picture:
    """Draw proposals, and ground truth, if given, on their left; both colored by the best IoU with the other side.

    Args:
        image: (H, W, 3) uint8 RGB.
        proposals: K with `proposal_boxes` and `objectness_logits`; less objectness is drawn fainter.
        ground_truth: M with `gt_boxes`.
        limit: how many proposals to draw, best first.
    """
    proposals = proposals.to("cpu")
    best_first = proposals.objectness_logits.argsort(descending=True)
    proposals = proposals[best_first[:limit].flip(0)]  # what comes later is drawn on top
    alphas = 0.25 + 0.75 * proposals.objectness_logits.sigmoid()
    count = f"best {len(proposals)}"
    if ground_truth is None:
        sheet = Sheet(image, num_panels=1)
        panel, colors = sheet.add_panel("Proposals", count, is_muted=True), [PALETTE[2]] * len(proposals)
    else:
        gt_boxes = ground_truth.gt_boxes.to("cpu")
        # The padding gives an IoU of 0 where the other side is empty.
        iou = F.pad(pairwise_iou(gt_boxes, proposals.proposal_boxes), (0, 1, 0, 1))  # (M + 1, K + 1)
        gt_iou, proposal_iou = iou[:-1].amax(dim=1).tolist(), iou[:, :-1].amax(dim=0).tolist()
        sheet = Sheet(image, num_panels=2)
        panel = sheet.add_panel("Ground truth", _count_boxes(gt_iou), is_muted=True)
        _add_match_legend(sheet, panel, gt_iou)
        labels = [f"{math.floor(100 * value) / 100:.2f}" for value in gt_iou]  # 0.699 is not yet 0.70
        draw_boxes(panel, gt_boxes.tensor, _match_colors(gt_iou), labels)
        panel, colors = sheet.add_panel("Proposals", count, is_muted=True), _match_colors(proposal_iou)
        _add_match_legend(sheet, panel, proposal_iou)
    draw_boxes(panel, proposals.proposal_boxes.tensor, colors, alphas=alphas.tolist())
    return sheet.render()


def draw_assignment(
    image: Picture,
    locations: Locations,
    targets: FCOSTargets,
    ground_truth: Instances,
    *,
    num_candidates: Tensor | None = None,
) -> Picture:
    """Draw which location learns which box: a panel of all boxes, unlearned ones dashed, and one panel for each level.

    A dot is a location, in the color of the box that it learns; its area is the centerness to predict. Levels that
    learn nothing are left out.

    Args:
        image: (H, W, 3) uint8 RGB.
        locations: R of the image.
        targets: of this one image (N = 1).
        ground_truth: M with `gt_boxes`, from which the targets were made.
        num_candidates: (R,) how many boxes each location could learn. The dots of ambiguous locations, which have
            several (paper, figure 1), get a white ring.
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
    """Draw the target centerness as a heat map (paper, figure 3), with the panels of `draw_assignment`.

    Only locations that learn a box have a colored cell.

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
    """Add a panel of (M, 4) boxes in their colors, dashed if not among the (R,) learned boxes."""
    is_learned = torch.isin(torch.arange(len(boxes)), matched_idxs)  # (M,)
    num_left = len(boxes) - int(is_learned.sum())
    panel = sheet.add_panel("Ground truth", f"{_count_boxes(boxes)}, {num_left or 'none'} unassigned")
    styles = ["solid" if learned else "dashed" for learned in is_learned]
    draw_boxes(panel, boxes, _palette(range(len(boxes))), styles=styles)
    return panel


def _draw_heat(panel: Axes, points: Tensor, stride: float, values: Tensor, colors: Colormap) -> None:
    """Draw a cell around each of the (h·w, 2) points of a level, colored by its value in [0, 1]; none for NaN."""
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
