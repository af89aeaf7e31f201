"""How good boxes are, by COCO's protocol.

coco       matching with the ground truth, all classes as one
recall     average recall (AR100, AR1k)
precision  precision over recall, AP50, AP75, AP90
evaluator  Detectron2's evaluator of AP, with AR beside it
results    figures as a table and as a file
"""

from .evaluator import FCOSEvaluator, FCOSWithProposals
from .precision_recall import PrecisionRecall, precision_recall
from .recall import RecallCurves, average_recall, recall_by_iou
from .results import results_table, write_results

__all__ = [
    "FCOSEvaluator",
    "FCOSWithProposals",
    "PrecisionRecall",
    "RecallCurves",
    "average_recall",
    "precision_recall",
    "recall_by_iou",
    "results_table",
    "write_results",
]
