# SPDX-License-Identifier: Apache-2.0
"""Names in any script: which font draws them, and what stands where none can."""

import logging

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from src.drawing import text
from src.drawing.text import drawable, text_size, write_text


@pytest.fixture(autouse=True)
def no_memory():
    """Each test looks for its fonts itself."""
    cached = (text._mask, text._path_for, text._system_fonts, text._report)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def written(name, font_px=20, size=(40, 200)):
    picture = np.zeros((*size, 3), np.uint8)
    write_text(picture, name, (5, 5), font_px, (10, 100, 255))
    return picture


@pytest.mark.parametrize("name", ["na\u00efve", "\u03b3\u03ac\u03c4\u03b1", "\u043a\u043e\u0442"])
def test_latin_greek_and_cyrillic_need_no_font_of_the_system(name, monkeypatch):
    monkeypatch.setattr(text, "_system_fonts", lambda: pytest.fail("looked for"))
    assert drawable(name, "class 1") == name
    found = written(name)
    assert (found == (10, 100, 255)).all(axis=2).any()
    other = written(name[:-1] + "x")
    assert (found != other).any()  # each letter is its own, not one frame for all


def make_font(path, letters):
    """A font in which each letter is a full square."""
    names = [".notdef", *(f"u{ord(letter):X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):X}" for letter in letters})
    pen = TTGlyphPen(None)
    for number, corner in enumerate([(0, 0), (0, 1000), (1000, 1000), (1000, 0)]):
        (pen.lineTo if number else pen.moveTo)(corner)
    pen.closePath()
    square = pen.glyph()
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Square", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(str(path))
    return str(path)


def test_other_scripts_take_a_font_that_has_all_their_letters(tmp_path, monkeypatch):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    fonts = [str(tmp_path / "broken.ttf"), str(tmp_path / "gone.ttf")]
    fonts.append(make_font(tmp_path / "half.ttf", "\u732b"))
    fonts.append(make_font(tmp_path / "whole.ttf", "\u732b\u72d7"))
    monkeypatch.setattr(text, "_system_fonts", lambda: fonts)
    assert drawable("\u732b \u72d7", "class 1") == "\u732b \u72d7"
    assert text_size("\u732b\u72d7", 20) == (40, 20)
    ink = (written("\u732b\u72d7") == (10, 100, 255)).all(axis=2)
    assert ink[5:25, 5:45].all()  # two squares of 20 pixels
    assert ink.sum() == 800


def test_without_a_font_the_number_stands_and_the_log_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(text, "_system_fonts", list)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert drawable("\u732b", "class 7") == "class 7"
    assert len(caplog.records) == 1
    assert "fonts-noto-cjk" in caplog.text
    assert caplog.text.isascii()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb\tc", "a b c"), ("", "class 1"), ("\x00", "class 1"), ("x\ud800", "x")],
)
def test_names_are_one_line(name, shown):
    assert drawable(name, "class 1") == shown


def test_what_reaches_outside_is_cut_off():
    whole = np.zeros((40, 60, 3), np.uint8)
    write_text(whole, "Mg", (20, 10), 20, (255, 255, 255))
    for x, y in ((-10, -5), (50, 30), (-200, 0), (0, 300)):
        part = np.zeros_like(whole)
        write_text(part, "Mg", (x, y), 20, (255, 255, 255))
        moved = np.zeros_like(whole)
        ys, xs = np.nonzero(whole.any(axis=2))
        inside = (ys - 10 + y >= 0) & (ys - 10 + y < 40) & (xs - 20 + x >= 0) & (xs - 20 + x < 60)
        ys, xs = ys[inside], xs[inside]
        moved[ys - 10 + y, xs - 20 + x] = whole[ys, xs]
        np.testing.assert_array_equal(part, moved)
