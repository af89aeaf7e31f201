"""Installed fonts for the characters that matplotlib's own font lacks, such as those of class names in Chinese."""

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator

from matplotlib import font_manager, rcParams
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

logger = logging.getLogger(__name__)


def font_families(text: str) -> list[str]:
    """Matplotlib's families, and after them those installed ones that the text needs."""
    extra = () if text.isascii() else _extra_families(frozenset(text))
    return [*rcParams["font.family"], *extra]


@contextlib.contextmanager
def installed_fonts(figure: Figure) -> Iterator[None]:
    """Within, all texts of a figure are drawn with `font_families`."""
    for text in figure.findobj(Text):
        text.set_fontfamily(font_families(text.get_text()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # which has been said in one message
        yield


@functools.cache
def _extra_families(characters: frozenset[str]) -> tuple[str, ...]:
    """Installed families that have characters which matplotlib's own font lacks; logs once which ones none has."""
    own = _codes(font_manager.findfont(font_manager.FontProperties()))
    missing = {ord(character) for character in characters if character.isprintable()} - own
    found = []
    for path in sorted(font_manager.findSystemFonts()) if missing else ():
        covered = missing & _codes(path)
        if covered:
            font_manager.fontManager.addfont(path)
            found.append(FT2Font(path).family_name)
            missing -= covered
    if missing:
        logger.warning(
            "no installed font has the characters %s: they are drawn as empty squares; install one that has them, such "
            "as Noto Sans CJK",
            "".join(map(chr, sorted(missing))),
        )
    return tuple(found)


@functools.cache
def _codes(path: str) -> frozenset[int]:
    """The characters of a font that can be drawn at any size."""
    with contextlib.suppress(RuntimeError, OSError):
        font = FT2Font(path)
        if font.scalable and "last resort" not in font.family_name.lower():
            return frozenset(font.get_charmap())
    return frozenset()
