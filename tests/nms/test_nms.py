# SPDX-License-Identifier: Apache-2.0
"""NMS, compiled and NumPy: hand-worked overlaps, a plain-loop form and the official results."""

import importlib.util
import math
import os
import shutil
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

from src import nms
from src.nms import build, numpy_nms

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "nms_a.npz"
# 10 x 10, 10 x 5 and 5 x 5 pixels with the +1: IoU 0.5 (first two), 0.25 (first, third), 0.5
NESTED = np.array(
    [[0, 0, 9, 9, 0.9], [0, 0, 9, 4, 0.8], [0, 0, 4, 4, 0.6], [50, 50, 59, 59, 0.7]], np.float32
)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """The extension built from the source as it is now."""
    try:
        path = build.build(target=tmp_path_factory.mktemp("nms"))
    except build.BuildError as error:
        pytest.skip(f"the extension cannot be built here: {error}")
    spec = importlib.util.spec_from_file_location("cpu_nms", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["cython", "numpy"])
def backend(request, monkeypatch):
    chosen = request.getfixturevalue("compiled") if request.param == "cython" else numpy_nms
    monkeypatch.setattr(nms, "_backend", chosen)
    return request.param


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return width * height / (areas - width * height)


def plain_soft_nms(dets, sigma, iou_threshold, score_threshold, method):
    """Soft-NMS as the paper describes it, in double precision."""
    left = [(list(map(float, row[:4])), float(row[4]), n) for n, row in enumerate(dets)]
    found = []
    while left:
        best = max(left, key=lambda item: item[1])
        left.remove(best)
        found.append(best)
        lowered = []
        for box, score, n in left:
            iou = overlap(best[0], box)
            factor = 1.0
            if method == "gaussian":
                factor = math.exp(-(iou**2) / sigma)
            elif iou > iou_threshold:
                factor = 1 - iou if method == "linear" else 0.0
            if iou == 0 or score * factor >= score_threshold:
                lowered.append((box, score * factor, n))
        left = lowered
    return found


def crowd(rng, count, side=300.0):
    low = rng.uniform(0, side, (count, 2))
    size = rng.uniform(5, side / 2, (count, 2))
    scores = rng.uniform(0.01, 1, (count, 1))
    return np.concatenate([low, low + size, scores], axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        # found in turn: 0.9, the separate 0.7, then what is left of 0.8 and 0.6
        ("linear", [0.9, 0.7, 0.6, 0.8 * 0.5 * 0.5]),  # the third is over 0.3 of the second only
        ("gaussian", [0.9, 0.7, 0.6 * math.exp(-0.125), 0.8 * math.exp(-0.5) * math.exp(-0.5)]),
        ("hard", [0.9, 0.7, 0.6]),
    ],
)
def test_nested_boxes_by_hand(backend, method, expected):
    found = nms.soft_nms(NESTED, sigma=0.5, iou_threshold=0.3, method=method)
    np.testing.assert_allclose(found[:, 4], expected, rtol=1e-6)
    np.testing.assert_array_equal(found[:, :4], NESTED[[0, 3, 2, 1], :4][: len(expected)])
    assert found.dtype == np.float32


def test_equal_to_the_threshold(backend):
    # soft-NMS acts above the threshold, greedy NMS from it on, as in the official code
    pair = NESTED[:2]
    assert len(nms.soft_nms(pair, iou_threshold=0.5, method="hard")) == 2
    np.testing.assert_array_equal(nms.hard_nms(pair, 0.5), [0])
    np.testing.assert_array_equal(nms.hard_nms(pair, 0.51), [0, 1])


def test_one_pixel_apart_counts_as_touching(backend):
    # corners 4 and 5 are neighbours; 4 and 4 share a column of 5 pixels: 5 / 45
    beside = np.array([[0, 0, 4, 4, 0.9], [5, 0, 9, 4, 0.8]], np.float32)
    shared = np.array([[0, 0, 4, 4, 0.9], [4, 0, 8, 4, 0.8]], np.float32)
    np.testing.assert_allclose(nms.soft_nms(beside, iou_threshold=0.01)[1, 4], 0.8)
    np.testing.assert_allclose(nms.soft_nms(shared, iou_threshold=0.01)[1, 4], 0.8 * 8 / 9, 1e-6)


def test_dropped_below_the_score_threshold(backend):
    found = nms.soft_nms(NESTED, score_threshold=0.25)  # 0.8 ends at 0.2
    np.testing.assert_array_equal(found[:, 4], NESTED[[0, 3, 2], 4])
    low = np.array([[0, 0, 9, 9, 1e-5]], np.float32)  # never lowered, so it stays
    assert len(nms.soft_nms(low)) == 1


def test_order_of_equal_scores_follows_the_official_swaps(backend):
    dets = np.array([[0, 0, 1, 1, 0.5], [20, 0, 21, 1, 0.5], [40, 0, 41, 1, 0.9]], np.float32)
    # the best (third) changes places with the first, which so comes after the second
    np.testing.assert_array_equal(nms.soft_nms(dets)[:, 0], [40, 20, 0])


@pytest.mark.parametrize("method", ["linear", "gaussian", "hard"])
@pytest.mark.parametrize("count", [1, 2, 30, 150])
def test_soft_nms_against_loops(backend, method, count):
    dets = crowd(np.random.default_rng(count), count)
    before = dets.copy()
    found = nms.soft_nms(dets, 0.4, 0.35, 0.02, method)
    expected = plain_soft_nms(dets, 0.4, 0.35, 0.02, method)
    np.testing.assert_array_equal(found[:, :4], [dets[n, :4] for _, _, n in expected])
    np.testing.assert_allclose(found[:, 4], [score for _, score, _ in expected], atol=1e-6)
    np.testing.assert_array_equal(dets, before)


@pytest.mark.parametrize("count", [1, 40, 200])
def test_hard_nms_against_loops(backend, count):
    dets = crowd(np.random.default_rng(count), count)
    kept = []
    for row in sorted(range(count), key=lambda n: -dets[n, 4]):
        if all(overlap(dets[row].astype(float), dets[k].astype(float)) < 0.4 for k in kept):
            kept.append(row)
    np.testing.assert_array_equal(nms.hard_nms(dets, 0.4), kept)


@pytest.mark.parametrize("case", range(36))
def test_equals_the_official_code(backend, case):
    if not GOLDEN.exists():
        pytest.skip(f"reference values {GOLDEN} are not here")
    data = np.load(GOLDEN)
    dets, expected = data[f"{case}_dets"], data[f"{case}_out"]
    sigma, iou_threshold, score_threshold, number = data[f"{case}_args"]
    method = ("hard", "linear", "gaussian")[int(number)]
    found = nms.soft_nms(dets, sigma, iou_threshold, score_threshold, method)
    np.testing.assert_array_equal(found[:, :4], expected[:, :4])
    np.testing.assert_allclose(found[:, 4], expected[:, 4], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(nms.hard_nms(dets, iou_threshold), data[f"{case}_hard_keep"])


@pytest.mark.parametrize("method", ["linear", "gaussian", "hard"])
def test_backends_agree_with_many_ties(compiled, method):
    rng = np.random.default_rng(5)
    for _ in range(20):
        corners = rng.integers(0, 12, (80, 2)) * 4
        boxes = np.concatenate([corners, corners + rng.integers(1, 5, (80, 2)) * 6], 1)
        scores = (rng.integers(1, 6, 80) / 8).astype(np.float32)
        labels = rng.integers(0, 4, 80)
        args = (boxes.astype(np.float32), scores, labels.astype(np.int64), 4, 0.5, 0.3, 0.05)
        keep = int(rng.integers(0, 12))
        number = nms.METHODS[method]
        one, other = compiled.soft(*args, number, keep), numpy_nms.soft(*args, number, keep)
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_allclose(one[1], other[1], rtol=2e-7 if method == "gaussian" else 0)
        np.testing.assert_array_equal(compiled.hard(args[0], 0.3), numpy_nms.hard(args[0], 0.3))


@pytest.mark.parametrize("keep", [0, 7])
def test_per_class_is_soft_nms_of_each_class(backend, keep):
    rng = np.random.default_rng(1)
    dets, labels = crowd(rng, 300), rng.choice([1, 2, 17, 80], 300).astype(np.int32)
    index, scores = nms.nms_per_class(
        dets[:, :4], dets[:, 4], labels, iou_threshold=0.45, keep_per_class=keep
    )
    start = 0
    for label in (1, 2, 17, 80):
        expected = nms.soft_nms(dets[labels == label], iou_threshold=0.45)[: keep or None]
        stop = start + len(expected)
        np.testing.assert_array_equal(dets[index[start:stop], :4], expected[:, :4])
        np.testing.assert_array_equal(scores[start:stop], expected[:, 4])
        assert set(labels[index[start:stop]]) == {label}
        start = stop
    assert start == len(index) == len(scores)


def test_labels_far_apart(backend):
    far = np.array([3 << 40, 5, 3 << 40, 5])
    index, _ = nms.nms_per_class(NESTED[:, :4], NESTED[:, 4], far)
    np.testing.assert_array_equal(index, [1, 3, 0, 2])


def test_nothing_in_nothing_out(backend):
    assert nms.soft_nms(np.zeros((0, 5))).shape == (0, 5)
    assert nms.hard_nms(np.zeros((0, 5)), 0.5).shape == (0,)
    index, scores = nms.nms_per_class(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int32))
    assert (index.shape, scores.shape) == ((0,), (0,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nms.soft_nms(np.zeros((3, 4))), r"\(N, 5\), not \(3, 4\)"),
        (lambda: nms.hard_nms(np.zeros(5), 0.5), r"\(N, 5\), not \(5,\)"),
        (lambda: nms.soft_nms(np.full((1, 5), np.nan)), "NaN"),
        (lambda: nms.soft_nms(NESTED, method="best"), "'best'; choose from hard, linear, gaussian"),
        (lambda: nms.soft_nms(NESTED, sigma=0, method="gaussian"), "sigma must be positive"),
        (lambda: nms.nms_per_class(NESTED, [1], [1]), r"\(N, 4\), not \(4, 5\)"),
        (lambda: nms.nms_per_class(NESTED[:, :4], [1], [1]), r"shape \(4,\) like the boxes"),
        (lambda: nms.nms_per_class(NESTED[:1, :4], [1], [-1]), "whole numbers from 0"),
        (lambda: nms.nms_per_class(NESTED[:1, :4], [1], [0.5]), "whole numbers from 0"),
        (
            lambda: nms.nms_per_class(NESTED[:1, :4], [1], [1], keep_per_class=-1),
            "keep_per_class must be 0 or more",
        ),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_other_threads_run_meanwhile(compiled):
    count = 20000
    dets = crowd(np.random.default_rng(0), count, side=5000)
    boxes, scores = np.ascontiguousarray(dets[:, :4]), np.ascontiguousarray(dets[:, 4])
    span, ticks = [], []

    def work():
        span.append(time.perf_counter())
        compiled.soft(boxes, scores, np.zeros(count, np.int64), 1, 0.5, 0.3, 0.001, 1, 0)
        span.append(time.perf_counter())

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(1e-3)
    start, stop = span
    assert sum(0.1 < (tick - start) / (stop - start) < 0.9 for tick in ticks) > 3, "GIL held"


@pytest.mark.parametrize("found", [types.SimpleNamespace(INTERFACE=0), types.SimpleNamespace()])
def test_stale_library_falls_back_with_a_warning(monkeypatch, found):
    monkeypatch.setattr(nms.importlib, "import_module", lambda name: found)
    with pytest.warns(RuntimeWarning, match=r"make\.sh"):
        assert nms._choose_backend() == ("numpy", numpy_nms)


@pytest.mark.parametrize("content", [None, b"", b"not a library"])
def test_missing_or_damaged_library(tmp_path, content):
    shutil.copytree(ROOT / "src" / "nms", tmp_path / "src" / "nms", ignore=lambda *_: ["cpu_nms.c"])
    for library in (tmp_path / "src" / "nms").glob("cpu_nms*.so"):
        library.unlink()
    if content is not None:
        (tmp_path / "src" / "nms" / "cpu_nms.so").write_bytes(content)
    run = subprocess.run(
        [sys.executable, "-c", "from src import nms; print(nms.BACKEND)"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "numpy"
    assert ("make.sh" in run.stderr) == (content is not None)
