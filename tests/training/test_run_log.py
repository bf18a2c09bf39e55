# SPDX-License-Identifier: Apache-2.0
import json
import subprocess

from src.training import run_log
from src.training.callback import Scored
from src.training.run_log import Interval, RunLog, git_revision, read_log, save_run


def interval(step, loss=3.0):
    return Interval(step, 100, step // 10, loss, 1.0, 2.0, 5.0, 0.01, 7.0, 0, 100.0)


def test_intervals_and_scores(tmp_path):
    log = RunLog(tmp_path / "run")
    log(interval(10))
    log.scores(10, 1, Scored({"AP": 0.25}))
    log(interval(20, float("nan")))
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["loss"] == 3.0
    assert json.loads(lines[1]) == {"step": 10, "epoch": 1, "AP": 0.25}
    assert json.loads(lines[2])["loss"] is None


def test_a_resumed_run_forgets_what_comes_again(tmp_path):
    log = RunLog(tmp_path)
    for step in (10, 20, 30):
        log(interval(step))
        log.scores(step, 1, Scored({"AP": step / 100}))
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    log = RunLog(tmp_path, start_step=20)
    log(interval(25))
    assert [row["step"] for row in read_log(tmp_path)] == [10, 10, 20, 20, 25]


def test_every_start_is_kept(tmp_path):
    save_run(tmp_path, ["--a"], {"start_step": 0})
    save_run(tmp_path, ["--b"], {"start_step": 5})
    starts = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert [start["arguments"] for start in starts] == [["--a"], ["--b"]]
    assert starts[1]["start_step"] == 5
    assert starts[0]["packages"]["numpy"].startswith("1.")
    (tmp_path / "run.json").write_text("{")
    save_run(tmp_path, [], {})
    assert len(json.loads((tmp_path / "run.json").read_text())["starts"]) == 1


def test_git_revision(tmp_path):
    assert git_revision(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    clean = git_revision(tmp_path)
    assert len(clean) == 40
    (tmp_path / "file").write_text("2")
    assert git_revision(tmp_path) == f"{clean}-dirty"


def test_versions_of_what_is_not_installed():
    assert run_log._version("no-such-package-at-all") is None
