# SPDX-License-Identifier: Apache-2.0
"""A window that shows pictures as they come. Tk draws it: the OpenCV used here has no windows."""

import base64
import os
from typing import Any

import cv2
import numpy as np

MOST_PX = 900  # longer side of the window


class Screen:
    """A window; closed by its user, it stays closed.

    Raises:
        OSError: there is no screen, or Python was built without Tk.
    """

    def __init__(self, title: str) -> None:
        if not os.environ.get("DISPLAY"):
            raise OSError("--show: no screen here (DISPLAY is not set)")
        try:
            import tkinter
        except ImportError:
            raise OSError("--show: this Python has no tkinter (package python3-tk)") from None
        try:
            self._root: Any = tkinter.Tk()
        except tkinter.TclError as error:
            raise OSError(f"--show: no screen here ({error})") from None
        self.open = True
        self._photo_type = tkinter.PhotoImage
        self._photo: Any = None  # Tk keeps no reference of its own
        self._root.title(title)
        self._label = tkinter.Label(self._root)
        self._label.pack()
        self._root.protocol("WM_DELETE_WINDOW", self.close)

    def show(self, image: np.ndarray) -> None:
        """Shows a BGR image, reduced to fit."""
        if not self.open:
            return
        scale = MOST_PX / max(image.shape[:2])
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        data = base64.b64encode(cv2.imencode(".png", image)[1].tobytes())
        self._photo = self._photo_type(data=data)
        self._label.configure(image=self._photo)
        self._root.update()

    def close(self) -> None:
        if self.open:
            self.open = False
            self._root.destroy()
