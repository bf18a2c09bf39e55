# SPDX-License-Identifier: Apache-2.0
"""`eval.py`: score a network on a split. Its flags and files: `eval_arguments`."""

import argparse
import itertools
import logging
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from ..config import Config, to_json
from ..data.coco_utils import load_data
from ..data.records import DetectionData
from ..drawing.report_page import write_report
from ..evaluation.coco_metrics import coco_score, find_scorer, shared_category_ids
from ..evaluation.error_analysis import judge_split
from ..evaluation.partial_results import PartialResults, settings_key
from ..evaluation.pipeline import detect_split, rank_indices
from ..evaluation.submission import write_submission
from ..evaluation.summary import all_metrics, as_text
from ..formats.checkpoint import Labels
from ..inference.detector import STAGES, ArrayDetector
from ..inference.open_network import NetworkFile, prepare_device, read_network_file
from ..runtime.errors import UsageError, printable
from ..runtime.files import locked, remove_leftovers, write_json
from ..runtime.stopwatch import Stopwatch
from ..runtime.terminal import ProgressBar, start_log, wrapped
from ..utils import check_score_threshold

LOG = logging.getLogger("m2det.eval")
PARTS = "partial"  # folder in the output for the results so far


def main(args: argparse.Namespace) -> Dict[str, float]:
    """Returns the 12 COCO numbers; {} without ground truth and for ranks but the first."""
    check_score_threshold(args.score_threshold)
    device = (args.device_target, args.device_id, args.distribute)
    rank, ranks = prepare_device(args.checkpoint_path, *device)
    network = read_network_file(args.checkpoint_path, args.config, args.set)
    config = network.config
    level = logging.INFO if rank == 0 else logging.WARNING
    start_log(level)
    data = load_data(args.dataset_path, args.split, allow_links=config.data.allow_links)
    if data.annotated:
        find_scorer(args.scorer)  # a missing package is found before the evaluation, not after it
    detector = build_detector(network, data)
    announce(network, data, args, ranks)
    report_classes(detector.class_names, data.class_names)
    report_views(detector)
    watch = Stopwatch(STAGES)
    # Two evaluations would write over each other's parts.
    with locked(args.output) if rank == 0 else nullcontext():
        if rank == 0:
            remove_leftovers(args.output)
        found = detect(detector, data, config, args, watch, rank, ranks)
        return {} if rank else write_results(found, data, config, args, watch, ranks)


def write_results(
    found: "Found",
    data: DetectionData,
    config: Config,
    args: argparse.Namespace,
    watch: Stopwatch,
    ranks: int,
) -> Dict[str, float]:
    """Writes and prints the results of all ranks; the 12 COCO numbers, {} without ground truth."""
    write_json(args.output / "detections.json", found.results)  # before anything can go wrong
    speed = report_speed(watch, found.fresh, found.seconds, ranks)
    if data.annotated:
        totals = score(data, found.results, speed, args, config)
    else:
        totals = {}
        name = args.name or config.experiment_tag
        path = write_submission(args.output, found.results, data.split, name)
        print(f"written: {printable(str(path))}")
    shutil.rmtree(args.output / PARTS, ignore_errors=True)  # not before: a run may end in between
    return totals


def score(
    data: DetectionData,
    results: Sequence[Mapping[str, Any]],
    speed: Mapping[str, float],
    args: argparse.Namespace,
    config: Config,
) -> Dict[str, float]:
    """Writes and prints the metrics of a split with ground truth; returns the 12 COCO numbers."""
    scored = coco_score(data, results, args.scorer)
    errors = judge_split(data, results, args.score_threshold)
    metrics = {**all_metrics(scored, data, results, errors), "images_per_second": speed}
    write_json(args.output / "metrics.json", metrics, indent=1)
    names = ["detections.json", "metrics.json"]
    if args.report:
        names.append("report.html")
        title = f"{args.checkpoint_path.name} on {args.dataset_path.name}, {data.split}"
        settings = {"checkpoint": str(args.checkpoint_path), **asdict(config)}
        write_report(args.output / names[-1], data, results, metrics, settings, title)
    print(as_text(metrics))
    print("\n".join(printable(f"written: {args.output / name}") for name in names))
    return scored.totals


class Found(NamedTuple):
    """Entries of a COCO results file; images of this run, and seconds without compiling."""

    results: List[Mapping[str, Any]]
    fresh: int
    seconds: float


def build_detector(network: NetworkFile, data: DetectionData) -> ArrayDetector:
    """The detector in a file; where that does not name its classes they are those of the data."""
    classes = network.config.model.num_classes
    if network.labels is None and classes != data.num_classes:
        raise UsageError(
            f"{network.path}: a network of {classes} classes with the background,"
            f" but {data.annotation_path} has {data.num_classes}"
        )
    return network.detector(network.config, Labels(data.class_names, data.category_ids))


def detect(
    detector: ArrayDetector,
    data: DetectionData,
    config: Config,
    args: argparse.Namespace,
    watch: Stopwatch,
    rank: int,
    ranks: int,
) -> Found:
    """This rank's images of the split, each image once; the results of all ranks."""
    category_ids = shared_category_ids(detector.class_names, data)
    key = settings_key([args.checkpoint_path], relevant(config), data, ranks)
    part = PartialResults(args.output / PARTS / f"rank_{rank}.jsonl", key)
    own = rank_indices(len(data.records), rank, ranks)
    left = [index for index in own if data.records[index].image_id not in part.results]
    if len(left) < len(own):
        LOG.info("going on: %d of %d images were done before", len(own) - len(left), len(own))
    if left:
        detector.warm_up(config.test.batch_size)
    began = time.monotonic()
    with ProgressBar(len(left), "images", LOG.info) as bar:

        def on_batch(image_ids: List[int], entries: List[Any]) -> None:
            part.append(image_ids, entries)
            bar.update(len(image_ids))

        detect_split(
            detector,
            data,
            left,
            category_ids,
            on_batch,
            batch_size=config.test.batch_size,
            num_workers=config.train.num_workers,
            strict=config.data.strict,
            watch=watch,
        )
    seconds = time.monotonic() - began
    merged = dict(merge(list(part.results.items()), rank, ranks))
    rows = [entry for record in data.records for entry in merged[record.image_id]]
    return Found(rows, len(left), seconds)


def merge(rows: List[Any], rank: int, ranks: int) -> List[Any]:
    """The rows of all ranks."""
    if ranks == 1:
        return rows
    from ..runtime.collectives import gather  # MindSpore, which ONNX files do without

    return list(itertools.chain.from_iterable(gather(rows, rank, ranks)))


def relevant(config: Config) -> str:
    """The settings that detections depend on."""
    test = replace(config.test, batch_size=1)
    return to_json(Config(model=config.model, anchors=config.anchors, data=config.data, test=test))


def announce(
    network: NetworkFile, data: DetectionData, args: argparse.Namespace, ranks: int
) -> None:
    """Logs what is going to be scored."""
    size, images = network.config.model.input_size, len(data.records)
    of_ranks = f", {ranks} ranks" if ranks > 1 else ""
    LOG.info("network  %s, %d x %d px", printable(str(network.path)), size, size)
    LOG.info("device   %s%s", args.device_target, of_ranks)
    LOG.info("data     %s: %d images, %d classes", data.split, images, len(data.class_names))
    LOG.info("output   %s", printable(str(args.output)))


def report_classes(network: Sequence[str], data: Sequence[str]) -> None:
    """Logs the classes that only the network or only the data have."""
    for about, names in (
        ("only the network has these classes, which are not scored", set(network) - set(data)),
        ("the network does not know these classes, whose AP is 0", set(data) - set(network)),
    ):
        if names:
            LOG.info("%s: %s", about, printable(", ".join(sorted(names))))


def report_views(detector: ArrayDetector) -> None:
    """Logs how many pixels several views of an image cost."""
    plan = detector.plan
    views = plan.views(plan.base_size, plan.base_size)
    times = sum(view.size**2 for view in views) / plan.base_size**2
    if len(views) > 1:
        LOG.info("%d views of each image: %.1f times the pixels of one", len(views), times)
    if plan.tile_px:
        LOG.info("and tiles of images larger than %d pixels", plan.tile_px)


def report_speed(watch: Stopwatch, images: int, seconds: float, ranks: int) -> Dict[str, float]:
    """Images per second of each stage by itself and of the whole, printed and returned."""
    if not images:
        return {}
    speed = {**watch.rates(images), "all": images / seconds}
    text = ", ".join(f"{name} {rate:.1f}" for name, rate in speed.items())
    of_rank = f" (rank 0 of {ranks})" if ranks > 1 else ""
    print(wrapped(f"images/s{of_rank}: {text}"))
    return {name: round(rate, 2) for name, rate in speed.items()}
