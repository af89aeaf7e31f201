"""Data sets in other formats, to and from COCO's.

splits       one set of pictures with its annotations, between two formats
yolo         a data.yaml with folders of images and labels, both ways
xml          Pascal VOC and CVAT, which hotcoco reads
json_files   COCO, both ways
"""
