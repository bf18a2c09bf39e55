# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC: reading, and both metrics by hand."""

from pathlib import Path

import numpy as np
import pytest

from src.data.annotations import voc
from src.data.coco_utils import DataError, load_data
from src.data.records import NothingHeldOut
from src.evaluation.voc_metrics import voc_average_precision, voc_mean_ap
from tests.datasets import SHARED, voc_xml, write_image, write_texts, write_voc

CAT = voc_xml([("cat", (11, 6, 40, 30))])
DOG = voc_xml([("dog", (1, 1, 60, 48), 1), ("cat", (2, 2, 9, 9))])


def test_reads_boxes_as_edges_from_zero(tmp_path):
    root = write_voc(tmp_path, {"a": CAT, "b": DOG}, {"train": ["b"], "val": ["a"]})
    data = load_data(root, "train")
    assert data.class_names == ("cat", "dog")  # of all files, not of this split alone
    assert data.style == "voc"
    record = data.records[0]
    # Pixels 1..60 x 1..48 are the whole image; pixels 2..9 reach from edge 1 to edge 9.
    assert record.boxes_px.tolist() == [[0, 0, 60, 48], [1, 1, 9, 9]]
    assert record.labels.tolist() == [2, 1]
    assert record.ignore.tolist() == [True, False]
    assert load_data(root, "val").class_names == ("cat", "dog")


def test_years_side_by_side_are_put_together(tmp_path):
    write_voc(tmp_path / "VOCdevkit" / "VOC2007", {"a": CAT}, {"trainval": ["a"], "test": ["a"]})
    write_voc(tmp_path / "VOCdevkit" / "VOC2012", {"b": DOG}, {"trainval": ["b"]})
    assert len(load_data(tmp_path, "train").records) == 2  # trainval of both
    assert len(load_data(tmp_path, "test").records) == 1
    assert len(load_data(tmp_path, "val").records) == 1  # test is all there is to validate on
    assert [row.image_id for row in load_data(tmp_path, "trainval").records] == [1, 2]


def test_any_folder_of_xml_files_is_split_nine_to_one(tmp_path):
    for i in range(20):
        write_image(tmp_path / f"{i:02}.png")
        (tmp_path / f"{i:02}.xml").write_text(CAT)
    sizes = [len(load_data(tmp_path, split).records) for split in ("train", "val", "all")]
    assert sizes == [18, 2, 20]


@pytest.mark.parametrize("listed", ["default", "trees"])
def test_one_list_that_names_no_split_is_undivided(tmp_path, listed):
    """As CVAT exports Pascal VOC."""
    names = [f"{i:02}" for i in range(20)]
    root = write_voc(tmp_path, dict.fromkeys(names, CAT), {listed: names})
    sizes = [len(load_data(root, split).records) for split in ("train", "val", listed)]
    assert sizes == [18, 2, 20]
    assert [Path(row.path).stem for row in load_data(root, "val").records] == ["09", "19"]


@pytest.mark.parametrize("folder", ["annotations/xmls", "Annotations", "xml"])
def test_several_folders_that_name_no_split_are_one_undivided_data_set(tmp_path, folder):
    for part in "AB":
        for i in range(10):
            write_image(tmp_path / part / "images" / f"{i}.jpg")
            write_texts(tmp_path, {f"{part}/{folder}/{i}.xml": CAT})
    sizes = [len(load_data(tmp_path, split).records) for split in ("train", "val", "all")]
    assert sizes == [18, 2, 20]
    paths = [row.path[len(str(tmp_path)) + 1 :] for row in load_data(tmp_path, "val").records]
    assert paths == ["A/images/9.jpg", "B/images/9.jpg"]
    (tmp_path / "B" / folder).rename(tmp_path / "other")
    for path in list((tmp_path / "A").rglob("[1-9].xml")) + list(tmp_path.glob("other/*")):
        path.unlink()
    with pytest.raises(NothingHeldOut):
        load_data(tmp_path, "val")


def test_folders_of_xml_files_in_those_named_as_splits(tmp_path):
    for split in ("train", "val"):
        write_image(tmp_path / split / "images" / "a.jpg")
        write_texts(tmp_path, {f"{split}/annotations/xmls/a.xml": CAT})
    for split in ("train", "val"):
        (record,) = load_data(tmp_path, split).records
        assert f"/{split}/" in record.path


def test_folders_named_as_splits(tmp_path):
    for split in ("train", "valid"):
        write_image(tmp_path / split / "a.jpg")
        (tmp_path / split / "a.xml").write_text(CAT)
    for split, folder in (("train", "train"), ("val", "valid")):
        assert f"/{folder}/" in load_data(tmp_path, split).records[0].path


def test_lists_for_one_class_leave_out_the_images_without_it(tmp_path):
    root = write_voc(tmp_path, {"a": CAT, "b": DOG}, {"dog_train": ["a -1", "b  1"]})
    assert [row.path[-5:] for row in load_data(root, "dog_train").records] == ["b.jpg"]


def test_lists_beside_main_and_lists_of_file_names(tmp_path):
    root = write_voc(tmp_path, {"a": CAT, "b": DOG}, {})
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "train.txt").write_text("JPEGImages/a.jpg\nb.jpg\n")
    assert len(load_data(root, "train").records) == 2


def test_size_comes_from_the_file_where_the_annotation_has_none(tmp_path):
    root = write_voc(tmp_path, {"a": voc_xml([("cat", (1, 1, 9, 9))], size=None)}, {"train": ["a"]})
    record = load_data(root, "train").records[0]
    assert (record.width, record.height) == (60, 48)


def test_the_file_name_in_the_xml_is_used_where_the_stem_finds_nothing(tmp_path):
    text = voc_xml([("cat", (1, 1, 9, 9))], filename="other.jpg")
    root = write_voc(tmp_path, {"a": text}, {"train": ["a"]})
    (root / "JPEGImages" / "a.jpg").rename(root / "JPEGImages" / "other.jpg")
    assert load_data(root, "train").records[0].path.endswith("other.jpg")


@pytest.mark.parametrize("filename", ["A_0.jpg", "A_0.png", "other.jpg"])
@pytest.mark.parametrize("masks", ["annotations/trimaps", "depth", "images/depth"])
def test_a_mask_is_not_taken_for_the_photograph(tmp_path, filename, masks):
    """As Oxford's pets have them, a folder below the root or at it."""
    if masks != "annotations/trimaps" and filename != "A_0.jpg":
        return  # nothing says which it is
    for root in (tmp_path / "apart" / "oxford-iiit-pet", tmp_path / "bare"):
        text = voc_xml([("cat", (1, 1, 9, 9))], filename=filename)
        write_texts(root, {"annotations/xmls/A_0.xml": text})
        for image in (root / "images" / "A_0.jpg", root / masks / "A_0.png"):
            write_image(image)
    for folder in ("apart", "bare"):
        (record,) = load_data(tmp_path / folder, "all").records
        assert record.path.endswith("/images/A_0.jpg")


def test_the_name_in_the_xml_does_not_lead_to_the_picture_of_another_split(tmp_path):
    text = voc_xml([("cat", (1, 1, 9, 9))], filename="0.jpg")  # made PNG since
    for split, ending in (("train", "png"), ("test", "jpg")):
        write_texts(tmp_path, {f"{split}/annotations/0.xml": text})
        write_image(tmp_path / split / "images" / f"0.{ending}")
    assert load_data(tmp_path, "train").records[0].path.endswith("train/images/0.png")


def test_a_folder_of_images_is_looked_through_once(tmp_path, monkeypatch):
    """Not once for each image: 4,000 photographs then took three minutes to start."""
    names = [f"{i:02}" for i in range(6)]
    root = write_voc(tmp_path, dict.fromkeys(names, CAT), {"train": names})
    looked, look = [], voc.ImageFinder
    monkeypatch.setattr(voc, "ImageFinder", lambda *a: looked.append(1) or look(*a))
    assert len(load_data(root, "train").records) == 6
    assert len(looked) == 1


def test_unusable_boxes_are_dropped_and_counted(tmp_path):
    rows = [
        ("cat", (5, 5, 5, 20)),
        ("cat", ("nan", 1, 9, 9)),
        ("cat", ("x", 1, 9, 9)),
        ("cat", (50, 40, 80, 90)),
        ("cat", (2, 3, 9.5, 9)),
    ]
    data = load_data(write_voc(tmp_path, {"a": voc_xml(rows)}, {"train": ["a"]}), "train")
    assert data.records[0].boxes_px.tolist() == [[49, 39, 60, 48], [1, 2, 9.5, 9]]
    assert data.dropped == {
        "zero-area boxes": 1,
        "non-finite boxes": 1,
        "malformed annotations": 1,
        "boxes clipped to the image": 1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a Pascal VOC annotation"),
        ("<annotation><object>", "not a Pascal VOC annotation"),
        ("<html></html>", "expected <annotation>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "document type"),
        ("<?xml version='1.0' encoding='no-such'?><annotation/>", "not a Pascal VOC annotation"),
    ],
)
def test_bad_xml_is_refused_in_one_line(tmp_path, text, message):
    root = write_voc(tmp_path, {"a": text, "b": CAT}, {"train": ["a"], "val": ["b"]})
    with pytest.raises(DataError, match=message) as caught:
        load_data(root, "train")
    assert "\n" not in str(caught.value)
    assert len(load_data(root, "val").records) == 1  # the other split is not harmed


def test_a_document_type_in_utf_16_is_refused(tmp_path):
    root = write_voc(tmp_path, {"a": CAT, "b": CAT}, {"train": ["a"], "val": ["b"]})
    text = '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    (root / "Annotations" / "a.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match="document type"):
        load_data(root, "train")


@pytest.mark.parametrize("character", ["&#10;", "\u202e", "\u0085"])
def test_a_name_with_control_characters_is_no_class(tmp_path, character):
    odd = CAT.replace("<name>cat</name>", f"<name>c{character}at</name>")
    assert odd != CAT
    root = write_voc(tmp_path, {"a": CAT, "b": odd}, {"train": ["a", "b"]})
    assert load_data(root, "train").class_names == ("cat",)


def test_missing_things_are_named(tmp_path):
    root = write_voc(tmp_path, {"a": CAT, "b": CAT}, {"train": ["a", "b"], "val": ["c"], "bad": []})
    with pytest.raises(DataError, match=r"c\.xml: no such file, listed in .*val\.txt"):
        load_data(root, "val")
    with pytest.raises(DataError, match="no split 'x'; found bad, train, val"):
        load_data(root, "x")
    with pytest.raises(DataError, match="split 'bad' has no images"):
        load_data(root, "bad")
    (root / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"JPEGImages/b\.jpg: no such image.*1 of 2 missing"):
        load_data(root, "train")
    (root / "Annotations" / "a.xml").write_text(voc_xml())
    (root / "Annotations" / "b.xml").write_text(voc_xml())
    with pytest.raises(DataError, match="no XML file with an object"):
        load_data(root, "train")


def test_average_precision_by_hand():
    # Four to find; right, wrong, right: recall 1/4 1/4 2/4, precision 1 1/2 2/3.
    recall, precision = np.array([0.25, 0.25, 0.5]), np.array([1, 0.5, 2 / 3])
    assert voc_average_precision(recall, precision, "area") == pytest.approx(0.25 + 0.25 * 2 / 3)
    # Recall 0, .1, .2 see precision 1; .3, .4, .5 see 2/3; the other five see nothing.
    assert voc_average_precision(recall, precision, "11point") == pytest.approx((3 + 2) / 11)
    assert voc_average_precision(np.zeros(0), np.zeros(0), "area") == 0.0
    assert voc_average_precision(np.zeros(0), np.zeros(0), "11point") == 0.0
    with pytest.raises(ValueError, match="metric"):
        voc_average_precision(recall, precision, "other")


def test_mean_ap_by_hand(tmp_path):
    """Two cats to find, a difficult one, one dog; a duplicate and a box at the IoU limit."""
    files = {
        "a": voc_xml(
            [("cat", (1, 1, 10, 10)), ("cat", (21, 1, 30, 10), 1), ("dog", (31, 31, 40, 40))]
        ),
        "b": voc_xml([("cat", (1, 1, 10, 10))]),
    }
    data = load_data(write_voc(tmp_path, files, {"val": ["a", "b"]}), "val")
    cat, dog = data.category_ids
    results = [
        {"image_id": 1, "category_id": cat, "bbox": [0, 0, 10, 10], "score": 0.9},  # right
        {"image_id": 1, "category_id": cat, "bbox": [20, 0, 10, 10], "score": 0.8},  # difficult
        {"image_id": 1, "category_id": cat, "bbox": [0, 0, 10, 10], "score": 0.7},  # again: wrong
        {"image_id": 2, "category_id": cat, "bbox": [0, 0, 10, 5], "score": 0.6},  # IoU 0.5: right
        {"image_id": 1, "category_id": dog, "bbox": [35, 30, 10, 10], "score": 0.5},  # IoU 1/3
    ]
    # Cats: right, wrong, right of two: recall 1/2 1/2 1, precision 1 1/2 2/3.
    mean, by_class = voc_mean_ap(data, results)
    assert by_class == {"cat": pytest.approx(0.5 + 0.5 * 2 / 3), "dog": 0.0}
    assert mean == pytest.approx((0.5 + 0.5 * 2 / 3) / 2)
    # Recalls 0 to 0.5 see 1, 0.6 to 1 see 2/3.
    mean, by_class = voc_mean_ap(data, results, metric="11point")
    assert by_class["cat"] == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert voc_mean_ap(data, results, iou_threshold=0.3)[1]["dog"] == 1.0
    assert voc_mean_ap(data, [])[0] == 0.0


def test_real_blood_cells():
    if not (SHARED / "data" / "bccd").is_dir():
        pytest.skip("the shared blood cell images are not there")
    root = SHARED / "data" / "bccd"
    splits = {name: load_data(root, name) for name in ("train", "val", "test")}
    assert splits["train"].class_names == ("Platelets", "RBC", "WBC")
    assert sum(len(data.records) for data in splits.values()) == 364
    counts = np.zeros(4, int)
    for data in splits.values():
        for row in data.records:
            counts += np.bincount(row.labels, minlength=4)
    # 361 + 4155 + 372 in the files, two of them without area.
    assert counts.sum() == 361 + 4155 + 372 - 2
    assert sum(data.dropped["zero-area boxes"] for data in splits.values() if data.dropped) == 2
    data = splits["val"]
    results = [
        {"image_id": r.image_id, "category_id": data.category_ids[label - 1], "score": 0.9}
        | {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
        for r in data.records
        for box, label in zip(r.boxes_px.astype(float), r.labels)
    ]
    for metric in ("area", "11point"):
        assert voc_mean_ap(data, results, metric=metric)[0] == pytest.approx(1.0)
