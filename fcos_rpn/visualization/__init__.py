"""Pictures of what FCOS learns and finds.

pictures  detections, proposals, assignment by level, centerness
sheet     the panels that they are drawn onto
"""

from .pictures import draw_assignment, draw_centerness, draw_detections, draw_proposals

__all__ = ["draw_assignment", "draw_centerness", "draw_detections", "draw_proposals"]
