# SPDX-License-Identifier: Apache-2.0
"""Reading annotations of COCO's size beside pycocotools: `python -m benchmarks.annotations`.

A file with as many images and boxes as train2017 has, with polygons as there, is written; the
images are empty files, as neither side opens them. Each side reads it in a new process, in turns:
pycocotools' `COCO(path)`, `load_data` with an empty cache ("first"), and with what that has left
("later"). Seconds do not count importing, peak memory does.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from benchmarks.run import machine

ROOT = Path(__file__).resolve().parents[1]
PEER, FIRST, LATER = "pycocotools", "first", "later"
IMAGES, BOXES = 118_287, 860_001  # of train2017
SPLIT = "train2017"
CHUNK = 2000  # annotations written at once
HEADER = (
    "| side | seconds | to pycocotools | CPU s | to pycocotools | peak MB | to pycocotools |\n"
    "|---|---|---|---|---|---|---|"
)
Figures = Tuple[float, float, float]  # seconds, seconds of CPU, MB


def write_data_set(folder: Path, images: int, boxes: int) -> Path:
    """A COCO data set of rectangles with polygons of 4 to 30 corners; returns the JSON file."""
    path = folder / "annotations" / f"instances_{SPLIT}.json"
    path.parent.mkdir(parents=True)
    (folder / SPLIT).mkdir()
    rows = []
    for number in range(images):
        name = f"{number:012}.jpg"
        (folder / SPLIT / name).touch()
        urls = dict.fromkeys(("coco_url", "flickr_url"), f"http://example.org/{SPLIT}/{name}")
        size = {"width": 640, "height": 480}
        rows.append({"license": 1, "file_name": name, **urls, **size, "id": number})
    head = {
        "info": {"year": 2017},
        "images": rows,
        "categories": [{"id": key, "name": f"class {key}"} for key in range(1, 81)],
    }
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        for number, chunk in enumerate(_chunks(images, boxes)):
            file.write((", " if number else "") + json.dumps(chunk)[1:-1])
        file.write("]}")
    return path


def _chunks(images: int, boxes: int) -> Iterator[List[dict]]:
    for start in range(0, boxes, CHUNK):
        rng = np.random.default_rng(start)
        count = min(CHUNK, boxes - start)
        sides = rng.uniform(5, 150, (count, 2)).round(2)
        corners = (rng.uniform(0, 1, (count, 2)) * ((640, 480) - sides)).round(2)
        points = rng.uniform(0, 480, (count, 60)).round(2)
        lengths, crowd = rng.integers(4, 31, count) * 2, rng.uniform(size=count) < 0.01
        owners, kinds = rng.integers(0, images, count), rng.integers(1, 81, count)
        yield [
            {
                "segmentation": [points[i, : lengths[i]].tolist()],
                "area": round(float(sides[i].prod()) * 0.6, 4),
                "iscrowd": int(crowd[i]),
                "image_id": int(owners[i]),
                "bbox": [*corners[i].tolist(), *sides[i].tolist()],
                "category_id": int(kinds[i]),
                "id": start + i + 1,
            }
            for i in range(count)
        ]


def read_once(side: str, path: Path) -> Tuple[float, float, int]:
    """Seconds and CPU seconds of `side` in this process, and the number of boxes it has then."""
    if side == PEER:
        from pycocotools.coco import COCO

        began, used = time.perf_counter(), time.process_time()
        count = len(COCO(str(path)).anns)
    else:
        from src.data.coco_utils import load_data
        from src.data.records import columns_of

        began, used = time.perf_counter(), time.process_time()
        count = len(columns_of(load_data(path.parents[1], SPLIT)).labels)
    return time.perf_counter() - began, time.process_time() - used, count


def start(side: str, path: Path, cache: Path, boxes: int) -> Figures:
    """Runs a side in a new process.

    Raises:
        RuntimeError: it has failed, or has not found all boxes.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.annotations", "--child", side, str(path)],
        cwd=ROOT,
        env={**os.environ, "M2DET_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    words = done.stdout.split("figures")[-1].split()
    if done.returncode or len(words) != 4 or int(words[3]) != boxes:
        raise RuntimeError(f"{side}: {(done.stderr or done.stdout).strip()[-500:]}")
    return float(words[0]), float(words[1]), float(words[2])


def measure(path: Path, boxes: int, rounds: int) -> Dict[str, List[Figures]]:
    """All sides in turns."""
    found: Dict[str, List[Figures]] = {PEER: [], FIRST: [], LATER: []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for side, figures in found.items():
                figures.append(start(side, path, Path(cache), boxes))
    return found


def rows_of(found: Dict[str, List[Figures]]) -> List[str]:
    """Lines of the table: medians, and medians of the ratios of each round."""
    lines = []
    for side, figures in found.items():
        cells = [side if side == PEER else f"load_data, {side}"]
        for column in range(3):
            values = [row[column] for row in figures]
            ratios = [row[column] / peer[column] for row, peer in zip(figures, found[PEER])]
            cells += [f"{statistics.median(values):.1f}", f"{statistics.median(ratios):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--boxes", type=int, default=BOXES)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    if args.child:
        seconds, cpu, count = read_once(args.child[0], Path(args.child[1]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"figures {seconds} {cpu} {peak} {count}")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write_data_set(Path(folder), args.images, args.boxes)
        megabytes = path.stat().st_size / 2**20
        print(machine(), "", sep="\n")
        print(f"{args.images} images, {args.boxes} boxes, {megabytes:.0f} MB\n\n{HEADER}")
        print(*rows_of(measure(path, args.boxes, args.rounds)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
