# SPDX-License-Identifier: Apache-2.0
"""The table by class, curves and text, by hand."""

import pytest

from src.data.coco_utils import load_data
from src.evaluation.coco_metrics import coco_score
from src.evaluation.error_analysis import judge_split
from src.evaluation.summary import all_metrics, as_text, class_table, precision_recall, voc_numbers
from tests.datasets import coco_content, write_coco


@pytest.fixture
def case(tmp_path):
    """Two cats (one small, one medium), the wrong one guessed first; a dog nobody finds."""
    rows = [(1, 3, [0, 0, 10, 10]), (1, 3, [15, 0, 40, 40]), (1, 7, [0, 20, 10, 10])]
    content = coco_content(boxes=rows)
    for row in content["annotations"]:
        row["area"] = row["bbox"][2] * row["bbox"][3]
    content["categories"].append({"id": 9, "name": "unseen"})
    data = load_data(write_coco(tmp_path, content), "train")
    results = [
        {"image_id": 1, "category_id": 3, "bbox": [0, 36, 10, 10], "score": 0.9},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.8},
    ]
    return data, results, coco_score(data, results)


def test_table(case):
    data, results, score = case
    rows = {row["class"]: row for row in class_table(score, data, results)}
    assert (rows["cat"]["objects"], rows["cat"]["detections"]) == (2, 2)
    # Precision 1/2 up to recall 1/2, which is 51 of 101 levels.
    assert rows["cat"]["AP"] == pytest.approx(51 / 101 / 2)
    assert rows["cat"]["AP75"] == pytest.approx(51 / 101 / 2)
    assert rows["cat"]["AP_medium"] == 0.0
    assert rows["cat"]["AP_large"] == -1
    assert rows["cat"]["AR_100"] == pytest.approx(0.5)
    assert rows["dog"]["AP"] == 0.0
    assert rows["unseen"]["AP"] == -1
    assert rows["unseen"]["objects"] == 0


def test_curves(case):
    score = case[2]
    curves = precision_recall(score)
    assert curves["0.50"]["cat"] == [0.5] * 51 + [0.0] * 50
    assert curves["0.50"]["all"] == [0.25] * 51 + [0.0] * 50  # dog: nothing
    assert set(curves["0.75"]) == {"all", "cat", "dog"}


def test_voc(case):
    data, results, _ = case
    numbers = voc_numbers(data, results)
    # cats: recall 0, 1/2 with precision 0, 1/2; eleven points: 0 to 0.5 see 1/2.
    assert numbers["VOC12_mAP"] == pytest.approx(0.25 / 2)
    assert numbers["VOC07_mAP"] == pytest.approx(6 * 0.5 / 11 / 2)


def test_text_names_every_number(case):
    data, results, score = case
    text = as_text(all_metrics(score, data, results, judge_split(data, results)))
    for name in (*score.totals, "cat", "dog", "1 correct", "1 background", "2 missed"):
        assert name in text
    assert "unseen" not in text


def test_nothing_to_score(tmp_path):
    data = load_data(write_coco(tmp_path, coco_content()), "train")
    metrics = all_metrics(coco_score(data, []), data, [], judge_split(data, []))
    assert metrics["precision_recall"]["0.50"] == {"all": []}
    assert metrics["AP"] == -1
    assert "AP" in as_text(metrics)


def test_text_fits_a_terminal(case):
    data, results, score = case
    metrics = all_metrics(score, data, results, judge_split(data, results))
    metrics["classes"][0]["class"] = "fifteen letters"
    metrics["errors"] = {"score_threshold": 0.3, **dict.fromkeys(metrics["errors"], 123456)}
    assert max(map(len, as_text(metrics).splitlines())) == 80
