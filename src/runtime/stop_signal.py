# SPDX-License-Identifier: Apache-2.0
"""SIGTERM, SIGINT, SIGHUP: the step that runs is finished and saved, then the process ends.

MindSpore puts a handler of its own in the place of any other while it compiles or runs a graph; it
turns SIGINT into SIGTERM. Hence no handlers here: the signals are blocked, in the main thread
before others are started, and a thread waits for them.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from typing import Any, Callable, Iterator, List, Optional, Tuple

from .files import remove_unfinished

SAME_SECONDS = 0.3  # `timeout` sends its signal twice
POLL_SECONDS = 0.2  # how often the waiting thread looks whether it is still needed


def stop_signals() -> Tuple[signal.Signals, ...]:
    """SIGTERM, SIGINT and SIGHUP; this last one not under `nohup`, which asks to stay."""
    usual = (signal.SIGTERM, signal.SIGINT)
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return usual if ignored else (*usual, signal.SIGHUP)


class Stopped(SystemExit):
    """A run ended by a signal; the exit code is 128 + its number, as in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class StopSignal:
    """As a context manager, takes the signals.

    Until `defer` is called there is nothing to save, and a signal ends the process at once.
    Afterwards it is only remembered in `number`, for the training loop to look at; the second of
    one kind ends the process at once all the same. Forked workers take no part.
    """

    def __init__(self, end: Callable[[int], None] = os._exit) -> None:
        self.number: Optional[int] = None
        self._end = end
        self._signals = stop_signals()
        self._deferred = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="signals", daemon=True)
        self._mask: Any = ()

    def __enter__(self) -> "StopSignal":
        _free_forked_workers()
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def defer(self) -> None:
        """From now on signals are remembered."""
        self._deferred = True

    def _wait(self) -> None:
        while not self._over.is_set():
            received = signal.sigtimedwait(self._signals, POLL_SECONDS)
            # After Ctrl-Z and fg, sigtimedwait returns unset memory instead of None.
            if received is not None and received.si_signo in self._signals:
                self._take(received.si_signo)

    def _take(self, number: int) -> None:
        if not self._deferred or self.number == number:
            _end_now(number, self._end)
        self.number = self.number or number


_results = threading.Event()  # there are some, that a signal must not lose


def keep_results() -> None:
    """From now on the first signal raises KeyboardInterrupt in an `interruptible` block."""
    _results.set()


@contextlib.contextmanager
def interruptible(end: Callable[[int], None] = os._exit) -> Iterator[None]:
    """In this block the signals end the process at once, and nothing half written stays.

    Even while MindSpore compiles, where Python's own handlers have to wait: a thread hears of
    signals by a pipe. After `keep_results` the first raises KeyboardInterrupt instead. Forked
    workers take no part.
    """
    numbers = [n for n in stop_signals() if signal.getsignal(n) != signal.SIG_IGN]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    taken: List[int] = []

    def take(number: int, _frame: Any) -> None:
        if _results.is_set() and not taken:
            taken.append(number)
            raise KeyboardInterrupt

    def watch() -> None:
        first = 0.0
        for byte in iter(lambda: os.read(reader, 1), b""):
            now = time.monotonic()
            if byte[0] in numbers and (
                not _results.is_set() or (first and now - first > SAME_SECONDS)
            ):
                _end_now(byte[0], end)
            first = first or now

    _results.clear()
    with held_signals():  # the thread takes none
        threading.Thread(target=watch, name="signals", daemon=True).start()
    old = {number: signal.signal(number, take) for number in numbers}
    _forget_in_workers()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in old.items():
            signal.signal(number, handler)
        os.close(writer)  # ends the thread


def _end_now(number: int, end: Callable[[int], None]) -> None:
    remove_unfinished()
    with contextlib.suppress(OSError, AttributeError):  # nobody reads, or it is closed
        sys.stdout.flush()
    end(128 + number)


@functools.lru_cache(maxsize=1)
def _forget_in_workers() -> None:
    """Let forked processes be ended by signals, once for the process."""

    def forget() -> None:
        if signal.set_wakeup_fd(-1) != -1:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)

    os.register_at_fork(after_in_child=forget)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """The signals wait until the block ends, and threads that start in it never take one.

    For imports: with NumPy come threads of OpenBLAS, which `StopSignal` would be too late for.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@functools.lru_cache(maxsize=1)
def _free_forked_workers() -> None:
    """Let forked processes be ended by signals, once for the process."""
    os.register_at_fork(after_in_child=_unblock)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stop_signals())
