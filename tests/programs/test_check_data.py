# SPDX-License-Identifier: Apache-2.0
"""check_data.py: every planted fault is found; the recall of the priors is that of trying all."""

import json
import os
import struct
from collections import Counter
from functools import partial

import cv2
import numpy as np
import pytest

import check_data
from src.box_utils import iou_matrix, xyxy_to_cxcywh
from src.config import get_config
from src.data import checks
from src.data.coco_utils import load_data
from src.data.records import Findings, columns_of
from src.priors import best_iou, make_priors, map_sizes, prior_shapes_per_cell
from src.programs import arguments
from src.utils import run_main
from tests.datasets import (
    SHARED,
    coco_content,
    labelme_content,
    voc_xml,
    write_coco,
    write_image,
    write_texts,
    write_voc,
)


def run(root, *options, output=None):
    return check_data.main([str(root), "--output", str(output or root / "p.png"), *options])


def test_a_sound_data_set_passes_and_gets_its_picture(tmp_path, capsys):
    rows = [(1, 3, [5, 5, 30, 30]), (1, 7, [0, 0, 60, 48], 1)]
    root = write_coco(tmp_path, coco_content(["a.jpg", "b.png"], rows))
    write_image(root / "train2017" / "b.png", value=10)
    assert run(root, output=tmp_path / "out" / "report.png") == 0
    text = capsys.readouterr().out
    assert "images 2, of them 1 without boxes" in text
    assert "boxes 2, of them 1 ignored" in text
    assert "cat 1, dog 1" in text
    assert "nothing wrong" in text
    picture = cv2.imread(str(tmp_path / "out" / "report.png"))
    assert picture.shape[0] > 800
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_pictures_are_written_where_it_is_told_and_named(tmp_path, capsys, monkeypatch):
    for split in ("train2017", "val2017"):
        path = f"annotations/instances_{split}.json"
        root = write_coco(tmp_path / "data", coco_content(), split, path)
    monkeypatch.chdir(tmp_path)
    quick = [str(root), "--images", "none"]
    for options, expected in (
        ([], ["check_output/train2017.png", "check_output/val2017.png"]),
        (["--output", "here"], ["here/train2017.png", "here/val2017.png"]),
        (["--output", "one.png", "--split", "val"], ["one.png"]),
        (["--output", "two.png"], ["two_train2017.png", "two_val2017.png"]),
    ):
        assert check_data.main([*quick, *options]) == 0
        named = [row for row in capsys.readouterr().out.splitlines() if "  picture: " in row]
        assert [row.split(": ")[1] for row in named] == expected
        assert all((tmp_path / path).is_file() for path in expected)


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    root = write_coco(tmp_path / "data", coco_content())
    with pytest.raises(NotADirectoryError, match="file"):  # exit code 2
        run(root, output=tmp_path / "file" / "out")
    assert "matched by" not in capsys.readouterr().out


def test_it_looks_with_the_preset_that_is_trained(tmp_path, capsys, monkeypatch):
    root = write_coco(tmp_path, coco_content(boxes=[(1, 3, [5, 5, 30, 30])]))
    for device, preset in (("CPU", "m2det_small"), ("GPU", "m2det512_vgg16")):
        monkeypatch.setattr(arguments, "device_there", lambda device=device: device)
        assert run(root, "--images", "none") == 0
        assert f"by the priors of {preset} at" in capsys.readouterr().out
    assert run(root, "--images", "none", "--config", "m2det_tiny") == 0
    assert "by the priors of m2det_tiny at" in capsys.readouterr().out


@pytest.mark.parametrize("style", ["yolo", "labelme", "csv"])
def test_other_formats(tmp_path, capsys, style):
    image, text = "train/a.jpg", "0 0.5 0.5 0.5 0.5\n"
    files = {
        "yolo": {"train/a.txt": text, "data.yaml": "train: train\nnames: [cat]\n"},
        "labelme": {"train/a.json": labelme_content([("cat", "rectangle", [[1, 2], [9, 9]])])},
        "csv": {"train.csv": f"{image},1,2,9,9,cat\n"},
    }
    root = write_texts(tmp_path, files[style])
    write_image(root / image)
    assert run(root) == 0
    text = capsys.readouterr().out
    assert f"({style})" in text
    assert "cat 1" in text


def test_names_that_are_not_utf_8(tmp_path, capfd):
    root = write_texts(tmp_path, {"data.yaml": "train: images\nnames: [cat]\n"})
    image = write_image(root / "images" / "a.jpg")
    odd = os.fsencode(root) + b"/images/\xff.jpg"
    os.rename(image, odd)
    (root / "labels").mkdir()
    with open(os.fsencode(root) + b"/labels/\xff.txt", "w") as file:
        file.write("0 0.9 0.5 0.5 0.5\n")
    assert run(root) == 0
    text = capfd.readouterr().out
    assert "1 boxes clipped to the image" in text
    assert "\\udcff.jpg" in text


def test_the_report_fits_a_terminal(coco_tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(coco_tiny.parent)  # paths are as long as they are
    flags = [coco_tiny.name, "--images", "none", "--suggest_anchors", "--config", "m2det_tiny"]
    check_data.main([*flags, "--output", str(tmp_path)])
    rows = [row for row in capsys.readouterr().out.splitlines() if "/" not in row]
    assert len(rows) > 20
    assert max(map(len, rows)) <= 80


def test_anchors_are_suggested(tmp_path, capsys):
    rows = [(1, 3, [x, 10, 5, 5]) for x in range(0, 50, 10)]  # 5 of 60 pixels
    root = write_coco(tmp_path, coco_content(["a.jpg"], rows))
    assert run(root, "--config", "m2det_tiny", "--images", "none", "--suggest_anchors") == 0
    rows = capsys.readouterr().out.splitlines()
    lines = [row for row in rows if row.startswith("  anchors")]
    shares = [float(row.split(": ")[1].split("%")[0]) for row in lines]
    assert shares[1] > shares[0]
    sets = [row for row in rows if "--set anchors.scales=" in row]
    assert [row.count(",") for row in sets] == [4, 4]  # five scales: four maps and one more
    root = write_coco(tmp_path / "empty", coco_content(["a.jpg"]))
    assert run(root, "--images", "none", "--suggest_anchors") == 0
    assert "no boxes to fit anchors to" in capsys.readouterr().out


def faulty(tmp_path):
    """A data set with one of everything; returns its root and what should be found."""
    names = [f"{i}.jpg" for i in range(9)]
    rows = [
        (1, 3, [5, 5, 20, 20]),
        (1, 3, [5, 5, 20, 20]),  # duplicate
        (1, 3, [5, 5, 0, 20]),  # zero area
        (1, 3, [float("nan"), 5, 20, 20]),
        (1, 3, [70, 5, 20, 20]),  # outside
        (1, 3, [50, 5, 20, 20]),  # clipped
        (1, 99, [5, 5, 20, 20]),  # unknown category
        (77, 3, [5, 5, 20, 20]),  # unknown image
    ]
    content = coco_content(names, rows)
    content["images"].append({"id": 50, "file_name": "../x.jpg", "width": 60, "height": 48})
    root = write_coco(tmp_path, content, None)
    folder = root / "train2017"
    for i, name in enumerate(names):
        write_image(folder / name, value=20 * i)
    (folder / "1.jpg").write_bytes(b"no image")
    (folder / "2.jpg").write_bytes((folder / "2.jpg").read_bytes()[:-40])
    write_image(folder / "3.jpg", 30, 30)
    (folder / "4.jpg").unlink()
    (folder / "5.jpg").write_bytes((folder / "0.jpg").read_bytes())
    data = write_image(folder / "6.jpg", 48, 60, value=3).read_bytes()
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    exif = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    (folder / "6.jpg").write_bytes(data[:2] + exif + data[2:])
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 20000, 20000) + b"\x08\0\0\0\0IEND"
    (folder / "7.jpg").write_bytes(bomb)
    expected = {
        "error": {
            "unreadable images": 1,
            "truncated images": 1,
            "oversized images": 1,
            "mis-sized images": 1,
            "missing images": 1,
            "unsafe paths": 1,
            "non-finite boxes": 1,
            "boxes of unknown categories": 1,
            "boxes of unknown images": 1,
        },
        "warning": {
            "duplicate images": 1,
            "EXIF-rotated images": 1,
            "zero-area boxes": 1,
            "boxes outside the image": 1,
            "boxes clipped to the image": 1,
            "duplicate boxes": 1,
        },
    }
    return root, expected


def reported(text):
    """{"error": {kind: count}, "warning": ...} from the lines of a report."""
    found = {"error": {}, "warning": {}}
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in ("error:", "warning:"):
            found[words[0][:-1]][" ".join(words[2:])] = int(words[1])
    return found


def test_every_planted_fault_is_found_and_named(tmp_path, capsys):
    root, expected = faulty(tmp_path)
    assert run(root) == 1
    text = capsys.readouterr().out
    assert reported(text) == expected
    for name in ("1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "6.jpg", "7.jpg", "../x.jpg"):
        assert name in text


def test_without_opening_images_only_annotations_are_judged(tmp_path, capsys):
    root, expected = faulty(tmp_path)
    assert run(root, "--images", "none") == 1
    opened = ("unreadable", "truncated", "oversized", "mis-sized", "duplicate images", "EXIF")
    for group in expected.values():
        for kind in [k for k in group if k.startswith(opened)]:
            del group[kind]
    assert reported(capsys.readouterr().out) == expected


def test_what_training_repairs_fails_only_when_strict(tmp_path):
    root = write_coco(tmp_path, coco_content(boxes=[(1, 3, [5, 5, 20, 20]), (1, 3, [1, 1, 0, 3])]))
    assert run(root) == 0
    assert run(root, "--strict") == 1


def test_a_split_that_cannot_be_trained_on_is_reported(tmp_path, capsys):
    root = write_coco(tmp_path, coco_content(boxes=[(1, 3, [1, 1, 0, 3])]))
    assert run(root) == 0
    assert "1 splits without a box to train on" in capsys.readouterr().out
    assert run(root, "--strict") == 1


def test_an_image_in_two_splits_is_reported(tmp_path, capsys):
    write_coco(tmp_path, coco_content(boxes=[(1, 3, [5, 5, 20, 20])]))
    path = "annotations/instances_val2017.json"
    root = write_coco(tmp_path, coco_content(["b.jpg"]), "val2017", path)
    assert run(root) == 0
    assert "1 images of two splits" in capsys.readouterr().out


def test_one_file_in_two_splits_is_reported(tmp_path, capsys):
    files = {name: voc_xml([("cat", (1, 1, 30, 30))]) for name in "abc"}
    root = write_voc(tmp_path, files, {"train": ["a", "b"], "val": ["b", "c"]})
    for value, name in enumerate("abc"):
        write_image(root / "JPEGImages" / f"{name}.jpg", value=99 * value)
    assert run(root) == 0
    text = capsys.readouterr().out
    assert "1 images of two splits" in text
    assert "b.jpg: the file is in another split too" in text


def test_one_folder_that_data_yaml_names_twice_is_as_it_was_meant(tmp_path, capsys):
    texts = {"data.yaml": "train: images\nval: images\nnames: [cat]\n"}
    root = write_texts(tmp_path, texts)
    for i in range(3):
        write_image(root / "images" / f"{i}.jpg", value=50 * i)
        write_texts(root, {f"labels/{i}.txt": "0 0.5 0.5 0.5 0.5\n"})
    assert run(root) == 0
    assert "two splits" not in capsys.readouterr().out
    write_texts(root, {"t.txt": "images/0.jpg\nimages/1.jpg\n", "v.txt": "images/1.jpg\n"})
    write_texts(root, {"data.yaml": "train: t.txt\nval: v.txt\nnames: [cat]\n"})
    assert run(root) == 0
    assert "1 images of two splits" in capsys.readouterr().out


def test_an_undivided_data_set_shares_no_images(tmp_path, capsys):
    names = [f"{i:02}.jpg" for i in range(20)]
    content = coco_content(names, [(1, 3, [5, 5, 20, 20])])
    root = write_coco(tmp_path, content, "images", "labels.json")
    for i, name in enumerate(names):
        write_image(root / "images" / name, value=10 * i)
    assert run(root, "--split", "train", "val", "all") == 0
    assert "two splits" not in capsys.readouterr().out
    write_image(root / "images" / names[9], value=0)  # held out, and a copy of the first
    assert run(root) == 0
    assert "1 images of two splits" in capsys.readouterr().out


def test_pascal_voc_and_a_chosen_split(tmp_path, capsys):
    files = {"a": voc_xml([("cat", (1, 1, 30, 30))]), "b": "<annotation"}
    root = write_voc(tmp_path, files, {"train": ["a"], "odd": ["b", "c"]})
    assert run(root, "--split", "train") == 0
    assert run(root, "--split", "odd") == 1
    text = capsys.readouterr().out
    assert "1 bad XML files" in text
    assert "1 missing XML files" in text


@pytest.mark.parametrize(("content", "message"), [("", "no annotations"), ("{", "not JSON")])
def test_what_cannot_be_read_at_all_is_one_line(tmp_path, capsys, content, message):
    root = tmp_path / "data"
    root.mkdir()
    if content:
        (root / "instances_train2017.json").write_text(content)
    assert run(root) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


def test_what_is_not_there_is_no_fault_of_the_data(tmp_path, capsys):
    root = write_coco(tmp_path / "data", coco_content())
    for flags in ([str(tmp_path / "none")], [str(root), "--split", "odd"]):
        with pytest.raises(SystemExit) as ended:
            run_main(partial(check_data.main, [*flags, "--output", str(tmp_path / "out")]))
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")
        assert not (tmp_path / "out").exists()


def test_the_folder_may_be_given_as_in_train_py(tmp_path, capsys):
    root = str(write_coco(tmp_path / "data", coco_content()))
    output = ["--output", str(tmp_path / "out"), "--images", "none"]
    codes = [check_data.main([*words, *output]) for words in ([root], ["--dataset_path", root])]
    assert codes[0] == codes[1]
    for words in ([], [root, "--dataset_path", root]):
        with pytest.raises(SystemExit):
            check_data.main([*words, *output])
        assert "name the data set's folder, once" in capsys.readouterr().err


def test_prior_recall_is_what_trying_every_prior_gives():
    config = get_config("m2det320_vgg16")
    priors, sizes = make_priors(config), map_sizes(config.model)
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.9, (300, 2))
    high = np.minimum(low + rng.uniform(0.01, 0.9, (300, 2)), 1)
    boxes = np.concatenate([low, high], axis=1).astype(np.float32)
    per_cell = prior_shapes_per_cell(config.anchors, len(sizes))
    found = best_iou(xyxy_to_cxcywh(boxes), priors, sizes, per_cell)
    half = priors[:, 2:] / 2
    corners = np.concatenate([priors[:, :2] - half, priors[:, :2] + half], axis=1)
    np.testing.assert_allclose(found, iou_matrix(boxes, corners).max(axis=1), atol=1e-5)


def test_prior_recall_counts_by_size(tmp_path):
    rows = [(1, 3, [0, 0, 10, 10]), (1, 3, [0, 0, 40, 40]), (1, 3, [9, 9, 8, 8], 1)]
    data = load_data(write_coco(tmp_path, coco_content(boxes=rows)), "train")
    columns = columns_of(data)
    iou = np.array([0.4, 0.6, 0.9], np.float32)
    small, medium, large = checks.prior_recall_by_coco_size(columns, iou, 0.5)
    assert (small.total, small.matched, small.recall) == (1, 0, 0.0)  # the crowd does not count
    assert (medium.total, medium.matched) == (1, 1)
    assert large.total == 0
    # In an input of 240 pixels: 10 x 10 of 60 x 48 becomes 40 x 50, 40 x 40 becomes 160 x 200.
    rows = checks.prior_recall_by_side(columns, iou, 0.5, 240)
    assert {row.name: row.total for row in rows if row.total} == {"32-64": 1, "128-256": 1}


def test_duplicate_boxes_are_those_of_the_same_image_and_class(tmp_path):
    rows = [(1, 3, [1, 1, 5, 5])] * 3 + [(1, 7, [1, 1, 5, 5]), (2, 3, [1, 1, 5, 5])]
    data = load_data(write_coco(tmp_path, coco_content(["a.jpg", "b.jpg"], rows)), "train")
    findings = Findings(collect=True)
    checks.find_duplicate_boxes(data, columns_of(data), findings)
    assert findings.counts == Counter({"duplicate boxes": 2})


@pytest.mark.parametrize(("name", "boxes"), [("coco_tiny", "705"), ("bccd", "2804")])
def test_real_data_pass(tmp_path, capsys, name, boxes):
    if not (SHARED / "data" / name).is_dir():
        pytest.skip("the shared data are not there")
    options = ["--split", "train", "--images", "header"]
    assert run(SHARED / "data" / name, *options, output=tmp_path / "p.png") == 0
    assert f"boxes {boxes}" in capsys.readouterr().out


def test_the_report_survives_names_opencv_cannot_draw(tmp_path):
    content = coco_content(boxes=[(1, 1, [5, 5, 20, 20])], categories=[{"id": 1, "name": "кошка"}])
    assert run(write_coco(tmp_path, json.loads(json.dumps(content)))) == 0


def test_a_reader_that_leaves_early_is_no_error_of_the_data(tmp_path, monkeypatch):
    """`check_data.py ... | head -1`: `run_main` ends it quietly."""

    def closed(*_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("src.programs.check.print_numbers", closed)
    with pytest.raises(BrokenPipeError):
        run(write_coco(tmp_path, coco_content()), "--images", "none")
