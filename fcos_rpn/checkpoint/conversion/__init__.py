"""Converts weights of other FCOS implementations, and of this one's other role, to the names of one of the two roles.

Reading order:

    renames          apply a table of names so that no weight is lost in silence
    tables           the table of each implementation
    source_settings  the settings that go with its weights and cannot be read from them
    architecture     the settings that can be read from the shapes of the weights
    convert          use or drop every key by name, fill every one of the model, check every shape
    files            write a converted checkpoint and its config
"""

from .convert import Conversion, convert_state_dict
from .files import config_text, write_weights
from .source_settings import OWN, RECIPES, ROLES

SOURCES = (*RECIPES, OWN)
TARGETS = tuple(ROLES)

__all__ = [
    "OWN",
    "RECIPES",
    "SOURCES",
    "TARGETS",
    "Conversion",
    "config_text",
    "convert_state_dict",
    "write_weights",
]
