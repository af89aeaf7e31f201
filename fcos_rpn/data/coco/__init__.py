"""Annotations in COCO's format.

outlines        what segmentation and keypoints of an annotation must be
rules           what every entry of a json must be
annotations     one json: stops on problems, repairs what has one obvious repair
check           everything that is wrong or odd in a json, as findings; check_pictures: in its files
"""
