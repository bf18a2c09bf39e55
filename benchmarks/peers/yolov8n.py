# SPDX-License-Identifier: Apache-2.0
"""YOLOv8n beside a network of ours: `python -m benchmarks.peers.yolov8n`.

Trains Ultralytics' YOLOv8n from nothing on a data set of this project's formats, on one core for as
many minutes as ours took, and scores it as eval.py scores ours. Ultralytics (AGPL-3.0) is no part
of this project; it wants an environment of its own:

    python -m venv yolo && yolo/bin/pip install ultralytics
    python -m benchmarks.peers.yolov8n --python yolo/bin/python --minutes 60 ...
"""

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from benchmarks.peers import yolov8n_side
from src.data.coco_utils import load_data
from src.data.records import DetectionData, ImageRecord
from src.evaluation.coco_metrics import coco_results, score_coco
from src.runtime.errors import UsageError
from src.runtime.files import write_json
from src.utils import run_main


def write_yolo(data: DetectionData, root: Path, split: str) -> None:
    """Links the images of `data` into `root`/images/`split`, with a label file for each.

    Files are numbered, so that names of several folders do not meet. Crowd and difficult objects
    are left out, as in our own training.
    """
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index, record in enumerate(data.records):
        source = Path(record.path).resolve()
        (images / f"{index:06d}{source.suffix}").symlink_to(source)
        (labels / f"{index:06d}.txt").write_text("\n".join(label_lines(record)) + "\n")


def label_lines(record: ImageRecord) -> List[str]:
    """Lines `class x y width height` of an image: classes from 0, centres, shares of its size."""
    scale = np.array([record.width, record.height] * 2, np.float64)
    boxes = record.boxes_px[~record.ignore].astype(np.float64)
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    rows = np.concatenate([centres, sizes], axis=1) / scale
    return [
        f"{label - 1} " + " ".join(f"{value:.6f}" for value in row)
        for label, row in zip(record.labels[~record.ignore].tolist(), rows.tolist())
    ]


def score(data: DetectionData, found: Sequence[Sequence[Any]]) -> Dict[str, float]:
    """The 12 COCO numbers of what yolov8n_side.py found: image's number, boxes, scores, classes."""
    results = []
    for name, boxes, scores, classes in found:
        results += coco_results(
            data.records[int(name)].image_id,
            np.asarray(boxes, np.float64).reshape(-1, 4),
            np.asarray(scores),
            np.asarray(classes, np.int64) + 1,
            data.category_ids,
        )
    return score_coco(data, results)[0]


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_path", required=True, type=Path)
    parser.add_argument("--train_split", default="train")
    parser.add_argument("--score_split", default="val")
    parser.add_argument("--python", required=True, help="interpreter that has ultralytics")
    parser.add_argument("--minutes", type=float, required=True, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, type=Path, help="folder, made anew")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> Dict[str, float]:
    """Command line of the benchmark; returns and writes YOLOv8n's scores."""
    args = parse_arguments(argv)
    if args.output.exists():
        raise UsageError(f"--output {args.output}: exists already")
    splits = {
        "train": load_data(args.dataset_path, args.train_split),
        "test": load_data(args.dataset_path, args.score_split),
    }
    root = args.output.resolve() / "data"
    for split, data in splits.items():
        write_yolo(data, root, split)
    # JSON is YAML. `val` must be there; it is not looked at while training.
    content = {"path": str(root), "train": "images/train", "val": "images/train"}
    names = dict(enumerate(splits["train"].class_names))
    write_json(root / "data.yaml", {**content, "names": names})
    side = [args.python, yolov8n_side.__file__, str(root / "data.yaml"), str(args.output.resolve())]
    ended = subprocess.run(
        [*side, str(args.minutes), str(args.seed)],
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "YOLO_CONFIG_DIR": str(root)},
    )
    if ended.returncode:
        raise UsageError(f"{args.python}: {Path(side[1]).name} ended with code {ended.returncode}")
    found = json.loads((args.output / "found.json").read_text())
    scores = score(splits["test"], found)
    write_json(args.output / "metrics.json", scores)
    print("\n".join(f"{name:9} {value:.4f}" for name, value in scores.items()))
    return scores


if __name__ == "__main__":
    run_main(main)
