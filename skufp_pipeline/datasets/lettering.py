"""Writes labels into pictures, in any script, on one line each.

The same label gives the same pixels on every machine: no font of the system is used. What DejaVu Sans, which
comes with matplotlib, lacks (Chinese, Japanese, Korean, Thai, Indian scripts, most emoji) is transliterated
to ASCII, and what has no transliteration is given by its code point. No glyph is a box.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from pathlib import Path

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont
ELLIPSIS = "…"
LONGEST = 2000  # characters looked at; no picture has room for more
MARKS = ("Mn", "Mc", "Me", "Lm")  # accents and signs of length: left out if nothing can show them


def write_lines(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    lines: Sequence[str],
    width: int,
    fill: str | tuple[int, int, int],
    size: int | None = None,
    spacing: int = 4,
) -> None:
    """Writes texts below one another, a line each, cut to `width` pixels.

    Args:
        size: of DejaVu Sans, points; None: Pillow's own font of 10 points if it has all characters.
    """
    shown = [readable(line) for line in lines]
    font = _plain_font() if size is None and "".join(shown).isascii() else dejavu(size or 10)
    text = "\n".join(shortened(line, font, width) for line in shown)
    draw.multiline_text(at, text, fill=fill, font=font, spacing=spacing)


def readable(text: str) -> str:
    """The text on one line, of characters that DejaVu Sans has."""
    text = unicodedata.normalize("NFC", text[:LONGEST])
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    return " ".join("".join(map(_shown, text)).split())


def shortened(text: str, font: Font, width: int) -> str:
    """Cuts the end, with an ellipsis, off a text that is wider than `width` pixels."""
    text = text[:LONGEST]
    if font.getlength(text) <= width:
        return text
    kept = range(1, len(text) - 1)
    count = bisect_right(kept, width, key=lambda length: ceil(font.getlength(text[:length] + ELLIPSIS)))
    return text[:count] + ELLIPSIS if count else ""


@lru_cache(maxsize=8)
def dejavu(size: int) -> Font:
    """The font that matplotlib ships, so that a picture looks the same on every machine."""
    return ImageFont.truetype(str(_dejavu_file()), size)


@lru_cache(maxsize=1)
def _plain_font() -> Font:
    font = ImageFont.load_default(10)
    assert isinstance(font, Font), "Pillow has no FreeType"
    return font


def _dejavu_file() -> Path:
    import matplotlib  # here, because most labels need none, and a bare GPU machine has none

    return Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_dejavu_file())).get_charmap())


@lru_cache(maxsize=4096)
def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cc" or category.startswith("Z"):
        return " "
    if category == "Cf" or "VARIATION SELECTOR" in unicodedata.name(character, ""):  # no ink of their own
        return ""
    if ord(character) in _glyphs():
        return character
    from anyascii import anyascii

    known = "" if category == "Cs" else anyascii(character)
    return known or ("" if category in MARKS else f"<U+{ord(character):04X}>")
