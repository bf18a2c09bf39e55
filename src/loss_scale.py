# SPDX-License-Identifier: Apache-2.0
"""The factor that keeps float16 gradients within range (Micikevicius et al., 2018, section 3.2)."""

from typing import Any, Dict, Mapping

import numpy as np

FIRST = 65536.0
LARGEST = 2.0**24
SMALLEST = 1.0


class DynamicLossScale:
    """Halved at each step that overflows, doubled after `window` good steps in a row.

    Args:
        scale: where it starts.
        window: good steps before it grows.
    """

    def __init__(self, scale: float = FIRST, window: int = 2000) -> None:
        self.scale = float(scale)
        self.window = window
        self._good = 0

    def update(self, finite: bool) -> bool:
        """Told of each step whether its gradients were finite; True if the scale has changed."""
        before = self.scale
        self._good = self._good + 1 if finite else 0
        if not finite:
            self.scale = max(self.scale / 2, SMALLEST)
        elif self._good == self.window:
            self.scale, self._good = min(self.scale * 2, LARGEST), 0
        return self.scale != before

    def state(self) -> Dict[str, np.ndarray]:
        """What resuming needs, by name."""
        return {"loss_scale": np.array([self.scale, self._good], np.float32)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up `state`."""
        self.scale, good = (float(value) for value in state["loss_scale"])
        self._good = int(good)
