"""What `segmentation` and `keypoints` of an annotation in COCO's format must be.

Detectron2 reads both whether or not a model uses them, and takes neither's contents for wrong before it breaks on them.
"""

from collections.abc import Collection
from operator import mul
from reprlib import repr as short_repr
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

LARGEST_NUMBER = 1e12  # of pixels; below it x + width and width * height are finite in float32, too
MIN_POINTS = 3  # of a polygon
RASTER = 64  # pixels a side, to find out whether a polygon encloses anything
VISIBILITIES = (0, 1, 2)  # not labeled; labeled, but hidden; labeled and seen

# COCO's compressed run lengths: a character holds its code less this as 6 bits, of which the uppermost says that the
# number goes on in the next character, and the others are digits to the base 32, the lowest first.
FIRST_CODE = 48
GOES_ON, SIGN, DIGIT = 0x20, 0x10, 0x1F
MAX_CHARACTERS = 13  # of one number; 64 bits


def are_numbers(values: Collection[Any]) -> bool:
    """Whether all of them are integers or floats, and finite and below the largest that all arithmetic can bear."""
    # Without a loop in Python: a large data set has a hundred million coordinates.
    return {*map(type, values)} <= {int, float} and all(map(LARGEST_NUMBER.__gt__, map(abs, values)))


def segmentation_problem(segmentation: object, image_size: tuple[int, int]) -> str | None:
    """Say what keeps a value from being polygons, or COCO's run-length encoding of this height and width.

    None and [] are no problem.
    """
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        return _encoding_problem(segmentation, image_size)
    if not isinstance(segmentation, list):
        return (
            f"segmentation {short_repr(segmentation)} is neither a list of polygons nor a run-length encoding; correct "
            "or delete this key"
        )
    for index, polygon in enumerate(segmentation):
        if not isinstance(polygon, list) or len(polygon) % 2 or not are_numbers(polygon):
            return (
                f"segmentation[{index}] {short_repr(polygon)} is not x and y in turn as finite numbers below "
                f"{LARGEST_NUMBER:.0e}; correct or delete it"
            )
    return None


def is_flat(segmentation: object) -> bool:
    """Whether it is a polygon that is not in a list of polygons."""
    return isinstance(segmentation, list) and bool(segmentation) and are_numbers(segmentation)


def lacks_polygon(segmentation: object) -> bool:
    """Whether all polygons of a sound segmentation have too few points: Detectron2 leaves out such annotations."""
    return (
        isinstance(segmentation, list)
        and bool(segmentation)
        and all(len(polygon) < 2 * MIN_POINTS for polygon in segmentation)
    )


def holds_pixels(segmentation: list[list[float]] | dict[str, Any], image_size: tuple[int, int]) -> bool:
    """Whether anything of an image of this height and width is inside a sound segmentation."""
    if isinstance(segmentation, dict):
        return any((_run_lengths(segmentation["counts"]) or [])[1::2])  # runs of outside and inside take turns
    return any(_has_area(polygon, image_size) for polygon in segmentation if len(polygon) >= 2 * MIN_POINTS)


def _has_area(polygon: list[float], image_size: tuple[int, int]) -> bool:
    """Whether a polygon encloses a part of the image, however small."""
    xs, ys = polygon[::2], polygon[1::2]
    limits = image_size[::-1]
    if min(xs) >= 0 and min(ys) >= 0 and max(xs) <= limits[0] and max(ys) <= limits[1]:
        area = sum(map(mul, xs, [*ys[1:], ys[0]])) - sum(map(mul, [*xs[1:], xs[0]], ys))
        if abs(area) > 1e-3:  # else it may be two equal loops in opposite directions
            return True
    points = np.array(_clip([*zip(xs, ys, strict=True)], limits))
    extent = np.ptp(points, axis=0) if len(points) else np.zeros(2)
    if not extent.all():
        return False
    scaled = (points - points.min(axis=0)) * (RASTER / extent)
    return bool(mask_util.area(mask_util.frPyObjects([scaled.ravel().tolist()], RASTER, RASTER))[0])


def _clip(points: list[tuple[float, float]], limits: tuple[int, int]) -> list[tuple[float, float]]:
    """The part of a polygon between 0 and the limits of x and y, by the algorithm of Sutherland and Hodgman."""
    for axis, sign, offset in ((0, 1, 0), (0, -1, limits[0]), (1, 1, 0), (1, -1, limits[1])):
        depths = [sign * point[axis] + offset for point in points]  # inside the edge
        clipped = []
        for index, (point, depth) in enumerate(zip(points, depths, strict=True)):
            last, last_depth = points[index - 1], depths[index - 1]
            if (depth > 0) != (last_depth > 0):
                share = last_depth / (last_depth - depth)
                clipped.append((last[0] + share * (point[0] - last[0]), last[1] + share * (point[1] - last[1])))
            if depth > 0:
                clipped.append(point)
        points = clipped
    return points


def keypoints_problem(keypoints: object, names: Collection[str]) -> str | None:
    """Say what keeps a value from being x, y and visibility of each of the category's keypoint names, if it has any.

    None and [] are no problem.
    """
    if keypoints is None or keypoints == []:
        return None
    if not isinstance(keypoints, list) or len(keypoints) % 3 or not are_numbers(keypoints):
        return (
            f"keypoints {short_repr(keypoints)} is not x, y and visibility in turn as finite numbers below "
            f"{LARGEST_NUMBER:.0e}; correct or delete this key"
        )
    if not {*keypoints[2::3]} <= {*VISIBILITIES}:
        wrong = next(visibility for visibility in keypoints[2::3] if visibility not in VISIBILITIES)
        return f"keypoints: visibility {short_repr(wrong)} is not 0, 1 or 2; correct or delete this key"
    if names and len(keypoints) != 3 * len(names):
        return (
            f"keypoints: {len(keypoints) // 3} of them, but the category names {len(names)}; correct or delete this key"
        )
    return None


def _encoding_problem(encoding: dict[str, Any], image_size: tuple[int, int]) -> str | None:
    size, counts = encoding.get("size"), encoding.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        return f"segmentation: size {short_repr(size)} is not height and width; correct or delete the segmentation"
    if tuple(size) != image_size:
        return (
            f"segmentation: size {short_repr(size)} is not the height and width of the image, {list(image_size)}; "
            "correct or delete the segmentation"
        )
    lengths = _run_lengths(counts)
    if lengths is None or any(length < 0 for length in lengths) or sum(lengths) != size[0] * size[1]:
        return (
            f"segmentation: counts {short_repr(counts)} are no run lengths that add up to {size[0]} * {size[1]} "
            "pixels; correct or delete the segmentation"
        )
    return None


def _run_lengths(counts: object) -> list[int] | None:
    """None, if it is neither a list of whole numbers nor COCO's compressed text. pycocotools' own reader would run over
    the end of a text that is cut off."""
    if isinstance(counts, list):
        return counts if {*map(type, counts)} <= {int} else None
    if not isinstance(counts, str):
        return None
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - FIRST_CODE
        if not 0 <= code <= GOES_ON | DIGIT or shift == 5 * MAX_CHARACTERS:
            return None
        value |= (code & DIGIT) << shift
        shift += 5
        if not code & GOES_ON:
            length = value - (1 << shift) if code & SIGN else value
            # From the fourth on, a number is the difference to the one two before it.
            lengths.append(length + lengths[-2] if len(lengths) > 2 else length)
            value = shift = 0
    return None if shift else lengths
