# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint on a COCO or Pascal VOC split: the 12 COCO numbers and AP by class."""

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from src.checkpoint import load_labels, resolve_config, write_atomically
from src.coco_utils import load_data
from src.config import Config
from src.dataset import batches, build_eval_dataset
from src.detector import Detector
from src.evaluation import detect_split
from src.records import DetectionData
from src.scoring import category_ids_for, score_coco
from src.utils import add_common_arguments, run_main, setup_device

LOG = logging.getLogger("m2det.eval")


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint_path", required=True, type=Path)
    parser.add_argument("--dataset_path", required=True, type=Path, help="COCO or VOC folder")
    parser.add_argument("--split", default="val", help="split to evaluate (default: val)")
    parser.add_argument(
        "--output", default="eval_output", type=Path, help="for detections.json and metrics.json"
    )
    add_common_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> Dict[str, float]:
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    config = resolve_config(args.config, args.set, args.checkpoint_path)
    setup_device(args.device_target, args.device_id)
    data = load_data(args.dataset_path, args.split, allow_links=config.data.allow_links)
    labels = load_labels(args.checkpoint_path)
    if labels is None and config.model.num_classes != data.num_classes:
        raise ValueError(
            f"{args.checkpoint_path}: a network of {config.model.num_classes} classes with the"
            f" background, but {data.annotation_path} has {data.num_classes}"
        )
    detector = Detector.from_checkpoint(args.checkpoint_path, config, labels)
    names = labels.class_names if labels else data.class_names
    results = detect(detector, data, category_ids_for(names, data), config)
    args.output.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output / "detections.json", json.dumps(results))
    totals, by_class = score_coco(data, results)
    metrics: Dict[str, Any] = {**totals, "AP_by_class": by_class, "images": len(data.records)}
    write_atomically(args.output / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    report(totals, by_class)
    print(f"written: {args.output / 'detections.json'}, {args.output / 'metrics.json'}")
    return totals


def detect(
    detector: Detector, data: DetectionData, category_ids: Sequence[int], config: Config
) -> List[Dict[str, Any]]:
    """Run the detector over the split, logging progress and speed."""
    dataset = build_eval_dataset(
        data,
        input_size=config.model.input_size,
        mean_bgr=config.data.mean_bgr,
        batch_size=config.test.batch_size,
        num_workers=config.train.num_workers,
    )
    total = len(data.records)
    began = time.monotonic()
    shown = 0

    def progress(done: int) -> None:
        nonlocal shown
        if done == total or done - shown >= max(total // 20, 1):
            shown = done
            speed = done / max(time.monotonic() - began, 1e-9)
            LOG.info("%d of %d images, %.1f images/s", done, total, speed)

    return detect_split(detector, data, batches(dataset), category_ids, progress)


def report(totals: Mapping[str, float], by_class: Mapping[str, float]) -> None:
    """Print the twelve numbers and the AP of each class that has ground truth."""
    for name, value in totals.items():
        print(f"{name:<10} {value:7.4f}")
    scored = {name: value for name, value in by_class.items() if value >= 0}
    print(f"AP by class ({len(scored)} with ground truth):")
    for name, value in scored.items():
        print(f"  {name:<20} {value:7.4f}")


if __name__ == "__main__":
    run_main(main)
