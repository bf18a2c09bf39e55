# SPDX-License-Identifier: Apache-2.0
"""MindRecord files give the same samples in the same order as the files they were made from."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from src.config import DataConfig
from src.data import dataset
from src.data import make_mindrecord as mindrecords
from src.data.annotations.coco import ground_truth
from src.data.coco_utils import load_data
from src.data.images import read_bytes, read_image
from src.data.mindrecord import MINDRECORD_ROWS, mindrecord_file
from src.data.records import ImageError
from src.data.sample_stream import SampleStream, Shard
from src.evaluation.coco_metrics import evaluate_coco
from tests.datasets import coco_content, voc_xml, write_coco, write_image, write_voc

ROOT = Path(__file__).resolve().parents[2]
PRIORS = np.array([[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.3, 0.3]], np.float32)


def make_coco(root):
    names = [f"{i} é.jpg" for i in range(9)]
    rows = [(i + 1, 3 + 4 * (i % 2), [3 + i, 4, 20.123, 22.7], int(i == 4)) for i in range(8)]
    write_coco(root, coco_content(names, rows))
    for i, name in enumerate(names):
        write_image(root / "train2017" / name, value=20 * i)
    return root


def stream(data):
    return SampleStream(data, {32: PRIORS}, DataConfig(), Shard(2, total_steps=9), seed=3)


def assert_same_samples(before, after):
    assert len(before.records) == len(after.records)
    for name in ("class_names", "category_ids", "split"):
        assert getattr(before, name) == getattr(after, name)
    a, b = stream(before), stream(after)
    for number in range(len(a)):
        for x, y in zip(a[number], b[number]):
            np.testing.assert_array_equal(x, y)


def test_the_same_samples_from_coco(tmp_path):
    before = load_data(make_coco(tmp_path / "files"), "train")
    mindrecords.write(before, tmp_path / "packed")
    after = load_data(tmp_path / "packed", "train")
    assert_same_samples(before, after)
    assert ground_truth(before)["annotations"] == ground_truth(after)["annotations"]
    assert evaluate_coco(after, [])["AP"] == 0
    assert not list((tmp_path / "packed").glob("**/*.jpg"))
    for old, new in zip(before.records, after.records):
        assert read_bytes(new.path) == Path(old.path).read_bytes()


def test_the_same_samples_from_voc(tmp_path):
    files = {
        str(i): voc_xml([("cat", (1 + i, 2, 30, 31)), ("dog", (3, 3, 9, 9), 1)])
        for i in range(1, 4)
    }
    before = load_data(write_voc(tmp_path / "files", files, {"train": "231"}), "train")
    mindrecords.write(before, tmp_path / "packed")
    after = load_data(tmp_path / "packed", "train")
    assert_same_samples(before, after)
    assert [row.ignore.tolist() for row in after.records] == [[False, True]] * 3


def test_several_files_and_groups(tmp_path, monkeypatch):
    for module in (
        "src.data.mindrecord",
        "src.data.make_mindrecord",
        "src.data.annotations.layout",
    ):
        monkeypatch.setattr(f"{module}.MINDRECORD_ROWS", 4)
    for module in ("src.data.mindrecord", "src.data.make_mindrecord"):
        monkeypatch.setattr(f"{module}.GROUP_ROWS", 3)
    before = load_data(make_coco(tmp_path / "files"), "train")
    mindrecords.write(before, tmp_path / "packed")
    assert len(list((tmp_path / "packed").glob("*.mindrecord"))) == 3
    assert_same_samples(before, load_data(tmp_path / "packed", "train"))


def test_worker_processes_read_for_themselves(tmp_path):
    before = load_data(make_coco(tmp_path / "files"), "train")
    mindrecords.write(before, tmp_path / "packed")
    after = load_data(tmp_path / "packed", "train")
    read_image(after.records[0].path)  # opened here before the workers start
    pipelines = [dataset.build_train_dataset(stream(data), 2) for data in (before, after)]
    both = [list(dataset.batches(pipeline)) for pipeline in pipelines]
    assert len(both[0]) == len(both[1]) == 9
    for first, second in zip(*both):
        for a, b in zip(first, second):
            np.testing.assert_array_equal(a, b)


def test_what_is_missing_is_named(tmp_path):
    data = load_data(make_coco(tmp_path / "files"), "train")
    mindrecords.write(data, tmp_path / "packed")
    with pytest.raises(ValueError, match="is already there"):
        mindrecords.write(data, tmp_path / "packed")
    path = load_data(tmp_path / "packed", "train").records[0].path
    with pytest.raises(ImageError, match="#99: cannot be read"):
        read_bytes(path.replace("#0", "#99"))
    assert mindrecord_file("x", MINDRECORD_ROWS) == "x-00001.mindrecord"
    (tmp_path / "packed" / mindrecord_file("train2017", 0)).unlink()
    with pytest.raises(ValueError, match="9 of 9 missing"):
        load_data(tmp_path / "packed", "train")


def test_links_out_of_the_data_set_are_followed_on_demand(tmp_path, capsys):
    make_coco(tmp_path / "files")
    (tmp_path / "files" / "train2017").rename(tmp_path / "elsewhere")
    (tmp_path / "files" / "train2017").symlink_to(tmp_path / "elsewhere")
    paths = [str(tmp_path / "files"), str(tmp_path / "packed")]
    assert mindrecords.main(paths) == 2
    said = capsys.readouterr().err
    assert "is not followed; --allow_links allows it" in said
    assert said.count("\n") == 1
    assert mindrecords.main([*paths, "--allow_links"]) == 0
    assert len(load_data(tmp_path / "packed", "train").records) == 9


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch, capsys):
    data = load_data(make_coco(tmp_path / "files"), "train")
    needed = sum(os.path.getsize(record.path) for record in data.records)
    usage, asked = shutil.disk_usage(tmp_path), []

    def nearly_full(path):
        asked.append(path)
        return usage._replace(free=needed - 1)

    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    assert mindrecords.main([str(tmp_path / "files"), str(tmp_path / "a" / "packed")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: {tmp_path / 'a' / 'packed'}: the images of train2017 need 0.0 MB"
    )
    assert said.count("\n") == 1
    assert asked == [tmp_path]
    assert not (tmp_path / "a").exists()


def test_an_undivided_set_of_few_images_is_written_whole(tmp_path, capsys):
    make_coco(tmp_path / "files")
    whole = tmp_path / "files" / "annotations" / "instances_train2017.json"
    whole.rename(tmp_path / "files" / "instances_default.json")
    paths = [str(tmp_path / "files"), str(tmp_path / "packed")]
    assert mindrecords.main(paths) == 0
    said = capsys.readouterr().out
    assert "instances_train.json: 9 images" in said
    assert "under 10 images" in said
    assert len(load_data(tmp_path / "packed", "train").records) == 9
    assert mindrecords.main([*paths, "val"]) == 2  # which was asked for


@pytest.mark.parametrize("name", ["cells", "cells_labels"])
def test_a_copy_of_an_undivided_data_set_is_divided_too(tmp_path, name):
    content = coco_content([f"{i:02}.jpg" for i in range(25)], [(1, 3, [0, 0, 9, 9])])
    root = write_coco(tmp_path / "files", content, "images", f"annotations/instances_{name}.json")
    assert mindrecords.main([str(root), str(tmp_path / "packed")]) == 0
    for split, count in (("train", 23), ("val", 2)):
        before, after = load_data(root, split), load_data(tmp_path / "packed", split)
        assert [row.image_id for row in after.records] == [row.image_id for row in before.records]
        assert len(after.records) == count
        read_image(after.records[-1].path)


def test_a_copy_of_one_list_of_voc_that_names_no_split_is_divided_too(tmp_path):
    stems = [f"{i:02}" for i in range(20)]
    files = dict.fromkeys(stems, voc_xml([("cat", (1, 2, 30, 31))]))
    root = write_voc(tmp_path / "files", files, {"default": stems})
    assert mindrecords.main([str(root), str(tmp_path / "packed")]) == 0
    sizes = [len(load_data(tmp_path / "packed", split).records) for split in ("train", "val")]
    assert sizes == [18, 2]


def test_the_script_from_any_folder(tmp_path):
    make_coco(tmp_path / "files")
    command = ["bash", str(ROOT / "scripts" / "make_mindrecord.sh"), "files"]
    environment = {**os.environ, "PYTHON": os.sys.executable}
    run = subprocess.run(
        [*command, "out"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "instances_train2017.json: 9 images" in run.stdout
    assert len(load_data(tmp_path / "out", "train").records) == 9
    run = subprocess.run(
        [*command, "out"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert "already there" in run.stderr
    assert "Traceback" not in run.stderr
