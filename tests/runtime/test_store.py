# SPDX-License-Identifier: Apache-2.0
"""The folder of compiled graphs: whole entries or none, bounded, keyed by contents."""

import hashlib
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from src.runtime.graph_cache.store import (
    CacheError,
    Store,
    cache_folder,
    digest_of_files,
    digest_of_json,
)

KEYS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(5)]
FILES = {"rank_0/a_0.mindir": bytes(range(256)) * 40, "rank_0/b.hash": b"", "c": b"line\nline"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache", least_free_bytes=0)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HOME": "/h"}, "/h/.cache/m2det-mindspore"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/m2det-mindspore"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "relative"}, "/h/.cache/m2det-mindspore"),
        ({"HOME": "/h", "M2DET_CACHE": "on"}, "/h/.cache/m2det-mindspore"),
        ({"HOME": "/h", "M2DET_CACHE": "/elsewhere"}, "/elsewhere"),
        ({"HOME": "/h", "M2DET_CACHE": "off"}, None),
        ({"HOME": "/h", "M2DET_CACHE": " OFF "}, None),
    ],
)
def test_the_folder_follows_the_environment(environment, folder):
    assert cache_folder(environment) == (Path(folder) if folder else None)


def test_a_user_without_a_home_has_no_cache(monkeypatch):
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # no entry in the passwd file
    assert cache_folder({}) is None


def test_where_it_is_off_by_default_it_can_be_switched_on():
    assert cache_folder({"HOME": "/h"}, default=False) is None
    assert cache_folder({"HOME": "/h", "M2DET_CACHE": "on"}, default=False) is not None
    assert cache_folder({"HOME": "/h", "M2DET_CACHE": "/a"}, default=False) == Path("/a")


def test_an_entry_comes_back_as_it_was(store):
    assert store.get("k") is None
    store.put("k", FILES)
    assert store.get("k") == FILES
    store.put("k", {"one": b"1"})
    assert store.get("k") == {"one": b"1"}
    assert store.get("other") is None


def test_the_folder_is_the_users_own(store):
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_no_damaged_entry_is_ever_given(store):
    """Every cut, and a flipped bit in every byte of head and a sample of the rest."""
    store.put("k", FILES)
    whole = store.path("k").read_bytes()
    damaged = [whole[:size] for size in (0, 1, 31, 32, 33, 100, len(whole) - 1)]
    damaged.append(whole + b"x")
    for place in [*range(150), *range(150, len(whole), 997)]:
        flipped = bytearray(whole)
        flipped[place] ^= 4
        damaged.append(bytes(flipped))
    for data in damaged:
        store.path("k").write_bytes(data)
        assert store.get("k") is None
        assert not store.path("k").exists()  # the next run makes it anew
    store.path("k").write_bytes(whole)
    assert store.get("k") == FILES


def test_a_writer_that_is_killed_leaves_no_entry(store, monkeypatch):
    store.put(KEYS[0], {"old": b"old"})

    def die(_file):
        os._exit(9)

    def write():
        monkeypatch.setattr(os, "fsync", die)
        store.put(KEYS[0], FILES)

    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    process.join()
    assert process.exitcode == 9
    assert store.get(KEYS[0]) == {"old": b"old"}
    assert len(list(store.folder.iterdir())) == 2  # and what pruning will find
    store.prune(2**30, most_days=-1)
    assert list(store.folder.iterdir()) == []


def _write_and_read(folder, byte, rounds):
    store = Store(folder, 0)
    for _ in range(rounds):
        store.put("k", {"same": bytes([byte]) * 200_000})
        found = store.get("k")
        if found is None or len(set(found["same"])) != 1 or len(found["same"]) != 200_000:
            os._exit(1)
    os._exit(0)


def test_processes_with_one_key_do_not_disturb_each_other(store):
    context = multiprocessing.get_context("fork")
    arguments = [(store.folder, byte, 15) for byte in (1, 2, 3)]
    processes = [context.Process(target=_write_and_read, args=a) for a in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.name for path in store.folder.iterdir()] == ["k.graph"]


def test_folders_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=str(tmp_path / "file/cache")):
        Store(tmp_path / "file" / "cache")
    with pytest.raises(CacheError, match="MB free"):
        Store(tmp_path, least_free_bytes=2**62)


def test_a_full_disk_leaves_nothing_behind(store, monkeypatch):
    def full(_file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match="No space left"):
        store.put("k", FILES)
    assert list(store.folder.iterdir()) == []


def test_what_is_not_used_goes(store):
    for key in KEYS:
        store.put(key, {"x": b"x" * 1000})
    for number, key in enumerate(KEYS):
        age(store.path(key), days=10 * (5 - number))  # 50, 40, 30, 20 and 10
    store.get(KEYS[0])  # used now
    store.prune(most_bytes=2**20, most_days=35)
    assert [n for n, key in enumerate(KEYS) if store.path(key).exists()] == [0, 2, 3, 4]
    one = store.path(KEYS[0]).stat().st_size
    store.prune(most_bytes=2 * one, most_days=35)
    assert [n for n, key in enumerate(KEYS) if store.path(key).exists()] == [0, 4]


def age(path, days=99):
    used = time.time() - 86400 * days
    os.utime(path, (used, used))


def test_what_lies_beside_the_entries_stays(store):
    """`M2DET_CACHE` may name a folder in which somebody keeps other things."""
    foreign = [
        *("results.csv", "net.graph", "1.onnx", ".1.notes.txt", f"{KEYS[0][:32]}.graph"),
        *(KEYS[0], f"{KEYS[0]}.onnx", f"{KEYS[0]}.graph.bak", f".x.{KEYS[0]}.graph", "speeds.json"),
        *("run-1/net.ckpt", "onnx/mine.txt", f"{KEYS[1]}.graph/a", "m2det-run-/a"),
    ]
    for name in foreign:
        path = store.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 1000)
        age(path)
        if path.parent != store.folder:
            age(path.parent)
    (store.folder / f"{KEYS[2]}.graph").symlink_to(store.folder / "results.csv")
    store.put(KEYS[3], FILES)
    store.prune(most_bytes=0, most_days=30)
    left = {str(path.relative_to(store.folder)) for path in store.folder.rglob("*")}
    assert left >= {*foreign, f"{KEYS[2]}.graph"}
    assert store.get(KEYS[3]) is None


@pytest.mark.parametrize(
    ("ending", "names"),
    [
        (".graph", ["{}.graph", "{}-1.annotations", ".71.{}.graph", ".71.{}-1.annotations"]),
        (".onnx", ["{}.onnx", "{}.onnx.json", ".71.{}.onnx", ".71.{}.onnx.json"]),
    ],
)
def test_old_files_of_every_kind_go(tmp_path, ending, names):
    store = Store(tmp_path, 0, ending)
    for key in KEYS[:2]:
        for name in names:
            (tmp_path / name.format(key)).write_bytes(b"x")
    for name in names:
        age(tmp_path / name.format(KEYS[0]))
    store.prune(most_bytes=2**20, most_days=30)
    assert {path.name for path in tmp_path.iterdir()} == {name.format(KEYS[1]) for name in names}


def test_keeping_graphs_leaves_the_networks_for_onnx_runtime(store):
    networks = Store(store.folder / "onnx", 0, ".onnx")
    networks.path(KEYS[0]).write_bytes(b"x")
    age(networks.folder)
    store.put(KEYS[1], FILES)
    assert networks.path(KEYS[0]).exists()


def test_a_changed_source_changes_the_key(tmp_path):
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("x = 1\n")
    second.write_text("y = 1\n")
    before = digest_of_files([first, second])
    assert digest_of_files([second, first, first]) == before
    first.write_text("x = 2\n")
    assert digest_of_files([first, second]) != before
    first.write_text("y = 1\n")
    second.write_text("x = 1\n")  # the same contents under other names
    assert digest_of_files([first, second]) != before


def test_json_digests_differ():
    assert digest_of_json({"a": 1, "b": [2]}) == digest_of_json({"b": [2], "a": 1})
    assert digest_of_json({"a": 1}) != digest_of_json({"a": 1.5})
    assert digest_of_json(["ab", "c"]) != digest_of_json(["a", "bc"])
