# SPDX-License-Identifier: Apache-2.0
"""Reading LabelMe's JSON files."""

import json

import pytest

from src.data.annotations import labelme
from src.data.coco_utils import DataError, find_splits, load_data
from src.data.records import Findings
from tests.datasets import labelme_content, write_image, write_texts

SHAPES = [
    ("dog", "rectangle", [[30, 40], [10, 20]]),  # drawn from the lower right corner
    ("cat", "polygon", [[5, 5], [15, 8], [10, 25]]),
    ("cat", "circle", [[20, 20], [23, 24]]),  # 5 pixels from centre to edge
]


def write(root, texts, images=("a.jpg",)):
    for name in images:
        write_image(root / name)
    return write_texts(root, texts)


def test_shapes_become_the_boxes_around_them(tmp_path):
    data = load_data(write(tmp_path, {"a.json": labelme_content(SHAPES)}), "all")
    assert data.class_names == ("cat", "dog")
    assert data.style == "labelme"
    record = data.records[0]
    assert record.boxes_px.tolist() == [[10, 20, 30, 40], [5, 5, 15, 25], [15, 15, 25, 25]]
    assert record.labels.tolist() == [2, 1, 1]
    assert record.path == str(tmp_path / "a.jpg")
    assert data.dropped == {}


def test_points_and_lines_are_counted_and_left_out(tmp_path):
    shapes = [*SHAPES, ("cat", "point", [[3, 3]]), ("cat", "line", [[3, 3], [9, 9]])]
    data = load_data(write(tmp_path, {"a.json": labelme_content(shapes)}), "all")
    assert len(data.records[0].labels) == 3
    assert data.dropped == {"shapes without an area": 2}


def test_folders_named_as_splits(tmp_path):
    shapes = {"train": SHAPES[:1], "val": SHAPES[1:2]}
    texts = {f"{split}/a.json": labelme_content(shapes[split]) for split in shapes}
    root = write(tmp_path, texts, ("train/a.jpg", "val/a.jpg"))
    assert find_splits(root) == ["train", "val"]
    for split, label in (("train", 2), ("val", 1)):
        data = load_data(root, split)
        assert data.class_names == ("cat", "dog")  # of both
        assert data.records[0].labels.tolist() == [label]
        assert f"/{split}/" in data.records[0].path


@pytest.mark.parametrize("folders", [("",), ("monday/", "tuesday/")])
def test_an_undivided_data_set_validates_on_every_tenth_image(tmp_path, folders):
    names = [f"{folder}{i:02}" for folder in folders for i in range(20 // len(folders))]
    texts = {
        f"{name}.json": labelme_content(SHAPES, imagePath=f"{name[-2:]}.jpg") for name in names
    }
    root = write(tmp_path, texts, [f"{name}.jpg" for name in names])
    assert len(load_data(root, "train").records) == 18
    assert len(load_data(root, "val").records) == 2


@pytest.mark.parametrize(
    ("image_path", "image"),
    [
        ("..\\pictures\\a.jpg", "pictures/a.jpg"),
        ("../pictures/a.jpg", "pictures/a.jpg"),
        ("/home/me/pictures/a.jpg", "pictures/a.jpg"),
        ("gone.png", "json/one.jpg"),  # renamed together with its JSON file
        (None, "json/one.png"),
    ],
)
def test_images_are_found_by_name_or_beside_the_file(tmp_path, image_path, image):
    text = labelme_content(SHAPES, imagePath=image_path)
    data = load_data(write(tmp_path, {"json/one.json": text}, [image]), "all")
    assert data.records[0].path == str(tmp_path / image)


@pytest.mark.parametrize(("images", "calls"), [("{}/", 0), ("pictures of {}/", 3), ("", 3)])
def test_folders_are_put_in_order_once_for_each_folder_at_most(
    tmp_path, monkeypatch, images, calls
):
    """Not for each file: 50,000 files in 800 folders then took minutes."""
    names = [f"{day}{i}" for day in "abc" for i in range(4)]
    texts = {f"{n[0]}/{n}.json": labelme_content(SHAPES, imagePath=f"{n}.jpg") for n in names}
    root = write(tmp_path, texts, [f"{images.format(name[0])}{name}.jpg" for name in names])
    looked, look = [], labelme.image_folders
    monkeypatch.setattr(labelme, "image_folders", lambda *a: looked.append(1) or look(*a))
    assert len(load_data(root, "all").records) == len(names)
    assert len(looked) == calls


def test_the_path_in_the_file_counts_from_its_folder(tmp_path):
    text = labelme_content(SHAPES, imagePath="../images/a.jpg")
    places = ("a/images", "b/images", "images", "b/json/images")
    root = write(tmp_path, {"b/json/a.json": text}, [f"{place}/a.jpg" for place in places])
    assert load_data(root, "b").records[0].path == str(root / "b/images/a.jpg")


def test_an_image_outside_is_not_taken(tmp_path):
    write_image(tmp_path / "other" / "a.jpg")
    text = labelme_content(SHAPES, imagePath="../other/a.jpg")
    with pytest.raises(DataError, match="no such image"):
        load_data(write(tmp_path / "mine", {"one.json": text}, ()), "all")


def test_size_comes_from_the_file_where_it_is_not_given(tmp_path):
    text = labelme_content(SHAPES, imageWidth=None, imageHeight=None)
    record = load_data(write(tmp_path, {"a.json": text}), "all").records[0]
    assert (record.width, record.height) == (60, 48)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"label": "cat", "points": [[1, 2]]}, "expected a label and points in shape 1"),
        ({"label": "cat", "points": "1,2,3,4"}, "expected a label and points"),
        (
            {"label": 3, "points": [[1, 2], [3, 4]], "group_id": None, "flags": {}, "mask": None},
            "expected a label and points in shape 1, found 3 and [[1, 2], [3, 4]]",
        ),
        ({"label": "cat", "points": [[1, 2], [3]]}, "expected a label and points"),
        ({"label": "cat", "points": [[1, 2], [3, float("nan")]]}, "expected a label and points"),
        ({"label": 3, "points": [[1, 2], [3, 4]]}, "expected a label and points"),
        ({"label": "a\nb", "points": [[1, 2], [3, 4]]}, "expected a label and points"),
        (7, "expected a label and points"),
    ],
)
def test_a_bad_shape_is_named_in_one_line(tmp_path, shape, message):
    content = json.loads(labelme_content(SHAPES[:1]))
    content["shapes"].append(shape)
    root = write(tmp_path, {"a.json": json.dumps(content)})
    with pytest.raises(DataError, match=r"a\.json: ") as caught:
        load_data(root, "all")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    findings = Findings(collect=True)
    assert len(load_data(root, "all", findings=findings).records[0].labels) == 1
    assert findings.errors == {"malformed annotations": 1}


def test_a_damaged_file_is_named_and_another_json_passed_over(tmp_path):
    root = write(tmp_path, {"a.json": labelme_content(SHAPES), "package.json": '{"name": "x"}'})
    assert len(load_data(root, "all").records) == 1
    (root / "b.json").write_text(labelme_content(SHAPES)[:-9])
    with pytest.raises(DataError, match=r"b\.json: not JSON"):
        load_data(root, "all")
