"""Weights, from and to files.

checkpointer    strict loading, and saving that a kill does not break
safe_loading    files of weights cannot run code
conversion/     checkpoints of other implementations
"""

from .checkpointer import FCOSCheckpointer, read_class_names

__all__ = ["FCOSCheckpointer", "read_class_names"]
