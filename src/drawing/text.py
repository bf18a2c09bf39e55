# SPDX-License-Identifier: Apache-2.0
"""Text in any script on images, by Pillow with a TrueType font. NumPy and Pillow only.

DejaVu Sans, which Matplotlib's wheel holds, has the letters of Latin, Greek, Cyrillic, Hebrew and
Arabic. For others a font of the system is looked for.
"""

import importlib.util
import logging
from functools import cache, lru_cache
from pathlib import Path
from typing import FrozenSet, List, Optional, Tuple

import numpy as np
from fontTools.ttLib import TTFont, TTLibError
from PIL import Image, ImageDraw, ImageFont

LOG = logging.getLogger("m2det.drawing")
_DEJAVU = "mpl-data/fonts/ttf/DejaVuSans.ttf"  # within Matplotlib, which is not imported for it
# Fonts made for one script of many letters stand before those that have them beside others.
_WIDE = ("cjk", "wqy", "wenquanyi", "droidsansfallback", "unifont", "noto")


def text_size(text: str, font_px: int) -> Tuple[int, int]:
    """Width and height in pixels that `text` takes; the height is the same for any letters."""
    font = _font(_path_for(text), font_px)
    ascent, descent = font.getmetrics()
    return max(1, round(font.getlength(text))), ascent + descent


def write_text(
    picture: np.ndarray, text: str, left_top: Tuple[int, int], font_px: int, ink: Tuple[int, ...]
) -> None:
    """Writes one line onto (H, W, 3) uint8 in place; what reaches outside is cut off.

    Args:
        picture: the image.
        text: with letters that `drawable` has found to be there; others are empty frames.
        left_top: x and y of its upper left corner, pixels.
        font_px: size of the font.
        ink: colour, in the order of the image's channels.
    """
    mask = _mask(text, font_px)
    (x, y), (height, width) = left_top, picture.shape[:2]
    x1, y1 = max(x, 0), max(y, 0)
    x2, y2 = min(x + mask.shape[1], width), min(y + mask.shape[0], height)
    if x1 < x2 and y1 < y2:
        alpha = mask[y1 - y : y2 - y, x1 - x : x2 - x, None]
        place = picture[y1:y2, x1:x2]
        place[:] = np.rint(place + (np.array(ink, np.float32) - place) * alpha)


def drawable(name: str, instead: str) -> str:
    """`name` on one line, or `instead` (with a line in the log) where no font has its letters."""
    text = "".join(c if c.isprintable() else " " for c in name).strip()
    if text and _covered(text):
        return text
    if text:
        _report(text, instead)
    return instead


@lru_cache(maxsize=256)
def _report(text: str, instead: str) -> None:
    """Once for each name."""
    LOG.warning(
        "no font here has the letters of %s: shown as %r; install one of its script"
        " (for Chinese, Japanese and Korean: fonts-noto-cjk)",
        ascii(text),
        instead,
    )


@lru_cache(maxsize=512)
def _mask(text: str, font_px: int) -> np.ndarray:
    """(h, w) float32: how much of each pixel is covered with ink."""
    width, height = text_size(text, font_px)
    image = Image.new("L", (width + 1, height))
    ImageDraw.Draw(image).text((0, 0), text, 255, _font(_path_for(text), font_px))
    return np.asarray(image, np.float32) / 255


@lru_cache(maxsize=64)
def _font(path: str, font_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, font_px)


@lru_cache(maxsize=1024)
def _path_for(text: str) -> str:
    """The font that has most of the letters, the first of equals: DejaVu Sans where it has all."""
    first = _dejavu()
    wanted = _letters(text)
    if wanted <= _letters_of(first):
        return first
    best, most = first, len(wanted & _letters_of(first))
    for path in _system_fonts():
        count = len(wanted & _letters_of(path))
        if count > most:
            best, most = path, count
        if most == len(wanted):
            break
    return best


def _covered(text: str) -> bool:
    return _letters(text) <= _letters_of(_path_for(text))


def _letters(text: str) -> FrozenSet[int]:
    return frozenset(ord(letter) for letter in text if not letter.isspace())


def _dejavu() -> str:
    found = importlib.util.find_spec("matplotlib")
    assert found is not None  # it is among the requirements
    return str(Path(str(found.origin)).parent / _DEJAVU)


@lru_cache(maxsize=1)
def _system_fonts() -> List[str]:
    """Paths of the installed fonts, those likely to have many scripts first."""
    from matplotlib.font_manager import findSystemFonts

    def rank(path: str) -> Tuple[int, str]:
        name = Path(path).name.lower()
        kinds = [number for number, kind in enumerate(_WIDE) if kind in name]
        return (min(kinds, default=len(_WIDE)), name)

    return sorted(findSystemFonts(), key=rank)


@cache
def _letters_of(path: str) -> FrozenSet[int]:
    """Code points that a font has; none of one that cannot be read."""
    try:
        with TTFont(path, lazy=True, fontNumber=0) as font:
            table: Optional[dict] = font.getBestCmap()
    except (OSError, TTLibError, KeyError, AssertionError, ValueError):
        return frozenset()
    return frozenset(table or ())
