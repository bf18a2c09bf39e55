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
from typing import Any, Callable, Iterator, Optional, Tuple

from .files import remove_unfinished

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
            remove_unfinished()
            with contextlib.suppress(OSError, AttributeError):  # nobody reads, or it is closed
                sys.stdout.flush()
            self._end(128 + number)
        self.number = self.number or number


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
