"""Search input size, pyramid and ranges that leave fewer boxes unlearned and fewer locations ambiguous.

It tries the given input and up to twice its sides, the given pyramid and one with the next finer level, and ranges from
half to twice the given ones, so that the distances to predict stay near 8 strides of their level. Larger inputs and
finer levels always leave fewer boxes unlearned. Two bounds stop the search: the largest cost that the user allows, and
the margin by which an option must be better than a cheaper one.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from tqdm import tqdm

from ..errors import UserError
from ..modeling.assigner import FCOSAssigner
from .annotated_boxes import Annotations, input_boxes, input_sizes, padded_sizes
from .assignment import LocationSampler
from .statistics import Analysis, build_sampler, measure

ENLARGEMENTS = (1.0, 1.25, 1.5, 2.0)
"""Factors of the input's sides."""

RANGE_FACTORS = (0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Factors of the upper end of a range."""

MAX_SEARCH_IMAGES = 500
"""How many images the search uses, spread over the json."""

P2_BUILDERS = (
    "build_p2_p67_resnet_fpn_backbone",
    "build_p5_p67_resnet_fpn_backbone",
    "build_torchvision_fpn_backbone",
    "build_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
)
"""Backbones that make P2 if MODEL.FPN.IN_FEATURES begins with res2."""


class Margin(NamedTuple):
    """By how many points an analysis must be better to be worth its price."""

    unlearned: float
    ambiguous: float


OPTION_MARGIN = Margin(unlearned=0.25, ambiguous=2.0)
RANGE_MARGIN = Margin(unlearned=0.05, ambiguous=0.25)  # ranges cost nothing, but the given ones are well tried

Changes = dict[str, Any]
"""Config key -> value."""


class Option(NamedTuple):
    """An input size and a pyramid."""

    changes: Changes
    sampler: LocationSampler
    """With the ranges that the search starts from."""
    size_divisibility: int
    min_size: int
    max_size: int
    num_locations: float
    """Relative to the given config, as `num_pixels`."""
    num_pixels: float


class Trial(NamedTuple):
    option: Option
    ends: tuple[float, ...]
    """Upper ends of the ranges of all levels but the last."""
    figures: Analysis

    @property
    def range_distance(self) -> float:
        """Distance of the ranges from those that the search started from, in powers of 2."""
        given = upper_ends(self.option.sampler)
        return sum(abs(math.log2(new / old)) for new, old in zip(self.ends, given, strict=True))


def suggest(
    cfg: CfgNode,
    annotations: Annotations,
    *,
    max_cost: float = 4.0,
    box_convention: str = "modern",
    show_progress: bool = False,
) -> Changes:
    """Find config keys and values that leave fewer boxes unlearned or fewer locations ambiguous; none if nothing does.

    Args:
        cfg: of FCOS or FCOSRPN.
        annotations: see `read_boxes`.
        max_cost: largest number of locations, relative to the given config.
        box_convention: a key of `BOX_CONVENTIONS`.
        show_progress: draws a bar of the trials.

    Raises:
        UserError: for anchors, and for a bound below 1.
    """
    if not max_cost >= 1:
        raise UserError(f"--max-cost {max_cost}: give 1, which changes the ranges only, or more")
    sampler, size_divisibility = build_sampler(cfg, annotations.num_classes)
    if not isinstance(sampler, LocationSampler):
        raise UserError("--suggest is for FCOS and FCOSRPN; this config has anchors")
    annotations = _some_images(annotations)
    options = [option for option in _options(cfg, sampler, size_divisibility) if option.num_locations <= max_cost]
    num_trials = len(RANGE_FACTORS) * (len(options) + max(len(option.sampler.strides) for option in options) - 1)
    with tqdm(total=num_trials, desc="searching", unit="trial", disable=not show_progress) as progress:

        def attempt(option: Option, ends: Sequence[float]) -> Trial:
            progress.update()
            return _attempt(option, ends, annotations, box_convention)

        given = _attempt(options[0], upper_ends(sampler), annotations, box_convention)

        def best_ranges(trials: Iterable[Trial]) -> Trial | None:
            allowed = [trial for trial in trials if trial.figures.unlearned <= given.figures.unlearned]
            return worthwhile(allowed, RANGE_MARGIN, price=lambda trial: trial.range_distance) if allowed else None

        trials = [best_ranges(attempt(option, ends) for ends in _scaled_ranges(option)) for option in options]
        best = worthwhile(
            [trial for trial in trials if trial],
            OPTION_MARGIN,
            price=lambda trial: (trial.option.num_locations, trial.option.num_pixels),
        )
        for level in range(len(best.ends)):
            best = best_ranges([best, *(attempt(best.option, ends) for ends in _moved_ranges(best, level))]) or best
        progress.update(max(0, num_trials - progress.n))  # some ranges do not ascend

    if best.option is options[0] and best.ends == given.ends:
        return {}
    return best.option.changes | {"MODEL.FCOS.SIZES_OF_INTEREST": list(best.ends)}


def tiles_advice(cfg: CfgNode, annotations: Annotations) -> str:
    """Advise to cut the images into tiles if even the largest input that is tried scales one of them down, else ""."""
    if cfg.INPUT.MIN_SIZE_TEST == 0:
        return ""
    sizes = input_sizes(annotations, min_size=cfg.INPUT.MIN_SIZE_TEST, max_size=cfg.INPUT.MAX_SIZE_TEST)
    shrinkage = float((annotations.image_sizes / sizes).max())
    if shrinkage <= ENLARGEMENTS[-1]:
        return ""
    return (
        f"The input of the given config scales images down, up to {shrinkage:.1f} times, and --suggest tries at most "
        f"{ENLARGEMENTS[-1]:g} times its sides. Cut large images into tiles before training, or set a larger "
        "INPUT.MIN_SIZE_* and MAX_SIZE_* yourself."
    )


def worthwhile(trials: Sequence[Trial], margin: Margin, *, price: Callable[[Trial], Any]) -> Trial:
    """Choose the cheapest trial within the margin of the least unlearned and, among these, of the least ambiguous."""
    least = min(trial.figures.unlearned for trial in trials)
    trials = [trial for trial in trials if trial.figures.unlearned <= least + margin.unlearned]
    least = min(trial.figures.ambiguous for trial in trials)
    return min((trial for trial in trials if trial.figures.ambiguous <= least + margin.ambiguous), key=price)


def upper_ends(sampler: LocationSampler) -> tuple[float, ...]:
    """Return the sizes of interest of a config's assigner."""
    return tuple(upper for _, upper in sampler.assigner.ranges[:-1])


def _some_images(annotations: Annotations) -> Annotations:
    with_boxes = annotations.image_idxs.unique()
    num_images = min(MAX_SEARCH_IMAGES, len(with_boxes))
    return annotations.of_images(with_boxes[torch.arange(num_images) * len(with_boxes) // num_images])


def _options(cfg: CfgNode, sampler: LocationSampler, size_divisibility: int) -> Iterator[Option]:
    """Yield the options to try, the given config first."""
    pyramids: list[tuple[Changes, LocationSampler, int]] = [({}, sampler, size_divisibility)]
    if finer := _finer_pyramid(cfg, sampler):
        pyramids.append(finer)
    # At 0, images are not resized.
    enlargements = ENLARGEMENTS if cfg.INPUT.MIN_SIZE_TEST > 0 else ENLARGEMENTS[:1]
    for (changes, pyramid, divisibility), enlargement in itertools.product(pyramids, enlargements):
        larger = {} if enlargement == 1 else _enlarged(cfg, enlargement)
        yield Option(
            changes=changes | larger,
            sampler=pyramid,
            size_divisibility=divisibility,
            min_size=larger.get("INPUT.MIN_SIZE_TEST", cfg.INPUT.MIN_SIZE_TEST),
            max_size=larger.get("INPUT.MAX_SIZE_TEST", cfg.INPUT.MAX_SIZE_TEST),
            num_locations=(enlargement * sampler.strides[0] / pyramid.strides[0]) ** 2,
            num_pixels=enlargement**2,
        )


def _enlarged(cfg: CfgNode, factor: float) -> Changes:
    return {
        "INPUT.MIN_SIZE_TRAIN": [round(size * factor) for size in cfg.INPUT.MIN_SIZE_TRAIN],
        "INPUT.MAX_SIZE_TRAIN": round(cfg.INPUT.MAX_SIZE_TRAIN * factor),
        "INPUT.MIN_SIZE_TEST": round(cfg.INPUT.MIN_SIZE_TEST * factor),
        "INPUT.MAX_SIZE_TEST": round(cfg.INPUT.MAX_SIZE_TEST * factor),
    }


def _finer_pyramid(cfg: CfgNode, sampler: LocationSampler) -> tuple[Changes, LocationSampler, int] | None:
    """Add P2 below the given levels, if these begin with P3 and the backbone can make it."""
    if sampler.level_names[0] != "p3" or cfg.MODEL.BACKBONE.NAME not in P2_BUILDERS:
        return None
    key = "MODEL.FCOS.IN_FEATURES" if cfg.MODEL.META_ARCHITECTURE == "FCOS" else "MODEL.RPN.IN_FEATURES"
    changes: Changes = {key: ["p2", *sampler.level_names]}
    if cfg.MODEL.FPN.IN_FEATURES[0] != "res2":
        maps = ["res2", *cfg.MODEL.FPN.IN_FEATURES]
        changes["MODEL.FPN.IN_FEATURES"] = maps
        if "resnet" in cfg.MODEL.BACKBONE.NAME:
            changes["MODEL.RESNETS.OUT_FEATURES"] = maps
    ends = upper_ends(sampler)
    # The given ranges, and half the first of them; or for P3 alone 8 strides of P2.
    finer_ends = [ends[0] / 2, *ends] if ends else [32.0]
    finer = cfg.clone()
    finer.defrost()
    for name, value in (changes | {"MODEL.FCOS.SIZES_OF_INTEREST": finer_ends}).items():
        finer.merge_from_list([name, value])
    finer_sampler, size_divisibility = build_sampler(finer, sampler.num_classes)
    assert isinstance(finer_sampler, LocationSampler)
    return changes, finer_sampler, size_divisibility


def _scaled_ranges(option: Option) -> Iterator[tuple[float, ...]]:
    """Yield the given ranges and multiples of all of them, in whole pixels, if they still ascend."""
    given = upper_ends(option.sampler)
    yield given
    scaled = {tuple(_whole(end * factor) for end in given) for factor in RANGE_FACTORS if factor != 1}
    yield from (ends for ends in sorted(scaled - {given}) if _is_ascending(ends))


def _moved_ranges(trial: Trial, level: int) -> Iterator[tuple[float, ...]]:
    """Yield ranges with another upper end of one level, if they still ascend."""
    given = upper_ends(trial.option.sampler)[level]
    for factor in RANGE_FACTORS:
        end = given if factor == 1 else _whole(given * factor)
        ends = (*trial.ends[:level], end, *trial.ends[level + 1 :])
        if _is_ascending(ends):
            yield ends


def _whole(pixels: float) -> float:
    return float(max(1, round(pixels)))


def _is_ascending(ends: Sequence[float]) -> bool:
    return all(low < high for low, high in itertools.pairwise(ends))


def _attempt(option: Option, ends: Sequence[float], annotations: Annotations, box_convention: str) -> Trial:
    given = option.sampler
    sampler = LocationSampler(
        level_names=given.level_names,
        strides=given.strides,
        assigner=FCOSAssigner(
            num_classes=given.num_classes, sizes_of_interest=ends, center_sampling_radius=given.assigner.radius
        ),
        location_offset=given.location_offset,
        num_classes=given.num_classes,
    )
    sizes = input_sizes(annotations, min_size=option.min_size, max_size=option.max_size)
    boxes = input_boxes(annotations, sizes, convention=box_convention)
    padded = padded_sizes(sizes, option.size_divisibility)
    return Trial(option, tuple(ends), measure(sampler, annotations, boxes=boxes, padded=padded))
