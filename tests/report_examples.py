# SPDX-License-Identifier: Apache-2.0
"""Reports for the tests of the page and of its data."""

import copy

import cv2
import numpy as np

from src.data.coco_utils import load_data
from src.data.records import DetectionData, ImageRecord
from src.drawing.report_page import write_report
from src.evaluation.coco_metrics import coco_score
from src.evaluation.error_analysis import judge_split
from src.evaluation.summary import all_metrics
from tests.datasets import coco_content, write_coco, write_image


def small_split(root):
    """Two images; a class name and a file name that would break careless HTML or JavaScript.

    The first has a cat (found from 0.2 on) and a dog (missed) and a dog seen where the cat is; in
    the second the cat is found from 0.8 on, and again at 0.4.
    """
    rows = [(1, 3, [0, 0, 20, 20]), (1, 7, [30, 10, 20, 20]), (2, 3, [5, 5, 30, 30])]
    content = coco_content(["a<b>&.jpg", "c.jpg"], rows)
    content["categories"][1]["name"] = "</script><cat> & ${co}"
    data = load_data(write_coco(root, content), "train")
    results = [
        {"image_id": 1, "category_id": 7, "bbox": [0, 0, 20, 20], "score": 0.9},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 20, 20], "score": 0.2},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 20, 20], "score": 0.01},
        {"image_id": 2, "category_id": 3, "bbox": [5, 5, 30, 30], "score": 0.8},
        {"image_id": 2, "category_id": 3, "bbox": [5, 5, 30, 28], "score": 0.4},
    ]
    return data, results


def large_split(root, images, classes=80, image_px=(640, 480)):
    """So many images of one file of noise, whose JPEG is as large as that of a photograph."""
    rng = np.random.default_rng(0)
    path = write_image(root / "a.jpg", *image_px)
    noise = rng.integers(0, 255, (image_px[1] // 4, image_px[0] // 4, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, image_px))
    records, results = [], []
    for image_id in range(1, images + 1):
        low = rng.uniform(0, (500, 350), (7, 2))
        boxes = np.concatenate([low, low + rng.uniform(20, 130, (7, 2))], axis=1)
        labels = rng.integers(1, classes + 1, 7)
        records.append(
            ImageRecord(
                image_id,
                str(path),
                *image_px,
                boxes.astype(np.float32),
                labels.astype(np.int32),
                np.zeros(7, bool),
            )
        )
        for box, label in zip(boxes, labels):
            for shift, score in ((rng.normal(0, 8, 4), rng.random()), (rng.normal(0, 30, 4), 0.1)):
                x1, y1, x2, y2 = (box + shift).tolist()
                other = int(rng.integers(1, classes + 1))
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": int(label) if rng.random() < 0.7 else other,
                        "bbox": [x1, y1, max(1, x2 - x1), max(1, y2 - y1)],
                        "score": round(float(score), 4),
                    }
                )
    names = tuple(f"class number {number}" for number in range(1, classes + 1))
    numbers = tuple(range(1, classes + 1))
    return DetectionData(records, names, numbers, "val", str(path), "voc"), results


def write(path, data, results, title="x on y"):
    """The report of a split, and its metrics."""
    errors = judge_split(data, results)
    metrics = all_metrics(coco_score(data, results), data, results, errors)
    metrics["images_per_second"] = {"load": 12.5, "all": 3.0}
    write_report(path, data, results, metrics, {"model": {"backbone": "<b>"}}, title)
    return copy.deepcopy(metrics)
