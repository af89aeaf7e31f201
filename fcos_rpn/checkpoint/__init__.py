"""Weights, from and to files.

checkpointer     strict loading, and saving that a kill or a full disk does not break
checkpoint_file  what files of this and other programs hold; comparing class names
safe_loading     files of weights cannot run code
conversion/      checkpoints of other implementations
"""

from .checkpoint_file import compare_class_names, read_checkpoint, read_class_names
from .checkpointer import FCOSCheckpointer

__all__ = ["FCOSCheckpointer", "compare_class_names", "read_checkpoint", "read_class_names"]
