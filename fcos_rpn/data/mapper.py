"""Detectron2's mapper from data set entries to model inputs, with errors that name the picture."""

from typing import Any

from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError

from ..errors import UserError
from .picture_files import read_picture, size_problem


class CheckedDatasetMapper(DatasetMapper):
    """A `DatasetMapper` that says which picture stops it.

    Raises:
        UserError: the picture is missing, unreadable or truncated, or its size is not what the json says; names the
            file and the image id.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        try:
            return super().__call__(dataset_dict)
        except Exception as error:
            self._blame_picture(dataset_dict, error)
            raise

    def _blame_picture(self, dataset_dict: dict[str, Any], error: Exception) -> None:
        """Raises what the user needs to know if the picture is at fault. The exception's type tells nothing: the
        picture is read once more, by itself."""
        name = f"{dataset_dict['file_name']} (image {dataset_dict.get('image_id', 'without id')})"
        try:
            picture = read_picture(dataset_dict["file_name"], self.image_format)
        except UserError as reason:
            raise UserError(f"{name}: {reason}") from error
        if isinstance(error, SizeMismatchError):
            size = dataset_dict["width"], dataset_dict["height"]
            raise UserError(f"{name}: {size_problem(dataset_dict['file_name'], picture, size)}") from error


def user_message(error: UserError) -> str:
    """The message alone: a worker of a `DataLoader` raises its exceptions with the worker's traceback wrapped
    around it."""
    message = str(error)
    if not message.startswith(f"Caught {UserError.__name__} in "):
        return message
    return message.rpartition(f"\n{UserError.__module__}.{UserError.__qualname__}: ")[2].rstrip("\n")
