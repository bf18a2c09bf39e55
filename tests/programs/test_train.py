# SPDX-License-Identifier: Apache-2.0
"""train.py with the engine's options, on a small network."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import rendered

import train
from src.formats.checkpoint import read_checkpoint
from src.programs.arguments import demo_arguments, eval_arguments, export_arguments
from src.runtime.device import RANK_VARIABLES
from src.runtime.errors import UsageError
from src.training import builders
from src.training.callback import list_checkpoints
from src.training.run_log import read_log
from src.training.trainer import TrainingError

pytestmark = pytest.mark.usefixtures("device")

# 18 images in batches of 4: steps and epochs do not end together.
SMALL = [
    "model.input_size=64",
    "model.num_levels=1",
    "model.num_scales=3",
    "model.planes=32",
    "train.per_batch_size=4",
    "train.total_epochs=4",
    "train.keep_checkpoints=9",
    "train.save_steps=7",
    "train.ema=0.9",
    "train.eval_epochs=2",
    "optimizer.type=SGD",
]
PREFIX = "resnet18_64"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return rendered(tmp_path_factory, 18, 4)


def arguments(data, out, *more):
    flags = [flag for override in SMALL for flag in ("--set", override)]
    return [
        *("--config", "m2det_tiny", "--dataset_path", str(data), "--train_url", str(out)),
        *flags,
        *more,
    ]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory, device):
    """Folder of a finished run."""
    out = tmp_path_factory.mktemp("run")
    train.main(arguments(data, out, "--log_interval", "5"))
    return out / "m2det_tiny"


def contents(path):
    return {name: value.asnumpy() for name, value in read_checkpoint(path).items()}


def test_the_folder_of_a_run(run):
    names = [path.name for path in list_checkpoints(run, PREFIX)]
    # 18 steps; an epoch ends with steps 5 (4.5), 9, 14 (13.5) and 18
    assert names == [f"{PREFIX}-{x}.ckpt" for x in ("1_5", "1_7", "2_9", "3_14", "4_18")]
    start = json.loads((run / "run.json").read_text())["starts"][0]
    assert start["start_step"] == 0
    assert start["packages"]["mindspore"]
    rows = read_log(run)
    assert [row["step"] for row in rows if "loss" in row] == [1, 5, 10, 15, 18]
    assert [row["step"] for row in rows if "AP" in row] == [9, 18]
    assert {"AP50", "AP_ema", "AP50_ema"} <= set(rows[-1])
    assert (run / f"{PREFIX}-best.ckpt").is_file()
    assert not (run / "log.csv").exists()


def test_the_last_file_holds_the_average_of_the_weights(run):
    newest, final = contents(run / f"{PREFIX}-4_18.ckpt"), contents(run / f"{PREFIX}-final.ckpt")
    for name, value in final.items():
        np.testing.assert_array_equal(value, newest[f"state/ema.{name}"])
    assert any((value != newest[name]).any() for name, value in final.items())


def test_resuming_within_an_epoch_equals_the_straight_run_bit_for_bit(run, data, tmp_path):
    folder = tmp_path / "m2det_tiny"
    folder.mkdir()
    shutil.copy(run / f"{PREFIX}-1_7.ckpt", folder)
    shutil.copy(run / "log.jsonl", folder)
    train.main(arguments(data, tmp_path, "--resume", "auto", "--log_interval", "5"))
    for name in ("4_18", "final", "best"):
        straight = contents(run / f"{PREFIX}-{name}.ckpt")
        resumed = contents(folder / f"{PREFIX}-{name}.ckpt")
        assert set(straight) == set(resumed)
        for key, value in straight.items():
            np.testing.assert_array_equal(resumed[key], value, err_msg=f"{name} {key}")
    rows = read_log(folder)
    assert [row["step"] for row in rows if "loss" in row] == [1, 5, 8, 10, 15, 18]
    assert [row["step"] for row in rows if "AP" in row] == [9, 18]


def test_by_default_ap_is_told_and_the_best_and_the_last_are_kept(data, tmp_path, capsys):
    """And the commands printed at the end can be typed as they are."""
    chosen = [
        text for text in SMALL if not text.startswith(("train.keep", "train.eval", "train.s"))
    ]
    flags = ["--config", "m2det_tiny", "--dataset_path", str(data), "--train_url", str(tmp_path)]
    settings = [*chosen, "train.total_epochs=2"]
    train.main([*flags, *(word for text in settings for word in ("--set", text))])
    folder = tmp_path / "m2det_tiny"
    names = [f"{PREFIX}-{which}.ckpt" for which in ("2_9", "best", "final")]
    assert sorted(path.name for path in folder.glob("*.ckpt")) == names
    rows = [row for row in read_log(folder) if "AP" in row]
    assert [row["step"] for row in rows] == [5, 9]  # each epoch: two are fewer than ten

    printed = capsys.readouterr().out
    text = printed[printed.index("done in ") :]
    best = max(max(row["AP"], row["AP_ema"]) for row in rows)
    assert f"AP {best:.4f} at best" in text
    commands = text.split("next:\n")[1].replace("\\\n", "").splitlines()
    parsers = (eval_arguments, demo_arguments, export_arguments)
    for command, program, parse in zip(commands, ("eval", "demo", "export"), parsers):
        python, script, *words = shlex.split(command)
        assert (python, script) == ("python", f"{program}.py")
        assert Path(parse(words).checkpoint_path) == folder / f"{PREFIX}-best.ckpt"
    assert len(commands) == 3


def test_the_best_network_is_one_of_this_folder(run, data, tmp_path):
    """The best so far lies in the folder that the run comes from."""
    assert (run / f"{PREFIX}-best.ckpt").is_file()
    train.main(arguments(data, tmp_path, "--resume", str(run / f"{PREFIX}-2_9.ckpt")))
    assert (tmp_path / "m2det_tiny" / f"{PREFIX}-best.ckpt").is_file()


def test_another_schedule_is_refused(run, data, tmp_path):
    path = str(run / f"{PREFIX}-1_7.ckpt")
    flags = ("--resume", path, "--set", "train.total_epochs=5")
    with pytest.raises(ValueError, match=r"schedule was .*--force") as caught:
        train.main(arguments(data, tmp_path, *flags))
    assert "\n" not in str(caught.value)
    assert "milestones" not in str(caught.value)


def test_images_of_steps_without_a_finite_gradient_are_named(run, data, tmp_path, monkeypatch):
    build = builders.build_batches

    def spoiled(*args):
        for number, batch in enumerate(build(*args)):
            if number >= 8:
                batch[1][:] = np.nan  # the offsets to learn
            yield batch

    monkeypatch.setattr(builders, "build_batches", spoiled)
    settings = ("train.max_bad_steps=3", "train.eval_epochs=0", "train.eval_times=0")
    more = [word for text in settings for word in ("--set", text)]
    with pytest.raises(TrainingError) as caught:
        train.main(arguments(data, tmp_path, *more))
    message = str(caught.value)
    assert "\n" not in message
    assert "in 3 steps up to step 11" in message
    folder = tmp_path / "m2det_tiny"
    assert message.endswith(f"last good checkpoint: {folder / (PREFIX + '-1_7.ckpt')}")
    assert message.count(".jpg") + message.count(".png") == 4
    # step 9 ended an epoch, but was skipped
    assert [p.name for p in list_checkpoints(folder, PREFIX)][-1] == f"{PREFIX}-1_7.ckpt"


def test_dry_run(data, tmp_path, capsys):
    train.main(arguments(data, tmp_path, "--dry_run", "--set", "train.accumulate=2"))
    printed = capsys.readouterr().out
    assert "images: (8, 3, 64, 64) uint8" in printed
    assert "9 steps of 8 images" in printed
    assert "trainable parameters" in printed
    assert printed.count("lr ") >= 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("train", "not scored during training: {data}: no split 'val'"),
        ("val", "not scored during training: 4 of the 4 images of val2017 are trained on"),
    ],
)
def test_scores_that_are_not_insisted_on(split, said, data, tmp_path, caplog):
    """Without such a split, or where it is trained on, a run goes on without them."""
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    if split == "train":
        (folder / "annotations" / "instances_val2017.json").unlink()
    flags = ["--set", "train.eval_epochs=0", "--set", "train.eval_times=2", "--dry_run"]
    with caplog.at_level("INFO"):
        train.main(arguments(folder, tmp_path / "out", "--split", split, *flags))
    (line,) = (m for m in caplog.messages if m.startswith("not scored"))
    assert line.startswith(said.format(data=folder))


def test_check_looks_at_the_data_only(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where check_data.py puts its picture
    with pytest.raises(SystemExit) as caught:
        train.main(arguments(data, tmp_path / "out", "--check"))
    assert caught.value.code == 0
    assert "images 18" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_distribute_without_a_launcher_is_refused(data, tmp_path, monkeypatch):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"--distribute .*src\.runtime\.launch"):
        train.main(arguments(data, tmp_path, "--distribute"))


@pytest.mark.parametrize("value", ["0", "-3", "x"])
def test_a_log_interval_that_is_none_is_refused(value, data, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(arguments(data, tmp_path, "--log_interval", value))
    assert caught.value.code == 2
    assert "--log_interval" in capsys.readouterr().err
