# SPDX-License-Identifier: Apache-2.0
"""check_data.py goes on after a fault, and names each by file, value and what was expected."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from src.data.records import MissingData
from tests.datasets import (
    coco_content,
    labelme_content,
    voc_xml,
    write_coco,
    write_image,
    write_texts,
    write_voc,
    write_yolo,
)
from tests.programs.test_check_data import reported, run


def test_label_files_that_cannot_be_read_are_counted_and_the_others_checked(tmp_path, capsys):
    files = {f"images/train/{name}.jpg": "0 0.5 0.5 0.5 0.5\n" for name in "abcd"}
    root = write_yolo(tmp_path, files, {"data.yaml": "train: images/train\nnames: [cat]\n"})
    for name in "ab":
        (root / "labels" / "train" / f"{name}.txt").write_bytes(b"\xff\xfe\0")
    (root / "labels" / "train" / "c.txt").write_text("x\n")
    assert run(root, "--images", "none") == 1
    text = capsys.readouterr().out
    assert reported(text)["error"] == {"unreadable labels": 2, "malformed labels": 1}
    assert "a.txt: cannot be read as text" in text
    assert "b.txt: cannot be read as text" in text
    assert "cat 1" in text


@pytest.mark.parametrize("style", ["coco", "voc", "yolo", "labelme", "csv"])
def test_an_undivided_data_set_of_few_images_is_all_for_training(tmp_path, capsys, style):
    root = tmp_path / "data"
    shape = ("cat", "rectangle", [[1, 2], [9, 9]])
    texts = {
        "coco": {"coco.json": json.dumps(coco_content(boxes=[(1, 3, [1, 1, 9, 9])]))},
        "voc": {"a.xml": voc_xml([("cat", (1, 1, 9, 9))])},
        "yolo": {"classes.txt": "cat\n", "a.txt": "0 0.5 0.5 0.5 0.5\n"},
        "labelme": {"a.json": labelme_content([shape])},
        "csv": {"boxes.csv": "a.jpg,1,2,9,9,cat\n"},
    }
    write_image(write_texts(root, texts[style]) / "a.jpg")
    assert run(root, output=tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert f"split train ({style})" in captured.out
    assert "images 1, of them 0 without boxes" in captured.out
    assert "under 10 images, so none is held out for 'val'" in captured.out
    assert "error" not in captured.err
    with pytest.raises(MissingData, match="none is held out"):
        run(root, "--split", "val", output=tmp_path / "out")


def test_a_bad_file_that_is_all_of_the_held_out_part_is_a_fault(tmp_path):
    shape = ("cat", "rectangle", [[1, 2], [9, 9]])
    for number in range(10):
        write_image(tmp_path / f"{number}.jpg")
        text = labelme_content([shape], imagePath=f"{number}.jpg") if number < 9 else "{"
        write_texts(tmp_path, {f"{number}.json": text})
    assert run(tmp_path, "--images", "none") == 1


def test_what_is_wrong_with_an_object_of_voc_is_named_with_its_value(tmp_path, capsys):
    rows = [("dog", ("x", 1, 9, 9)), ("cat", (1, 1, 9, "")), (" ", (1, 1, 9, 9))]
    text = voc_xml([*rows, ("cow", (1, 1, 9, 9))]).replace("<xmax>9</xmax>", "", 2)
    assert run(write_voc(tmp_path, {"a": text}, {"train": ["a"]})) == 1
    found = capsys.readouterr().out
    assert reported(found)["error"] == {"malformed annotations": 3}
    for said in (
        "a.xml: expected a number as <xmin> of 'dog', found 'x'",
        "a.xml: expected a number as <xmax> of 'cat', found nothing",
        "a.xml: expected a printable text as <name> of an object, found ''",
    ):
        assert said in found


def test_ids_of_coco_that_are_texts_are_named_with_what_was_expected(tmp_path, capsys):
    content = coco_content(["a.jpg", "b.jpg"], [(1, 3, [5, 5, 20, 20])] * 4)
    content["images"][1]["id"] = "b7"
    content["categories"][0]["id"] = "dog"
    content["annotations"][1]["image_id"] = "b7"
    content["annotations"][2]["category_id"] = "dog"
    content["annotations"][3]["bbox"] = "5 5 20 20"
    assert run(write_coco(tmp_path, content)) == 1
    found = capsys.readouterr().out
    for said in (
        "category {'id': 'dog', 'name': 'dog'}: expected a whole number as id, found 'dog'",
        "expected a whole number as id, found 'b7'",
        "annotation 2: expected a whole number as image_id, found 'b7'",
        "annotation 3: expected a whole number as category_id, found 'dog'",
        "annotation 4: expected [x, y, width, height] as bbox, found '5 5 20 20'",
    ):
        assert said in found


def test_odd_files_are_named_once_and_decoders_print_nothing(tmp_path, capfd):
    root = write_texts(tmp_path, {"data.yaml": "train: images\nnames: [cat]\n"})
    folder = root / "images"
    noise = np.random.default_rng(0).integers(0, 255, (48, 60, 3)).astype(np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    contents = {
        "sound.jpg": whole,
        "grey_end.jpg": whole[:-900] + b"\xff\xd9",  # libjpeg fills the end with grey
        "cut.jpg": whole[:-900],
        "gif.jpg": b"GIF89a" + bytes(20),
        "empty.jpg": b"",
    }
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    Image.fromarray(np.zeros((48, 60), np.int32)).save(folder / "32bit.tif")
    (folder / "folder.jpg").mkdir()
    (folder / "gone.jpg").symlink_to("none.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    for path in list(folder.iterdir()):
        write_texts(root, {f"labels/{path.stem}.txt": "0 0.5 0.5 0.5 0.5\n"})
    assert run(root) == 1
    printed = capfd.readouterr()
    assert reported(printed.out) == {
        "error": {"truncated images": 1, "unreadable images": 3},
        "warning": {"images with damaged data": 1, "labels without an image": 3},
    }
    for name in ("grey_end.jpg: Corrupt JPEG data", "cut.jpg: truncated", "gif.jpg: it is not a"):
        assert printed.out.count(name) == 1
    for name in ("empty.jpg: it is empty", "32bit.tif: cannot be decoded", "labels/loop.txt"):
        assert printed.out.count(name) == 1
    assert [row for row in printed.err.splitlines() if " images, " not in row] == []
