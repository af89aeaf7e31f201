"""Data sets, from files to batches.

coco/       annotations in COCO's format: rules, repairs, and the check of a whole data set
formats/    YOLO, Pascal VOC and CVAT to and from COCO's format
digits/     generates the quick start's data set
datasets    a folder and its json -> a registered name; class names and files of registered names
file_kinds  what a file is instead of a picture or annotations
pictures    a picture as training reads it, or why it cannot
mapper      data set entries -> model inputs, with errors that name the picture
loader      endless batches for training that a resumed run goes on with; seeding: from which seeds
"""

from .coco.annotations import CheckedAnnotations, load_annotations
from .datasets import class_names, register_coco_folder, require_files
from .loader import TrainLoader
from .mapper import CheckedDatasetMapper

__all__ = [
    "CheckedAnnotations",
    "CheckedDatasetMapper",
    "TrainLoader",
    "class_names",
    "load_annotations",
    "register_coco_folder",
    "require_files",
]
