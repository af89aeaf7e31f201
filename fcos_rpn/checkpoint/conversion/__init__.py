"""Weights of other FCOS implementations, and of this one's other role, under the names of one of the two roles.

Reading order:

    rules         a table of names, and applying it so that no weight is lost in silence
    tables        the table of each implementation
    settings      what goes with its weights and no weight tells
    architecture  what the weights tell by their shapes
    convert       table, settings, model: every key used or dropped by name, every one filled, every shape checked
    files         a checkpoint and its config, read and written
"""

from .convert import Conversion, convert_state_dict
from .files import Checkpoint, config_text, read_checkpoint, write_weights
from .head_settings import OWN, RECIPES, ROLES

SOURCES = (*RECIPES, OWN)
TARGETS = tuple(ROLES)

__all__ = [
    "OWN",
    "RECIPES",
    "SOURCES",
    "TARGETS",
    "Checkpoint",
    "Conversion",
    "config_text",
    "convert_state_dict",
    "read_checkpoint",
    "write_weights",
]
