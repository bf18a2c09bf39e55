# SPDX-License-Identifier: Apache-2.0
"""Views of an image: at several input sizes, mirrored, and in tiles; and the way back.

A view is a part of the image, squashed to a network input of some size. Its boxes come back into
pixels of the image, and those that another view sees better are left to it:

- an input larger than the network was trained for keeps no large boxes, a smaller one no small
  boxes (`ViewPlan.size_range`);
- a tile keeps no box that is cut at a seam and whole in its neighbour (`src.inference.tiling`).
"""

import math
from dataclasses import dataclass
from typing import List, Sequence, Tuple

import cv2
import numpy as np

from ..data.transforms import to_input
from .postprocess import Candidates
from .tiling import Window, tile_windows

LARGEST = 0.7  # side, as a fraction of the trained input, above which enlarging does harm


@dataclass(frozen=True)
class View:
    """A crop of an image at one input size, mirrored or not."""

    size: int  # side of the network's input
    window: Window  # xyxy, the crop, in pixels of the image
    flip: bool = False  # mirrored left to right
    smallest: float = 0.0  # boxes are kept from this side on, as a fraction of the window's ...
    largest: float = math.inf  # ... up to this: the root of the fraction of its area
    overlap: float = 0.0  # of a tile with its neighbours, as a fraction of the side; 0: no tile

    @property
    def size_px(self) -> Tuple[int, int]:
        """(width, height) of the window."""
        return self.window[2] - self.window[0], self.window[3] - self.window[1]


@dataclass(frozen=True)
class ViewPlan:
    """Which views are taken of every image, and how their boxes are merged."""

    base_size: int  # input the network was trained for
    sizes: Tuple[int, ...] = ()  # of the input, beside the trained one
    smallest_prior: float = 0.0  # its side as a fraction of the trained input
    flip: bool = False
    tile_px: int = 0  # side of the tiles; 0: none
    tile_overlap: float = 0.25
    merge: str = "wbf"  # of the boxes of several sizes and flips; or "soft_nms"

    def views(self, width: int, height: int) -> List[View]:
        """The views of an image; the whole of it always, at every size, first.

        Raises:
            ValueError: tiles that make no sense.
        """
        whole = (0, 0, width, height)
        flips = (False, True) if self.flip else (False,)
        made = []
        for size in sorted({self.base_size, *self.sizes}):
            limits = self.size_range(size)
            made += [View(size, whole, flip, *limits) for flip in flips]
        if self.tile_px and max(width, height) > self.tile_px:
            # A tile is enlarged already: one size is enough.
            for window in tile_windows(width, height, self.tile_px, self.tile_overlap):
                made += [
                    View(self.base_size, window, flip, overlap=self.tile_overlap) for flip in flips
                ]
        return made

    def size_range(self, size: int) -> Tuple[float, float]:
        """Range of box sides kept at input `size`, normalised by the image size.

        A reduced input keeps no boxes smaller than its smallest prior. An enlarged one keeps none
        that covers more pixels of it than `LARGEST` of the input the network was trained for. The
        trained size keeps everything.
        """
        scale = self.base_size / size  # of what was trained, in pixels
        if scale == 1:
            return 0.0, math.inf
        return (0.0, LARGEST * scale) if scale < 1 else (self.smallest_prior * scale, math.inf)


def view_input(image: np.ndarray, view: View, mean_bgr: Sequence[float]) -> np.ndarray:
    """The network's (3, S, S) float32 input for a view of `image` (H, W, 3) uint8 BGR."""
    left, top, right, bottom = view.window
    part = image[top:bottom, left:right]
    part = cv2.resize(part, (view.size, view.size), interpolation=cv2.INTER_LINEAR)
    return to_input(part[:, ::-1] if view.flip else part, mean_bgr)


def map_to_image(found: Candidates, views: Sequence[View], sizes_px: np.ndarray) -> Candidates:
    """Boxes of views as boxes of their images, without sizes that another view detects better.

    Args:
        found: in pixels of the windows; `image` is the number of the view.
        views: V of them, of any images.
        sizes_px: (V, 2) width and height of the image of each view.
    """
    if all(view == View(view.size, (0, 0, w, h)) for view, (w, h) in zip(views, sizes_px.tolist())):
        return found
    windows = np.array([view.window for view in views], np.float32).reshape(-1, 4)[found.image]
    mirrored = np.array([view.flip for view in views])[found.image]
    boxes = found.boxes_px.copy()
    width, height = (windows[:, 2:] - windows[:, :2]).T
    boxes[mirrored, 0::2] = (width[:, None] - boxes[:, 2::-2])[mirrored]
    boxes += np.tile(windows[:, :2], 2)
    placed = Candidates(boxes, found.scores, found.labels, found.image)
    limits = np.array([(view.smallest, view.largest) for view in views])[found.image]
    sides = _sides(boxes, width * height)
    return placed[(sides >= limits[:, 0]) & (sides <= limits[:, 1])]


def accepts(view: View, boxes_px: np.ndarray) -> np.ndarray:
    """(N,) bool: the boxes (N, 4), in pixels of the image, of a size the view keeps."""
    width, height = view.size_px
    sides = _sides(boxes_px, np.array(width * height))
    return (sides >= view.smallest) & (sides <= view.largest)


def _sides(boxes_px: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Sides (N,) of squares as large as the boxes (N, 4), as fractions of a window of that area."""
    return np.sqrt(np.clip(boxes_px[:, 2:] - boxes_px[:, :2], 0, None).prod(axis=1) / area)
