import logging
import warnings
from collections.abc import Iterator

import matplotlib
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

from fcos_rpn.visualization import fonts

STIX = next(font.fname for font in font_manager.fontManager.ttflist if font.name == "STIXGeneral")


@pytest.fixture(autouse=True)
def installed(monkeypatch) -> Iterator[list[str]]:
    """Files of the installed fonts; none to begin with."""
    files: list[str] = []
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
    fonts._extra_families.cache_clear()
    yield files
    fonts._extra_families.cache_clear()


def test_latin_text_needs_no_other_font():
    assert fonts.font_families("cat") == fonts.font_families("Kätzchen Δ кот") == matplotlib.rcParams["font.family"]


def test_an_installed_font_is_found_by_its_characters(installed):
    own = fonts._codes(font_manager.findfont(font_manager.FontProperties()))
    text = "".join(map(chr, sorted(fonts._codes(STIX) - own)[:2]))
    installed.append(STIX)
    assert fonts.font_families(f"cat {text}") == [*matplotlib.rcParams["font.family"], "STIXGeneral"]


def test_characters_without_a_font_are_one_message(caplog):
    caplog.set_level(logging.WARNING)
    figure = Figure()
    figure.text(0, 0, "猫")
    figure.text(0, 1, "猫 cat")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fonts.installed_fonts(figure):
            figure.canvas.draw()
    messages = {record.getMessage() for record in caplog.records}
    assert messages == {
        "no installed font has the characters 猫: they are drawn as empty squares; install one that has them, such as "
        "Noto Sans CJK"
    }
