"""Data sets: COCO-format folders by name, checks of their annotations and pictures, and the embedded digits.

outlines        what segmentation and keypoints of an annotation must be
rules           what every entry of a json must be
annotations     one json: stops on problems, repairs what has one obvious repair; without Detectron2
coco_folder     a folder and its json -> a registered name; class names and files of registered names
picture_files   a picture as training reads it, or why it cannot
mapper          data set entries -> model inputs, with errors that name the picture
loader          endless batches for training that a resumed run goes on with; seeding: from which seeds
workers         the batches of any loader, and one message when one of its processes dies
check           all that is wrong or odd in a json; check_pictures: in its files; both as findings
digits          generates the quick start's data set: pictures of digits_scene, masks and keypoints of digits_outlines
"""

from .annotations import CheckedAnnotations, load_annotations
from .coco_folder import class_names, register_coco_folder, require_files
from .loader import TrainLoader
from .mapper import CheckedDatasetMapper, user_message
from .workers import WatchedLoader

__all__ = [
    "CheckedAnnotations",
    "CheckedDatasetMapper",
    "TrainLoader",
    "WatchedLoader",
    "class_names",
    "load_annotations",
    "register_coco_folder",
    "require_files",
    "user_message",
]
