# SPDX-License-Identifier: Apache-2.0
"""Speed of NMS and post-processing beside the official way: `python -m benchmarks.postprocess`.

The official way is written out here: NumPy class by class around a plain compiled soft-NMS
(`official_nms.pyx`, built into a temporary folder). Both sides alternate in one run and give the
same detections, which is checked first. Times are medians; a ratio above 1 means ours is faster.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np

from src import nms
from src.box_utils import cxcywh_to_xyxy, decode, encode, iou_matrix
from src.config import get_config
from src.inference.postprocess import PostProcessor
from src.nms.build import BuildError, build
from src.priors import make_priors

CLASSES = 81
SIZE_PX = (640, 480)


def load_peer() -> ModuleType:
    """The compiled peer. Raises BuildError where nothing can be compiled."""
    source = Path(__file__).parent / "peers" / "official_nms.pyx"
    with tempfile.TemporaryDirectory() as folder:
        path = str(build(source, Path(folder)))
        loader = ExtensionFileLoader(source.stem, path)
        module = module_from_spec(ModuleSpec(source.stem, loader, origin=path))
        loader.exec_module(module)
    return module


def official_nms(
    peer: ModuleType, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray
) -> List:
    """(n, 5) detections of each class, found class by class."""
    found = []
    for label in range(1, CLASSES):
        rows = np.where(labels == label)[0]
        if len(rows) == 0:
            continue
        dets = np.hstack((boxes[rows], scores[rows, np.newaxis])).astype(np.float32, copy=False)
        keep = peer.soft_nms(dets, 0.45, 0.3, 0.001, 1)
        found.append(dets[keep, :])
    return found


def official_postprocess(
    peer: ModuleType,
    loc: np.ndarray,
    scores: np.ndarray,
    priors: np.ndarray,
    lowest: float = 0.1,
) -> List[np.ndarray]:
    """(n, 5) detections of each class from class probabilities (P, C)."""
    boxes = decode(loc, priors) * np.array(SIZE_PX * 2, np.float32)
    found = []
    for label in range(1, CLASSES):
        rows = np.where(scores[:, label] > lowest)[0]
        if len(rows) == 0:
            found.append(np.empty((0, 5), np.float32))
            continue
        dets = np.hstack((boxes[rows], scores[rows, label][:, np.newaxis]))
        dets = dets.astype(np.float32, copy=False)
        keep = peer.soft_nms(dets, 0.45, 0.3, 0.001, 1)[:50]
        found.append(dets[keep, :])
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    """(P, C) class probabilities."""
    terms = np.exp(logits - logits.max(axis=1, keepdims=True))
    return terms / terms.sum(axis=1, keepdims=True)


def scattered(rng: np.random.Generator, count: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in pixels, scores and labels: groups of overlapping boxes of the same class."""
    objects = count // 12
    centre, size = rng.uniform(0, 500, (objects, 2)), rng.uniform(20, 200, (objects, 2))
    owner = rng.integers(0, objects, count)
    middle = centre[owner] + rng.normal(0, 0.15, (count, 2)) * size[owner]
    half = size[owner] * rng.uniform(0.4, 0.6, (count, 2))
    boxes = np.concatenate([middle - half, middle + half], axis=1).astype(np.float32)
    labels = rng.integers(1, CLASSES, objects)[owner].astype(np.int32)
    return boxes, rng.uniform(0.1, 1, count).astype(np.float32), labels


def scene(
    rng: np.random.Generator, priors: np.ndarray, wanted: int
) -> Tuple[np.ndarray, np.ndarray]:
    """Network output with `wanted` candidates: the priors that overlap the objects of a picture."""
    low, size = rng.uniform(0, 0.7, (40, 2)), rng.uniform(0.05, 0.5, (40, 2))
    objects = np.concatenate([low, low + size], axis=1).astype(np.float32)
    overlap = iou_matrix(objects, cxcywh_to_xyxy(priors))
    chosen = np.argsort(-overlap.max(axis=0))[:wanted]
    owner = overlap.argmax(axis=0)
    loc = encode(objects[owner], priors) + rng.normal(0, 0.7, (len(priors), 4))
    logits = rng.normal(0, 1, (len(priors), CLASSES))
    logits[:, 0] += 10
    logits[chosen, rng.integers(1, CLASSES, 40)[owner[chosen]]] += rng.uniform(10, 15, len(chosen))
    return loc.astype(np.float32), logits.astype(np.float32)


def compare(name: str, sides: Sequence[Callable[[], Any]], rounds: int) -> float:
    """Prints and returns median of the first side's time over that of the second."""
    times = np.zeros((rounds, 2))
    for row in times:
        for column, side in enumerate(sides):
            start = time.perf_counter()
            side()
            row[column] = time.perf_counter() - start
    official, ours = np.median(times, axis=0) * 1e3
    print(f"{name:<58}{official:8.3f} ms {ours:8.3f} ms {official / ours:7.1f} x")
    return official / ours


def check_same(rows: List[np.ndarray], boxes: np.ndarray, scores: np.ndarray) -> None:
    """Raises AssertionError unless both sides found the same, whatever the order."""
    expected, got = np.concatenate(rows), np.concatenate([boxes, scores[:, None]], axis=1)
    assert len(expected) == len(got), f"{len(expected)} and {len(got)} detections"
    expected, got = expected[np.lexsort(expected.T)], got[np.lexsort(got.T)]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-3)


def compare_nms(peer: ModuleType, rng: np.random.Generator, rounds: int) -> None:
    """2,000 boxes, spread over 80 classes and all in one."""
    boxes, scores, spread = scattered(rng, 2000)
    for text, labels in (("80 classes", spread), ("one class", np.ones_like(spread))):
        data = (boxes, scores, labels)
        index, lowered = nms.nms_per_class(*data, 0.45)
        check_same(official_nms(peer, *data), boxes[index], lowered)
        sides = (partial(official_nms, peer, *data), partial(nms.nms_per_class, *data, 0.45))
        compare(f"soft-NMS, {len(boxes)} boxes, {text}", sides, rounds)


def compare_all(peer: ModuleType, rng: np.random.Generator, rounds: int) -> None:
    """Threshold, decode, NMS and top 50 a class of a 512 image; ours does the softmax as well."""
    priors = make_priors(get_config("m2det512_vgg16"))
    loc, logits = scene(rng, priors, 2700)
    scores = softmax(logits)
    process = PostProcessor(priors)
    found = process(loc, logits, *SIZE_PX)
    check_same(official_postprocess(peer, loc, scores, priors), found.boxes_px, found.scores)
    ours = partial(process, loc, logits, *SIZE_PX)
    text = f"{len(priors)} priors, {(scores[:, 1:] > 0.1).sum()} candidates"
    given = partial(official_postprocess, peer, loc, scores, priors)
    compare(f"{text}, official softmax not counted", (given, ours), rounds)
    whole = lambda: official_postprocess(peer, loc, softmax(logits), priors)  # noqa: E731
    compare(f"{text}, official softmax counted", (whole, ours), rounds)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.postprocess", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="runs of each side (default 100)")
    rounds = parser.parse_args(argv).rounds
    if rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        peer = load_peer()
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rng = np.random.default_rng(0)
    print(f"NMS backend: {nms.BACKEND}\n{'':<58}{'official':>11} {'ours':>11}")
    compare_nms(peer, rng, rounds)
    compare_all(peer, rng, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
