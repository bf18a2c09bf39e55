# SPDX-License-Identifier: Apache-2.0
"""What a program shows while it works: log lines, and one progress bar below them.

There is a bar on a terminal: stderr is one, or a pipe of `scripts/common.sh` that
leads to one. Elsewhere there are plain lines only, as through a pipe of the user's own, whose lines
would come in between.
"""

import contextlib
import logging
import os
import stat
import sys
import textwrap
import threading
import time
from typing import Any, Callable, List, Optional, TextIO, Tuple

from tqdm import tqdm

PIPED = "M2DET_TERMINAL"  # set by scripts/common.sh: the pipe that is stderr ends at a terminal
COLUMNS = 80  # that whatever is printed should fit
LINES = 20  # at most, of one loop, where there is no bar
_DATED, _SHORT = "%Y-%m-%d %H:%M:%S", "%H:%M:%S"  # in a file, on a terminal
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"


def start_log(level: int = logging.INFO) -> None:
    """Log lines with the time go to stdout from now on."""
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(message)s",
        datefmt=_SHORT if lines_beside_bar() else _DATED,
        stream=sys.stdout,
    )


def bar_columns() -> Optional[int]:
    """Width of a bar in columns; None where there is no terminal."""
    try:
        if os.isatty(2):
            return None if _is_pipe(1) else os.get_terminal_size(2).columns or 80
        if not os.environ.get(PIPED) or not _is_pipe(2):
            return None
    except OSError:  # stdout or stderr is closed
        return None
    try:
        with open("/dev/tty", encoding="utf-8") as terminal:
            return os.get_terminal_size(terminal.fileno()).columns or 80
    except OSError:
        return 80


def lines_beside_bar() -> bool:
    """Whether the lines on stdout are seen above a bar, and not kept in a file only."""
    return bar_columns() is not None and (os.isatty(1) or _is_pipe(1))


def _is_pipe(handle: int) -> bool:
    return stat.S_ISFIFO(os.fstat(handle).st_mode)


def wrapped(text: str, margin: str = "") -> str:
    """`text` in lines that fit 80 columns, behind a margin; a path without spaces stays whole."""
    margins = (margin, margin + "  ")
    wrapper = textwrap.TextWrapper(COLUMNS, *margins, break_long_words=False)
    wrapper.break_on_hyphens = False
    return wrapper.fill(text)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds; hours may exceed a day."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


class ProgressBar:
    """How far a loop is: a bar with the time left, or lines where there is no terminal.

    Log lines appear above the bar. It is drawn on a copy of stderr, as MindSpore puts another in
    its place while it compiles.

    Args:
        total: of all rounds, those `done` before included; None: not known.
        unit: of the count, e.g. "images".
        say: called with about twenty lines where there is no bar, or a script keeps a log.
        done: rounds before this process.
    """

    def __init__(
        self,
        total: Optional[int],
        unit: str,
        say: Optional[Callable[[str], None]] = None,
        done: int = 0,
    ) -> None:
        self.total, self._unit = total, unit
        self.done = self._said = done
        self._began, self._done_then = time.monotonic(), done
        self._shown, self._over = 0.0, threading.Event()
        columns = bar_columns()
        self._say = say if columns is None or not os.isatty(1) else None
        self._bar: Any = None
        self._above: List[Tuple[logging.StreamHandler, TextIO]] = []
        if columns is not None and total != 0:
            self._open(columns)

    def _open(self, columns: int) -> None:
        self._file = os.fdopen(os.dup(2), "w", encoding=sys.getdefaultencoding(), errors="replace")
        direct = os.isatty(2)
        self._bar = tqdm(
            total=self.total,
            initial=self.done,
            file=self._file,
            bar_format=_BAR if self.total else "{n_fmt}{postfix}",
            ncols=None if direct else columns,
            dynamic_ncols=direct,
            leave=direct,  # a log of lines should not end with a bar
        )
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                self._above.append((handler, handler.stream))
                handler.setStream(_AboveBar(self._bar, handler.stream))

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def update(self, count: int = 1, note: str = "", timed: bool = True) -> None:
        """So many more are done; `note` stands behind the bar.

        Not `timed`, all of them so far say nothing of the speed: something was compiled.
        """
        self._over.set()
        self.done += count
        if not timed:
            self._began, self._done_then = time.monotonic(), self.done
        if self._bar is not None:
            self._bar.set_postfix_str(self._behind(note), refresh=False)
            self._bar.update(count)
        due = self.total and self.done - self._said >= max(self.total // LINES, 1)
        if self._say is not None and (due or self.done == self.total):
            self._said = self.done
            of = f" of {self.total}" if self.total else ""
            self._say(f"{self.done}{of} {self._unit}, {self.speed():.1f}/s")

    def wait_for(self, what: str) -> None:
        """Counts the seconds of `what` behind the bar, until the next update."""
        self._over = threading.Event()
        if self._bar is not None:
            threading.Thread(target=self._count, args=(what, self._over), daemon=True).start()

    def _count(self, what: str, over: threading.Event) -> None:
        began = time.monotonic()
        while not over.wait(1):
            self.show(f"{what} {duration(time.monotonic() - began)}")

    def show(self, note: str) -> None:
        """What is going on, behind the bar; not more than ten a second."""
        bar = self._bar
        if bar is not None and time.monotonic() - self._shown > 0.1:
            self._shown = time.monotonic()
            bar.set_postfix_str(note, refresh=False)
            bar.refresh(nolock=True)  # a worker forked meanwhile must not find the lock taken

    def speed(self) -> float:
        """Rounds per second since the clock was started."""
        return (self.done - self._done_then) / max(time.monotonic() - self._began, 1e-9)

    def seconds_left(self) -> Optional[float]:
        """At the speed so far; None where that is not known yet."""
        if self.total is None or self.done == self._done_then:
            return None
        return (self.total - self.done) / self.speed()

    def _behind(self, note: str) -> str:
        left = self.seconds_left()
        parts = [note or f"{self.speed():.1f} {self._unit}/s"]
        return " ".join(parts + ([f"{duration(left)} left"] if left is not None else []))

    def close(self) -> None:
        """Leaves the bar as it is; lines go on below it."""
        self._over.set()
        if self._bar is None:
            return
        for handler, stream in self._above:
            handler.setStream(stream)
        self._bar.close()
        with contextlib.suppress(OSError):
            self._file.close()
        self._bar = None


class _AboveBar:
    """A stream whose lines appear above a bar."""

    def __init__(self, bar: Any, stream: TextIO) -> None:
        self._bar, self._stream = bar, stream

    def write(self, text: str) -> None:
        with self._bar.get_lock():
            self._bar.clear(nolock=True)
            self._stream.write(text)
            self._stream.flush()
            self._bar.refresh(nolock=True)

    def flush(self) -> None:
        self._stream.flush()
