"""Class-agnostic precision over recall by COCO's protocol (paper, table 7 and the curves that go with it)."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .matching import IOU_THRESHOLDS, Annotations, BoxesOfImages, match_class_agnostic

REPORTED_THRESHOLDS = (0.5, 0.75, 0.9)
"""Those that the paper shows one by one."""


class PrecisionRecall(NamedTuple):
    """Curves of one model, one for each of the T `IOU_THRESHOLDS`."""

    recall: npt.NDArray[np.float64]
    """(101,) 0, .01, ... 1."""
    precision: npt.NDArray[np.float64]
    """(T, 101) the best precision at that recall or a higher one, 0 where it is not reached; NaN without any ground
    truth."""

    def at(self, iou_threshold: float) -> npt.NDArray[np.float64]:
        """(101,) precision where a box needs this IoU, one of `IOU_THRESHOLDS`."""
        return self.precision[IOU_THRESHOLDS.index(iou_threshold)]

    def average_precision(self, iou_threshold: float) -> float:
        """The mean precision over all recalls, in percent."""
        return float(100 * self.at(iou_threshold).mean())

    def summary(self) -> dict[str, float]:
        """AP over all thresholds, AP50, AP75 and AP90, in percent."""
        at_thresholds = {f"AP{round(100 * iou)}": self.average_precision(iou) for iou in REPORTED_THRESHOLDS}
        return {"AP": float(100 * self.precision.mean()), **at_thresholds}


def precision_recall(
    annotations: Annotations, boxes: BoxesOfImages, *, limit: int = 100, api: str = "hotcoco"
) -> PrecisionRecall:
    """Precision over recall of boxes whatever their class, those of all images ranked together by score.

    Args:
        annotations, boxes: see `match_class_agnostic`. The scores of different images must compare.
        limit: of every image the best so many boxes count.
        api: see `match_class_agnostic`.

    Raises:
        UserError: see `match_class_agnostic`.
    """
    coco_eval = match_class_agnostic(annotations, boxes, limits=[limit], api=api)
    precision = np.asarray(coco_eval.eval["precision"])[:, :, 0, 0, 0]  # (T, 101, 1, 4, 1) -> (T, 101): all areas
    return PrecisionRecall(
        recall=np.asarray(coco_eval.params.recThrs), precision=np.where(precision < 0, np.nan, precision)
    )
