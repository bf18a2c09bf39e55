# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGINT: the step that runs is finished and saved, then the process ends."""

import os
import signal
from types import FrameType
from typing import Any, Dict, Optional

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """A run ended by a signal; the exit code is 128 + its number, as in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class StopSignal:
    """As a context manager, the handler of both signals.

    Until `defer` is called there is nothing to save, and the process ends at once. Afterwards a
    signal is only remembered in `number`, for the training loop to look at; the second of one kind
    within the same run ends the process at once all the same. Forked workers take no part.
    """

    def __init__(self) -> None:
        self.number: Optional[int] = None
        self._deferred = False
        self._owner = os.getpid()
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self._install()
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on signals are remembered."""
        self._deferred = True

    def poll(self) -> Optional[int]:
        """The signal received, or None. MindData takes SIGINT when it starts; it is taken back."""
        self._install()
        return self.number

    def _install(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: Optional[FrameType]) -> None:
        if os.getpid() != self._owner:  # a forked worker: its owner will end it
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if not self._deferred or self.number == number:
            raise Stopped(number)
        self.number = self.number or number
