# SPDX-License-Identifier: Apache-2.0
"""Check a data set before training: numbers, faults, recall of the priors."""

import argparse
import sys
from pathlib import Path
from typing import Dict, List, Sequence

import cv2
import numpy as np

from ..config import Config, get_config
from ..data.anchor_fit import build_grid, evaluate_scales, suggest_scales
from ..data.annotations.layout import choose_split, undivided
from ..data.checks import (
    HARMLESS,
    NO_BOX,
    boxes_cxcywh,
    check_images,
    class_counts,
    decoder_messages,
    find_duplicate_boxes,
    prior_recall_by_coco_size,
    prior_recall_by_side,
)
from ..data.coco_utils import find_splits, load_data
from ..data.dataset import usable_workers
from ..data.records import (
    Columns,
    DataError,
    DetectionData,
    Findings,
    MissingData,
    NothingHeldOut,
    columns_of,
    require_boxes,
)
from ..drawing.data_overview import draw_report, prior_shapes_px
from ..priors import best_iou, make_priors, map_sizes, prior_shapes_per_cell
from ..runtime.errors import printable
from ..runtime.files import made, write_atomically
from ..runtime.terminal import ProgressBar, wrapped

LOW_RECALL = 0.1  # a size is reported where a smaller fraction of its boxes is matched


def main(args: argparse.Namespace) -> int:
    """Check, report on stdout, and return the exit code: 1 for faults of the data alone.

    Raises:
        MissingData: no such data set or split.
        OSError: the picture cannot be written.
    """
    config = get_config(args.config, args.set)
    try:
        with made(picture_path(args.output, "", False).parent):  # not after all the work
            return check(args, config)
    except MissingData:
        raise
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def check(args: argparse.Namespace, config: Config) -> int:
    failed = False
    known: List[Dict[bytes, str]] = []  # of the splits before
    available = find_splits(args.dataset, config.data.allow_links)
    splits = args.split or default_splits(args.dataset, available)
    for split in splits:
        findings = Findings(collect=True)
        try:
            data = load_data(args.dataset, split, config.data.allow_links, findings)
        except NothingHeldOut as error:
            if args.split:
                raise
            print(f"  {error}")  # "train" is all of it
            continue
        print(printable(f"{data.annotation_path}, split {data.split} ({data.style})"))
        picture = picture_path(args.output, data.split, len(splits) > 1)
        columns = columns_of(data)
        print_numbers(data, columns)
        find_duplicate_boxes(data, columns, findings)
        if data.split.lower().startswith("train"):
            try:
                require_boxes(data)
            except DataError as error:
                findings.note(NO_BOX, str(error))
        if args.images != "none":
            workers, decoding = usable_workers(args.workers), args.images == "decode"
            with ProgressBar(len(data.records), "images", to_stderr) as bar:
                seen = check_images(data, decoding, workers, findings, bar.update)
            # YOLO's data.yaml may name one folder for both splits, which is no mistake.
            files = set(seen.values()) if data.style == "yolo" else None
            others = [other for other in known if set(other.values()) != files]
            note_shared(seen, others, undivided(available), findings)
            known.append(seen)
        print_prior_recall(columns, config)
        if args.suggest_anchors:
            print_anchors(columns, config)
        if len(data.records):
            write_picture(picture, data, columns, config)
        failed |= print_findings(findings, args.strict)
    return int(failed)


def note_shared(
    seen: Dict[bytes, str], others: Sequence[Dict[bytes, str]], whole: bool, findings: Findings
) -> None:
    """Note the images that are in other splits too; all are path by digest of the contents.

    Parts of a `whole`, an undivided data set, may only have copies in common.
    """
    known = {digest: path for other in others for digest, path in other.items()}
    for digest in seen.keys() & known.keys():
        if seen[digest] != known[digest]:
            message = f"{seen[digest]}: also in another split, as {known[digest]}"
            findings.note("images of two splits", message)
        elif not whole:
            findings.note(
                "images of two splits", f"{seen[digest]}: the file is in another split too"
            )


def to_stderr(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def default_splits(root: Path, available: Sequence[str]) -> List[str]:
    """What training and evaluation would take of the splits that there are; at least one.

    Raises:
        DataError: neither is there.
    """
    chosen, failures = [], []
    for split in ("train", "val"):
        try:
            chosen.append(choose_split(split, dict.fromkeys(available), str(root)))
        except DataError as error:
            failures.append(error)
    if not chosen and available:
        raise failures[0]
    return chosen or ["train"]  # reading it says what was expected


def print_numbers(data: DetectionData, columns: Columns) -> None:
    """Counts of images, boxes and classes, and the distribution of box sizes."""
    empty = len(data.records) - len(np.unique(columns.image))
    ignored = int(columns.ignore.sum())
    print(f"  images {len(data.records)}, of them {empty} without boxes")
    print(f"  boxes {len(columns.labels)}, of them {ignored} ignored (crowd or difficult)")
    counts = class_counts(data, columns)
    unused = [name for name, count in counts.items() if count == 0]
    print(f"  classes {len(counts)}, of them {len(unused)} without a box")
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    shown = [f"{name} {count}" for name, count in ranked[:12]]
    print(wrapped(", ".join(shown + ["..."] * (len(ranked) > 12)), "  "))
    if len(columns.labels):
        sides = np.sqrt((columns.boxes_px[:, 2:] - columns.boxes_px[:, :2]).prod(axis=1))
        sides_text = ", ".join(f"{q}%: {np.percentile(sides, q):.0f}" for q in (1, 10, 50, 90, 99))
        print(wrapped(f"box size, square root of the area in image pixels: {sides_text}", "  "))


def print_prior_recall(columns: Columns, config: Config) -> None:
    """How many ground truths the priors can match."""
    sizes = map_sizes(config.model)
    per_cell = prior_shapes_per_cell(config.anchors, len(sizes))
    iou = best_iou(boxes_cxcywh(columns), make_priors(config), sizes, per_cell)
    threshold, size = config.anchors.iou_threshold, config.model.input_size
    print(f"  matched by the priors of {config.experiment_tag} at IoU {threshold}:")
    for row in prior_recall_by_coco_size(columns, iou, threshold):
        if row.total:
            print(f"    {row.name:<8} {row.matched:>8} of {row.total:>8}  {row.recall:7.1%}")
    rows = [row for row in prior_recall_by_side(columns, iou, threshold, size) if row.total]
    recalls = ", ".join(f"{row.name} px {row.recall:.0%}" for row in rows)
    print(wrapped(f"by side at {size} px: {recalls}", "  "))
    low = ", ".join(f"{r.name} px ({r.total} boxes)" for r in rows if r.recall < LOW_RECALL)
    if low:
        limit = f"under {LOW_RECALL:.0%} matched, but for each box's one best prior"
        print(wrapped(f"{limit}: {low}", "  "))


def print_anchors(columns: Columns, config: Config) -> None:
    """Scales that fit the boxes better, beside those of the configuration, with the fit of both."""
    boxes, threshold = boxes_cxcywh(columns)[~columns.ignore], config.anchors.iou_threshold
    if not len(boxes):
        print("  no boxes to fit anchors to")
        return
    grid, now = build_grid(config)
    for name, scales in (("now", now), ("fitted", suggest_scales(boxes, grid, now, threshold))):
        fit = evaluate_scales(boxes, scales, grid, threshold)
        recall, mean = f"{fit.recall:.1%} of the boxes matched", f"{fit.mean_iou:.3f}"
        print(f"  anchors {name}: {recall}, mean of the best IoU {mean}, with")
        print(f"    --set anchors.scales={','.join(f'{s:g}' for s in scales)}")


def print_findings(findings: Findings, strict: bool) -> bool:
    """Everything found, errors first; returns whether there were errors."""
    errors = dict(findings.errors)
    warnings: Dict[str, int] = {}
    for kind, count in findings.counts.items():
        harmless = (kind in HARMLESS or kind == "images of two splits") and not strict
        found = warnings if harmless else errors
        found[kind] = found.get(kind, 0) + count
    for name, found in (("error", errors), ("warning", warnings)):
        for kind, count in sorted(found.items()):
            print(f"  {name}: {count} {kind}")
            for example in findings.examples.get(kind, ()):
                print(printable(f"    {example}"))
    if not errors and not warnings:
        print("  nothing wrong")
    return bool(errors)


def picture_path(output: Path, split: str, several: bool) -> Path:
    """FOLDER/SPLIT.png, or the PNG file asked for, with the split in its name if there are more."""
    if output.suffix.lower() != ".png":
        return output / f"{split}.png"
    return output.with_name(f"{output.stem}_{split}.png") if several else output


def write_picture(path: Path, data: DetectionData, columns: Columns, config: Config) -> None:
    """Draw and write the PNG, whole or not at all."""
    size, maps = config.model.input_size, map_sizes(config.model)
    per_cell = prior_shapes_per_cell(config.anchors, len(maps))
    shapes = prior_shapes_px(make_priors(config), maps, per_cell, size)
    sides = boxes_cxcywh(columns)[:, 2:] * size
    with decoder_messages():  # said before
        picture = draw_report(data, sides, shapes, class_counts(data, columns), size)
    write_atomically(path, cv2.imencode(".png", picture)[1].tobytes())
    print(printable(f"  picture: {path}"))
