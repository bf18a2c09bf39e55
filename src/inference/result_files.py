# SPDX-License-Identifier: Apache-2.0
"""Detections as files: JSON, CSV, YOLO text, or a COCO data set. Standard library and NumPy.

Each file is written whole or not at all. A file name that is not UTF-8 keeps its bytes in text
files and is escaped in JSON, as Python reads it back.
"""

import csv
import io
import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Sequence, Set

import numpy as np

from ..runtime.errors import UsageError
from ..runtime.files import write_atomically


@dataclass(frozen=True, eq=False)
class Found:
    """The detections of one picture."""

    image: str  # path, or number of a camera
    frame: int  # of a video, from 0; -1 for an image
    picture: str  # drawn picture or video in the output folder; "" where none was drawn
    stem: str  # a name no other picture has
    width: int
    height: int
    boxes_px: np.ndarray  # (N, 4) xyxy, best first
    scores: np.ndarray  # (N,)
    labels: np.ndarray  # (N,) from 1


def free_name(stem: str, taken: Set[str]) -> str:
    """`stem`, or with a number where another folder's picture has taken that; now taken too."""
    name = stem
    for number in itertools.count(2):
        if name not in taken:
            break
        name = f"{stem}_{number}"
    taken.add(name)
    return name


def refuse_inputs(pictures: Iterable[Path], inputs: Iterable[str]) -> None:
    """Refuses to write a picture over one of the files it is drawn from.

    Raises:
        UsageError: naming the picture.
    """
    there = {os.path.realpath(name) for name in inputs if "\0" not in name}
    for picture in pictures:
        if os.path.realpath(picture) in there:
            raise UsageError(f"{picture}: is one of the inputs; choose another folder for pictures")


def write_json(folder: Path, entries: Sequence[Found], class_names: Sequence[str]) -> Path:
    """detections.json: an entry for each picture, with boxes as xyxy in its pixels."""
    rows = []
    for entry in entries:
        detections = [
            {
                "class": class_names[label - 1],
                "score": round(float(score), 4),
                "box_xyxy_px": [round(float(edge), 2) for edge in box],
            }
            for box, score, label in zip(entry.boxes_px, entry.scores, entry.labels)
        ]
        row = {"image": entry.image, "frame": entry.frame, "picture": entry.picture}
        if entry.frame < 0:
            del row["frame"]
        row.update(width=entry.width, height=entry.height, detections=detections)
        rows.append(row)
    return _write(folder / "detections.json", json.dumps(rows, indent=1) + "\n")


def write_csv(folder: Path, entries: Sequence[Found], class_names: Sequence[str]) -> Path:
    """detections.csv: a line for each box; `frame` is empty for images."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("image", "frame", "class", "score", "x1", "y1", "x2", "y2"))
    for entry in entries:
        frame = entry.frame if entry.frame >= 0 else ""
        for box, score, label in zip(entry.boxes_px, entry.scores, entry.labels):
            edges = [round(float(edge), 2) for edge in box]
            name = class_names[label - 1]
            writer.writerow((entry.image, frame, name, round(float(score), 4), *edges))
    return _write(folder / "detections.csv", text.getvalue())


def write_yolo(folder: Path, entries: Sequence[Found], class_names: Sequence[str]) -> Path:
    """labels/STEM.txt: lines of class (from 0), centre x and y, width, height as fractions of the
    picture, and score; and classes.txt. A picture without detections has an empty file.
    """
    labels = folder / "labels"
    labels.mkdir(exist_ok=True)
    for entry in entries:
        size = np.array([entry.width, entry.height])
        boxes = np.clip(entry.boxes_px.reshape(-1, 2, 2) / size, 0, 1)
        rows = [
            f"{label - 1} {x:.6f} {y:.6f} {w:.6f} {h:.6f} {score:.4f}\n"
            for label, (x, y), (w, h), score in zip(
                entry.labels, boxes.mean(axis=1), boxes[:, 1] - boxes[:, 0], entry.scores
            )
        ]
        _write(labels / f"{entry.stem}.txt", "".join(rows))
    _write(folder / "classes.txt", "".join(f"{name}\n" for name in class_names))
    return labels


def write_coco(folder: Path, entries: Sequence[Found], class_names: Sequence[str]) -> Path:
    """detections_coco.json: `coco_content`."""
    content = json.dumps(coco_content(entries, class_names))
    return _write(folder / "detections_coco.json", content + "\n")


def coco_content(entries: Sequence[Found], class_names: Sequence[str]) -> Dict[str, Any]:
    """A COCO annotation file's content whose boxes have scores as well."""
    annotations: List[Dict[str, object]] = []
    images = []
    for number, entry in enumerate(entries, 1):
        size = {"width": entry.width, "height": entry.height}
        name = entry.image if entry.frame < 0 else f"{entry.image}#{entry.frame}"
        images.append({"id": number, "file_name": name, **size})
        for (x1, y1, x2, y2), score, label in zip(
            np.asarray(entry.boxes_px, float).round(2).tolist(), entry.scores, entry.labels
        ):
            box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label),
                    "bbox": box,
                    "area": round(box[2] * box[3], 2),
                    "iscrowd": 0,
                    "score": round(float(score), 4),
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names, 1)]
    return {"images": images, "categories": categories, "annotations": annotations}


def _write(path: Path, text: str) -> Path:
    write_atomically(path, text)
    return path


WRITERS: Dict[str, Callable[[Path, Sequence[Found], Sequence[str]], Path]] = {
    "json": write_json,
    "csv": write_csv,
    "yolo": write_yolo,
    "coco": write_coco,
}
