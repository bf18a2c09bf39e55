# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""The peer of `benchmarks/postprocess.py`: plain soft-NMS of one class on an (N, 5) array, in place.

Typed array access with Cython's default checks and the GIL held, as the official extension has it.
"""

cimport numpy as np
from libc.math cimport exp


def soft_nms(
    np.ndarray[float, ndim=2] dets, float sigma, float iou_threshold, float lowest, int method
):
    """Reorders `dets` and lowers their scores; list of the rows left, best first."""
    cdef int count = dets.shape[0], first, other, best, column
    cdef float x1, y1, x2, y2, width, height, area, overlap, weight, kept
    for first in range(count):
        if first >= count:
            break
        best = first
        for other in range(first + 1, count):
            if dets[other, 4] > dets[best, 4]:
                best = other
        for column in range(5):
            kept = dets[first, column]
            dets[first, column] = dets[best, column]
            dets[best, column] = kept
        x1, y1, x2, y2 = dets[first, 0], dets[first, 1], dets[first, 2], dets[first, 3]
        other = first + 1
        while other < count:
            area = (dets[other, 2] - dets[other, 0] + 1) * (dets[other, 3] - dets[other, 1] + 1)
            width = min(x2, dets[other, 2]) - max(x1, dets[other, 0]) + 1
            if width > 0:
                height = min(y2, dets[other, 3]) - max(y1, dets[other, 1]) + 1
                if height > 0:
                    overlap = width * height
                    overlap = overlap / ((x2 - x1 + 1) * (y2 - y1 + 1) + area - overlap)
                    if method == 2:
                        weight = exp(-(overlap * overlap) / sigma)
                    elif overlap > iou_threshold:
                        weight = 1 - overlap if method == 1 else 0
                    else:
                        weight = 1
                    dets[other, 4] = weight * dets[other, 4]
                    if dets[other, 4] < lowest:
                        for column in range(5):
                            dets[other, column] = dets[count - 1, column]
                        count -= 1
                        other -= 1
            other += 1
    return list(range(count))
