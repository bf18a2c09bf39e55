# SPDX-License-Identifier: Apache-2.0
"""Graphs kept between processes: used where nothing has changed, and never where something has."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import rendered
from engine_runs import PREFIX, assert_same, finish, start

from src.runtime.graph_cache.cached_cell import process_fingerprint

SCRIPT = Path(__file__).parents[1] / "scaling_run.py"
ENDING = ".graph"


def begin(folder, factor, *lengths, **environment):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(factor), *map(str, lengths)],
        env={**os.environ, "GLOG_v": "3", "M2DET_CACHE": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process, factor, *lengths):
    """(graphs from the cache, graphs compiled and kept); what it computed must be right."""
    text = process.communicate(timeout=300)[0]
    assert process.returncode == 0, text
    sums = [line for line in text.splitlines() if line.startswith("sum")]
    expected = [n * (factor + n + 0.5) for n in lengths for _ in range(2)]
    assert [float(line.split()[1]) for line in sums] == expected, text
    return text.count("was kept"), text.count("kept for later"), text


def run(folder, factor, *lengths, **environment):
    return end(begin(folder, factor, *lengths, **environment), factor, *lengths)[:2]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder with the graphs of factor 2 for lengths 3 and 4."""
    folder = tmp_path_factory.mktemp("cache") / "made"
    assert run(folder, 2, 3, 4) == (0, 2)
    return folder


def test_the_same_graphs_are_found_in_any_order(filled):
    assert run(filled, 2, 4, 3) == (2, 0)


def test_a_changed_constant_is_not_served_an_old_graph(filled):
    assert run(filled, 3, 4) == (0, 1)


def test_a_damaged_file_is_made_anew(filled, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in filled.glob(f"*{ENDING}"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        (folder / path.name).write_bytes(data)
    assert run(folder, 2, 3) == (0, 1)
    assert run(folder, 2, 3) == (1, 0)


def test_two_processes_at_once_both_end_well(tmp_path):
    processes = [begin(tmp_path, 2, 3) for _ in range(2)]
    for process in processes:
        assert sum(end(process, 2, 3)[:2]) == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [ENDING]  # and no process's own folder


def test_a_killed_process_leaves_nothing_that_is_used(tmp_path):
    killed = begin(tmp_path, 2, 3, KILL_BEFORE_KEEPING="yes")
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob(f"*{ENDING}"))
    assert len(list(tmp_path.iterdir())) == 1  # its own folder, which the next removes
    assert run(tmp_path, 2, 3) == (0, 1)
    assert [path.suffix for path in tmp_path.iterdir()] == [ENDING]


def test_a_folder_that_cannot_be_used_costs_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    found, kept, text = end(begin(tmp_path / "file" / "cache", 2, 3), 2, 3)
    assert (found, kept) == (0, 0)
    lines = [line for line in text.splitlines() if not line.startswith("sum")]
    assert len(lines) == 1
    assert str(tmp_path / "file" / "cache") in lines[0]


@pytest.mark.parametrize("words", [["-c", "{code}"], ["-"]], ids=["-c", "stdin"])
def test_without_a_script_everything_is_compiled(tmp_path, words):
    """MindSpore would look for a file called "-c" or "-"."""
    code = (
        "import sys, mindspore, runpy; sys.argv[1:] = ['2', '3'];"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, *(word.format(code=code) for word in words)],
        input=code,
        env={**os.environ, "GLOG_v": "3", "M2DET_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "sum 16.5" in result.stdout
    assert "kept" not in result.stdout + result.stderr


def test_the_fingerprint_of_a_process_holds_what_could_change_its_graphs(monkeypatch):
    usual = process_fingerprint("CPU", 0, 1)
    assert process_fingerprint("CPU", 1, 2) != usual
    assert process_fingerprint("GPU", 0, 1) != usual
    monkeypatch.setenv("MS_SCHED_PORT", "8118")
    assert process_fingerprint("CPU", 0, 1) == usual
    monkeypatch.setenv("MS_DEV_JIT_SYNTAX_LEVEL", "0")
    assert process_fingerprint("CPU", 0, 1) != usual
    monkeypatch.undo()
    monkeypatch.setattr("mindspore.__version__", "9.9.9")
    assert process_fingerprint("CPU", 0, 1) != usual


def test_a_changed_source_file_changes_them(monkeypatch, tmp_path):
    usual = process_fingerprint("CPU", 0, 1)
    script = tmp_path / "other.py"
    script.write_text("pass\n")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    other = process_fingerprint("CPU", 0, 1)
    assert other["sources"] != usual["sources"]
    script.write_text("pass \n")
    assert process_fingerprint("CPU", 0, 1)["sources"] != other["sources"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return rendered(tmp_path_factory, 4, 2)


STEPS = ("train.total_epochs=2", "train.per_batch_size=2", "train.eval_epochs=2")


def trained(data, out, folder, *settings, more=(), ranks=1):
    """Final checkpoint of a run of train.py, and how many graphs it found and kept."""
    environment = {"M2DET_CACHE": str(folder)}
    text = finish(start(data, out, [*STEPS, *settings], more, ranks, environment))
    found = text.count("was kept"), text.count("kept for later")
    return out / "m2det_tiny" / f"{PREFIX}-final.ckpt", found


def test_training_with_kept_graphs_gives_every_bit(data, tmp_path):
    first, counts = trained(data, tmp_path / "first", tmp_path / "cache")
    assert counts == (0, 2)  # the step, and the network that is scored
    second, counts = trained(data, tmp_path / "second", tmp_path / "cache")
    assert counts == (2, 0)
    assert_same(first, second)


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", ["train.lr=0.02", "optimizer.clip_grad_norm=0.5", "train.total_epochs=3"]
)
def test_changed_settings_give_what_they_give_without_a_cache(data, tmp_path, setting):
    trained(data, tmp_path / "before", tmp_path / "cache")
    with_cache, counts = trained(data, tmp_path / "with", tmp_path / "cache", setting)
    assert counts[1] >= 1
    without, counts = trained(data, tmp_path / "without", "off", setting)
    assert counts == (0, 0)
    assert_same(with_cache, without)


@pytest.mark.slow
def test_resuming_with_kept_graphs_gives_every_bit(data, tmp_path):
    whole, _ = trained(data, tmp_path / "whole", tmp_path / "cache")
    last = tmp_path / "whole" / "m2det_tiny" / f"{PREFIX}-1_2.ckpt"
    more = ["--resume", str(last)]
    resumed, counts = trained(data, tmp_path / "resumed", tmp_path / "cache", more=more)
    assert counts == (2, 0)
    assert_same(whole, resumed)


@pytest.mark.slow
def test_two_ranks_keep_their_own_graphs(data, tmp_path):
    settings = ("train.per_batch_size=1",)
    first, _ = trained(data, tmp_path / "first", tmp_path / "cache", *settings, ranks=2)
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len(kept) == 4  # two graphs of each rank
    second, _ = trained(data, tmp_path / "second", tmp_path / "cache", *settings, ranks=2)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == kept
    assert_same(first, second)
