# SPDX-License-Identifier: Apache-2.0
"""COCO files read by msgspec, with care where they are not as COCO's, and kept for later starts."""

import json
import os

import msgspec
import numpy as np
import pytest

from src.data.annotations import coco_cache, coco_file
from src.data.annotations.coco import ground_truth
from src.data.coco_utils import DataError, load_data
from src.data.records import Findings
from tests.data.test_data_fuzz import ROWS, damaged
from tests.datasets import SHARED, coco_content, write_coco


def everything(root, findings):
    """All that is read, in a form that compares."""
    data = load_data(root, "train", findings=findings)
    rows = [
        [row.image_id, row.path, row.width, row.height, *map(np.ndarray.tolist, arrays)]
        for row in data.records
        for arrays in [(row.boxes_px, row.labels, row.ignore)]
    ]
    return rows, data.class_names, data.category_ids, data.annotated, ground_truth(data)


def outcome(root):
    findings = Findings(collect=True)
    try:
        found = repr(everything(root, findings))
    except DataError as error:
        found = str(error)
    return found, findings.counts, findings.errors, findings.examples


def by_python(monkeypatch):
    """Makes msgspec refuse every file, so that Python's reader takes it."""

    def refuse(*args, **kwargs):
        raise msgspec.DecodeError("not today")

    monkeypatch.setattr(coco_file.msgspec.json, "decode", refuse)


def test_both_readers_take_the_same_from_damaged_files(tmp_path, monkeypatch):
    root = write_coco(tmp_path, coco_content(["a.jpg", "b.jpg"], ROWS))
    path = root / "annotations" / "instances_train2017.json"
    refused = 0
    for seed in range(1000, 1150):
        content = damaged(coco_content(["a.jpg", "b.jpg"], ROWS), np.random.default_rng(seed))
        path.write_text(json.dumps(content))
        fast = outcome(root)
        with monkeypatch.context() as patch:
            by_python(patch)
            slow = outcome(root)
        assert fast == slow, path.read_text()
        refused += bool(fast[2]) or not fast[0].startswith("([")
    assert 20 < refused < 130


@pytest.mark.parametrize("split", ["train", "val"])
def test_both_readers_take_the_same_from_coco(monkeypatch, split):
    if not (SHARED / "data" / "coco_tiny").is_dir():
        pytest.skip("the shared COCO images are not there")
    fast = ground_truth(load_data(SHARED / "data" / "coco_tiny", split))
    by_python(monkeypatch)
    assert ground_truth(load_data(SHARED / "data" / "coco_tiny", split)) == fast


def test_truth_is_as_in_the_file_unless_it_reaches_out_of_the_image(tmp_path):
    rows = [(1, 3, [10.1, 20.2, 5.3, 6.4]), (1, 3, [59, 40, 1.5, 8.5]), (1, 7, [50, 40, 20, 20])]
    truth = ground_truth(load_data(write_coco(tmp_path, coco_content(boxes=rows)), "train"))
    assert [row["bbox"] for row in truth["annotations"]] == [
        [10.1, 20.2, 5.3, 6.4],  # in float64
        [59, 40, 1.5, 8.5],  # half a pixel outside is how COCO is
        [50, 40, 10, 8],
    ]
    assert [row["area"] for row in truth["annotations"]] == [1.0] * 3  # the file's


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A data set of a file large enough to be kept, and the folder where it is."""
    monkeypatch.setenv("M2DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_cache, "LEAST_BYTES", 0)
    rows = [(1, 7, [10, 20, 30.25, 10]), (2, 3, [0, 0, 25, 26]), (2, 3, [8, 8, 20, 60], 1)]
    return write_coco(tmp_path / "data", coco_content(["ä.jpg", "b.jpg"], rows)), tmp_path / "cache"


def no_reading(monkeypatch):
    def fail(*_):
        raise AssertionError("the file was read again")

    monkeypatch.setattr(coco_cache, "read_coco", fail)


def test_a_later_start_reads_what_was_kept(cached, monkeypatch):
    root, folder = cached
    first = outcome(root)
    assert first[1] == {"boxes clipped to the image": 1}
    assert [path.suffix for path in folder.iterdir()] == [".annotations"]
    no_reading(monkeypatch)
    assert outcome(root) == first


def test_another_content_is_read_even_with_the_same_size_and_time(cached):
    root, _ = cached
    before = outcome(root)
    path = root / "annotations" / "instances_train2017.json"
    status = path.stat()
    path.write_text(path.read_text().replace("30.25", "31.75"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert outcome(root) != before


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:60] + b"x" + b[61:], lambda b: b""]
)
def test_a_damaged_entry_is_passed_over(cached, damage):
    root, folder = cached
    first = outcome(root)
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert outcome(root) == first
    assert entry.read_bytes() == whole  # written anew


def test_a_file_with_faults_is_not_kept_so_that_they_are_told_each_time(cached):
    root, folder = cached
    rows = [(1, 7, [1, 1, 5]), (1, 7, [1, 1, 5, 5])]
    write_coco(root, coco_content(["ä.jpg"], rows))
    assert outcome(root) == outcome(root)
    assert outcome(root)[1] == {"malformed annotations": 1}
    assert not any(folder.iterdir())


def test_without_a_place_to_keep_it_goes_on(cached, monkeypatch, tmp_path):
    root, _ = cached
    first = outcome(root)
    (tmp_path / "file").write_text("")
    for value in ("off", str(tmp_path / "file" / "cache")):
        monkeypatch.setenv("M2DET_CACHE", value)
        assert outcome(root) == first


def test_small_files_are_not_kept(cached, monkeypatch):
    root, folder = cached
    monkeypatch.undo()
    monkeypatch.setenv("M2DET_CACHE", str(folder))
    outcome(root)
    assert not folder.exists()
