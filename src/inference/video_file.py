# SPDX-License-Identifier: Apache-2.0
"""A video written whole or not at all."""

import contextlib
from pathlib import Path
from typing import Tuple

import cv2
import numpy as np

from ..runtime.files import replacing
from .image_sources import opencv_name


class VideoFile:
    """An MPEG-4 video that takes its name when it is closed.

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
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(self._name, code, fps, size)
            if not self._writer.isOpened():
                raise OSError(f"{path}: could not be written")
            self._closing = opening.pop_all()

    def write(self, frame: np.ndarray) -> None:
        """Adds a frame, (H, W, 3) uint8 BGR."""
        self._writer.write(frame)
        self._frames += 1

    def close(self) -> None:
        """Completes the video.

        Raises:
            OSError: not all of it could be written; the file is not there then.
        """
        with self._closing:
            self._writer.release()
            made = cv2.VideoCapture(self._name)  # OpenCV reports no full disk
            count = int(made.get(cv2.CAP_PROP_FRAME_COUNT))
            made.release()
            if count < self._frames:
                raise OSError(f"{self.path}: only {count} of {self._frames} frames were written")
