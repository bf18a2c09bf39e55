# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Compiled NMS: float32, without the GIL, one call for all classes. Called by `src.nms`, which checks.

`numpy_nms.py` has the same functions with the same results; change both together.
"""

import numpy as np
from libc.math cimport INFINITY, exp

# In C for `restrict`, and without branches: so the compiler makes vector instructions of the loop,
# and no time goes into mispredicted overlaps. Boxes that fall out get a score of minus infinity.
cdef extern from *:
    """
    #include <math.h>
    #include <stddef.h>

    static inline float m2det_inter(float ax1, float ay1, float ax2, float ay2,
                                    float bx1, float by1, float bx2, float by2) {
        float width = (ax2 < bx2 ? ax2 : bx2) - (ax1 > bx1 ? ax1 : bx1) + 1.0f;
        float height = (ay2 < by2 ? ay2 : by2) - (ay1 > by1 ? ay1 : by1) + 1.0f;
        return (width > 0.0f ? width : 0.0f) * (height > 0.0f ? height : 0.0f);
    }

    static int m2det_lower(const float *__restrict x1, const float *__restrict y1,
                           const float *__restrict x2, const float *__restrict y2,
                           const float *__restrict area, float *__restrict score,
                           ptrdiff_t best, ptrdiff_t count,
                           float threshold, float linear, float lowest) {
        const float bx1 = x1[best], by1 = y1[best], bx2 = x2[best], by2 = y2[best];
        const float own = area[best];
        int dropped = 0;
        for (ptrdiff_t i = best + 1; i < count; ++i) {
            float inter = m2det_inter(bx1, by1, bx2, by2, x1[i], y1[i], x2[i], y2[i]);
            float overlap = inter / (own + area[i] - inter);
            float lowered = score[i] * (overlap > threshold ? linear * (1.0f - overlap) : 1.0f);
            int out = (inter > 0.0f) & (lowered < lowest);
            score[i] = out ? -INFINITY : lowered;
            dropped |= out;
        }
        return dropped;
    }

    static ptrdiff_t m2det_best(const float *score, ptrdiff_t first, ptrdiff_t count) {
        float top = score[first];
        for (ptrdiff_t i = first + 1; i < count; ++i) top = score[i] > top ? score[i] : top;
        while (score[first] != top) ++first;
        return first;
    }
    """
    float m2det_inter(float, float, float, float, float, float, float, float) noexcept nogil
    int m2det_lower(
        const float *, const float *, const float *, const float *, const float *, float *,
        Py_ssize_t, Py_ssize_t, float, float, float,
    ) noexcept nogil
    Py_ssize_t m2det_best(const float *, Py_ssize_t, Py_ssize_t) noexcept nogil

ctypedef long long index_t

INTERFACE = 1  # raise together with _INTERFACE in __init__.py when a function's form changes

cdef int LINEAR = 1
cdef int GAUSSIAN = 2


cdef struct Group:
    # columns of the boxes of one label, contiguous and reordered in place
    float *x1
    float *y1
    float *x2
    float *y2
    float *area
    float *score
    index_t *index
    Py_ssize_t count


cdef struct Rule:
    float sigma
    float overlap
    float lowest
    int method
    Py_ssize_t max_boxes


cdef inline void _copy(Group *g, Py_ssize_t source, Py_ssize_t target) noexcept nogil:
    g.x1[target] = g.x1[source]
    g.y1[target] = g.y1[source]
    g.x2[target] = g.x2[source]
    g.y2[target] = g.y2[source]
    g.area[target] = g.area[source]
    g.score[target] = g.score[source]
    g.index[target] = g.index[source]


cdef inline void _swap(Group *g, Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    if a == b:
        return
    g.x1[a], g.x1[b] = g.x1[b], g.x1[a]
    g.y1[a], g.y1[b] = g.y1[b], g.y1[a]
    g.x2[a], g.x2[b] = g.x2[b], g.x2[a]
    g.y2[a], g.y2[b] = g.y2[b], g.y2[a]
    g.area[a], g.area[b] = g.area[b], g.area[a]
    g.score[a], g.score[b] = g.score[b], g.score[a]
    g.index[a], g.index[b] = g.index[b], g.index[a]


cdef int _lower_gaussian(Group *g, Py_ssize_t best, const Rule *rule) noexcept nogil:
    """Like `m2det_lower` with gaussian weights; the exponential is for touching boxes only."""
    cdef float inter, overlap
    cdef Py_ssize_t i
    cdef int dropped = 0
    for i in range(best + 1, g.count):
        inter = m2det_inter(
            g.x1[best], g.y1[best], g.x2[best], g.y2[best], g.x1[i], g.y1[i], g.x2[i], g.y2[i]
        )
        if inter > 0:
            overlap = inter / (g.area[best] + g.area[i] - inter)
            g.score[i] *= <float>exp(<double>(-(overlap * overlap) / rule.sigma))
            if g.score[i] < rule.lowest:
                g.score[i] = -INFINITY
                dropped = 1
    return dropped


cdef void _compact(Group *g, Py_ssize_t start) noexcept nogil:
    """Remove what was dropped. The last box takes the place, as officially: it decides ties."""
    cdef Py_ssize_t position = start
    while position < g.count:
        if g.score[position] == -INFINITY:
            g.count -= 1
            _copy(g, g.count, position)
        else:
            position += 1


cdef Py_ssize_t _soft_group(Group *g, const Rule *rule) noexcept nogil:
    """Number of boxes found; they and their scores stand at the front, best first."""
    cdef Py_ssize_t found = 0
    cdef float linear = 1.0 if rule.method == LINEAR else 0.0
    cdef int dropped
    while found < g.count and (rule.max_boxes <= 0 or found < rule.max_boxes):
        _swap(g, found, m2det_best(g.score, found, g.count))
        if rule.method == GAUSSIAN:
            dropped = _lower_gaussian(g, found, rule)
        else:
            dropped = m2det_lower(
                g.x1, g.y1, g.x2, g.y2, g.area, g.score,
                found, g.count, rule.overlap, linear, rule.lowest,
            )
        found += 1
        if dropped:
            _compact(g, found)
    return found


cdef void _sort_by_label(
    const index_t[::1] labels, index_t[::1] start, index_t[::1] place
) noexcept nogil:
    """Counting sort: `start` of each label (one more at the end) and the `place` of each box."""
    cdef Py_ssize_t row, label
    cdef index_t total = 0, count
    for row in range(labels.shape[0]):
        start[labels[row]] += 1
    for label in range(start.shape[0]):
        count = start[label]
        start[label] = total
        total += count
    for row in range(labels.shape[0]):
        place[row] = start[labels[row]]
        start[labels[row]] += 1
    for label in range(start.shape[0] - 1, 0, -1):
        start[label] = start[label - 1]
    start[0] = 0


def soft(
    const float[:, ::1] boxes not None,
    const float[::1] scores not None,
    const index_t[::1] labels not None,
    Py_ssize_t groups,
    float sigma,
    float iou_threshold,
    float score_threshold,
    int method,
    Py_ssize_t max_boxes,
):
    """Soft-NMS within each label; see `numpy_nms.soft` for arguments and result."""
    cdef Py_ssize_t count = scores.shape[0], row, label, left = 0, found
    cdef index_t at
    if count == 0:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    cdef float[:, ::1] work = np.empty((6, count), np.float32)
    cdef index_t[::1] index = np.empty(count, np.int64)
    cdef index_t[::1] place = np.empty(count, np.int64)
    cdef index_t[::1] start = np.zeros(groups + 1, np.int64)
    cdef Group g
    cdef Rule rule
    rule.sigma, rule.overlap, rule.lowest = sigma, iou_threshold, score_threshold
    rule.method, rule.max_boxes = method, max_boxes
    with nogil:
        _sort_by_label(labels, start, place)
        for row in range(count):
            at = place[row]
            work[0, at], work[1, at] = boxes[row, 0], boxes[row, 1]
            work[2, at], work[3, at] = boxes[row, 2], boxes[row, 3]
            work[4, at] = (boxes[row, 2] - boxes[row, 0] + 1.0) * (boxes[row, 3] - boxes[row, 1] + 1.0)
            work[5, at] = scores[row]
            index[at] = row
        for label in range(groups):
            at = start[label]
            g.count = start[label + 1] - at
            if g.count == 0:
                continue
            g.x1, g.y1, g.x2, g.y2 = &work[0, at], &work[1, at], &work[2, at], &work[3, at]
            g.area, g.score, g.index = &work[4, at], &work[5, at], &index[at]
            found = _soft_group(&g, &rule)
            for row in range(found):  # close the gap the dropped boxes leave
                work[5, left + row] = g.score[row]
                index[left + row] = g.index[row]
            left += found
    return np.asarray(index)[:left].copy(), np.asarray(work)[5, :left].copy()


def hard(const float[:, ::1] boxes not None, float iou_threshold):
    """Greedy NMS of boxes sorted by falling score; see `numpy_nms.hard`."""
    cdef Py_ssize_t count = boxes.shape[0], row, other, left = 0
    cdef float width, height, inter, overlap
    cdef unsigned char[::1] dropped = np.zeros(count, np.uint8)
    cdef index_t[::1] keep = np.empty(count, np.int64)
    cdef float[::1] area = np.empty(count, np.float32)
    with nogil:
        for row in range(count):
            area[row] = (boxes[row, 2] - boxes[row, 0] + 1.0) * (boxes[row, 3] - boxes[row, 1] + 1.0)
        for row in range(count):
            if dropped[row]:
                continue
            keep[left] = row
            left += 1
            for other in range(row + 1, count):
                if dropped[other]:
                    continue
                width = min(boxes[row, 2], boxes[other, 2]) - max(boxes[row, 0], boxes[other, 0]) + 1.0
                height = min(boxes[row, 3], boxes[other, 3]) - max(boxes[row, 1], boxes[other, 1]) + 1.0
                overlap = 0.0
                if width > 0 and height > 0:
                    inter = width * height
                    overlap = inter / (area[row] + area[other] - inter)
                dropped[other] = overlap >= iou_threshold
    return np.asarray(keep)[:left].copy()
