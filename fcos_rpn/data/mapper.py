"""Detectron2's mapper from data set entries to model inputs, with errors that name the picture."""

from typing import Any

from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError, read_image

from ..errors import UserError


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
        """Raises what the user needs to know if the picture is at fault. Pictures break PIL's decoders with nearly any
        exception, so that its type tells nothing: instead, the picture is read once more, by itself."""
        picture = f"{dataset_dict['file_name']} (image {dataset_dict.get('image_id', 'without id')})"
        try:
            height, width = read_image(dataset_dict["file_name"], self.image_format).shape[:2]
        except FileNotFoundError:
            raise UserError(f"{picture}: no such file; add it or delete this image from the json") from error
        except Exception as reading_error:
            raise UserError(
                f"{picture}: not a readable picture ({reading_error}); the file may be truncated, so copy it again or "
                "delete this image from the json"
            ) from error
        if isinstance(error, SizeMismatchError):
            raise UserError(
                f"{picture}: the picture is {width} x {height} pixels, after the rotation that its EXIF data may ask "
                f"for, but the json says width {dataset_dict['width']}, height {dataset_dict['height']}; correct the "
                "json (and its boxes) or put the right picture there"
            ) from error


def user_message(error: UserError) -> str:
    """The message alone: a worker of a `DataLoader` raises its exceptions with the worker's traceback wrapped
    around it."""
    message = str(error)
    if not message.startswith(f"Caught {UserError.__name__} in "):
        return message
    return message.rpartition(f"\n{UserError.__module__}.{UserError.__qualname__}: ")[2].rstrip("\n")
