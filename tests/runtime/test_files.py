# SPDX-License-Identifier: Apache-2.0
"""Files written whole or not at all, and folders held by one process."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from src.runtime.files import (
    LOCK_NAME,
    LockedError,
    locked,
    made,
    remove_leftovers,
    remove_unfinished,
    replacing,
    scratch_folder,
    write_atomically,
    write_json,
)

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from src.runtime.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    return path


def assert_untouched(path):
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]


def interrupt(path, error):
    with replacing(path) as draft:
        draft.write_text("half")
        raise error


@pytest.mark.parametrize("content", ["Straße\n", b"\x00\xff"])
def test_the_new_content_takes_the_place_of_the_old(old, content):
    write_atomically(old, content)
    assert old.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(old.parent) == [old.name]


def test_a_file_name_that_is_not_utf_8_keeps_its_bytes(old):
    write_atomically(old, os.fsdecode(b"a\xffb"))
    assert old.read_bytes() == b"a\xffb"


def test_json(old):
    write_json(old, {"ß": [1, None]}, indent=1, ensure_ascii=False)
    assert "ß" in old.read_text("utf-8")
    assert json.loads(old.read_text("utf-8")) == {"ß": [1, None]}


def test_a_program_writes_to_a_name_with_the_same_ending(old):
    with replacing(old) as path:
        assert path.suffix == ".html"
        assert path.parent == old.parent
        path.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"


@pytest.mark.parametrize("name", ["n" * 251 + ".txt", "ß" * 124 + ".txt"])
def test_the_longest_name_can_be_written(tmp_path, name):
    write_atomically(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


def test_a_full_disk_is_told_with_the_name_of_the_file(old):
    with pytest.raises(OSError, match=r"report\.html") as caught:
        interrupt(old, OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.filename == str(old)
    assert caught.value.errno == errno.ENOSPC
    assert_untouched(old)


def test_a_folder_that_is_not_there_is_named_by_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "none" / "a.txt", "text")
    assert caught.value.filename == str(tmp_path / "none" / "a.txt")


def test_an_error_about_another_file_keeps_its_name(old):
    with pytest.raises(FileNotFoundError, match="source"), replacing(old):
        Path("source").read_bytes()
    assert_untouched(old)


def test_a_second_ctrl_c_leaves_nothing(old, monkeypatch):
    unlink, calls = Path.unlink, []

    def interrupted(self, missing_ok=False):
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        interrupt(old, KeyboardInterrupt())
    assert_untouched(old)


def test_what_is_open_is_removed_before_the_process_ends(old):
    with replacing(old) as path, open(path, "w") as file:
        file.write("half")
        remove_unfinished()
        assert_untouched(old)
        path.write_text("new")  # or the block would not find it


def test_leftovers_of_killed_processes_are_removed_and_no_others(old):
    process = subprocess.Popen(["true"])
    process.wait()
    (old.parent / f".{process.pid}.net.ckpt").write_text("half")
    kept = [f".{os.getpid()}.net.ckpt", ".hidden.txt", ".12x.txt", old.name]
    for name in kept[:-1]:
        (old.parent / name).write_text("mine")
    remove_leftovers(old.parent)
    assert sorted(os.listdir(old.parent)) == sorted(kept)


def test_a_folder_is_held_until_its_process_is_killed(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"in use by process {process.pid} "), locked(folder):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with locked(folder):
        assert (folder / LOCK_NAME).read_text().startswith(f"{os.getpid()} ")
    assert not os.listdir(folder)


def test_a_fork_does_not_keep_the_folder(tmp_path):
    """A worker outlives a killed parent for a while."""
    script = HOLD.replace('print("held"', "import os; worker = os.fork(); worker and print(worker")
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            with locked(tmp_path):
                os.kill(worker, 0)  # it is still there
        finally:
            os.kill(worker, signal.SIGKILL)


SCRATCH = """
import os, sys, time
from pathlib import Path
from src.runtime.files import scratch_folder
with scratch_folder(Path(sys.argv[1]), "run-") as folder:
    (folder / "content").write_text("kept while its process lives")
    if os.fork() == 0:
        sys.exit()  # a child takes nothing with it
    os.wait()
    print("held", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_leaves_goes_at_the_next_start(tmp_path):
    (tmp_path / "run-of-a-user").write_text("a file")
    (tmp_path / "other-folder").mkdir()
    (tmp_path / "run-1").mkdir()  # a user's as well, and old
    (tmp_path / "run-1" / LOCK_NAME).write_text("")
    os.utime(tmp_path / "run-1", (0, 0))
    users = {"run-of-a-user", "other-folder", "run-1"}
    with subprocess.Popen(
        [sys.executable, "-c", SCRATCH, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        before = set(os.listdir(tmp_path))
        with scratch_folder(tmp_path, "run-") as own:
            assert set(os.listdir(tmp_path)) == {*before, own.name}
        assert set(os.listdir(tmp_path)) == before
        (left,) = before - users
        assert (tmp_path / left / "content").exists()
        process.kill()
    with scratch_folder(tmp_path, "run-") as own:
        assert set(os.listdir(tmp_path)) == {*users, own.name}


@pytest.mark.parametrize("removed", [True, False], ids=["removed", "about to be"])
def test_another_process_that_takes_a_new_folder_for_an_old_one(tmp_path, monkeypatch, removed):
    """It has the lock between this process's opening of the file and locking it."""
    lockf, calls = fcntl.lockf, []

    def too_late(file, flags):
        calls.append(Path(file.name).parent)
        if len(calls) > 1:
            return lockf(file, flags)
        if not removed:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        shutil.rmtree(calls[0])
        return None

    monkeypatch.setattr(fcntl, "lockf", too_late)
    with scratch_folder(tmp_path, "run-") as own:
        assert len(calls) == 2
        assert own == calls[1] != calls[0]
        assert os.listdir(tmp_path) == [own.name]
        assert os.listdir(own) == [LOCK_NAME]
    assert os.listdir(tmp_path) == []


def test_a_folder_that_nobody_can_lock_is_an_error_in_the_end(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(LockedError), scratch_folder(tmp_path, "run-"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_read_only_file_system_is_an_error_of_the_file_asked_for(tmp_path, monkeypatch):
    def refuse(path, *_args, **_flags):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)  # which it says of a missing file, too
    with pytest.raises(OSError, match="Read-only") as caught:
        write_atomically(tmp_path / "a.png", b"")
    assert caught.value.filename == str(tmp_path / "a.png")


def test_a_folder_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), made(tmp_path / "a" / "b"):
        _ = 1 / 0
    assert os.listdir(tmp_path) == []
    with made(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "c").write_text("")
    assert (tmp_path / "a" / "b" / "c").exists()
    (tmp_path / "old").mkdir()
    with made(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()
