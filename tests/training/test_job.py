# SPDX-License-Identifier: Apache-2.0
"""Which split a run scores during training, without a network."""

from dataclasses import replace

import numpy as np
import pytest

from src.config import Config, override
from src.data.records import DataError, DetectionData, ImageRecord
from src.training import validation
from src.training.job import Job, RunOptions


def split(name, paths, class_names=("cat", "dog"), annotated=True):
    none = np.zeros(0)
    records = [ImageRecord(i, path, 9, 9, none, none, none) for i, path in enumerate(paths)]
    ids = tuple(range(1, len(class_names) + 1))
    return DetectionData(records, class_names, ids, name, f"{name}.json", "coco", {}, annotated)


TRAIN = split("train", ["a", "b"])
VAL = split("val", ["c"])


def chosen(monkeypatch, tmp_path, val, *settings):
    monkeypatch.setattr(validation, "load_data", lambda *args, **options: val)
    config = override(Config(), settings)
    return Job(config, TRAIN, RunOptions(tmp_path, tmp_path), 0, 1, None).validation_data()


def test_a_validation_split_is_scored_by_default(monkeypatch, tmp_path):
    assert chosen(monkeypatch, tmp_path, VAL) is VAL
    assert chosen(monkeypatch, tmp_path, VAL, "train.eval_times=0") is None


@pytest.mark.parametrize(
    ("val", "said"),
    [
        (split("val", ["c"], ("cat",)), "val.json: has no class 'dog'"),
        (replace(VAL, annotated=False), "val.json: val has no annotations"),
    ],
)
def test_one_that_cannot_be_scored_ends_no_run_that_does_not_insist(
    monkeypatch, tmp_path, caplog, val, said
):
    with caplog.at_level("INFO"):
        assert chosen(monkeypatch, tmp_path, val) is None
    assert f"not scored during training: {said}" in caplog.text
    with pytest.raises(DataError, match=said):
        chosen(monkeypatch, tmp_path, val, "train.eval_epochs=1")


def test_nor_one_that_is_trained_on(monkeypatch, tmp_path, caplog):
    val = split("val", ["b", "c"])
    with caplog.at_level("INFO"):
        assert chosen(monkeypatch, tmp_path, val) is None
    assert "1 of the 2 images of val are trained on" in caplog.text
    assert chosen(monkeypatch, tmp_path, val, "train.eval_epochs=1") is val
