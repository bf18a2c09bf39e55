# SPDX-License-Identifier: Apache-2.0
"""The report is one file that loads nothing, holds what was measured, and renders in a browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from src.data.coco_utils import load_data
from src.drawing.html_parts import bars, curves, heat_map, picture, table
from src.drawing.report_page import write_report
from src.evaluation.coco_metrics import coco_score
from src.evaluation.error_analysis import judge_split
from src.evaluation.summary import all_metrics
from tests.datasets import coco_content, write_coco

VOID = {"meta", "img"}


class Outline(HTMLParser):
    """Texts, attributes, and whether every element is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.links, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page with a class name and a file name that would break careless HTML."""
    root = tmp_path_factory.mktemp("report")
    rows = [(1, 3, [0, 0, 20, 20]), (1, 7, [30, 10, 20, 20]), (2, 3, [5, 5, 30, 30])]
    content = coco_content(["a<b>&.jpg", "c.jpg"], rows)
    content["categories"][1]["name"] = "<cat> & co"
    data = load_data(write_coco(root, content), "train")
    results = [
        {"image_id": 1, "category_id": 7, "bbox": [0, 0, 20, 20], "score": 0.9},
        {"image_id": 2, "category_id": 3, "bbox": [5, 5, 30, 30], "score": 0.8},
    ]
    errors = judge_split(data, results)
    metrics = all_metrics(coco_score(data, results), data, results, errors)
    metrics["images_per_second"] = {"load": 12.5, "all": 3.0}
    path = root / "report.html"
    write_report(path, data, metrics, errors, {"model": {"backbone": "<b>"}}, "x on y")
    return path, metrics


def test_it_is_well_formed_and_loads_nothing(report):
    text = report[0].read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.open == []
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    assert all(link.startswith("data:image/jpeg;base64,") for link in outline.links)
    assert "url(" not in text
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert "prefers-color-scheme:dark" in text
    assert 'name="viewport"' in text


def test_it_holds_everything(report):
    path, metrics = report
    texts = Outline(path.read_text(encoding="utf-8")).texts
    joined = "\n".join(texts)
    for wanted in (
        *("Scores", "Precision and recall", "Classes by AP", "What went wrong"),
        *("Confusion matrix", "Worst images", "Best images", "Speed", "Configuration"),
        *("<cat> & co", "dog", "a<b>&.jpg: 0 right, 3 errors", "c.jpg: 1 right, 0 errors"),
        *("12.5", f"{metrics['AP']:.3f}"),
    ):
        assert wanted in joined, wanted
    assert '"backbone": "<b>"' in joined
    assert len([tag for tag in Outline(path.read_text()).tags if tag == "img"]) == 4


def test_nothing_found_and_nothing_to_find(tmp_path):
    data = load_data(write_coco(tmp_path, coco_content()), "train")
    errors = judge_split(data, [])
    metrics = all_metrics(coco_score(data, []), data, [], errors)
    write_report(tmp_path / "r.html", data, metrics, errors, {}, "nothing")
    outline = Outline((tmp_path / "r.html").read_text())
    assert outline.open == []
    assert "0 detections." in "".join(outline.texts)


def test_many_classes_fold_the_matrix(report):
    names = [f"class {number}" for number in range(80)]
    text = heat_map(names, np.eye(80, dtype=int).tolist())
    assert Outline(text).tags.count("td") == 80 * 80


def test_parts():
    assert "&lt;x&gt;" in table(("a",), [("<x>",)])
    assert "width:50.0%" in bars([("a", 2.0, "2")], most=4)
    assert "width:0.0%" in bars([("a", -1.0, "-")])
    # half way to the right, a quarter of the way down from the top
    drawn = curves([("mean", [1.0, 0.75, 0.0], "main")])
    assert 'points="44.0,12.0 304.0,87.0 564.0,312.0"' in drawn
    assert Outline(picture(np.zeros((9, 2000, 3), np.uint8), "a")).tags == [
        "figure",
        "img",
        "figcaption",
    ]


def test_it_opens_in_a_browser(report, tmp_path):
    """The browser itself closes what it cannot parse: its own tree has every section."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for found in map(shutil.which, names) if found), None)
    if browser is None:
        pytest.skip("no Chromium here")
    shot = tmp_path / "shot.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'u'}"]
    flags += ["--window-size=390,844", "--dump-dom", f"--screenshot={shot}"]
    command = [browser, *flags, report[0].as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.count("<section>") == 9
    assert "Configuration" in done.stdout
