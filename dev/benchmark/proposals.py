"""Feature maps -> proposals: the whole generator, its selection alone, and what smaller heads cost.

Selection is decoding, the best of each level, NMS and the best of all. Its time depends on the boxes, so all select
from boxes of the same distribution, an object's size around each cell, with random scores.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.structures import ImageList
from torch import Tensor

from dev.benchmark.inputs import FCOS_STRIDES, RPN_STRIDES, SEED, grid_sizes, locations_of
from dev.benchmark.measuring import OURS, Comparison, Setup
from dev.benchmark.peers import anchor_rpn, our_proposal_generator
from fcos_rpn.modeling.geometry import encode_boxes
from fcos_rpn.modeling.head import FCOSPredictions
from fcos_rpn.modeling.proposal_generator import to_proposals

SIZE, QUICK_SIZE = (800, 1067), (160, 224)
CHANNELS = 256

SMALLER_HEADS = {
    "towers of 2": {"num_convs": 2},
    "towers of 1": {"num_convs": 1},
    "one tower of 4": {"num_convs": 0, "num_shared_convs": 4},
    "one tower of 1": {"num_convs": 0, "num_shared_convs": 1},
}
"""Convolutions, in place of two towers of 4."""


def comparisons(setup: Setup) -> Iterator[Comparison]:
    size = QUICK_SIZE if setup.is_quick else SIZE
    setting = {"size": f"{size[0]}x{size[1]}", "levels": "P2-P6", "proposals": 1000}
    generators = {
        OURS: our_proposal_generator(setup.device),
        "rpn": anchor_rpn(setup.device),
        "rpn_gn": anchor_rpn(setup.device, config="table6_rpn_gn.yaml"),
    }
    yield Comparison(
        {"part": "selection", **setting},
        {
            OURS: our_selection(generators[OURS], size, setup.device),
            "rpn": rpn_selection(generators["rpn"], size, setup.device),
        },
    )
    features = random_features(size, setup.device)
    images = ImageList(torch.empty(1, 3, 0, 0), [size])
    yield Comparison(
        {"part": "whole", **setting},
        {name: setup.inference(generator, images, features) for name, generator in generators.items()},
    )
    generators = {
        OURS: our_proposal_generator(setup.device, strides=FCOS_STRIDES),
        **{
            f"{OURS}, {head}": our_proposal_generator(setup.device, strides=FCOS_STRIDES, **convs)
            for head, convs in SMALLER_HEADS.items()
        },
        "rpn": generators["rpn"],
    }
    yield Comparison(
        {"part": "whole", **setting, "levels": "P3-P7, rpn P2-P6"},
        {name: setup.inference(generator, images, features) for name, generator in generators.items()},
    )


def our_selection(generator: Any, size: tuple[int, int], device: torch.device) -> Callable[[], Any]:
    locations = locations_of(size, RPN_STRIDES, device)
    boxes, logits = boxes_around(locations.points, locations.strides)
    ltrb = encode_boxes(locations.points, locations.strides, boxes)
    predictions = FCOSPredictions(logits[None, :, None], ltrb[None], torch.full_like(logits, 10.0)[None])
    select = generator.test_postprocessor
    return lambda: [to_proposals(found) for found in select(predictions, locations, [size])]


def rpn_selection(rpn: Any, size: tuple[int, int], device: torch.device) -> Callable[[], Any]:
    maps = [torch.empty(0, 0, *grid, device=device) for grid in grid_sizes(size, RPN_STRIDES)]
    anchors = rpn.anchor_generator(maps)
    deltas, logits = [], []
    for level, stride in zip(anchors, RPN_STRIDES.values(), strict=True):
        strides = torch.full((len(level),), float(stride), device=device)
        boxes, scores = boxes_around(level.get_centers(), strides)
        deltas.append(rpn.box2box_transform.get_deltas(level.tensor, boxes)[None])
        logits.append(scores[None])
    return lambda: rpn.predict_proposals(anchors, logits, deltas, [size])


def boxes_around(points: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
    """(R, 4) boxes that contain the (R, 2) points, with sides of about 8 strides, and (R,) logits."""
    generator = torch.Generator().manual_seed(SEED)
    sides = torch.exp(torch.randn(len(points), 4, generator=generator) / 2).to(points.device) * 4 * strides[:, None]
    boxes = torch.cat([points - sides[:, :2], points + sides[:, 2:]], dim=1)
    return boxes, torch.randn(len(points), generator=generator).to(points.device)


def random_features(size: tuple[int, int], device: torch.device) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    strides = RPN_STRIDES | FCOS_STRIDES
    grids = zip(strides, grid_sizes(size, strides), strict=True)
    return {name: torch.randn(1, CHANNELS, *grid, generator=generator).to(device) for name, grid in grids}
