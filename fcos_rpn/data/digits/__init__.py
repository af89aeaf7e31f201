"""Generates the quick start's data set: handwritten digits on photographs.

folder      pictures and COCO jsons on disk
scene       one picture
shapes      masks and keypoints of a digit
"""
