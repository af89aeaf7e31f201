"""Annotations in COCO's format.

reading         a file -> COCO's dictionary, or what the file is instead
outlines        what segmentation and keypoints of an annotation must be
rules           what every entry of a json must be
repairs         what training repairs without a question
missing_files   image files that are missing, or there under nearly their name
annotations     one json by all of these: its findings, and what can be trained on; loading stops on errors
check           what is odd in a whole json; check_pictures: in its files
"""
