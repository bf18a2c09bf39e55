# SPDX-License-Identifier: Apache-2.0
"""COCO scores against values worked out by hand."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from src.data.coco_utils import DataError, load_data
from src.evaluation.coco_metrics import (
    COCO_NUMBERS,
    SCORERS,
    category_ids_for,
    coco_results,
    coco_score,
    evaluate_coco,
    score_coco,
)
from tests.datasets import SHARED, coco_content, voc_xml, write_coco, write_voc


def entry(image, category, bbox, score):
    return {"image_id": image, "category_id": category, "bbox": bbox, "score": score}


def perfect(data):
    return [
        result
        for row in data.records
        for result in coco_results(
            row.image_id, row.boxes_px, np.full(len(row.labels), 0.9), row.labels, data.category_ids
        )
    ]


def test_results_are_entries_of_a_coco_file():
    made = coco_results(4, np.float32([[1, 2, 4, 8]]), np.float32([0.5]), np.array([2]), (3, 7))
    assert made == [{"image_id": 4, "category_id": 7, "bbox": [1, 2, 3, 6], "score": 0.5}]


def test_perfect_boxes_score_one_and_none_score_zero(tmp_path):
    rows = [(1, 7, [10, 20, 30, 10]), (2, 3, [0, 0, 5, 6]), (2, 3, [8, 8, 20, 20], 1)]
    data = load_data(write_coco(tmp_path, coco_content(["a.jpg", "b.jpg"], rows)), "train")
    scores = evaluate_coco(data, perfect(data))
    assert tuple(scores) == COCO_NUMBERS
    assert [scores[k] for k in ("AP", "AP50", "AP75", "AR_100")] == pytest.approx([1.0] * 4)
    assert scores["AP_large"] == -1  # there are none
    nothing = evaluate_coco(data, [])
    assert nothing["AP"] == nothing["AP50"] == nothing["AR_100"] == 0.0


def test_a_shifted_box_counts_up_to_its_iou(tmp_path):
    # 40 x 40 shifted by 4: IoU = 36 / 44 = 0.818, found at 0.50 0.55 ... 0.80, which is 7 of 10.
    data = load_data(write_coco(tmp_path, coco_content(boxes=[(1, 3, [0, 0, 40, 40])])), "train")
    scores = evaluate_coco(data, [entry(1, 3, [4, 0, 40, 40], 0.8)])
    assert scores["AP"] == pytest.approx(0.7)
    assert scores["AP75"] == pytest.approx(1.0)


def test_a_wrong_box_with_a_better_score_costs_precision(tmp_path):
    # Best first: wrong, right, right. Precision 0, 1/2, 2/3; the ceiling is 2/3 at every recall.
    rows = [(1, 3, [0, 0, 10, 10]), (1, 3, [30, 30, 10, 10])]
    data = load_data(write_coco(tmp_path, coco_content(boxes=rows)), "train")
    found = [
        entry(1, 3, [15, 0, 10, 10], 0.9),
        entry(1, 3, [0, 0, 10, 10], 0.8),
        entry(1, 3, [30, 30, 10, 10], 0.7),
    ]
    assert evaluate_coco(data, found)["AP"] == pytest.approx(2 / 3)


def test_a_box_on_a_crowd_is_neither_right_nor_wrong(tmp_path):
    rows = [(1, 3, [0, 0, 10, 10]), (1, 3, [20, 0, 30, 30], 1)]
    data = load_data(write_coco(tmp_path, coco_content(boxes=rows)), "train")
    found = [entry(1, 3, [21, 1, 10, 10], 0.9), entry(1, 3, [0, 0, 10, 10], 0.8)]
    assert evaluate_coco(data, found)["AP"] == pytest.approx(1.0)


def test_ap_by_class(tmp_path):
    rows = [(1, 3, [0, 0, 10, 10]), (1, 7, [30, 30, 10, 10])]
    content = coco_content(boxes=rows)
    content["categories"].append({"id": 9, "name": "unseen"})
    data = load_data(write_coco(tmp_path, content), "train")
    totals, by_class = score_coco(data, [entry(1, 3, [0, 0, 10, 10], 0.9)])
    assert by_class == {"cat": pytest.approx(1.0), "dog": 0.0, "unseen": -1.0}
    assert totals["AP"] == pytest.approx(0.5)


def test_sizes_follow_the_areas_of_the_file(tmp_path):
    """A box of 40 x 40 whose segmentation covers 1000 < 32 x 32 pixels is a small object."""
    content = coco_content(boxes=[(1, 3, [0, 0, 40, 40])])
    content["annotations"][0]["area"] = 1000.0
    data = load_data(write_coco(tmp_path, content), "train")
    scores = evaluate_coco(data, perfect(data))
    assert scores["AP_small"] == pytest.approx(1.0)
    assert scores["AP_medium"] == -1


def test_a_subset_is_scored_against_its_own_objects(tmp_path):
    """The last image alone, whose segmentation is small; the others' objects are elsewhere."""
    rows = [(1, 3, [0, 0, 9, 9]), (1, 7, [20, 0, 9, 9]), (2, 3, [10, 10, 40, 30])]
    content = coco_content(["a.jpg", "b.jpg"], rows)
    content["annotations"][2]["area"] = 1000.0
    data = load_data(write_coco(tmp_path, content), "train").subset([1])
    assert [record.image_id for record in data.records] == [2]
    scores = evaluate_coco(data, [entry(2, 3, [10, 10, 40, 30], 0.9)])
    assert scores["AP"] == scores["AP_small"] == pytest.approx(1.0)


def test_records_and_truth_of_different_images_are_no_data(tmp_path):
    rows = [(1, 3, [0, 0, 9, 9]), (2, 3, [10, 10, 40, 30])]
    data = load_data(write_coco(tmp_path, coco_content(["a.jpg", "b.jpg"], rows)), "train")
    with pytest.raises(ValueError, match="different images"):
        evaluate_coco(replace(data, records=data.records[1:]), [])


def test_unusable_ground_truth_does_not_cost_score(tmp_path):
    rows = [(1, 3, [0, 0, 10, 10]), (1, 3, [5, 5, 0, 9]), (1, 3, [float("nan"), 0, 9, 9])]
    rows.append((1, 3, [50, 40, 30, 30]))  # of which 10 x 8 pixels are in the image
    data = load_data(write_coco(tmp_path, coco_content(boxes=rows)), "train")
    assert evaluate_coco(data, perfect(data))["AP"] == pytest.approx(1.0)


def test_a_split_without_annotations_cannot_be_scored(tmp_path):
    content = coco_content()
    del content["annotations"]
    write_coco(tmp_path, content, "test2017", "annotations/image_info_test2017.json")
    data = load_data(tmp_path, "test2017")
    assert not data.annotated
    with pytest.raises(DataError, match="no annotations to score"):
        evaluate_coco(data, [])


def test_a_detection_of_an_unknown_image_is_refused(tmp_path):
    data = load_data(write_coco(tmp_path, coco_content()), "train")
    with pytest.raises(DataError, match="no image 5"):
        evaluate_coco(data, [entry(5, 3, [0, 0, 1, 1], 0.5)])


def test_classes_are_matched_by_name(tmp_path):
    data = load_data(write_coco(tmp_path, coco_content()), "train")
    assert category_ids_for(("dog", "cat"), data) == (7, 3)
    assert category_ids_for(("cat", "dog"), data) == (3, 7)
    with pytest.raises(DataError, match="no class 'cow'"):
        category_ids_for(("cow",), data)


def test_voc_data_is_scored_the_coco_way_too(tmp_path):
    files = {"a": voc_xml([("cat", (1, 1, 20, 20)), ("cat", (30, 10, 50, 40), 1)])}
    data = load_data(write_voc(tmp_path, files, {"val": ["a"]}), "val")
    assert evaluate_coco(data, perfect(data)[:1])["AP"] == pytest.approx(
        1.0
    )  # difficult ones are not missed
    assert evaluate_coco(data, [])["AP"] == 0.0


def test_the_numbers_are_those_of_pycocotools_on_the_file_itself():
    """Noisy boxes on real annotations: every digit, although training reads clipped float32."""
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    if not (SHARED / "data" / "coco_tiny").is_dir():
        pytest.skip("the shared COCO images are not there")
    data = load_data(SHARED / "data" / "coco_tiny", "val")
    rng = np.random.default_rng(0)
    results = perfect(data)
    for result in results:
        result["bbox"] = [v + rng.normal(0, 4) for v in result["bbox"][:2]] + result["bbox"][2:]
        result["score"] = float(rng.random())
    truth = coco.COCO(data.annotation_path)
    scorer = COCOeval(truth, truth.loadRes(results), "bbox")
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    ours = list(evaluate_coco(data, results).values())
    assert 0.2 < ours[0] < 0.9
    assert ours == scorer.stats.tolist()


@pytest.mark.parametrize("name", ["coco_tiny", "bccd"])
def test_real_data(name):
    if not (SHARED / "data" / name).is_dir():
        pytest.skip("the shared data are not there")
    data = load_data(SHARED / "data" / name, "val")
    scores = evaluate_coco(data, perfect(data))
    assert scores["AP"] == pytest.approx(1.0)
    assert scores["AR_100"] == pytest.approx(1.0)


def noisy(data, seed=0):
    """Perfect boxes moved, scored at random, some of the wrong class, some twice."""
    rng = np.random.default_rng(seed)
    results = [dict(result) for result in perfect(data) * 2]
    for result in results:
        result["bbox"] = [v + rng.normal(0, 4) for v in result["bbox"]]
        result["score"] = float(rng.random())
        if rng.random() < 0.2:
            result["category_id"] = int(rng.choice(data.category_ids))
    return results


def test_the_faster_scorer_gives_the_same_numbers(coco_tiny):
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    data = load_data(coco_tiny, "val")
    results = noisy(data)
    plain, fast = (coco_score(data, results, scorer) for scorer in SCORERS)
    assert 0.02 < plain.totals["AP"] < 0.9
    assert fast.totals == pytest.approx(plain.totals, abs=1e-12)
    assert fast.class_names == plain.class_names
    np.testing.assert_allclose(fast.precision, plain.precision, atol=1e-12)
    np.testing.assert_allclose(fast.recall, plain.recall, atol=1e-12)


@pytest.mark.parametrize("scorer", SCORERS)
def test_image_ids_may_be_of_64_bits(tmp_path, scorer):
    """Such as digests of file names; as floats these two would be one."""
    if scorer != "pycocotools":
        pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    ids = (2**62 + 1, 2**62 + 2)
    rows = [(ids[0], 3, [0, 0, 40, 40]), (ids[1], 7, [5, 5, 30, 30])]
    content = coco_content(["a.jpg", "b.jpg"], rows)
    for image, number in zip(content["images"], ids):
        image["id"] = number
    data = load_data(write_coco(tmp_path, content), "train")
    found = [entry(ids[0], 3, [0, 0, 40, 40], 0.9), entry(ids[0], 7, [5, 5, 30, 30], 0.8)]
    # The cat is right, AP 1; the dog is found in the other image, AP 0.
    assert score_coco(data, found, scorer)[0]["AP"] == pytest.approx(0.5)


def test_scorers_are_named(tmp_path, monkeypatch):
    data = load_data(write_coco(tmp_path, coco_content(boxes=[(1, 3, [0, 0, 9, 9])])), "train")
    with pytest.raises(ValueError, match="choose from pycocotools, faster-coco-eval"):
        coco_score(data, [], "other")
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ValueError, match="pip install faster-coco-eval"):
        coco_score(data, [], "faster-coco-eval")


SQUARE = (1, 3, [0, 0, 40, 40])
# Each answer for one 40 x 40 cat beside one dog, and the AP worked out by hand.
ANSWERS = {
    # IoU 1 for both: AP 1.
    "perfect": ([(3, [0, 0, 40, 40], 0.9), (7, [50, 20, 8, 8], 0.8)], 1.0),
    # The cat moved by 10: IoU 30 / 50 = 0.6, right at 0.50 0.55 0.60, 3 of 10; dog 1.
    "shifted": ([(3, [10, 0, 40, 40], 0.9), (7, [50, 20, 8, 8], 0.8)], 0.65),
    # The second of two equal cats is wrong, but comes after full recall: AP stays 1.
    "duplicated": ([(3, [0, 0, 40, 40], 0.9)] * 2 + [(7, [50, 20, 8, 8], 0.8)], 1.0),
    "empty": ([], 0.0),
    # Each box under the other's name.
    "swapped": ([(7, [0, 0, 40, 40], 0.9), (3, [50, 20, 8, 8], 0.8)], 0.0),
}


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("case", ANSWERS)
def test_answers_by_hand(tmp_path, case, scorer):
    if scorer != "pycocotools":
        pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    rows = [SQUARE, (1, 7, [50, 20, 8, 8])]
    data = load_data(write_coco(tmp_path, coco_content(boxes=rows)), "train")
    found, expected = ANSWERS[case]
    results = [entry(1, *row) for row in found]
    assert score_coco(data, results, scorer)[0]["AP"] == pytest.approx(expected)
