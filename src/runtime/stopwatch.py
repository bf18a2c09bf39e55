# SPDX-License-Identifier: Apache-2.0
"""Seconds spent in the stages of a pipeline whose stages run in threads. Standard library only."""

import contextlib
import threading
import time
from typing import Dict, Iterator, Sequence


class Stopwatch:
    """Adds up the time of named stages; threads may use it at once."""

    def __init__(self, stages: Sequence[str]) -> None:
        self.seconds: Dict[str, float] = dict.fromkeys(stages, 0.0)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time of a `with` block to stage `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] += time.perf_counter() - began

    def rates(self, images: int) -> Dict[str, float]:
        """Images per second of each stage by itself; 0 where it took no time."""
        return {
            name: images / seconds if seconds else 0.0 for name, seconds in self.seconds.items()
        }
