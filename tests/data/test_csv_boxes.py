# SPDX-License-Identifier: Apache-2.0
"""Reading CSV files of boxes, and naming formats that are not read."""

import json

import numpy as np
import pytest

from src.data.coco_utils import DataError, find_splits, load_data
from src.data.records import Findings
from tests.datasets import write_image, write_texts

TENSORFLOW = (
    "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    "a.jpg,60,48,dog,10,20,40,30\nb.jpg,60,48,cat,0,0,9,9\na.jpg,60,48,cat,1,2,3.5,4\n"
)
RETINANET = "images/a.jpg,10,20,40,30,dog\nimages/a.jpg,1,2,3.5,4,cat\nimages/b.jpg,,,,,\n"
OPEN_IMAGES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    "a,xclick,/m/2,1,0.5,0.75,0.25,1,0,0,0\na,xclick,/m/1,1,0,0.5,0,0.5,0,0,1\n"
)


def write(root, texts, images=("images/a.jpg", "images/b.jpg")):
    for name in images:
        write_image(root / name)
    return write_texts(root, texts)


def boxes_of(data):
    return [
        (row.path.rsplit("/", 1)[1], data.class_names[label - 1], box)
        for row in data.records
        for box, label in zip(row.boxes_px.tolist(), row.labels)
    ]


EXPECTED = [("a.jpg", "dog", [10, 20, 40, 30]), ("a.jpg", "cat", [1, 2, 3.5, 4])]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_line_of_names_says_where_the_corners_are(tmp_path, delimiter):
    text = TENSORFLOW.replace(",", delimiter)
    data = load_data(write(tmp_path, {"labels.csv": text}), "all")
    assert boxes_of(data) == [*EXPECTED, ("b.jpg", "cat", [0, 0, 9, 9])]
    assert data.class_names == ("cat", "dog")
    assert (data.style, data.dropped) == ("csv", {})
    assert data.annotation_path == str(tmp_path / "labels.csv")


def test_keras_retinanet_has_no_names_and_rows_without_a_box(tmp_path):
    data = load_data(write(tmp_path, {"annotations.csv": RETINANET}), "all")
    assert boxes_of(data) == EXPECTED
    assert len(data.records) == 2
    assert (data.records[1].width, data.records[1].height) == (60, 48)


def test_classes_csv_gives_the_order(tmp_path):
    texts = {"annotations.csv": RETINANET, "classes.csv": "dog,0\nbird,1\ncat,2\n"}
    data = load_data(write(tmp_path, texts), "all")
    assert data.class_names == ("dog", "bird", "cat")
    assert boxes_of(data) == EXPECTED
    (tmp_path / "classes.csv").write_text("dog,0\n")
    with pytest.raises(DataError, match=r"annotations\.csv:2: class 'cat' is not in"):
        load_data(tmp_path, "all")
    (tmp_path / "classes.csv").write_text("dog,0\ncat,one\n")
    with pytest.raises(DataError, match=r"classes\.csv: expected a name and a number"):
        load_data(tmp_path, "all")


def test_open_images_gives_shares_codes_and_groups(tmp_path):
    texts = {
        "validation-annotations-bbox.csv": OPEN_IMAGES,
        "class-descriptions-boxable.csv": "/m/1,Tortoise\n/m/2,Container\n",
    }
    data = load_data(write(tmp_path, texts, ["validation/a.jpg"]), "val")
    assert boxes_of(data) == [
        ("a.jpg", "Container", [30, 12, 45, 48]),
        ("a.jpg", "Tortoise", [0, 0, 30, 24]),
    ]
    assert data.records[0].ignore.tolist() == [False, True]
    assert data.split == "validation"


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train.csv", "val.csv"),
        ("train_labels.csv", "test_labels.csv"),
        ("train/_annotations.csv", "valid/_annotations.csv"),
        ("oidv6-train-annotations-bbox.csv", "validation-annotations-bbox.csv"),
    ],
)
def test_splits_by_file_or_folder(tmp_path, train, val):
    row = "filename,xmin,ymin,xmax,ymax,class\n{},1,2,3,4,{}\n"
    texts = {train: row.format("a.jpg", "cat"), val: row.format("b.jpg", "dog")}
    root = write(tmp_path, texts)
    assert len(find_splits(root)) == 2
    for split, expected in (("train", ("a.jpg", "cat")), ("val", ("b.jpg", "dog"))):
        data = load_data(root, split)
        assert data.class_names == ("cat", "dog")
        assert boxes_of(data) == [(*expected, [1, 2, 3, 4])]


def test_an_undivided_file_validates_on_every_tenth_image(tmp_path):
    images = [f"images/{i:02}.jpg" for i in range(20)]
    text = "".join(f"{path},1,2,30,40,cat\n" * 2 for path in images)
    root = write(tmp_path, {"boxes.csv": text}, images)
    assert [len(load_data(root, split).records) for split in ("train", "val")] == [18, 2]


def test_paths_of_another_machine_count_from_their_end(tmp_path):
    text = "path,x1,y1,x2,y2,label\n/data/mine/images/a.jpg,1,2,3,4,cat\n"
    data = load_data(write(tmp_path, {"all.csv": text}), "all")
    assert data.records[0].path == str(tmp_path / "images" / "a.jpg")
    write_image(tmp_path / "secret.jpg")
    root = write(tmp_path / "mine", {"all.csv": text.replace("/data/mine/images/a", "../secret")})
    with pytest.raises(DataError, match=r"secret\.jpg: no such image"):
        load_data(root, "all")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.jpg,60,48,dog,10,20,40", "expected image, xmin, ymin, xmax, ymax, class, found 7"),
        ("a.jpg,60,48,dog,10,x,40,30", "expected numbers as xmin, ymin, xmax, ymax"),
        ("a.jpg,60,48,,10,20,40,30", "expected the name of a class"),
        (",60,48,dog,10,20,40,30", "expected the name of an image"),
        ('a.jpg,60,48,"a\tb",10,20,40,30', "expected the name of a class"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path, row, message):
    root = write(tmp_path, {"labels.csv": f"{TENSORFLOW}{row}\n"})
    with pytest.raises(DataError, match=r"labels\.csv:5: ") as caught:
        load_data(root, "all")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    findings = Findings(collect=True)
    assert len(load_data(root, "all", findings=findings).records) == 2
    assert findings.errors == {"malformed annotations": 1}


def test_boxes_are_repaired_as_in_other_formats(tmp_path):
    rows = ["50,40,80,60", "9,9,9,20", "nan,1,2,3", "70,1,80,9"]
    text = "".join(f"images/a.jpg,{row},cat\n" for row in rows)
    data = load_data(write(tmp_path, {"labels.csv": text}), "all")
    np.testing.assert_allclose(data.records[0].boxes_px, [[50, 40, 60, 48]])
    assert sum(data.dropped.values()) == 4


def test_images_without_any_box_name_no_classes(tmp_path):
    root = write(tmp_path, {"labels.csv": "images/a.jpg,,,,,\n"})
    with pytest.raises(DataError, match=r"labels\.csv: no box with the name of a class"):
        load_data(root, "all")


def test_a_box_that_reaches_out_of_its_image_leaves_the_others_normalised(tmp_path):
    text = "filename,xmin,ymin,xmax,ymax,class\na.jpg,.5,.25,1,.5,cat\na.jpg,.5,.5,1.02,.75,cat\n"
    data = load_data(write(tmp_path, {"labels.csv": text}), "all")
    # Of 60 x 48 pixels; the second is clipped at the right.
    assert [box for _, _, box in boxes_of(data)] == [[30, 12, 60, 24], [30, 24, 60, 36]]


@pytest.mark.parametrize("text", [TENSORFLOW, "filename,x,y,w,h\na.jpg,1,2,3,4\n"])
def test_a_file_beside_many_images_is_found(tmp_path, text):
    images = [f"{number:03}.jpg" for number in range(120)]
    root = write(tmp_path, {"labels.csv": text}, [*images, "a.jpg", "b.jpg"])
    if text == TENSORFLOW:
        assert len(load_data(root, "all").records) == 2
    else:
        with pytest.raises(DataError, match=r"labels\.csv: expected the columns .* found filename"):
            load_data(root, "all")


def test_escaped_names_are_found(tmp_path):
    root = write(tmp_path, {"labels.csv": "images/a%20b.jpg,1,2,3,4,cat\n"}, ["images/a b.jpg"])
    assert len(load_data(root, "all").records) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "via_project.json",
            json.dumps({"_via_settings": {}, "_via_img_metadata": {}}),
            r"via_project\.json is of VIA.*COCO",
        ),
        (
            "via.json",
            json.dumps(
                {"a.jpg9": {"regions": [{"shape_attributes": {}, "region_attributes": {}}]}}
            ),
            "of VIA",
        ),
        ("via.csv", "filename,file_size,region_shape_attributes\na.jpg,9,{}\n", "of VIA"),
        ("boxes.csv", "filename,x,y,w,h\na.jpg,1,2,3,4\n", "expected the columns filename, xmin"),
        ("coco.zip", "PK", r"coco\.zip: unpack it"),
        ("train.tfrecord", "", "TFRecord file"),
    ],
)
def test_other_formats_are_named_with_the_way_out(tmp_path, name, text, message):
    root = write(tmp_path, {name: text})
    with pytest.raises(DataError, match=message) as caught:
        load_data(root, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("coco.zip", "a packed file; unpack it"), ("data.yaml", "a file; give the folder")],
)
def test_a_file_for_a_folder_is_named(tmp_path, name, message):
    (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / name, "train")
