# SPDX-License-Identifier: Apache-2.0
"""Reading YOLO data sets as Ultralytics, Roboflow, LabelImg and Darknet lay them out."""

import cv2
import numpy as np
import pytest

from src.data.annotations.coco import ground_truth
from src.data.coco_utils import DataError, find_splits, load_data
from src.data.images import read_image
from src.data.records import Findings
from tests.datasets import write_image, write_texts, write_yolo

YAML = "path: ../datasets/mine\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
ROBOFLOW = (
    "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
    "names: ['cat', 'dog']\n\nroboflow:\n  workspace: x\n  version: 3\n"
)
# Centre (0.5, 0.25), a quarter of the width and half of the height of 60 x 48 pixels.
LINE = "1 0.5 0.25 0.25 0.5\n"
BOX = [22.5, 0.0, 37.5, 24.0]


def names_of(data):
    return [row.path.rsplit("/", 1)[1] for row in data.records]


def test_centre_and_size_become_corners_in_pixels(tmp_path):
    files = {"images/train/a.jpg": LINE + "0 .1 .5 .2 .25\n\n", "images/val/b.jpg": ""}
    data = load_data(write_yolo(tmp_path, files, {"data.yaml": YAML}), "train")
    record = data.records[0]
    np.testing.assert_allclose(record.boxes_px, [BOX, [0, 18, 12, 30]], atol=1e-5)
    assert record.labels.tolist() == [2, 1]
    assert (record.width, record.height, record.image_id) == (60, 48, 1)
    assert (data.class_names, data.category_ids) == (("cat", "dog"), (1, 2))
    assert (data.style, data.split) == ("yolo", "train")
    assert data.annotation_path == str(tmp_path / "data.yaml")
    assert data.dropped == {}
    val = load_data(tmp_path, "val")
    assert names_of(val) == ["b.jpg"]
    assert val.records[0].boxes_px.shape == (0, 4)
    assert val.class_names == data.class_names


def test_polygons_and_oriented_boxes_give_the_box_around_them(tmp_path):
    lines = "0 0.1 0.5 0.3 0.25 0.5 1.0\n1 0.2 0.2 0.4 0.1 0.5 0.3 0.3 0.4\n"
    data = load_data(
        write_yolo(tmp_path, {"images/train/a.jpg": lines}, {"data.yaml": YAML}), "train"
    )
    expected = [[6, 12, 30, 48], [12, 4.8, 30, 19.2]]
    np.testing.assert_allclose(data.records[0].boxes_px, expected, atol=1e-5)


def test_keypoints_after_the_box_are_passed_over(tmp_path):
    text = YAML + "kpt_shape: [1, 2]\n"
    files = {"images/train/a.jpg": LINE.strip() + " 0.9 0.9\n"}
    data = load_data(write_yolo(tmp_path, files, {"data.yaml": text}), "train")
    np.testing.assert_allclose(data.records[0].boxes_px, [BOX])


def test_roboflow_export(tmp_path):
    files = {f"{part}/images/{part}.jpg": LINE for part in ("train", "valid", "test")}
    root = write_yolo(tmp_path, files, {"data.yaml": ROBOFLOW, "README.roboflow.txt": "x"})
    found = {split: names_of(load_data(root, split)) for split in ("train", "val", "test")}
    assert found == {"train": ["train.jpg"], "val": ["valid.jpg"], "test": ["test.jpg"]}
    assert find_splits(root) == ["test", "train", "val"]


def test_a_byte_order_mark_before_the_names_does_no_harm(tmp_path):
    root = write_yolo(tmp_path, {"images/a.jpg": LINE}, {"data.yaml": "\ufeffnames: [cat, dog]\n"})
    assert load_data(root, "train").class_names == ("cat", "dog")


def test_a_split_of_data_yaml_that_is_not_there(tmp_path):
    root = write_yolo(tmp_path, {"train/images/a.jpg": LINE}, {"data.yaml": ROBOFLOW})
    assert find_splits(root) == ["train"]
    with pytest.raises(DataError, match="no split 'val'; found train"):
        load_data(root, "val")


@pytest.mark.parametrize(
    ("train", "base"),
    [
        ("images/train", ""),
        ("./images/train/", "."),
        ("/home/me/sets/mine/images/train", ""),
        ("images\\train", "C:\\sets"),
        ("images/train", "/gone/elsewhere"),
        ("train.txt", ""),
        ("[images/train]", ""),
    ],
)
def test_paths_in_data_yaml_count_from_the_data_set(tmp_path, train, base):
    text = f"path: {base}\ntrain: {train}\nnames: [cat, dog]\n"
    listed = "./images/train/a.jpg\n/content/mine/images/train/deep/b.jpg\n"
    files = {"images/train/a.jpg": LINE, "images/train/deep/b.jpg": LINE}
    root = write_yolo(tmp_path, files, {"set.yaml": text, "train.txt": listed})
    data = load_data(root, "train")
    assert names_of(data) == ["a.jpg", "b.jpg"]
    assert [len(row.labels) for row in data.records] == [1, 1]


def test_paths_never_lead_out_of_the_data_set(tmp_path):
    write_yolo(tmp_path / "other", {"images/a.jpg": LINE})
    text = "train: ../other/images\nnames: [cat, dog]\n"
    root = write_yolo(tmp_path / "mine", {"pictures/b.jpg": LINE}, {"data.yaml": text})
    with pytest.raises(DataError, match=r"data\.yaml: found nothing below .* ../other/images"):
        load_data(root, "train")


def test_two_splits_that_turn_out_to_be_one_are_refused(tmp_path):
    text = "train: ../a/images\nval: ../b/images\nnames: [cat, dog]\n"
    root = write_yolo(tmp_path, {"images/a.jpg": LINE}, {"data.yaml": text})
    with pytest.raises(DataError, match=r"data\.yaml: '../a/images' and '../b/images' are both"):
        load_data(root, "train")


def test_folders_named_as_splits_do_without_data_yaml(tmp_path):
    files = {"images/train/a.jpg": LINE, "images/val/b.jpg": LINE}
    root = write_yolo(tmp_path, files, {"classes.txt": "cat\ndog\n"})
    assert names_of(load_data(root, "train")) == ["a.jpg"]
    assert names_of(load_data(root, "val")) == ["b.jpg"]


@pytest.mark.parametrize("folder", ["images/", "", "obj_train_data/"])
def test_an_undivided_data_set_validates_on_every_tenth_image(tmp_path, folder):
    files = {f"{folder}{i:02}.jpg": LINE for i in range(10)}
    root = write_yolo(tmp_path, files, {"obj.names": "cat\ndog\n"})
    assert len(load_data(root, "train").records) == 9
    assert names_of(load_data(root, "val")) == ["09.jpg"]
    assert load_data(root, "val").records[0].labels.tolist() == [2]


@pytest.mark.parametrize(
    "names", [("Images", "Labels"), ("IMAGES", "LABELS"), ("Images", "labels")]
)
def test_folders_may_be_written_in_capitals(tmp_path, names):
    images, labels = names
    for split in ("train", "val"):
        write_image(tmp_path / images / split / "a.jpg")
        write_texts(tmp_path, {f"{labels}/{split}/a.txt": LINE})
    write_texts(tmp_path, {"classes.txt": "cat\ndog\n"})
    assert load_data(tmp_path, "train").records[0].boxes_px.tolist() == [BOX]


def test_lists_of_images_as_darknet_has_them(tmp_path):
    files = {f"obj_train_data/{name}.jpg": LINE for name in "abc"}
    texts = {
        "obj.names": "cat\ndog\n",
        "train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n",
        "valid.txt": "data/obj_train_data/c.jpg\n",
    }
    root = write_yolo(tmp_path, files, texts)
    assert names_of(load_data(root, "train")) == ["a.jpg", "b.jpg"]
    assert names_of(load_data(root, "val")) == ["c.jpg"]
    (root / "obj_train_data" / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"b\.jpg: no such image.*train\.txt \(1 of 2 missing\)"):
        load_data(root, "train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "expected 'class x_centre y_centre width height'"),
        ("cat 0.5 0.5 0.1 0.1", "expected 'class x_centre"),
        ("0,0.5,0.5,0.1,0.1", "expected 'class x_centre"),
        ("0 0.5 0.5 0.1 0.1 0.9", "expected 'class x_centre"),
        ("0.5 0.5 0.5 0.1 0.1", "expected 'class x_centre"),
        ("0 30 24 10 10", "expected shares of the image's width and height, from 0 to 1"),
        ("2 0.5 0.5 0.1 0.1", "class 2, but there are 2, counted from 0"),
        ("-1 0.5 0.5 0.1 0.1", "class -1"),
        ("inf 0.5 0.5 0.1 0.1", "expected 'class"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(tmp_path, line, message):
    files = {"images/train/a.jpg": LINE + line + "\n"}
    root = write_yolo(tmp_path, files, {"data.yaml": YAML})
    with pytest.raises(DataError, match=r"labels/train/a\.txt:2: ") as caught:
        load_data(root, "train")
    assert message in str(caught.value)
    findings = Findings(collect=True)
    assert len(load_data(root, "train", findings=findings).records[0].labels) == 1
    assert findings.errors == {"malformed labels": 1}


def test_boxes_are_repaired_as_in_other_formats(tmp_path):
    lines = "0 0.95 0.5 0.2 0.1\n0 0.5 0.5 0 0.1\n0 nan 0.5 0.1 0.1\n0 1.5 0.5 0.1 0.1\n"
    root = write_yolo(tmp_path, {"images/train/a.jpg": lines}, {"data.yaml": YAML})
    data = load_data(root, "train")
    np.testing.assert_allclose(data.records[0].boxes_px, [[51, 21.6, 60, 26.4]], atol=1e-5)
    assert data.dropped == {
        "boxes clipped to the image": 1,
        "zero-area boxes": 1,
        "non-finite boxes": 1,
        "boxes outside the image": 1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat, dog\n", "not YAML"),
        ("names: 3\n", "expected names as a list"),
        ("names: {1: cat, 2: dog}\n", "expected names as a list, or by number from 0"),
        ("names: []\n", "expected names as a list"),
        ("nc: 3\nnames: [cat, dog]\n", "nc is not the number of names, 2"),
        ("names: [cat, cat]\n", "name of class 1 is repeated"),
        ('names: [cat, "a\\nb"]\n', "name of class 1 is not a printable text"),
        ("names: [cat, [dog]]\n", "name of class 1 is not a printable text"),
        ("names: [cat, dog]\ntrain: {a: b}\n", "expected a folder or a list file as 'train'"),
    ],
)
def test_a_data_yaml_that_makes_no_sense_is_one_line(tmp_path, text, message):
    root = write_yolo(tmp_path, {"images/train/a.jpg": LINE}, {"data.yaml": text})
    with pytest.raises(DataError, match=r"data\.yaml: ") as caught:
        load_data(root, "train")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_texts_whatever_yaml_would_make_of_them(tmp_path):
    text = "names: [no, 007, null, 2024-01-01]\ntrain: images\n"
    data = load_data(write_yolo(tmp_path, {"images/a.jpg": ""}, {"data.yaml": text}), "train")
    assert data.class_names == ("no", "007", "null", "2024-01-01")


def test_labels_without_names_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no data\.yaml or classes\.txt"):
        load_data(write_yolo(tmp_path, {"images/a.jpg": LINE}), "train")


def test_a_split_without_label_files_has_no_truth(tmp_path):
    root = write_yolo(tmp_path, {"train/images/a.jpg": LINE}, {"data.yaml": ROBOFLOW})
    write_image(root / "test" / "images" / "b.jpg")
    assert load_data(root, "train").annotated
    assert not load_data(root, "test").annotated


@pytest.mark.parametrize("linked", ["images", "labels", "labels/train", "labels/train/a.txt"])
def test_a_link_out_of_the_data_set_is_refused_unless_allowed(tmp_path, linked):
    root = write_yolo(tmp_path / "root", {"images/train/a.jpg": LINE}, {"data.yaml": YAML})
    (root / linked).rename(tmp_path / "elsewhere")
    (root / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=rf"{linked}: a link out of .*allow_links=true"):
        load_data(root, "train")
    assert len(load_data(root, "train", allow_links=True).records[0].labels) == 1


def test_labels_without_an_image_are_counted(tmp_path):
    files = {"images/train/a.jpg": LINE, "images/val/b.jpg": LINE}
    texts = {"data.yaml": YAML, "labels/train/gone.txt": LINE, "labels/classes.txt": "cat\n"}
    data = load_data(write_yolo(tmp_path, files, texts), "train")
    assert data.dropped == {"labels without an image": 1}


@pytest.mark.parametrize("split", ["train", "val"])
def test_held_out_images_have_their_labels(tmp_path, split):
    files = {f"images/{i:02}.jpg": LINE for i in range(10)}
    root = write_yolo(tmp_path, files, {"labels/classes.txt": "cat\ndog\n"})
    assert load_data(root, split).dropped == {}


def test_roboflow_names_of_darknet(tmp_path):
    files = {"train/a.jpg": LINE, "valid/b.jpg": LINE}
    texts = {f"{part}/_darknet.labels": "cat\ndog\n" for part in ("train", "valid")}
    data = load_data(write_yolo(tmp_path, files, texts), "val")
    assert names_of(data) == ["b.jpg"]
    assert data.class_names == ("cat", "dog")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 48)])
def test_boxes_of_photographs_that_exif_turns_lie_on_their_objects(
    tmp_path, orientation, width, height
):
    root = write_yolo(tmp_path, {"images/train/a.jpg": ""}, {"data.yaml": YAML})
    path = root / "images" / "train" / "a.jpg"
    picture = np.zeros((height, width, 3), np.uint8)
    picture[8:24, 32:40] = 255
    whole = cv2.imencode(".jpg", picture)[1].tobytes()
    tag = bytes((0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0))
    exif = b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08" + tag
    path.write_bytes(whole[:2] + exif + whole[2:])
    shown = cv2.imread(str(path))  # as viewers do
    ys, xs = np.nonzero(shown[..., 0] > 128)
    box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / (shown.shape[1::-1] * 2)
    cx, cy, w, h = (*(box[:2] + box[2:]) / 2, *(box[2:] - box[:2]))
    (root / "labels" / "train" / "a.txt").write_text(f"0 {cx} {cy} {w} {h}\n")
    record = load_data(root, "train").records[0]
    read = read_image(record.path, (record.width, record.height))
    assert read.shape == (record.height, record.width, 3)
    x1, y1, x2, y2 = np.round(record.boxes_px[0]).astype(int)
    inside = read[y1:y2, x1:x2, 0]
    assert inside.size == 16 * 8
    assert (inside > 128).all()


def test_an_unreadable_image_is_passed_over_and_counted(tmp_path):
    files = {"images/train/a.jpg": LINE, "images/train/b.jpg": LINE}
    root = write_yolo(tmp_path, files, {"data.yaml": YAML})
    (root / "images" / "train" / "a.jpg").write_bytes(b"no image")
    data = load_data(root, "train")
    assert names_of(data) == ["b.jpg"]
    assert data.dropped == {"unreadable images": 1}


def test_eval_scores_against_the_boxes_in_pixels(tmp_path):
    root = write_yolo(tmp_path, {"images/train/a.jpg": LINE}, {"data.yaml": YAML})
    truth = ground_truth(load_data(root, "train"))
    assert truth["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert truth["annotations"] == [
        {"image_id": 1, "category_id": 2, "bbox": [22.5, 0, 15, 24], "area": 360}
        | {"iscrowd": 0, "id": 1}
    ]


def test_labels_that_are_not_text_are_named(tmp_path):
    root = write_yolo(tmp_path, {"images/train/a.jpg": LINE}, {"data.yaml": YAML})
    (root / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a\.txt: cannot be read as text"):
        load_data(root, "train")


def test_a_stray_yaml_file_is_no_data_set(tmp_path):
    write_texts(tmp_path, {"config.yaml": "lr: 0.1\n"})
    with pytest.raises(DataError, match="no annotations; expected"):
        load_data(tmp_path, "train")
