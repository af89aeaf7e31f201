"""Measure time and memory of this package and its peers, on the same inputs with the same weights, in one process.

measuring   time and peak memory of functions that take turns
inputs      images, ground truth and boxes, random but always the same
peers       detectron2's FCOS and RetinaNet and torchvision's FCOS with our weights
report      table and JSON

The other modules are one subject each; see `__main__.SUBJECTS`.
"""
