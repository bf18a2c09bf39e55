# SPDX-License-Identifier: Apache-2.0
"""train.py and eval.py from one end to the other, on a small network."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import rendered

import eval as evaluate
import train
from src.data.synthetic_shapes import CATEGORY_IDS, CLASS_NAMES
from src.formats.checkpoint import read_checkpoint
from src.inference.detector import ArrayDetector
from src.training.callback import list_checkpoints

pytestmark = pytest.mark.usefixtures("device")

ROOT = Path(__file__).resolve().parents[2]
# 20 images in batches of 4 for 8 epochs: 40 steps, past the number of launches (33) after which
# MindSpore's CPU kernels settle on a thread count.
SMALL = [
    "model.input_size=64",
    "model.num_levels=1",
    "model.num_scales=3",
    "model.planes=32",
    "train.per_batch_size=4",
    "train.total_epochs=8",
    "train.keep_checkpoints=8",
    "train.eval_times=0",
]
FLAGS = [flag for override in SMALL for flag in ("--set", override)]
PREFIX = "resnet18_64"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return rendered(tmp_path_factory, 20, 6)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory, device):
    """Folder of a finished run."""
    out = tmp_path_factory.mktemp("run")
    train.main(train_arguments(data, out))
    return out / "m2det_tiny"


def train_arguments(data, out, *more):
    flags = ["--config", "m2det_tiny", "--dataset_path", str(data), "--train_url", str(out)]
    return [*flags, *FLAGS, *more]


def test_a_run_leaves_checkpoints_configuration_and_labels(run):
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["num_classes"] == len(CLASS_NAMES) + 1
    labels = json.loads((run / "labels.json").read_text())
    assert labels == {"class_names": list(CLASS_NAMES), "category_ids": list(CATEGORY_IDS)}
    names = [path.name for path in list_checkpoints(run, PREFIX)]
    assert names == [f"{PREFIX}-{epoch}_{epoch * 5}.ckpt" for epoch in range(1, 9)]
    assert (run / f"{PREFIX}-final.ckpt").is_file()


def test_training_changes_the_weights(run):
    first = read_checkpoint(run / f"{PREFIX}-1_5.ckpt")
    last = read_checkpoint(run / f"{PREFIX}-final.ckpt")
    for name, value in last.items():
        assert np.isfinite(value.asnumpy()).all()
        assert (value.asnumpy() != first[name].asnumpy()).any(), f"{name} never changed"


def test_resuming_equals_the_straight_run_bit_for_bit(run, data, tmp_path):
    folder = tmp_path / "m2det_tiny"
    folder.mkdir()
    shutil.copy(run / f"{PREFIX}-7_35.ckpt", folder)
    train.main(train_arguments(data, tmp_path, "--resume", "auto"))
    straight = read_checkpoint(run / f"{PREFIX}-8_40.ckpt")
    resumed = read_checkpoint(folder / f"{PREFIX}-8_40.ckpt")
    assert set(straight) == set(resumed)
    for name, value in straight.items():
        np.testing.assert_array_equal(resumed[name].asnumpy(), value.asnumpy(), err_msg=name)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_evaluation(run, data, tmp_path, batch_size):
    totals = evaluate.main(eval_arguments(run, data, tmp_path, f"test.batch_size={batch_size}"))
    assert len(totals) == 12
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["AP"] == totals["AP"]
    assert metrics["images"] == 6
    assert set(metrics["AP_by_class"]) == set(CLASS_NAMES)
    for entry in json.loads((tmp_path / "detections.json").read_text()):
        assert set(entry) == {"image_id", "category_id", "bbox", "score"}
        assert entry["category_id"] in CATEGORY_IDS


def eval_arguments(run, data, out, *overrides):
    flags = ["--checkpoint_path", str(run / f"{PREFIX}-final.ckpt"), "--dataset_path", str(data)]
    flags += ["--output", str(out)]
    return [*flags, *(flag for override in overrides for flag in ("--set", override))]


def test_nothing_found_scores_zero(run, data, tmp_path):
    totals = evaluate.main(eval_arguments(run, data, tmp_path, "test.score_threshold=0.9999"))
    assert totals["AP"] == 0
    assert json.loads((tmp_path / "detections.json").read_text()) == []


BAD = {
    "data set": (["--dataset_path", "/nowhere"], "/nowhere"),
    "split": (["--split", "nosuch"], "nosuch"),
    "backbone": (["--pretrained_backbone", "/none.ckpt"], "/none.ckpt"),
    "checkpoint": (["--resume", "/gone.ckpt"], "/gone.ckpt"),
    "preset": (["--config", "m2det"], "m2det320_vgg16"),
    "key": (["--set", "train.learning_rate=1"], "train.lr"),
    "value": (["--set", "train.lr=fast"], "a number"),
    "anchors": (["--set", "anchors.scales=0.1,0.2"], "anchors.scales"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_what_is_wrong(case, data, tmp_path):
    flags, named = BAD[case]
    with pytest.raises((ValueError, OSError)) as caught:
        train.main(train_arguments(data, tmp_path / "out", *flags))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_weights_for_other_classes_are_refused(run, data, tmp_path):
    with pytest.raises(ValueError, match=r"head\.conf\.0\.weight"):
        evaluate.main(eval_arguments(run, data, tmp_path / "x", "model.num_classes=9"))


def test_a_checkpoint_without_configuration_asks_for_one(run, data, tmp_path):
    shutil.copy(run / f"{PREFIX}-final.ckpt", tmp_path)
    with pytest.raises(ValueError, match="--config"):
        evaluate.main(eval_arguments(tmp_path, data, tmp_path / "x"))


def test_a_weights_only_checkpoint_cannot_be_resumed(run, data, tmp_path):
    final = str(run / f"{PREFIX}-final.ckpt")
    with pytest.raises(ValueError, match="cannot be resumed from"):
        train.main(train_arguments(data, tmp_path, "--resume", final))


def test_on_the_command_line_an_error_is_one_line_and_exit_code_2(data, tmp_path):
    command = [sys.executable, "train.py", *train_arguments(data, tmp_path, "--set", "model.x=1")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: unknown key 'model.x'")
    assert "Traceback" not in result.stderr


def test_the_detector_in_three_lines(run):
    detector = ArrayDetector.from_checkpoint(run / f"{PREFIX}-final.ckpt")
    found = detector(np.zeros((40, 80, 3), np.uint8))
    assert detector.class_names == CLASS_NAMES
    assert found.boxes_px.shape == (len(found), 4)
    with pytest.raises(ValueError, match="uint8"):
        detector(np.zeros((40, 80, 3), np.float32))
