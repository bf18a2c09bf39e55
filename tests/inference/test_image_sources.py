# SPDX-License-Identifier: Apache-2.0
"""What a command line's inputs stand for, and how unusable ones end."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.data.records import ImageError
from src.inference.image_sources import Source, file_source, find_sources, listed_sources
from tests.datasets import write_image

ROOT = Path(__file__).resolve().parents[2]


def test_files_folders_patterns_and_cameras(tmp_path, monkeypatch):
    for name in ("b.png", "a.jpg", "c.MP4", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "d.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    found = find_sources(["0", ".", "b.png", "deep/**/*.png"])
    assert [(source.name, source.kind) for source in found] == [
        ("0", "camera"),
        *[("a.jpg", "image"), ("b.png", "image"), ("c.MP4", "video")],
        ("b.png", "image"),
        ("deep/er/d.png", "image"),
    ]
    assert [source.stem for source in found][:3] == ["camera_0", "a", "b"]
    (tmp_path / "7").write_bytes(b"x")
    assert find_sources(["7"])[0].kind == "image"  # a file goes before a camera
    (tmp_path / "[1].png").write_bytes(b"x")
    assert find_sources(["[1].png"])[0].name == "[1].png"  # and before a pattern


def test_a_folder_gives_neither_pipes_nor_folders(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    os.symlink("loop.png", tmp_path / "loop.png")  # broken: said when it is read
    assert [Path(source.name).name for source in find_sources([str(tmp_path)])] == ["loop.png"]


def test_what_is_not_there_is_named(tmp_path):
    for text in (str(tmp_path / "x.png"), str(tmp_path / "*.png")):
        with pytest.raises(ImageError, match="not found"):
            find_sources([text])
    with pytest.raises(ImageError, match="no images or videos in this folder"):
        find_sources([str(tmp_path)])
    (tmp_path / "folder").mkdir()
    with pytest.raises(ImageError, match=r"fold\*: matches folders only"):
        find_sources([str(tmp_path / "fold*")])


def test_a_list_is_read_line_by_line():
    lines = iter(["a b.png\n", "\n", "c.mov\r\n", "last.jpg"])
    names = [(source.name, source.kind) for source in listed_sources(lines)]
    assert names == [("a b.png", "image"), ("c.mov", "video"), ("last.jpg", "image")]


def test_an_image_is_a_source_of_one_frame(tmp_path):
    source = file_source(str(write_image(tmp_path / "a.png", value=7)))
    assert (source.moving, source.count()) == (False, 1)
    with source.open() as frames:
        (image,) = frames
    np.testing.assert_array_equal(image, np.full((48, 60, 3), 7))


def test_counts_where_nothing_can_be_counted(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"")
    assert file_source(str(tmp_path / "x.mp4")).count() is None
    assert Source("97", "camera").count() is None


@pytest.mark.parametrize("name", ["97", "x.mp4"])
def test_the_decoders_stay_quiet(tmp_path, name):
    """In a process of its own: the decoder asks once, when it starts, what it may print."""
    (tmp_path / "x.mp4").write_bytes(b"\xff" * 300)
    given = str(tmp_path / name) if "." in name else name
    code = (
        "from src.inference.image_sources import find_sources\n"
        f"source, = find_sources([{given!r}])\n"
        "try:\n    list(source.open())\nexcept ValueError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    assert "no such camera" in done.stdout or "not a video that can be read" in done.stdout
