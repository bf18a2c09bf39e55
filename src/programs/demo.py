# SPDX-License-Identifier: Apache-2.0
"""`demo.py`: detect, draw, and write the boxes to files. Its flags: `demo_arguments`."""

import argparse
import itertools
import logging
import os
import sys
from pathlib import Path
from typing import Iterable, Iterator, List, Optional, Sequence, Set, Union

import cv2
import numpy as np

from ..data.records import ImageError
from ..drawing.detections import apart, draw_detections
from ..inference.detector import ArrayDetector
from ..inference.image_sources import STDIN, Frames, Source, find_sources, listed_sources
from ..inference.open_network import prepare_device, read_network_file, showing
from ..inference.result_files import WRITERS, Found, free_name, refuse_inputs
from ..inference.video_file import VideoFile
from ..runtime.errors import UsageError, printable
from ..runtime.files import made, write_atomically
from ..runtime.stop_signal import keep_results
from ..runtime.terminal import ProgressBar, start_log
from ..utils import check_score_threshold

LOG = logging.getLogger("m2det.demo")
WINDOW = "M2Det"  # its title


def main(args: argparse.Namespace) -> None:
    check_score_threshold(args.score_threshold)
    if args.limit < 0:
        raise UsageError(f"--limit must be 0 or more, not {args.limit}")
    if args.hide_overlaps is not None and not 0 < args.hide_overlaps <= 1:
        raise UsageError(f"--hide_overlaps must be above 0 and up to 1, not {args.hide_overlaps}")
    if args.show:
        check_screen()
    start_log()
    lines = standard_input() if STDIN in args.input else None
    sources = find_sources(text for text in args.input if text != STDIN)
    if not args.no_pictures:
        taken: Set[str] = set()
        pictures = [args.output / picture_name(s, free_name(s.stem, taken)) for s in sources]
        refuse_inputs(pictures, [source.name for source in sources])
    prepare_device(args.checkpoint_path, args.device_target, args.device_id)
    network = read_network_file(args.checkpoint_path, args.config, args.set)
    detector = network.detector(showing(network.config, args.score_threshold))
    demo = Demo(
        detector,
        args.output,
        args.score_threshold,
        not args.no_pictures,
        args.show,
        args.hide_overlaps,
    )
    with made(args.output):
        run(demo, sources, lines, args)


def run(
    demo: "Demo",
    sources: Sequence[Source],
    lines: Optional[Iterable[Union[str, bytes]]],
    args: argparse.Namespace,
) -> None:
    """Goes through the sources and those named in `lines`, and writes what was found."""
    everything = itertools.chain(sources, listed_sources(lines or ()))
    total = count_frames(sources, args.limit) if lines is None else None
    try:
        with ProgressBar(total, "pictures") as bar:
            for _ in itertools.islice(demo.run(everything), args.limit or None):
                keep_results()
                bar.update()
    except KeyboardInterrupt:  # the way to end with a camera: what there is gets written
        LOG.info("interrupted")
    finally:
        demo.close()
    if not demo.entries:
        raise ImageError(f"none of the {demo.failed} inputs could be read")
    for name in args.format:
        path = WRITERS[name](args.output, demo.entries, demo.detector.class_names)
        LOG.info("written: %s", printable(str(path)))
    boxes = sum(len(entry.scores) for entry in demo.entries)
    LOG.info("%d found in %d pictures; inputs failed: %d", boxes, len(demo.entries), demo.failed)


def standard_input() -> Iterable[Union[str, bytes]]:
    """The lines of standard input as bytes: file names need not be UTF-8.

    Raises:
        UsageError: it is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("--input -: standard input is closed; paths are read from there")
    return getattr(sys.stdin, "buffer", sys.stdin)


def check_screen() -> None:
    """Refuses `--show` where OpenCV cannot open a window.

    Raises:
        UsageError: no screen, or an OpenCV without windows.
    """
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UsageError("--show: no screen here (DISPLAY is not set)")
    try:
        cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
    except cv2.error:
        raise UsageError(
            "--show: this OpenCV has no windows; install opencv-python in place of"
            " opencv-python-headless"
        ) from None


def count_frames(sources: Sequence[Source], limit: int) -> Optional[int]:
    """Number of pictures to come; None for a camera, or a video that gives none."""
    counts = [source.count() for source in sources]
    if None in counts:
        return limit or None
    total = sum(count or 0 for count in counts)
    return min(total, limit) if limit else total


def picture_name(source: Source, stem: str) -> str:
    """The file that a source is drawn into, of the name that is free for it."""
    return f"{stem}.{'mp4' if source.moving else 'png'}"


class Demo:
    """Detects, draws and collects.

    Args:
        detector: called with each picture.
        folder: for pictures and videos.
        lowest: score below which a box is left out; soft-NMS lowers scores.
        draw: whether to make them.
        show: whether to show them on a screen.
        hide_overlaps: IoU with a better box, of any class, from which a box is not drawn.
    """

    def __init__(
        self,
        detector: ArrayDetector,
        folder: Path,
        lowest: float,
        draw: bool = True,
        show: bool = False,
        hide_overlaps: Optional[float] = None,
    ) -> None:
        self.detector, self.folder, self.lowest = detector, folder, lowest
        self.draw, self.show, self.hide_overlaps = draw, show, hide_overlaps
        self.entries: List[Found] = []
        self.failed = 0
        self._taken: Set[str] = set()
        self._beside: Set[str] = set()  # folders of inputs
        self._drawn_files: Set[Path] = set()
        self._video: Optional[VideoFile] = None

    def run(self, sources: Iterator[Source]) -> Iterator[Found]:
        """Goes through every picture of every source; what cannot be read is logged.

        Raises:
            OSError: a picture or video cannot be written.
        """
        for source in sources:
            stem = free_name(source.stem, self._taken)
            try:
                if self.draw:
                    self._keep_inputs(source, self.folder / picture_name(source, stem))
                with source.open() as frames:
                    for number, image in enumerate(frames):
                        yield self._look(frames, stem, image, number if source.moving else -1)
            except (ImageError, UsageError) as error:
                self.failed += 1
                LOG.warning("passed over: %s", error)
            finally:
                self.close()

    def _keep_inputs(self, source: Source, picture: Path) -> None:
        """Refuses to draw over this input, or over a file beside the inputs so far: of those that
        standard input has yet to name nobody knows.

        Raises:
            UsageError: naming the picture.
        """
        refuse_inputs([picture], [source.name])
        self._beside.add(os.path.dirname(os.path.realpath(source.name.replace("\0", ""))))
        beside = os.path.realpath(self.folder) in self._beside
        if beside and picture.exists() and picture not in self._drawn_files:
            raise UsageError(f"{picture}: is there already; choose another folder for pictures")
        self._drawn_files.add(picture)

    def close(self) -> None:
        """Completes the video being written."""
        if self._video is not None:
            video, self._video = self._video, None
            video.close()

    def _look(self, frames: Frames, stem: str, image: np.ndarray, frame: int) -> Found:
        found = self.detector(image)
        best = found.scores >= self.lowest
        boxes_px, labels, scores = found.boxes_px[best], found.labels[best], found.scores[best]
        picture = ""
        if self.draw or self.show:
            drawn = self._drawn(image, boxes_px, labels, scores)
            if self.draw:
                picture = picture_name(frames.source, stem)
                self._write(self.folder / picture, drawn, frame, frames.fps)
            if self.show:
                cv2.imshow(WINDOW, drawn)
                cv2.waitKey(1)
        name = stem if frame < 0 else f"{stem}_{frame:06}"
        height, width = image.shape[:2]
        where = (frames.source.name, frame, picture, name, width, height)
        self.entries.append(Found(*where, boxes_px, scores, labels))
        return self.entries[-1]

    def _drawn(
        self, image: np.ndarray, boxes_px: np.ndarray, labels: np.ndarray, scores: np.ndarray
    ) -> np.ndarray:
        names = self.detector.class_names
        if self.hide_overlaps is not None:
            rows = apart(boxes_px, scores, self.hide_overlaps)
            boxes_px, labels, scores = boxes_px[rows], labels[rows], scores[rows]
        return draw_detections(image, boxes_px, labels, scores, names)

    def _write(self, path: Path, drawn: np.ndarray, frame: int, fps: float) -> None:
        if frame < 0:
            write_atomically(path, cv2.imencode(".png", drawn)[1].tobytes())
            return
        if self._video is None:
            self._video = VideoFile(path, (drawn.shape[1], drawn.shape[0]), fps)
        self._video.write(drawn)
