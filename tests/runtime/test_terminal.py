# SPDX-License-Identifier: Apache-2.0
"""The progress bar and the lines above it, as a terminal of 80 columns shows them."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from engine_runs import SMALL

from src.data.synthetic_shapes import write_dataset
from src.runtime.terminal import PIPED, ProgressBar, bar_columns, duration

ROOT = Path(__file__).resolve().parents[2]
LOOP = """
import io, logging, sys
from src.runtime.terminal import ProgressBar, start_log
start_log()
log = logging.getLogger("m2det")
log.info("before")
with ProgressBar(4, "images", log.info) as bar:
    bar.update(1, timed=False)
    sys.stderr = io.StringIO()  # as MindSpore does while it compiles
    for number in range(3):
        log.info("line %d", number)
        bar.update(note="loss %d" % number)
print("after")
"""


def on_a_terminal(command, folder=ROOT, **environment):
    """(rows that a terminal of 80 columns shows in the end, everything that was written)."""
    hidden = {name: value for name, value in os.environ.items() if name != "GLOG_v"}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**hidden, "PYTHONPATH": str(ROOT), **environment},
        start_new_session=True,
    )
    os.close(theirs)
    written, until = b"", time.monotonic() + 300
    while time.monotonic() < until:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                written += os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
    assert process.wait(60) == 0, written
    os.close(ours)
    text = written.decode()
    return rows_of(text), text


def rows_of(text):
    """What is left of each line when a carriage return lets later letters cover earlier ones."""
    rows = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        rows.append(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown).rstrip())
    return rows


def test_lines_stand_above_the_bar():
    rows, written = on_a_terminal([sys.executable, "-c", LOOP])
    assert [row[9:] for row in rows[:4]] == ["before", "line 0", "line 1", "line 2"]
    assert all(re.match(r"\d\d:\d\d:\d\d ", row) for row in rows[:4])
    assert rows[4].startswith("100%|")
    assert rows[4].endswith("| 4/4, loss 2 00:00:00 left")
    assert rows[5:] == ["after", ""]
    assert "images," not in written  # the lines for those who see no bar
    assert not [row for row in rows if len(row) > 80]


def test_a_file_gets_dated_lines_and_the_terminal_the_bar(tmp_path):
    command = f"'{sys.executable}' -c '{LOOP}' > '{tmp_path}/out.txt'"
    rows, _ = on_a_terminal(["bash", "-c", command])
    assert [row[-27:] for row in rows] == ["| 4/4, loss 2 00:00:00 left", ""]
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d before", lines[0])
    assert "1 of 4 images" in lines[1]


def test_through_a_pipe_there_are_lines_only():
    rows, written = on_a_terminal(["bash", "-c", f"'{sys.executable}' -c '{LOOP}' | cat"])
    assert "%|" not in written
    assert rows[0].endswith(" before")
    assert "4 of 4 images" in rows[-3]


@pytest.mark.parametrize("to_terminal", [True, False])
def test_a_script_shows_the_bar_and_logs_lines(tmp_path, to_terminal):
    """`run_logged` of common.sh pipes into tee."""
    loop = tmp_path / "loop.py"
    loop.write_text(LOOP)
    script = f'. "{ROOT}/scripts/common.sh"; run_logged train "{sys.executable}" "{loop}"'
    script += "" if to_terminal else " | cat"
    _, written = on_a_terminal(["bash", "-c", script], tmp_path, PYTHONUNBUFFERED="1")
    assert ("100%|" in written) == to_terminal
    lines = (tmp_path / "logs" / "train.log").read_text().splitlines()
    texts = [line.split(" ", 1 if to_terminal else 2)[-1] for line in lines]
    counts = [re.sub(r", [0-9.]+/s", "", text) for text in texts]
    assert counts == [
        *("before", "1 of 4 images", "line 0", "2 of 4 images", "line 1", "3 of 4 images"),
        *("line 2", "4 of 4 images", "after"),
    ]


@pytest.mark.slow
def test_a_training_as_it_is_seen(tmp_path):
    """train.py alone: no word of MindSpore's, nothing wider than the terminal, a bar at the end."""
    write_dataset(tmp_path / "data", (("train2017", 12), ("val2017", 2)), seed=0)
    words = ["--config", "m2det_tiny", "--dataset_path", "data", "--train_url", "out"]
    for text in (*SMALL, "train.per_batch_size=4", "train.total_epochs=2", "train.eval_times=1"):
        words += ["--set", text]
    rows, written = on_a_terminal([sys.executable, str(ROOT / "train.py"), *words], tmp_path)
    assert "WARNING" not in written
    assert not [row for row in rows if len(row) > 80]
    starts = [row[9:].split(" ")[0] for row in rows]
    assert starts[:6] == ["network", "device", "data", "length", "scores", "output"]
    steps = [row for row in rows if " step " in row]
    assert [row.split(" step ")[1].split()[0] for row in steps] == ["1/6", "6/6"]
    (bar,) = (row for row in rows if "%|" in row)
    assert bar.startswith("100%|")
    assert any(row.startswith("done in ") for row in rows)
    assert "  python export.py --checkpoint_path out/m2det_tiny/resnet18_64-best.ckpt" in rows


def test_seconds_are_counted_while_something_compiles():
    loop = LOOP.replace(
        "bar.update(1,", "bar.wait_for('compiling'); time.sleep(2.5); bar.update(1,"
    )
    rows, written = on_a_terminal([sys.executable, "-c", "import time" + loop])
    assert "compiling 00:00:02" in written
    assert written.rindex("compiling") < written.index("1/4")
    assert rows[4].endswith("| 4/4, loss 2 00:00:00 left")


def test_without_a_terminal_there_are_twenty_lines(monkeypatch):
    monkeypatch.setattr(os, "isatty", lambda _: False)
    monkeypatch.delenv(PIPED, raising=False)
    assert bar_columns() is None
    said = []
    with ProgressBar(1000, "images", said.append) as bar:
        for _ in range(1000):
            bar.update()
    assert len(said) == 20
    assert said[0].startswith("50 of 1000 images, ")
    assert said[-1].startswith("1000 of 1000 images, ")


def test_time_left_counts_from_the_first_timed_round(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bar = ProgressBar(10, "steps", done=2)
    now[0] += 60  # compiling
    bar.update(timed=False)
    assert bar.seconds_left() is None
    for _ in range(2):
        now[0] += 3
        bar.update()
    assert bar.seconds_left() == 15  # five steps of three seconds
    bar.close()


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "00:01:00"), (360_000, "100:00:00")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_mindspore_is_quiet_unless_asked():
    ask = "import os, src; print(os.environ['GLOG_v'])"
    hidden = {name: value for name, value in os.environ.items() if name != "GLOG_v"}
    for environment, level in ((hidden, "3"), ({**hidden, "GLOG_v": "2"}, "2")):
        found = subprocess.run(
            [sys.executable, "-c", ask], cwd=ROOT, env=environment, capture_output=True, check=True
        )
        assert found.stdout.decode().strip() == level
