# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, SIGINT and SIGHUP in every phase of a run, with one rank and with two."""

import signal

import pytest
from datasets import rendered
from engine_runs import PREFIX, contents, finish, left_running, start, wait_for

from src.runtime.stop_signal import stop_signals
from src.training.callback import list_checkpoints

pytestmark = pytest.mark.slow
# 8 images, 4 a step: 2 steps an epoch.
SETTINGS = (
    *("train.total_epochs=1000", "train.save_epochs=2", "train.eval_epochs=3"),
    "train.keep_checkpoints=9",
)
# Steps that must have been done when the signal comes within the phase.
LEAST = {"data": 3, "step": 3, "checkpoint": 8, "evaluation": 12}
NUMBERS = {"data": signal.SIGHUP, "step": signal.SIGINT, "evaluation": signal.SIGINT}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return rendered(tmp_path_factory, 8, 4)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("phase", ["loading", *LEAST])
def test_a_signal_within(phase, ranks, data, tmp_path):
    number = NUMBERS.get(phase, signal.SIGTERM)
    if number not in stop_signals():
        pytest.skip("SIGHUP does nothing under nohup")
    settings = [*SETTINGS, f"train.per_batch_size={4 // ranks}"]
    process = start(data, tmp_path, settings, ranks=ranks, phase=phase)
    wait_for(process, "PHASE-BEGINS")
    process.send_signal(number)
    printed = finish(process, 128 + number)
    assert "Traceback" not in printed
    assert not left_running(str(tmp_path))
    saved = list_checkpoints(tmp_path / "m2det_tiny", PREFIX)
    if phase == "loading":
        assert not saved
        return
    step = int(saved[-1].stem.split("_")[-1])
    assert step >= LEAST[phase]
    assert contents(saved[-1])["state/global_step"] == step
    assert not list((tmp_path / "m2det_tiny").glob(".*"))
