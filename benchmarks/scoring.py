# SPDX-License-Identifier: Apache-2.0
"""Scoring beside plain pycocotools: `python -m benchmarks.scoring`.

A split like COCO's val2017 (5,000 images, 36,000 boxes of 80 classes) with 100 detections an image:
half of them lie about an object, the others anywhere. Plain pycocotools loads the annotations and
the results and prints its 12 numbers; ours makes all of metrics.json: the same numbers, the table
by class, curves, errors by kind, recall by size. Each run has a process of its own, the two take
turns, and each is handed the results as a list. Seconds are of the CPU, which tell more on a busy
machine; both sides are one thread. A ratio below 1 means ours is faster.
"""

import argparse
import contextlib
import gc
import io
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from benchmarks.run import in_own_process

CLASSES = 80
SIZE = (640, 480)
BOXES_AN_IMAGE = 7.2
GOAL = 1.15
PLAIN = "pycocotools"
OURS = "ours"
HEADER = "| side | CPU seconds | to pycocotools | peak GB | AP |\n|---|---|---|---|---|"


class Measured(NamedTuple):
    """Of one run: CPU seconds, peak memory, and the 12 numbers."""

    seconds: float
    peak_gb: float
    numbers: Tuple[float, ...]


def write_split(folder: Path, images: int, each: int) -> None:
    """A COCO data set whose image files are empty, and `results.json` beside it."""
    rng = np.random.default_rng(0)
    annotations: List[Dict[str, Any]] = []
    results: List[Dict[str, Any]] = []
    for image in range(1, images + 1):
        count = int(rng.poisson(BOXES_AN_IMAGE))
        boxes, labels = _boxes(rng, count), rng.integers(1, CLASSES + 1, count)
        for box, label in zip(boxes.tolist(), labels.tolist()):
            x, y, w, h = box
            row = {"id": len(annotations) + 1, "image_id": image, "category_id": label}
            outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            shape = {"bbox": box, "area": 0.7 * w * h, "segmentation": outline}
            annotations.append({**row, **shape, "iscrowd": int(rng.random() < 0.01)})
        results += _detections(rng, image, boxes, labels, each)
    pictures = folder / "val2017"
    pictures.mkdir()
    rows = []
    for image in range(1, images + 1):
        (pictures / f"{image:012}.jpg").touch()
        row = {"id": image, "file_name": f"{image:012}.jpg", "width": SIZE[0], "height": SIZE[1]}
        rows.append(row)
    categories = [{"id": label, "name": f"class {label}"} for label in range(1, CLASSES + 1)]
    content = {"images": rows, "annotations": annotations, "categories": categories}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(results))


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(N, 4) xywh within the image, of the sizes in COCO."""
    sides = np.clip(np.exp(rng.normal(4, 1, (count, 2))), 4, 450)
    corners = rng.uniform(0, 1, sides.shape) * (np.array(SIZE) - sides)
    return np.concatenate([corners, sides], axis=1).round(2)


def _detections(
    rng: np.random.Generator, image: int, boxes: np.ndarray, labels: np.ndarray, each: int
) -> List[Dict[str, Any]]:
    """As many entries of a results file as `each` says; where they lie about an object they have
    higher scores, and mostly its class.
    """
    near = each // 2 if len(boxes) else 0
    rows = rng.integers(0, max(len(boxes), 1), near)
    about = boxes[rows] + rng.normal(0, 0.1, (near, 4)) * boxes[rows][:, [2, 3, 2, 3]]
    about[:, 2:] = np.maximum(about[:, 2:], 1)
    everything = np.concatenate([about, _boxes(rng, each - near)]).round(3)
    guesses = rng.integers(1, CLASSES + 1, each)
    same = rng.random(near) < 0.8
    guesses[:near][same] = labels[rows][same]
    scores = rng.random(each)  # with more of them high than a network's: the most work for ours
    scores[:near] = 1 - scores[:near] ** 2
    return [
        {"image_id": image, "category_id": label, "bbox": box, "score": score}
        for box, label, score in zip(
            everything.tolist(), guesses.tolist(), scores.round(6).tolist()
        )
    ]


def run(side: str, folder: Path) -> Measured:
    """Scores once, in this process."""
    results = json.loads((folder / "results.json").read_text())
    gc.collect()
    score = {PLAIN: _plain, OURS: _ours}[side]
    numbers, seconds = score(folder, results)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Measured(seconds, peak_gb, numbers)


def _plain(folder: Path, results: List[Dict[str, Any]]) -> Tuple[Tuple[float, ...], float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "annotations" / "instances_val2017.json"))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return tuple(evaluation.stats.tolist()), time.process_time() - began


def _ours(folder: Path, results: List[Dict[str, Any]]) -> Tuple[Tuple[float, ...], float]:
    from src.data.coco_utils import load_data
    from src.evaluation.coco_metrics import coco_score
    from src.evaluation.error_analysis import judge_split
    from src.evaluation.summary import all_metrics

    data = load_data(folder, "val2017")  # evaluation has it already, for detecting
    began = time.process_time()
    score = coco_score(data, results)
    all_metrics(score, data, results, judge_split(data, results))
    return tuple(score.totals.values()), time.process_time() - began


def compare(folder: Path, rounds: int) -> Dict[str, List[Measured]]:
    """Both sides in turns.

    Raises:
        RuntimeError: their numbers are not the same.
    """
    found: Dict[str, List[Measured]] = {PLAIN: [], OURS: []}
    for _ in range(rounds):
        for side, runs in found.items():
            runs.append(in_own_process(run, side, folder))
    plain, ours = (runs[0].numbers for runs in found.values())
    if not np.allclose(plain, ours, rtol=0, atol=1e-12):
        raise RuntimeError(f"pycocotools found {plain}, ours {ours}")
    return found


def rows(found: Dict[str, List[Measured]]) -> List[str]:
    """Lines of the table: medians over the rounds."""
    plain = [one.seconds for one in found[PLAIN]]
    lines = []
    for side, runs in found.items():
        seconds = statistics.median(one.seconds for one in runs)
        ratio = statistics.median(one.seconds / other for one, other in zip(runs, plain))
        peak_gb = statistics.median(one.peak_gb for one in runs)
        cells = (side, f"{seconds:.1f}", f"{ratio:.2f}", f"{peak_gb:.2f}")
        lines.append(f"| {' | '.join(cells)} | {runs[0].numbers[0]:.4f} |")
    return lines


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--each", type=int, default=100, help="detections an image")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        write_split(Path(name), args.images, args.each)
        print("\n".join([HEADER, *rows(compare(Path(name), args.rounds))]))
    print(f"\ngoal: {GOAL} of pycocotools' time")


if __name__ == "__main__":
    main()
