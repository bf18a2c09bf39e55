# SPDX-License-Identifier: Apache-2.0
"""Sources of pictures: files, folders, patterns, videos, cameras, paths on standard input.

A source that turns out to be unusable raises `ImageError` while its frames are read, so that the
others can go on.
"""

import contextlib
import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Iterator, List, Optional, Union

import cv2
import numpy as np

from ..data.images import SUFFIXES, read_image
from ..data.records import ImageError
from ..runtime.errors import printable

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
STDIN = "-"
DEFAULT_FPS = 25.0  # where a video or camera gives none
MAX_CAMERA = 2**31 - 1  # OpenCV takes 32 bits


@dataclass(frozen=True)
class Source:
    """One image, video or camera."""

    name: str  # path, or number of the camera
    kind: str  # "image", "video" or "camera"

    @property
    def moving(self) -> bool:
        return self.kind != "image"

    @property
    def stem(self) -> str:
        """A file name for its results, without an ending; bytes that are no UTF-8 as "_xe9"."""
        if self.kind == "camera":
            return f"camera_{self.name}"
        stem = os.fsencode(Path(self.name).stem).decode("utf-8", "backslashreplace")
        return printable(stem).replace("\\", "_")

    def open(self) -> "Frames":
        """Its frames, to be used in a `with` block.

        Raises:
            ImageError: it cannot be read.
        """
        return Frames(self)

    def count(self) -> Optional[int]:
        """Number of frames by the file; None for a camera and where the file gives none."""
        if self.kind != "video":
            return 1 if self.kind == "image" else None
        try:
            with self.open() as frames:
                return frames.count or None
        except ImageError:
            return None


class Frames:
    """Iterates over the (H, W, 3) uint8 BGR images of a source.

    Raises:
        ImageError: it cannot be read, or (while iterating) not to its end.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.fps, self.count = DEFAULT_FPS, 1
        self._capture: Optional[cv2.VideoCapture] = None
        self._closing = contextlib.ExitStack()
        if source.kind == "image":
            return
        # Otherwise the decoder prints about damaged files on stderr.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        cv2.setLogLevel(0)
        camera = source.kind == "camera"
        if camera:
            number = int(source.name)
            self._capture = cv2.VideoCapture(number if number <= MAX_CAMERA else -1)
        elif os.path.isfile(source.name):
            self._capture = cv2.VideoCapture(self._closing.enter_context(opencv_name(source.name)))
        if self._capture is None or not self._capture.isOpened():
            self._closing.close()
            what = "no such camera" if camera else "not a video that can be read"
            raise ImageError(f"{source.name}: {what}", "unreadable videos")
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = float(fps) if 0 < fps < 1000 else DEFAULT_FPS
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if not camera and 0 < count < 1e9 else 0

    def __enter__(self) -> "Frames":
        return self

    def __exit__(self, *_error: object) -> None:
        if self._capture is not None:
            self._capture.release()
        self._closing.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._capture is None:
            if "\0" in self.source.name:
                raise ImageError(f"{self.source.name}: no file can have this name")
            yield read_image(self.source.name)
            return
        seen = 0
        while True:
            good, frame = self._capture.read()
            if not good or frame is None:
                break
            seen += 1
            yield frame
        # Other containers tell the length of the longest stream, which may be the sound's.
        counted = self.source.name.lower().endswith((".mp4", ".mov", ".m4v"))
        if not seen or (counted and seen < self.count):
            of = f" of {self.count}" if self.count else ""
            message = f"{self.source.name}: damaged, {seen}{of} frames could be read"
            raise ImageError(message, "unreadable videos")


def find_sources(inputs: Iterable[str]) -> List[Source]:
    """Sources named on a command line: files, folders, patterns such as `a/*.jpg`, or numbers of
    cameras; a folder gives its images and videos in order of name.

    Raises:
        ImageError: a path is missing, a pattern matches nothing, or a folder holds no pictures.
    """
    found: List[Source] = []
    for text in inputs:
        if text.isascii() and text.isdigit() and not os.path.exists(text):
            found.append(Source(text, "camera"))
        elif os.path.isdir(text):
            inside = sorted(str(p) for p in Path(text).iterdir() if _is_picture(p))
            if not inside:
                raise ImageError(f"{text}: no images or videos in this folder")
            found += map(file_source, inside)
        elif os.path.exists(text):
            found.append(file_source(text))
        else:
            matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
            files = [path for path in matches if not os.path.isdir(path)]
            if not files:
                raise ImageError(f"{text}: {'matches folders only' if matches else 'not found'}")
            found += map(file_source, files)
    return found


@contextlib.contextmanager
def opencv_name(path: str) -> Iterator[str]:
    """A name that OpenCV can open a file or folder by, which must be there.

    OpenCV crashes at a name that is not UTF-8; Linux has another name for whatever is open.
    """
    if path.isascii():
        yield path
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


def listed_sources(lines: Iterable[Union[str, bytes]]) -> Iterator[Source]:
    """A source for each line that names a file; what is missing shows when it is read."""
    for line in lines:
        name = os.fsdecode(line).rstrip("\r\n")
        if name:
            yield file_source(name)


def file_source(path: str) -> Source:
    """The image or video in a file, by its ending."""
    return Source(path, "video" if path.lower().endswith(VIDEO_SUFFIXES) else "image")


def _is_picture(path: Path) -> bool:
    """By its ending; a pipe or a folder is none, a broken link is reported when it is read."""
    if path.exists() and not path.is_file():
        return False
    return path.suffix.lower() in (*SUFFIXES, *VIDEO_SUFFIXES)
