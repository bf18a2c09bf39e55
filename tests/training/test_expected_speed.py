# SPDX-License-Identifier: Apache-2.0
"""The estimate before the first step: of the log, of a run before, of the preset, or none."""

import json

import pytest

from src.config import get_config
from src.training.expected_speed import NAME, expected_speed, remember_speed
from src.training.run_log import JSONL_NAME

CPU, GPU = "CPU, 2 threads", "GPU"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("M2DET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / NAME


def ran(folder, *speeds):
    """The folder of a run whose log has these speeds, after a first row without."""
    folder.mkdir()
    rows = [{"step": 1}, *({"step": 2, "images_per_second": speed} for speed in speeds)]
    (folder / JSONL_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_resumed_run_goes_on_as_before(tmp_path):
    speed, known = expected_speed(get_config("m2det_tiny"), ran(tmp_path / "run", 2.0, 4.0), CPU)
    assert (speed, known) == (3.0, "at the speed before")


def test_a_run_like_one_on_this_machine(tmp_path):
    new = tmp_path / "new"
    small = get_config("m2det_small")
    remember_speed(small, ran(tmp_path / "run", 7.5), CPU)
    other_classes = get_config("m2det_small", ["model.num_classes=3", "experiment_tag=x"])
    speed, known = expected_speed(other_classes, new, CPU)
    assert speed == 7.5
    assert "this machine" in known
    for keys, device in ([["train.per_batch_size=2"], CPU], [["model.planes=32"], CPU], [[], GPU]):
        other = get_config("m2det_small", [*keys, "experiment_tag=x"])
        assert expected_speed(other, new, device) is None


def test_a_first_run_goes_by_the_preset_and_its_pixels(tmp_path):
    def speed(*keys, device=CPU):
        found = expected_speed(get_config("m2det_tiny", keys), tmp_path / "new", device)
        return found and found[0]

    assert speed() > 0
    assert speed("model.input_size=256") == pytest.approx(speed() / 4)
    assert speed("model.input_size=64") == speed()
    assert speed(device=GPU) is None
    assert speed("model.backbone=resnet50") is None


@pytest.mark.parametrize("text", ["", "[", "[1]", '{"a": "b"}', "\xff"])
def test_a_damaged_memory_is_none(tmp_path, cache, text):
    cache.parent.mkdir()
    cache.write_bytes(text.encode("latin-1"))
    config, folder = get_config("m2det320_vgg16"), ran(tmp_path / "run", 7.5)
    assert expected_speed(config, tmp_path / "new", GPU) is None
    remember_speed(config, folder, GPU)
    assert expected_speed(config, tmp_path / "new", GPU) == (
        7.5,
        "at the speed of such a run on this machine",
    )


def test_where_nothing_can_be_kept_there_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    config, folder = get_config("m2det320_vgg16"), ran(tmp_path / "run", 7.5)
    for cache in (str(tmp_path / "file" / "x"), "off"):
        monkeypatch.setenv("M2DET_CACHE", cache)
        remember_speed(config, folder, GPU)
        assert expected_speed(config, tmp_path / "new", GPU) is None
