# SPDX-License-Identifier: Apache-2.0
"""A run that is killed again and again ends with the weights of one left alone."""

import os
import random
import signal
import time

import pytest
from engine_runs import PREFIX, assert_same, contents, finish, left_running, start, wait_for

from src.data.synthetic_shapes import write_dataset
from src.training.callback import list_checkpoints

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("M2DET_KILLS", "50"))
STEPS_EACH = 6  # at most, before a process is killed
SETTINGS = (
    *("train.per_batch_size=2", "train.save_steps=2", "train.ema=0.9", "train.eval_epochs=20"),
    "train.keep_checkpoints=3",
)


@pytest.mark.parametrize("kills", [KILLS])
def test_kill_9_at_random_moments(kills, tmp_path):
    data = tmp_path / "shapes"
    write_dataset(data, (("train2017", 10), ("val2017", 2)), seed=0)
    epochs = max(2, kills * STEPS_EACH // 5 // 2)
    settings = [*SETTINGS, f"train.total_epochs={epochs}"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finish(start(data, straight, settings), timeout=3600)
    rng = random.Random(0)
    done = 0
    for number in range(kills):
        process = start(data, broken, settings, ("--resume", "auto"))
        if rng.random() < 0.2:  # while it starts
            time.sleep(rng.uniform(0, 10))
        else:
            for _ in range(rng.randint(1, STEPS_EACH)):
                wait_for(process, " step ")
            time.sleep(rng.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()
        if process.returncode == 0:  # it had come to its end
            break
        assert process.returncode == -signal.SIGKILL, printed
        assert "passed over" not in printed[0], printed[0]
        done += 1
        saved = list_checkpoints(broken / "m2det_tiny", PREFIX)
        if saved:
            contents(saved[-1])  # the newest can be read
        print(f"kill {number + 1}: newest {saved[-1].name if saved else 'none'}", flush=True)
    finish(start(data, broken, settings, ("--resume", "auto")), timeout=3600)
    print(f"killed {done} times")
    assert done >= 0.8 * kills
    for name in (f"{epochs}_{5 * epochs}", "final"):
        paths = [out / "m2det_tiny" / f"{PREFIX}-{name}.ckpt" for out in (straight, broken)]
        assert_same(*paths)
    assert not list((broken / "m2det_tiny").glob(".*"))
    assert not left_running(str(tmp_path))
