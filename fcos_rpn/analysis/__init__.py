"""Which boxes of a data set a config can learn, and where a trained model's boxes come from.

annotated_boxes  one json -> boxes in pixels of the network's input, grouped by image size
assignment       which boxes FCOS's locations learn; best possible recall and ambiguous samples of any batch
anchors          the same for RetinaNet's and RPN's anchors, under the paper's three rules
statistics       all figures of a json under a config
report           the figures as tables
suggest          input size, pyramid and ranges that leave fewer boxes unlearned, as a config
box_origins      scores against IoU of a trained FCOS's boxes, and boxes from ambiguous locations
"""

from .annotated_boxes import BOX_CONVENTIONS, Annotations, read_boxes
from .assignment import Ambiguity, ambiguous_samples, best_possible_recall
from .statistics import Analysis, analyze

__all__ = [
    "BOX_CONVENTIONS",
    "Ambiguity",
    "Analysis",
    "Annotations",
    "ambiguous_samples",
    "analyze",
    "best_possible_recall",
    "read_boxes",
]
