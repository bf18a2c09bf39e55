# SPDX-License-Identifier: Apache-2.0
"""The score of a perfect network.

`python -m benchmarks.studies.ceiling --dataset_path D --config NAME`

A network that gave its training targets exactly would still lose what anchors, matching and
non-maximum suppression lose: objects that share their only prior, and neighbours that suppress each
other. This scores such a network, with the post-processing of the configuration. It needs no
training and no images, so that anchors and input sizes can be compared in seconds.
"""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from src.box_utils import decode, match, prepare_priors
from src.config import Config, get_config
from src.data.coco_utils import load_data
from src.data.records import DetectionData
from src.evaluation.coco_metrics import coco_results, coco_score
from src.evaluation.error_analysis import as_lines, judge_split, recall_by_size
from src.inference.detector import build_postprocessor
from src.priors import make_priors
from src.utils import add_config_arguments, run_main

CERTAIN = 20.0  # logit of the right class; the others have 0


def perfect_results(data: DetectionData, config: Config) -> Tuple[List[Mapping[str, Any]], int]:
    """Entries of a COCO results file, and how many objects are no prior's target."""
    priors, lost = prepare_priors(make_priors(config)), 0
    found: List[Mapping[str, Any]] = []
    postprocess = build_postprocessor(config)
    for record in data.records:
        boxes = record.boxes_px[~record.ignore] / np.tile((record.width, record.height), 2)
        labels = record.labels[~record.ignore]
        loc, targets = match(boxes, labels, priors, config.anchors.iou_threshold)
        lost += len(labels) - _owners(boxes, loc, targets, priors.cxcywh)
        logits = np.zeros((len(targets), data.num_classes), np.float32)
        logits[np.arange(len(targets)), targets] = CERTAIN
        seen = postprocess(loc, logits, record.width, record.height)
        parts = (seen.boxes_px, seen.scores, seen.labels)
        found += coco_results(record.image_id, *parts, data.category_ids)
    return found, lost


def _owners(boxes: np.ndarray, loc: np.ndarray, targets: np.ndarray, priors: np.ndarray) -> int:
    """How many of (G, 4) boxes are the target of some prior, each prior counting for one."""
    reached = decode(loc, priors)[targets > 0]
    if not len(reached):
        return 0
    distance = np.abs(reached[:, None] - boxes[None]).max(axis=2)
    return len(np.unique(distance.argmin(axis=1)))


def report(data: DetectionData, config: Config) -> Dict[str, float]:
    """Prints the scores and recall by size and cause; returns the 12 COCO numbers."""
    results, lost = perfect_results(data, config)
    score = coco_score(data, results)
    totals = score.totals
    objects = sum(int((~record.ignore).sum()) for record in data.records)
    print(f"{len(data.records)} images, {objects} objects, {lost} of them no prior's target")
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    print("a perfect network: " + ", ".join(f"{name} {totals[name]:.4f}" for name in names))
    print("\n".join(as_lines(recall_by_size(data, judge_split(data, results)))))
    return totals


def main(argv: Optional[Sequence[str]] = None) -> Dict[str, float]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.ceiling", description=__doc__.split("\n\n")[2]
    )
    parser.add_argument("--dataset_path", required=True, type=Path, help="COCO or VOC folder")
    parser.add_argument("--split", default="train", help="split (default: train)")
    add_config_arguments(parser, "m2det_tiny")
    args = parser.parse_args(argv)
    config = get_config(args.config, args.set)
    return report(load_data(args.dataset_path, args.split), config)


if __name__ == "__main__":
    run_main(main)
