"""The boxes of a COCO json in pixels of the network's input. Needs no images.

Shapes: N images, M boxes of all images together.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.data.transforms import ResizeShortestEdge
from torch import Tensor

from ..data import load_annotations
from ..errors import UserError

BOX_CONVENTIONS = {"modern": 0.0, "legacy": -1.0}
"""Added to x + width for x1, and to y + height for y1, in pixels of the original image. "modern" is Detectron2's and
that of the journal version of the FCOS paper; "legacy" that of the first version's tables, whose code counted
pixels."""

MAX_PIXELS_AT_ONCE = 1 << 26
MAX_BOXES_AT_ONCE = 1 << 11


class Annotations(NamedTuple):
    """The boxes of a json without crowd regions, in pixels of the original images."""

    boxes: Tensor
    """(M, 4) x, y, width, height, in double precision, sorted by image."""
    classes: Tensor
    """(M,) int64 in [0, num_classes), in the order of the category ids."""
    ids: Tensor
    """(M,) int64 the annotations' ids."""
    image_idxs: Tensor
    """(M,) int64 in [0, N)."""
    image_sizes: Tensor
    """(N, 2) int64 height, width."""
    image_ids: Tensor
    """(N,) int64."""
    num_classes: int

    def of_images(self, chosen: Tensor) -> "Annotations":
        """Keep the annotations of some images; `chosen` is (n,) indices in [0, N), ascending."""
        new_idxs = torch.full((len(self.image_sizes),), -1).scatter_(0, chosen, torch.arange(len(chosen)))
        is_kept = new_idxs[self.image_idxs] >= 0
        return Annotations(
            boxes=self.boxes[is_kept],
            classes=self.classes[is_kept],
            ids=self.ids[is_kept],
            image_idxs=new_idxs[self.image_idxs[is_kept]],
            image_sizes=self.image_sizes[chosen],
            image_ids=self.image_ids[chosen],
            num_classes=self.num_classes,
        )


class ImageGroup(NamedTuple):
    """Some images that are padded to one size, with their boxes in pixels of the network's input."""

    padded_size: tuple[int, int]
    """Height and width of all of them."""
    num_images: int
    boxes: Tensor
    """(m, 4) x0, y0, x1, y1; float32, as in training."""
    classes: Tensor
    """(m,) int64."""
    image_idxs: Tensor
    """(m,) int64 in [0, num_images), ascending."""
    rows: Tensor
    """(m,) int64: the boxes' rows in the `Annotations`."""


def read_boxes(json_file: str | Path) -> Annotations:
    """Read, check and repair a json as for training (see `load_annotations`); its images are not looked at.

    Raises:
        UserError: the json cannot be read or is wrong, or holds no boxes but crowd regions.
    """
    content = load_annotations(Path(json_file)).content
    if all(annotation["iscrowd"] for annotation in content.get("annotations", ())):
        raise UserError(f"{json_file}: no boxes to analyze; 'annotations' is empty or holds crowd regions only")
    return boxes_of(content)


def boxes_of(content: Mapping[str, Any]) -> Annotations:
    """
    Args:
        content: see `CheckedAnnotations`; has a box that is no crowd region.
    """
    index_of = {image["id"]: index for index, image in enumerate(content["images"])}
    class_of = {id_: label for label, id_ in enumerate(sorted(category["id"] for category in content["categories"]))}
    kept = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]]
    kept.sort(key=lambda annotation: index_of[annotation["image_id"]])
    return Annotations(
        boxes=torch.tensor([annotation["bbox"] for annotation in kept], dtype=torch.float64),
        classes=torch.tensor([class_of[annotation["category_id"]] for annotation in kept]),
        ids=torch.tensor([annotation["id"] for annotation in kept]),
        image_idxs=torch.tensor([index_of[annotation["image_id"]] for annotation in kept]),
        image_sizes=torch.tensor([[image["height"], image["width"]] for image in content["images"]]),
        image_ids=torch.tensor([image["id"] for image in content["images"]]),
        num_classes=len(class_of),
    )


def input_sizes(annotations: Annotations, *, min_size: int, max_size: int) -> Tensor:
    """Return (N, 2) heights and widths of the images after Detectron2's `ResizeShortestEdge`.

    A `min_size` of 0 leaves the images as they are.
    """
    if min_size == 0:
        return annotations.image_sizes
    resized = [
        ResizeShortestEdge.get_output_shape(height, width, min_size, max_size)
        for height, width in annotations.image_sizes.tolist()
    ]
    return torch.tensor(resized)


def input_boxes(annotations: Annotations, sizes: Tensor, *, convention: str = "modern") -> Tensor:
    """Return (M, 4) boxes x0, y0, x1, y1 in pixels of images of these (N, 2) sizes."""
    low, sides = annotations.boxes.split(2, dim=1)
    corners = torch.cat([low, low + sides + BOX_CONVENTIONS[convention]], dim=1)
    scales = (sizes.double() / annotations.image_sizes).flip(1)[annotations.image_idxs]  # (M, 2) in x and in y
    return (corners * scales.repeat(1, 2)).float()


def padded_sizes(sizes: Tensor, size_divisibility: int) -> Tensor:
    """Round (N, 2) sizes up to what the network can divide. Each image is padded alone, not to a batch's size."""
    divisor = max(size_divisibility, 1)
    return (sizes + divisor - 1) // divisor * divisor


def group_images(annotations: Annotations, boxes: Tensor, padded: Tensor) -> Iterator[ImageGroup]:
    """Yield the images with boxes in groups of one padded size, small enough for the memory.

    Args:
        annotations: M boxes of N images.
        boxes: (M, 4) in pixels of the network's input.
        padded: (N, 2) see `padded_sizes`.
    """
    num_boxes = torch.bincount(annotations.image_idxs, minlength=len(padded)).tolist()
    first_box = [0, *itertools.accumulate(num_boxes)]
    by_size: dict[tuple[int, int], list[int]] = {}
    for image, (height, width) in enumerate(padded.tolist()):
        if num_boxes[image]:
            by_size.setdefault((height, width), []).append(image)
    for size, images in by_size.items():
        for chunk in _chunks(images, num_boxes, max_images=MAX_PIXELS_AT_ONCE // math.prod(size)):
            rows = torch.cat([torch.arange(first_box[image], first_box[image + 1]) for image in chunk])
            yield ImageGroup(
                padded_size=size,
                num_images=len(chunk),
                boxes=boxes[rows],
                classes=annotations.classes[rows],
                image_idxs=torch.repeat_interleave(torch.tensor([num_boxes[image] for image in chunk])),
                rows=rows,
            )


def _chunks(images: list[int], num_boxes: list[int], *, max_images: int) -> Iterator[list[int]]:
    chunk: list[int] = []
    boxes_in_chunk = 0
    for image in images:
        if chunk and (len(chunk) >= max_images or boxes_in_chunk + num_boxes[image] > MAX_BOXES_AT_ONCE):
            yield chunk
            chunk, boxes_in_chunk = [], 0
        chunk.append(image)
        boxes_in_chunk += num_boxes[image]
    yield chunk
