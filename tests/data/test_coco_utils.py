# SPDX-License-Identifier: Apache-2.0
"""Reading COCO data sets: layouts, repairs, refusals."""

import json
import logging
import os
import pickle
import shutil
import unicodedata

import numpy as np
import pytest

from src.data.coco_utils import DataError, find_splits, load_data
from src.data.records import Findings, PackedRecords, require_boxes
from tests.datasets import SHARED, coco_content, write_coco, write_image


def boxes_of(data):
    """(image id, label, box, ignore) of everything, in order."""
    return [
        (row.image_id, int(label), box, bool(ignore))
        for row in data.records
        for box, label, ignore in zip(row.boxes_px.tolist(), row.labels, row.ignore)
    ]


def test_reads_boxes_labels_and_crowds(tmp_path):
    rows = [(1, 7, [10, 20, 30, 10]), (2, 3, [0, 0, 5.5, 6.5], 1)]
    data = load_data(write_coco(tmp_path, coco_content(["a.jpg", "b.jpg", "c.jpg"], rows)), "train")
    # Labels follow the sorted category ids: 3 cat -> 1, 7 dog -> 2.
    assert data.class_names == ("cat", "dog")
    assert data.category_ids == (3, 7)
    assert data.num_classes == 3
    assert boxes_of(data) == [
        (1, 2, [10, 20, 40, 30], False),
        (2, 1, [0, 0, 5.5, 6.5], True),
    ]
    assert data.records[2].boxes_px.shape == (0, 4)
    assert data.records[0].path == str(tmp_path / "train2017" / "a.jpg")
    assert (data.records[0].width, data.records[0].height) == (60, 48)
    assert data.dropped == {}
    assert data.style == "coco"


@pytest.mark.parametrize(
    ("annotations", "images", "split", "found"),
    [
        ("annotations/instances_train2017.json", "train2017", "train", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017", "train", "train2017"),
        ("annotations/instances_val2017.json", "val2017", "minival2014", "val2017"),
        ("annotations/instances_trainval35k.json", "images/train2014", "train", "trainval35k"),
        ("annotations/instances_trainval35k.json", "val2014", "trainval35k", "trainval35k"),
        ("annotations/instances_minival2014.json", "images/val2014", "val", "minival2014"),
        ("annotations/image_info_test-dev2015.json", "test2015", "test-dev2015", "test-dev2015"),
        ("train/_annotations.coco.json", "train", "train", "train"),
        ("valid/_annotations.coco.json", "valid", "val", "valid"),
        ("annotations/train.json", "images", "train", "train"),
        ("train.json", "pictures of mine", "train", "train"),
        ("annotations.json", ".", "all", "all"),
        ("annotations/instances_default.json", "images/default", "all", "all"),
        ("labels.json", "data", "all", "all"),
        ("result.json", "images", "all", "all"),
        ("Train_coco.json", "images/train", "train", "Train"),
        ("train/annotations.json", "train/images", "train", "train"),
        ("annotations/trainval.json", ".", "train", "trainval"),
    ],
)
def test_finds_every_layout(tmp_path, annotations, images, split, found):
    data = load_data(write_coco(tmp_path, coco_content(), images, annotations), split)
    assert data.split == found
    assert len(data.records) == 1
    assert os.path.isfile(data.records[0].path)
    assert data.annotation_path == str(tmp_path / annotations)


def test_trainval35k_takes_images_from_both_folders_of_2014(tmp_path):
    write_coco(tmp_path, coco_content(["a.jpg", "b.jpg"]), None, "annotations/trainval35k.json")
    write_image(tmp_path / "train2014" / "a.jpg")
    write_image(tmp_path / "val2014" / "b.jpg")
    folders = [row.path.split(os.sep)[-2] for row in load_data(tmp_path, "train").records]
    assert folders == ["train2014", "val2014"]


def test_the_folder_of_the_split_wins_where_names_repeat(tmp_path):
    write_coco(tmp_path, coco_content(), "train2017")
    write_coco(tmp_path, coco_content(), "val2017", "annotations/instances_val2017.json")
    for split in ("train", "val"):
        assert f"{split}2017" in load_data(tmp_path, split).records[0].path


def test_an_undivided_data_set_validates_on_every_tenth_image(tmp_path):
    names = [f"{i:02}.jpg" for i in range(20)]
    root = write_coco(tmp_path, coco_content(names, [(1, 3, [0, 0, 9, 9])]), ".", "labels.json")
    (root / "package.json").write_text('{"name": "x", "version": 1}')
    (root / "._labels.json").write_text("left by macOS")
    ids = {s: [row.image_id for row in load_data(root, s).records] for s in ("train", "val", "all")}
    assert ids["val"] == [10, 20]
    assert sorted(ids["train"] + ids["val"]) == sorted(ids["all"]) == list(range(1, 21))
    assert load_data(root, "val").dropped == {}


def test_one_file_of_any_name_is_undivided_too(tmp_path):
    names = [f"{i:02}.jpg" for i in range(10)]
    root = write_coco(tmp_path, coco_content(names), "cells/images", "cells/annotations.json")
    assert [len(load_data(root, split).records) for split in ("train", "val", "cells")] == [
        9,
        1,
        10,
    ]


def test_unusable_boxes_are_dropped_and_counted_and_reported(tmp_path, caplog):
    rows = [
        (1, 3, [10, 10, 0, 5]),  # no area
        (1, 3, [10, 10, 5, -2]),
        (1, 3, [float("nan"), 1, 2, 3]),
        (1, 3, [1, 1, float("inf"), 3]),
        (1, 3, [70, 10, 5, 5]),  # outside 60 x 48
        (1, 3, [50, 40, 20, 20]),  # clipped
        (1, 99, [1, 1, 5, 5]),
        (8, 3, [1, 1, 5, 5]),
        (1, 3, [1, 1, 5]),
        (1, 3, ["1", "1", "5", "5"]),
        (1, 3, None),
        (None, 3, [1, 1, 5, 5]),
        (1, 3, [1, 1, 10**400, 5]),
        (1, 7, [2, 2, 4, 4]),  # good
    ]
    write_coco(tmp_path, coco_content(boxes=rows))
    with caplog.at_level(logging.WARNING):
        data = load_data(tmp_path, "train")
    assert boxes_of(data) == [(1, 1, [50, 40, 60, 48], False), (1, 2, [2, 2, 6, 6], False)]
    assert data.dropped == {
        "zero-area boxes": 2,
        "non-finite boxes": 3,
        "boxes outside the image": 1,
        "boxes clipped to the image": 1,
        "boxes of unknown categories": 1,
        "boxes of unknown images": 1,
        "malformed annotations": 4,
    }
    assert "2 zero-area boxes" in data.repairs()
    assert len(caplog.records) == 1
    assert "2 zero-area boxes" in caplog.text


def test_size_comes_from_the_file_where_the_annotation_has_none(tmp_path):
    content = coco_content()
    del content["images"][0]["width"]
    record = load_data(write_coco(tmp_path, content), "train").records[0]
    assert (record.width, record.height) == (60, 48)


def test_unicode_names_in_a_read_only_folder(tmp_path):
    name = "фото 猫.jpg"
    content = coco_content([name], categories=[{"id": 1, "name": "кошка"}])
    root = write_coco(tmp_path / "данные", content)
    for folder in (root / "train2017", root / "annotations", root):
        folder.chmod(0o555)
    try:
        data = load_data(root, "train")
    finally:
        for folder in (root, root / "annotations", root / "train2017"):
            folder.chmod(0o755)
    assert data.records[0].path.endswith(name)
    assert data.class_names == ("кошка",)


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_joined_to_their_letters_or_apart_from_them(tmp_path, listed, stored):
    content = coco_content([unicodedata.normalize(listed, "café.jpg")])
    name = unicodedata.normalize(stored, "café.jpg")
    root = write_coco(tmp_path, content, None)
    write_image(root / "train2017" / name)
    assert load_data(root, "train").records[0].path == str(root / "train2017" / name)


def test_what_file_systems_keep_for_root_is_passed_over(tmp_path):
    root = write_coco(tmp_path, coco_content())
    write_coco(root / "lost+found", coco_content(), path="instances_val2017.json")
    assert find_splits(root) == ["train2017"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_of_unicode(tmp_path, encoding):
    write_coco(tmp_path, coco_content())
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_bytes(json.dumps(coco_content()).encode(encoding))
    assert len(load_data(tmp_path, "train").records) == 1


@pytest.mark.parametrize(
    "name", ["../train2017/a.jpg", "x/../../a.jpg", "/etc/passwd", "..\\a.jpg", "C:\\a.jpg", "a\0b"]
)
def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path, name):
    content = coco_content()
    write_coco(tmp_path, content)
    content["images"][0]["file_name"] = name
    write_coco(tmp_path, content, None)
    with pytest.raises(DataError, match="file_name"):
        load_data(tmp_path, "train")


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_out_of_the_root_is_refused_unless_allowed(tmp_path, linked):
    root = write_coco(tmp_path / "root", coco_content())
    outside = tmp_path / "elsewhere"
    shutil.move(str(root / "train2017"), outside)
    if linked == "file":
        (root / "train2017").mkdir()
        (root / "train2017" / "a.jpg").symlink_to(outside / "a.jpg")
    else:
        (root / "train2017").symlink_to(outside)
    with pytest.raises(DataError, match=r"train2017.*link out of"):
        load_data(root, "train")
    assert len(load_data(root, "train", allow_links=True).records) == 1


def test_links_inside_the_root_and_to_the_root_are_followed_without_a_loop(tmp_path):
    root = write_coco(tmp_path / "root", coco_content(), "images/all")
    (root / "train2017").symlink_to(root / "images" / "all")
    (root / "images" / "up").symlink_to(root)
    (tmp_path / "alias").symlink_to(root)
    assert len(load_data(tmp_path / "alias", "train").records) == 1


def test_missing_things_are_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such data set directory"):
        load_data(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="no annotations; expected annotations/instances_"):
        load_data(tmp_path, "train")
    root = write_coco(tmp_path, coco_content(["a.jpg", "b.jpg", "c.jpg"]))
    with pytest.raises(DataError, match="no split 'val'; found train2017"):
        load_data(root, "val")
    (root / "train2017" / "b.jpg").unlink()
    (root / "train2017" / "c.jpg").unlink()
    with pytest.raises(DataError, match=r"train2017/b\.jpg: no such image.*2 of 3 missing"):
        load_data(root, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1, 2]", "expected a JSON object"),
        ("[" * 100_000, "not"),
        ("{}", "'categories', found nothing"),
        (coco_content(images=[]), "'images'"),
        (coco_content(images={"a": 1}), "'images'"),
        (coco_content(images=[{"id": 1}]), "expected a text as file_name, found nothing"),
        (coco_content(images=[3]), "image 3: expected a whole number as id"),
        (coco_content(images=[{"id": "x", "file_name": "a.jpg"}]), "number as id, found 'x'"),
        (
            coco_content(images=[{"id": 2**80, "file_name": "a.jpg"}]),
            "expected a whole number as id",
        ),
        (
            coco_content(images=[{"id": 1, "file_name": "a.jpg", "width": "60", "height": 48}]),
            "width and height",
        ),
        (
            coco_content(images=[{"id": 1, "file_name": "a.jpg", "width": -60, "height": 48}]),
            "width and height",
        ),
        (coco_content(images=[{"id": 1, "file_name": n} for n in "ab"]), "image id 1 is both"),
        (coco_content(categories=[{"id": 1}]), "expected a printable text as name, found nothing"),
        (coco_content(categories=[{"id": 1, "name": n} for n in "ab"]), "category id 1 is both"),
        (coco_content(annotations={"a": 1}), "expected a list under 'annotations'"),
    ],
)
def test_contents_that_make_no_sense_are_refused_in_one_line(tmp_path, content, message):
    write_coco(tmp_path, coco_content())
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        load_data(tmp_path, "train")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_findings_are_collected_instead_of_stopping(tmp_path):
    content = coco_content(["a.jpg", "b.jpg", "../c.jpg"], [(1, 3, [0, 0, 0, 0])])
    write_coco(tmp_path, content)
    (tmp_path / "train2017" / "b.jpg").unlink()
    findings = Findings(collect=True)
    data = load_data(tmp_path, "train", findings=findings)
    assert len(data.records) == 1
    assert findings.errors == {"missing images": 1, "unsafe paths": 1}
    assert findings.counts == {"zero-area boxes": 1}
    assert "b.jpg" in findings.examples["missing images"][0]


def with_annotations(tmp_path, entries, **changes):
    """A data set of one image with these entries, of category 3 unless they say otherwise."""
    rows = [{"id": i, "image_id": 1, "category_id": 3, **entry} for i, entry in enumerate(entries)]
    return write_coco(tmp_path, coco_content(annotations=rows, **changes))


def test_polygons_without_a_box_get_the_box_around_them(tmp_path):
    triangle, square = [10, 20, 30, 20, 20, 40], [30, 10, 40, 10, 40, 15, 30, 15]
    entries = [
        {"segmentation": [triangle, square]},
        {"segmentation": [triangle], "bbox": []},
        {"segmentation": [triangle], "bbox": [1, 2, 3, 4]},  # a box that is there stays
    ]
    data = load_data(with_annotations(tmp_path, entries), "train")
    boxes = [box for _, _, box, _ in boxes_of(data)]
    assert boxes == [[10, 10, 40, 40], [10, 20, 30, 40], [1, 2, 4, 6]]
    assert data.dropped == {"boxes made of polygons": 2}


@pytest.mark.parametrize(
    "polygons",
    [{"counts": [1, 2], "size": [48, 60]}, [], [[]], [[1, 2, 3]], [["a", "b"]], [[1, 1e999]], 7],
)
def test_what_is_no_polygon_makes_no_box(tmp_path, polygons):
    data = load_data(with_annotations(tmp_path, [{"segmentation": polygons}]), "train")
    assert data.dropped == {"malformed annotations": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": "1,2,3,4"}]},
        {"annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": ["1", "2", "3", "4"]}]},
        {"annotations": []},
        {"boxes": [(1, 3, [1, 1, 5, 5], 1)]},  # a crowd alone
        {"boxes": [(1, 3, [1, 1, 0, 5])]},
    ],
)
def test_training_without_a_usable_box_is_refused(tmp_path, changes):
    data = load_data(write_coco(tmp_path, coco_content(**changes)), "train")
    with pytest.raises(DataError, match=r"instances_train2017\.json: .*no usable box") as caught:
        require_boxes(data)
    assert "\n" not in str(caught.value)


def test_it_is_said_that_all_boxes_are_crowds(tmp_path):
    content = coco_content(boxes=[(1, 3, [1, 1, 5, 5], 1), (1, 3, [1, 1, 0, 5])])
    with pytest.raises(DataError, match="train on: 1 crowd or difficult, 1 zero-area boxes;"):
        require_boxes(load_data(write_coco(tmp_path, content), "train"))


def test_boxes_in_shares_of_the_image_are_refused(tmp_path):
    content = coco_content(boxes=[(1, 3, [0.1, 0.2, 0.3, 0.4]), (1, 3, [0, 0, 1, 1])])
    with pytest.raises(DataError, match="expected pixels, not normalised"):
        require_boxes(load_data(write_coco(tmp_path, content), "train"))


def test_training_on_a_test_split_is_refused(tmp_path):
    content = coco_content()
    del content["annotations"]
    with pytest.raises(DataError, match="no usable box to train on: it has no annotations"):
        require_boxes(load_data(write_coco(tmp_path, content), "train"))


def test_one_box_is_enough_to_train_on(tmp_path):
    require_boxes(
        load_data(write_coco(tmp_path, coco_content(boxes=[(1, 3, [1, 1, 5, 5])])), "train")
    )


@pytest.mark.parametrize(
    ("value", "crowd"),
    [
        ("0", False),
        ("1", True),
        ("false", False),
        (True, True),
        (0, False),
        (None, False),
        ([0], False),
    ],
)
def test_what_counts_as_crowd(tmp_path, value, crowd):
    rows = [(1, 3, [1, 1, 5, 5], value)]
    data = load_data(write_coco(tmp_path, coco_content(boxes=rows)), "train")
    assert data.records[0].ignore.tolist() == [crowd]


TWINS = [{"id": 5, "name": "cat"}, {"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]


def test_two_categories_of_one_name_with_boxes_are_refused(tmp_path):
    rows = [(1, 3, [1, 1, 5, 5]), (1, 5, [2, 2, 5, 5])]
    write_coco(tmp_path, coco_content(boxes=rows, categories=TWINS))
    with pytest.raises(DataError, match="categories 3 and 5 are both 'cat'"):
        load_data(tmp_path, "train")
    findings = Findings(collect=True)
    load_data(tmp_path, "train", findings=findings)
    assert findings.errors == {"bad categories": 1}


def test_an_unused_category_that_repeats_a_name_is_left_out_with_a_warning(tmp_path, caplog):
    rows = [(1, 3, [1, 1, 5, 5])]
    data = load_data(write_coco(tmp_path, coco_content(boxes=rows, categories=TWINS)), "train")
    assert (data.class_names, data.category_ids) == (("cat", "dog"), (3, 4))
    assert "categories 3 and 5 are both 'cat'; 5 has no boxes" in caplog.text


def test_escaped_file_names_are_found_but_do_not_lead_out(tmp_path):
    root = write_coco(tmp_path / "a", coco_content(["a b.jpg", "100%25.jpg"]))
    content = coco_content(["a%20b.jpg", "100%25.jpg"])
    write_coco(root, content, None)
    names = [os.path.basename(row.path) for row in load_data(root, "train").records]
    assert names == ["a b.jpg", "100%25.jpg"]
    write_image(tmp_path / "c.jpg")
    write_coco(root, coco_content(["..%2F..%2Fc.jpg"]), None)
    with pytest.raises(DataError, match="no such image"):
        load_data(root, "train")


def test_packed_records_give_back_what_went_in(tmp_path):
    rows = [(1, 7, [1, 2, 3, 4]), (3, 3, [5, 6, 7, 8], 1), (3, 7, [1, 1, 2, 2])]
    data = load_data(write_coco(tmp_path, coco_content(["a.jpg", "ß.jpg", "c.jpg"], rows)), "train")
    records = list(data.records)
    for packed in (PackedRecords(records), pickle.loads(pickle.dumps(PackedRecords(records)))):
        assert len(packed) == 3
        for a, b in zip(packed, records):
            assert (a.image_id, a.path, a.width, a.height) == (
                b.image_id,
                b.path,
                b.width,
                b.height,
            )
            np.testing.assert_array_equal(a.boxes_px, b.boxes_px)
            np.testing.assert_array_equal(a.labels, b.labels)
            np.testing.assert_array_equal(a.ignore, b.ignore)
        assert packed[-1].image_id == 3
        assert [row.image_id for row in packed[1:]] == [2, 3]
        with pytest.raises(IndexError):
            packed[3]


@pytest.mark.parametrize(("split", "boxes", "crowds"), [("train", 705, 6), ("val", 815, 11)])
def test_real_coco(split, boxes, crowds):
    if not (SHARED / "data" / "coco_tiny").is_dir():
        pytest.skip("the shared COCO images are not there")
    data = load_data(SHARED / "data" / "coco_tiny", split)
    assert len(data.records) == 80
    assert data.num_classes == 81
    assert data.class_names[0] == "person"
    assert data.category_ids[79] == 90
    assert sum(len(row.labels) for row in data.records) == boxes
    assert sum(row.ignore.sum() for row in data.records) == crowds
