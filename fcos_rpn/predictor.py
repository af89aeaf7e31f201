"""A trained model on pictures of one's own: one picture in, boxes in its pixels out.

    predictor = Predictor("COCO-Detection/fcos_R_50_FPN_1x.yaml", weights="model.pth")
    found = predictor("street.jpg")
    print([predictor.class_names[label] for label in found.pred_classes], found.scores, found.pred_boxes)

Boxes are (x0, y0, x1, y1). Pictures are read as training reads them.
"""

import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import build_augmentation, convert_image_to_rgb, convert_PIL_to_numpy
from detectron2.data.transforms import AugInput, AugmentationList
from detectron2.modeling import ProposalNetwork, detector_postprocess
from detectron2.structures import Instances
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray
from PIL import Image

from .analysis.box_origins import preprocess
from .checkpoint import FCOSCheckpointer, read_class_names
from .config import read_config
from .data.pictures import pixels_of
from .engine import yaml
from .engine.setup import require_device, set_num_classes
from .errors import UserError
from .model_zoo import find_config
from .modeling.core import FCOSCore
from .modeling.find import find_fcos
from .modeling.geometry import Locations
from .modeling.head import FCOSPredictions
from .modeling.optimize import optimize_for_inference
from .modeling.postprocess import FCOSPostProcessor

logger = logging.getLogger(__name__)

Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[Any]"
"""A file, a PIL image, or an array: (height, width, 3) uint8 RGB, (height, width, 4) RGBA, (height, width) or
(height, width, 1) gray, uint8 or of 16 bits."""


def read_rgb(picture: Picture) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, as training reads its pictures: see `pixels_of`.

    Raises:
        UserError: if the file is missing or no picture, or the array is none.
    """
    if not isinstance(picture, str | os.PathLike | Image.Image | np.ndarray):
        raise UserError(f"a picture is a file, a PIL image or a numpy array, and no {type(picture).__name__}")
    if isinstance(picture, np.ndarray):
        picture = _image_of(picture)
    try:
        if isinstance(picture, Image.Image):
            return pixels_of(picture, "RGB")
        with PathManager.open(os.fspath(picture), "rb") as stream, Image.open(stream) as opened:
            return pixels_of(opened, "RGB")
    except FileNotFoundError as error:
        raise UserError(f"{picture}: no such file; correct the path") from error
    except UserError as error:
        raise UserError(f"{picture}: {error}") from error
    except Exception as error:  # pictures break PIL's decoders with nearly any exception
        raise UserError(
            f"{picture}: not a readable picture ({error}); the file may be truncated, so copy it again"
        ) from error


def _image_of(array: NDArray[Any]) -> Image.Image:
    pixels = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    is_gray = pixels.ndim == 2 and pixels.dtype in (np.uint8, np.uint16)
    is_color = pixels.ndim == 3 and pixels.shape[2] in (3, 4) and pixels.dtype == np.uint8
    if not (is_gray or is_color) or pixels.size == 0:
        raise UserError(
            f"an array of shape {array.shape} and type {array.dtype} is no picture: give (height, width, 3) uint8 with "
            "values from 0 to 255 in the order RGB; RGBA and gray are taken as well"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


class DensePredictions(NamedTuple):
    """What FCOS predicts in a picture before any selection: the arguments of `visualization.draw_centerness`."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB: the picture in the size in which the network gets it."""
    predictions: FCOSPredictions
    """Of this one image (N = 1)."""
    locations: Locations
    """In pixels of `image`."""
    postprocessor: FCOSPostProcessor
    """The model's."""


class Predictor:
    """A trained model for one picture at a time; whatever the config builds, in either role."""

    def __init__(
        self,
        config: str | os.PathLike[str] | CfgNode,
        *,
        weights: str | os.PathLike[str],
        device: str | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            config: a file, the name of one of this package's or Detectron2's configs, or a whole config.
            weights: a checkpoint with all of the model's weights.
            device: as MODEL.DEVICE; None is a GPU if there is one, else the CPU.
            class_names: the position is the label; None takes those in the checkpoint, where this package's trainer
                puts them. The data sets of the config do not count, since it may be another data set's config.

        Raises:
            UserError: on a mistake in the config, weights that are missing or do not fit, a missing device, or class
                names of another number or in another order than the checkpoint's.
        """
        cfg = config.clone() if isinstance(config, CfgNode) else read_config(find_config(os.fspath(config)), [])
        cfg.defrost()
        cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
        cfg.MODEL.WEIGHTS = os.fspath(weights)
        require_device(cfg.MODEL.DEVICE, 1)
        names = read_class_names(cfg.MODEL.WEIGHTS) if class_names is None else list(class_names)
        if names is not None:
            set_num_classes(cfg, len(names))
        numbered = [f"class {label}" for label in range(_num_classes(cfg))]
        self.class_names = numbered if names is None else names
        """One for each label; `class 3` where nothing tells them."""
        model = yaml.build_model(cfg)
        FCOSCheckpointer(model, require_all=True, class_names=class_names).load(cfg.MODEL.WEIGHTS)
        self.model: Any = optimize_for_inference(model)
        self._meta_architecture = cfg.MODEL.META_ARCHITECTURE
        self._format = cfg.INPUT.FORMAT
        self._resize = AugmentationList(build_augmentation(cfg, is_train=False))
        if names is None and self.detects:
            logger.warning(
                "%s carries no class names and none are given, so that classes are shown by their numbers",
                weights,
            )

    @property
    def detects(self) -> bool:
        """Whether the model tells classes; else it only proposes."""
        return not isinstance(self.model, ProposalNetwork)

    @torch.no_grad()
    def __call__(self, picture: Picture) -> Instances:
        """
        Returns:
            On the CPU, best first: `pred_boxes` in pixels of the picture, `scores`, `pred_classes` and what else the
            model finds, such as `pred_masks`.

        Raises:
            UserError: if the picture cannot be read, or the model only proposes.
        """
        self.require_detector()
        (output,) = self.model([self.prepare(picture)])
        found: Instances = output["instances"]
        return found.to("cpu")

    @torch.no_grad()
    def proposals(self, picture: Picture, *, limit: int = 100) -> Instances:
        """
        Args:
            picture: see `Picture`.
            limit: how many, the best ones; fewer if the model's own limit, MODEL.RPN.POST_NMS_TOPK_TEST, is lower.

        Returns:
            On the CPU, best first: `proposal_boxes` in pixels of the picture, and `objectness_logits`.

        Raises:
            UserError: if the picture cannot be read, or the model proposes nothing.
        """
        self.require_proposal_generator()
        x = self.prepare(picture)
        images = preprocess(self.model, [x])
        (proposals,), _ = self.model.proposal_generator(images, self.model.backbone(images.tensor), None)
        return detector_postprocess(proposals[:limit], x["height"], x["width"]).to("cpu")

    @torch.no_grad()
    def dense_predictions(self, picture: Picture) -> DensePredictions:
        """
        Raises:
            UserError: if the picture cannot be read, or the model has no FCOS.
        """
        core, postprocessor = self.require_fcos()
        x = self.prepare(picture)
        predictions, locations = core(self.model.backbone(preprocess(self.model, [x]).tensor))
        image = convert_image_to_rgb(x["image"].permute(1, 2, 0), self._format)
        return DensePredictions(image.clip(0, 255).astype(np.uint8), predictions, locations, postprocessor)

    def prepare(self, picture: Picture) -> dict[str, Any]:
        """Detectron2's input: `image` (channels, height, width), resized and in the order of channels that the network
        takes, and `height` and `width` of the picture."""
        pixels = read_rgb(picture)
        height, width = pixels.shape[:2]
        resized = AugInput(convert_PIL_to_numpy(Image.fromarray(pixels), self._format))
        self._resize(resized)
        image = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        return {"image": image, "height": height, "width": width}

    def require_detector(self) -> None:
        """
        Raises:
            UserError: if the model finds proposals only.
        """
        if not self.detects:
            raise UserError(
                f"{self._meta_architecture} tells no classes and detects nothing: ask it for proposals, with "
                "Predictor.proposals or --proposals 100"
            )

    def require_proposal_generator(self) -> None:
        """
        Raises:
            UserError: if the model has none.
        """
        if getattr(self.model, "proposal_generator", None) is None:
            raise UserError(
                f"{self._meta_architecture} has one stage and proposes nothing (the class-agnostic boxes of FCOS by "
                "which its recall is measured are no proposals): ask for its detections, or take a model with a "
                "proposal generator, such as COCO-Detection/faster_rcnn_fcos_rpn_R_50_FPN_1x.yaml"
            )

    def require_fcos(self) -> tuple[FCOSCore, FCOSPostProcessor]:
        """Return what predicts and what selects in the model, in either role.

        Raises:
            UserError: if the model has none.
        """
        parts = find_fcos(self.model)
        if parts is None:
            raise UserError(
                f"{self._meta_architecture} has no FCOS that could show its centerness: take META_ARCHITECTURE FCOS or "
                "PROPOSAL_GENERATOR.NAME FCOSRPN"
            )
        return parts


def _num_classes(cfg: CfgNode) -> int:
    of_detector = {"FCOS": cfg.MODEL.FCOS, "RetinaNet": cfg.MODEL.RETINANET}
    return int(of_detector.get(cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS).NUM_CLASSES)
