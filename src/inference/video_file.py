# SPDX-License-Identifier: Apache-2.0
"""A video written whole or not at all: H.264, which browsers play, where FFmpeg is there.

OpenCV's wheels have no H.264, so FFmpeg writes it, as a program of its own: that of the package
imageio-ffmpeg, or else of the system. Without one OpenCV writes MPEG-4 part 2.
"""

import contextlib
import importlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Optional, Protocol, Tuple

import cv2
import numpy as np

from ..runtime.files import replacing
from .image_sources import opencv_name

LOG = logging.getLogger("m2det.video")
_ENCODER = "libx264"


class _Encoder(Protocol):
    def write(self, frame: np.ndarray) -> Any: ...
    def release(self) -> Any: ...


class VideoFile:
    """An MP4 video that takes its name when it is closed.

    Args:
        path: of the file, whose name is UTF-8 and ends in .mp4.
        size: width and height.
        fps: frames a second.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, size: Tuple[int, int], fps: float) -> None:
        self.path = path
        self._frames = 0
        self._closing = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            self._draft = opening.enter_context(replacing(path))
            folder = opening.enter_context(opencv_name(str(path.parent)))
            self._name = f"{folder}/{self._draft.name}"
            self._encoder = self._open(size, fps)
            self._closing = opening.pop_all()

    def _open(self, size: Tuple[int, int], fps: float) -> _Encoder:
        ffmpeg = find_ffmpeg()
        if ffmpeg is not None:
            return _FFmpeg(ffmpeg, self._draft, size, fps)
        LOG.warning(
            "%s: MPEG-4, which players show and browsers do not; for H.264: %s",
            ascii(str(self.path))[1:-1],
            "pip install -r requirements-video.txt",
        )
        writer = cv2.VideoWriter(self._name, cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not writer.isOpened():
            raise OSError(f"{self.path}: could not be written")
        return writer

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame, (H, W, 3) uint8 BGR.

        Raises:
            OSError: it cannot be written.
        """
        self._encoder.write(frame)
        self._frames += 1

    def close(self) -> None:
        """Completes the video.

        Raises:
            OSError: not all of it could be written; the file is not there then.
        """
        with self._closing:
            self._encoder.release()
            made = cv2.VideoCapture(self._name)  # OpenCV reports no full disk
            count = int(made.get(cv2.CAP_PROP_FRAME_COUNT))
            made.release()
            if count < self._frames:
                raise OSError(f"{self.path}: only {count} of {self._frames} frames were written")


class _FFmpeg:
    """Frames in, H.264 in a file out, by the program `ffmpeg`."""

    def __init__(self, ffmpeg: str, path: Path, size: Tuple[int, int], fps: float) -> None:
        self._path, self._size = path, size
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        # Colours at half the size, as players want them, ask for even sides.
        self._odd = (size[0] % 2, size[1] % 2)
        sides = f"{size[0] + self._odd[0]}x{size[1] + self._odd[1]}"
        source = ("-f", "rawvideo", "-pix_fmt", "bgr24", "-s", sides)
        target = ("-c:v", _ENCODER, "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4")
        command = [ffmpeg, "-loglevel", "error", "-y", *source, "-r", f"{fps}", "-i", "-", *target]
        self._program = subprocess.Popen(
            [*command, os.fsencode(f"file:{path}")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for us: what there is gets completed
        )

    def write(self, frame: np.ndarray) -> None:
        assert self._program.stdin is not None
        if frame.shape[1::-1] != self._size:
            frame = cv2.resize(frame, self._size)
        wide, tall = self._odd
        frame = cv2.copyMakeBorder(frame, 0, tall, 0, wide, cv2.BORDER_REPLICATE)
        try:
            self._program.stdin.write(frame.tobytes())
        except BrokenPipeError:
            raise OSError(self._reason()) from None

    def release(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._program.communicate()
        if self._program.returncode:
            raise OSError(self._reason())
        self._errors.close()

    def _reason(self) -> str:
        self._program.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        text = next((line for line in reversed(lines) if line.strip()), "it ended")
        return f"{self._path}: ffmpeg could not write it: {text[-200:]}"


def find_ffmpeg() -> Optional[str]:
    """An `ffmpeg` that can write H.264: of imageio-ffmpeg, else of the system; None without."""
    found = [shutil.which("ffmpeg")]
    with contextlib.suppress(ImportError, RuntimeError):  # RuntimeError: it has none either
        found.insert(0, importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    for program in found:
        if program is not None:
            command = [program, "-hide_banner", "-encoders"]
            with contextlib.suppress(OSError):
                done = subprocess.run(command, capture_output=True, check=False)
                if _ENCODER.encode() in done.stdout:
                    return program
    return None
