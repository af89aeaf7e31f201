"""Proposals from files, for an R-CNN without a proposal generator of its own (Detectron2's Fast R-CNN)."""

from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import load_proposals_into_dataset

from ..errors import UserError


def records_with_proposals(dataset_name: str, file: str) -> list[dict[str, Any]]:
    """Load the records of a registered data set, each with the proposals of its image.

    Args:
        dataset_name: registered.
        file: in Detectron2's format, as an evaluation writes it to `box_proposals.pkl`. It names the images as the data
            set's own files do. `engine.setup` makes sure that it holds no code, which Detectron2 would run.

    Raises:
        UserError: if the file lacks an image of the data set.
    """
    records: list[dict[str, Any]] = DatasetCatalog.get(dataset_name)
    original_ids = MetadataCatalog.get(dataset_name).get("original_image_ids", {})
    named = [{**record, "image_id": original_ids.get(record["image_id"], record["image_id"])} for record in records]
    try:
        load_proposals_into_dataset(named, file)
    except KeyError as error:
        raise UserError(
            f"{file} has no {error}: give the file of proposals that an evaluation on {dataset_name!r} wrote"
        ) from error
    return [{**filled, "image_id": record["image_id"]} for filled, record in zip(named, records, strict=True)]
