# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Compiled NMS: float32, without the GIL, one call for all classes. Called by `src.nms`, which checks.

`numpy_nms.py` has the same functions with the same results; change both together.
"""

import numpy as np
from libc.math cimport exp

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
    Py_ssize_t keep


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


cdef inline float _weight(float overlap, const Rule *rule) noexcept nogil:
    if rule.method == GAUSSIAN:
        return <float>exp(<double>(-(overlap * overlap) / rule.sigma))
    if overlap <= rule.overlap:
        return 1.0
    return 1.0 - overlap if rule.method == LINEAR else 0.0


cdef Py_ssize_t _decay(Group *g, Py_ssize_t best, const Rule *rule) noexcept nogil:
    """Lower the scores of all after `best`, drop the lowest; position of the best one left."""
    cdef float x1 = g.x1[best], y1 = g.y1[best], x2 = g.x2[best], y2 = g.y2[best]
    cdef float area = g.area[best]
    cdef float width, height, inter
    cdef Py_ssize_t position = best + 1, top = best + 1
    while position < g.count:
        width = min(x2, g.x2[position]) - max(x1, g.x1[position]) + 1.0
        height = min(y2, g.y2[position]) - max(y1, g.y1[position]) + 1.0
        if width > 0 and height > 0:
            inter = width * height
            g.score[position] *= _weight(inter / (area + g.area[position] - inter), rule)
            if g.score[position] < rule.lowest:
                # the last box takes the place: the order of the official code, which decides ties
                g.count -= 1
                _copy(g, g.count, position)
                continue
        if g.score[position] > g.score[top]:
            top = position
        position += 1
    return top


cdef Py_ssize_t _soft_group(Group *g, const Rule *rule) noexcept nogil:
    """Number of boxes found; they and their scores stand at the front, best first."""
    cdef Py_ssize_t found = 0, top = 0, position
    for position in range(1, g.count):
        if g.score[position] > g.score[top]:
            top = position
    while found < g.count and (rule.keep <= 0 or found < rule.keep):
        _swap(g, found, top)
        top = _decay(g, found, rule)
        found += 1
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
    Py_ssize_t keep,
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
    rule.method, rule.keep = method, keep
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
    cdef index_t[::1] kept = np.empty(count, np.int64)
    cdef float[::1] area = np.empty(count, np.float32)
    with nogil:
        for row in range(count):
            area[row] = (boxes[row, 2] - boxes[row, 0] + 1.0) * (boxes[row, 3] - boxes[row, 1] + 1.0)
        for row in range(count):
            if dropped[row]:
                continue
            kept[left] = row
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
    return np.asarray(kept)[:left].copy()
