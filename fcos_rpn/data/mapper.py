"""Detectron2's mapper from data set entries to model inputs, with errors that name the picture."""

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import read_image, transform_proposals
from detectron2.data.transforms import AugInput

from ..errors import UserError
from .pictures import read_picture, size_problem

LARGEST_ASPECT_RATIO = 100
"""Of pictures that surely can be resized to sizes in use: beyond it, their shorter side may round to no pixel."""


class CheckedDatasetMapper(DatasetMapper):
    """A `DatasetMapper` that reads pictures with `read_picture`, and says which one stops it."""

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """
        Raises:
            UserError: pictures of INPUT.FORMAT do not have as many channels as MODEL.PIXEL_MEAN and PIXEL_STD.
        """
        channels = 1 if cfg.INPUT.FORMAT == "L" else 3
        if {len(cfg.MODEL.PIXEL_MEAN), len(cfg.MODEL.PIXEL_STD)} != {channels}:
            raise UserError(
                f"pictures of INPUT.FORMAT {cfg.INPUT.FORMAT} need {channels} numbers in MODEL.PIXEL_MEAN and in "
                "MODEL.PIXEL_STD; INPUT.FORMAT L is gray and needs one"
            )
        given: dict[str, Any] = super().from_config(cfg, is_train)
        return given

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Args:
            dataset_dict: an image in Detectron2's data set format; stays as it is.

        Returns:
            What Detectron2's own would give.

        Raises:
            UserError: the picture is missing, unreadable or truncated, its size is not what the json says, it is too
                long and thin, or its masks are not polygons as told; names the file and the image id.
        """
        record = copy.deepcopy(dataset_dict)
        name = f"{record['file_name']} (image {record.get('image_id', 'without id')})"
        try:
            image = read_picture(record["file_name"], self.image_format)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        height, width = image.shape[:2]
        record.setdefault("width", width)
        record.setdefault("height", height)
        if problem := size_problem(record["file_name"], image, (record["width"], record["height"])):
            raise UserError(f"{name}: {problem}")

        segments = read_image(record.pop("sem_seg_file_name"), "L")[..., 0] if "sem_seg_file_name" in record else None
        augmented = AugInput(image, sem_seg=segments)
        try:
            transforms = self.augmentations(augmented)
        except Exception as error:
            if max(height, width) <= LARGEST_ASPECT_RATIO * min(height, width):
                raise
            raise UserError(
                f"{name}: {width} x {height} pixels cannot be resized to INPUT.MIN_SIZE and MAX_SIZE ({error}); crop "
                "the picture or delete this image from the json"
            ) from error
        record["image"] = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        if augmented.sem_seg is not None:
            record["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype("long"))
        size = augmented.image.shape[:2]
        if self.proposal_topk is not None:
            transform_proposals(record, size, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            outlines = [a.get("segmentation") for a in record["annotations"] if not a.get("iscrowd", 0)]
            if self.use_instance_mask and self.instance_mask_format == "polygon" and dict in map(type, outlines):
                raise UserError(f"{name}: an outline is a run-length encoding; set INPUT.MASK_FORMAT bitmask")
            self._transform_annotations(record, transforms, size)
        return record
