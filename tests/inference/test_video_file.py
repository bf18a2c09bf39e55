# SPDX-License-Identifier: Apache-2.0
"""Videos: what is in the file, with FFmpeg and without."""

import logging
import sys

import cv2
import numpy as np
import pytest
from browser import open_browser

from src.inference import video_file
from src.inference.video_file import VideoFile, find_ffmpeg

SHADES = (40, 120, 200, 90)


@pytest.fixture
def ffmpeg():
    program = find_ffmpeg()
    if program is None:
        pytest.skip("no ffmpeg here (requirements-video.txt)")
    return program


@pytest.fixture
def no_ffmpeg(monkeypatch):
    monkeypatch.setattr(video_file, "find_ffmpeg", lambda: None)


def write(path, size=(64, 48)):
    video = VideoFile(path, size, 10)
    for shade in SHADES:
        video.write(np.full((size[1], size[0], 3), shade, np.uint8))
    video.close()
    return cv2.VideoCapture(str(path))


def check(made, size, codecs):
    code = int(made.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    assert code in codecs
    assert made.get(cv2.CAP_PROP_FPS) == 10
    for shade in SHADES:
        good, frame = made.read()
        assert good
        assert frame.shape == (size[1], size[0], 3)
        assert abs(frame.astype(int) - shade).max() < 8
    assert not made.read()[0]


@pytest.mark.parametrize("size", [(64, 48), (33, 21)])
def test_h264_of_even_sides(ffmpeg, tmp_path, size):
    even = tuple(side + side % 2 for side in size)
    check(write(tmp_path / "a \u00e9.mp4", size), even, ("avc1", "h264"))
    assert [path.name for path in tmp_path.iterdir()] == ["a \u00e9.mp4"]


def test_it_begins_with_its_index_so_that_it_plays_while_it_loads(ffmpeg, tmp_path):
    write(tmp_path / "a.mp4")
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_a_browser_plays_it(ffmpeg, tmp_path):
    write(tmp_path / "a.mp4")
    page = tmp_path / "page.html"
    page.write_text('<video src="a.mp4" muted autoplay></video>')
    with open_browser(tmp_path / "profile") as browser:
        browser.get(page.as_uri())
        play = """const video = document.querySelector("video"), done = arguments[0];
        video.onerror = () => done("error " + video.error.message);
        video.onended = () => done([video.videoWidth, video.videoHeight, video.currentTime]);
        video.play();"""
        assert browser.execute_async_script(play) == [64, 48, pytest.approx(0.4)]


def test_without_ffmpeg_it_is_mpeg4_and_the_log_says_so(no_ffmpeg, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        made = write(tmp_path / "a.mp4")
    check(made, (64, 48), ("FMP4", "mp4v"))
    assert "browsers do not; for H.264: pip install -r requirements-video.txt" in caplog.text
    assert len(caplog.records) == 1


def test_an_ffmpeg_that_fails_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    """A program that takes a frame and ends with a message."""
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nhead -c 100 > /dev/null\necho No space left >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(video_file, "find_ffmpeg", lambda: str(program))
    video = VideoFile(tmp_path / "a.mp4", (64, 48), 10)

    def fill():
        for _ in range(1000):
            video.write(np.zeros((48, 64, 3), np.uint8))

    with pytest.raises(OSError, match=r"a\.mp4: ffmpeg could not write it: No space left"):
        fill()
    with pytest.raises(OSError, match="No space left"):
        video.close()
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]


def test_an_ffmpeg_without_the_encoder_is_not_taken(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho ' V..... mpeg4'\n")
    program.chmod(0o755)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("shutil.which", lambda _: str(program))
    assert find_ffmpeg() is None
    program.write_text("#!/bin/sh\necho ' V..... libx264'\n")
    assert find_ffmpeg() == str(program)
