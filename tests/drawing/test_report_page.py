# SPDX-License-Identifier: Apache-2.0
"""The report is one file that loads nothing and holds what was measured."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_examples import large_split, small_split, write

from src.data.coco_utils import load_data
from src.drawing.report_page import write_report
from tests.datasets import coco_content, write_coco

STYLE = Path(__file__).resolve().parents[2] / "src" / "drawing" / "report.css"
VOID = {"meta", "img", "input"}


class Outline(HTMLParser):
    """Texts, links, and whether every element is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.links, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    return root / "report.html", write(root / "report.html", *small_split(root), "<x> on y")


def content_of(text):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1]
    )


def test_it_is_well_formed_and_loads_nothing(report):
    text = report[0].read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.open == []
    assert not {"link", "iframe", "object", "img"} & set(outline.tags)
    assert outline.tags.count("script") == 2
    assert outline.links == []
    own = text.replace("http://www.w3.org/2000/svg", "")  # the name of a language, not an address
    assert "http" not in re.sub(r'"code":"[^"]*"', "", own)
    assert "url(" not in own
    for word in ("fetch(", "XMLHttpRequest", "import(", "WebSocket", "eval("):
        assert word not in own
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_it_holds_what_was_measured(report):
    path, metrics = report
    text = path.read_text(encoding="utf-8")
    content = content_of(text)
    assert content["classes"] == ["</script><cat> & ${co}", "dog"]
    assert ["AP", metrics["AP"]] in content["totals"]
    assert content["table"] == metrics["classes"]
    assert content["confusion"] == metrics["confusion"]["rows"]
    assert content["speed"] == {"load": 12.5, "all": 3.0}
    assert content["threshold"] == 0.3
    assert content["best"][0] == [0.2, 0.8]
    assert json.loads(content["config"]) == {"model": {"backbone": "<b>"}}
    assert "<title>&lt;x&gt; on y</title>" in text


def test_nothing_found_and_nothing_to_find(tmp_path):
    data = load_data(write_coco(tmp_path, coco_content()), "train")
    write(tmp_path / "r.html", data, [])
    content = content_of((tmp_path / "r.html").read_text())
    assert content["detections"] == 0
    assert content["pictures"] == []
    assert content["curves"]["0.50"] == {"all": []}


def test_5000_images_of_80_classes_are_below_5_megabytes(tmp_path):
    """The scores, whose size depends on the classes alone, are those of fewer images."""
    metrics = write(tmp_path / "few.html", *large_split(tmp_path, 40))
    data, results = large_split(tmp_path, 5000)
    write_report(tmp_path / "r.html", data, results, metrics, {}, "x")
    assert len(content_of((tmp_path / "r.html").read_text())["pictures"]) >= 40
    assert 1e6 < (tmp_path / "r.html").stat().st_size < 5e6


def colours(dark):
    """Custom properties of the style sheet, as a reader with light or dark pages has them."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    found = {}
    for block in blocks[: 1 + dark]:
        found.update(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    return found


def contrast(one, other):
    """Of WCAG 2.1, section 1.4.3."""

    def luminance(colour):
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        low = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * low[0] + 0.7152 * low[1] + 0.0722 * low[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_a_contrast_of_at_least_4_5(dark):
    found = colours(dark)
    pairs = [(text, ground) for text in ("ink", "soft") for ground in ("paper", "raised")]
    pairs += [("ink", "fill"), ("on-accent", "accent"), ("accent", "paper"), ("second", "paper")]
    for text, ground in pairs:
        assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
    assert contrast("#000000", "#ffffff") == 21
