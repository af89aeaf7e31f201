"""How good boxes are: AP and AR by the data set's own protocol.

matching           boxes against ground truth by COCO's rules, all classes as one
recall             average recall (AR100, AR1k)
precision_recall   precision over recall, AP50, AP75, AP90, all classes as one
average_precision  AP of classes, by COCO's or LVIS's protocol
evaluator          Detectron2's evaluator of a data set: AP and AR
results            figures as tables and files
"""

from .evaluator import FCOSEvaluator, FCOSWithProposals, build_evaluator
from .precision_recall import PrecisionRecall, precision_recall
from .recall import average_recall, recall_by_iou
from .results import StrictJSONWriter, results_table, write_results

__all__ = [
    "FCOSEvaluator",
    "FCOSWithProposals",
    "PrecisionRecall",
    "StrictJSONWriter",
    "average_recall",
    "build_evaluator",
    "precision_recall",
    "recall_by_iou",
    "results_table",
    "write_results",
]
