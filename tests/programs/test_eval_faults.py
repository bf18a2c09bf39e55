# SPDX-License-Identifier: Apache-2.0
"""eval.py interrupted, locked out, with odd names, without anything to score; in this process."""

import json
import os

import pytest
from exporting import random_network, save_run

import eval as evaluate
from src.evaluation.partial_results import PartialResults
from src.runtime.files import LockedError
from tests.datasets import coco_content, write_coco, write_image

pytestmark = pytest.mark.usefixtures("device")
CLASSES = {2: "naïve bird", 4: "cat", 9: "dog"}
ODD = os.fsdecode(b"caf\xe9.png")  # not UTF-8


def content_of(names):
    content = coco_content(names, [(1, 2, [5, 5, 30, 30])] if names else [])
    content["categories"] = [{"id": key, "name": name} for key, name in CLASSES.items()]
    return content


def write_split(root, names):
    write_coco(root, content_of(names), "val2017", "annotations/instances_val2017.json")
    for number, name in enumerate(names):
        write_image(root / "val2017" / name, value=40 * number)
    return root


@pytest.fixture(scope="module")
def checkpoint(device, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"), *random_network())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("data"), ["a.png", "b.png", ODD, "d.png"])


def call(checkpoint, data, out, *more):
    words = ["--checkpoint_path", checkpoint, "--dataset_path", data, "--output", out, *more]
    return evaluate.main([str(word) for word in words])


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("setting", ["test.flip=true", "test.multi_scale=64,96"])
def test_interrupted_it_goes_on_in_the_same_folder(
    checkpoint, data, tmp_path, monkeypatch, setting, capfd
):
    kept = []
    append = PartialResults.append

    def interrupted(self, image_ids, results):
        kept.append(image_ids)
        if len(kept) == 3:
            raise KeyboardInterrupt
        append(self, image_ids, results)

    monkeypatch.setattr(PartialResults, "append", interrupted)
    flags = ("--set", "test.score_threshold=0.02", "--set", setting)
    with pytest.raises(KeyboardInterrupt):
        call(checkpoint, data, tmp_path / "out", *flags)
    assert contents(tmp_path / "out") == ["partial"]  # neither half a file nor a lock
    del kept[:]
    call(checkpoint, data, tmp_path / "out", *flags)
    assert len(kept) in (1, 2)  # the fourth image may have been done, too
    monkeypatch.undo()
    call(checkpoint, data, tmp_path / "whole", *flags)
    ours, whole = ((tmp_path / name / "detections.json").read_bytes() for name in ("out", "whole"))
    assert ours == whole
    assert json.loads(whole)


def test_classes_that_only_one_side_has_are_named_and_the_others_scored(
    checkpoint, tmp_path, caplog
):
    content = content_of(["a.png", "b.png"])
    content["categories"] = [{"id": 4, "name": "cat"}, {"id": 5, "name": "zebra"}]
    content["annotations"][0]["category_id"] = 4
    write_coco(tmp_path, content, "val2017", "annotations/instances_val2017.json")
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "val2017" / name)
    with caplog.at_level("INFO", logger="m2det"):
        call(checkpoint, tmp_path, tmp_path / "out", "--set", "test.score_threshold=0.02")
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {row["category_id"] for row in results} == {4}
    names = "dog, na\u00efve bird"
    assert f"only the network has these classes, which are not scored: {names}" in caplog.text
    assert "the network does not know these classes, whose AP is 0: zebra" in caplog.text


def test_a_data_set_without_any_class_of_the_network_is_refused(checkpoint, tmp_path):
    content = content_of(["a.png"])
    content["categories"] = [{"id": 1, "name": "Cat"}]
    content["annotations"][0]["category_id"] = 1
    write_coco(tmp_path, content, "val2017", "annotations/instances_val2017.json")
    write_image(tmp_path / "val2017" / "a.png")
    with pytest.raises(
        ValueError, match=r"none of its classes \(Cat\) is one of the network's \(cat"
    ):
        call(checkpoint, tmp_path, tmp_path / "out")


def test_a_second_evaluation_in_the_folder_is_refused(checkpoint, data, tmp_path, monkeypatch):
    def busy(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "rank_0.jsonl").write_text("of the other\n")
    monkeypatch.setattr("fcntl.lockf", busy)  # a process does not lock itself out
    with pytest.raises(LockedError, match="in use by process"):
        call(checkpoint, data, tmp_path)
    assert (tmp_path / "partial" / "rank_0.jsonl").read_text() == "of the other\n"


def test_names_that_are_no_utf_8_come_into_the_report(checkpoint, data, tmp_path):
    out = tmp_path / os.fsdecode(b"o\xe9 a\nb")
    call(checkpoint, data, out, "--report")
    assert contents(out) == ["detections.json", "metrics.json", "report.html"]
    (out / "report.html").read_bytes().decode("utf-8")


def test_what_a_killed_process_was_writing_is_removed(checkpoint, data, tmp_path):
    (tmp_path / ".4194999.detections.json").write_text("half")  # above the largest process id
    call(checkpoint, data, tmp_path)
    assert contents(tmp_path) == ["detections.json", "metrics.json"]
