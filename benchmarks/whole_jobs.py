# SPDX-License-Identifier: Apache-2.0
"""An evaluation and a training epoch as a user runs them: `python -m benchmarks.whole_jobs`.

Beside this project stands a PyTorch program that works the official way: one image after the other
through reading, network and class-by-class NMS; a DataLoader in front of the training step. The
sides take turns, each time in a new process with the same weights and images. There the network (or
the step) alone is timed as well, as often as the job needs it: what a job takes beyond that is its
overhead. Compiling and the first calls are not counted.
"""

import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from benchmarks.data_pipeline import render
from benchmarks.peers import sides
from benchmarks.peers.cases import Case
from benchmarks.run import PEER, in_own_process, machine
from src.config import DataConfig
from src.data.coco_utils import load_data
from src.data.records import DetectionData

CANDIDATES = 2700  # scores above the threshold in an image, as a trained network gives
WARM_UP = 3
HEADER = (
    "| job | side | seconds | to PyTorch | network alone | overhead |\n|---|---|---|---|---|---|"
)


class Timed(NamedTuple):
    """Seconds of a whole job, and of its network calls alone."""

    job: float
    alone: float


def seconds(work: Callable[[], Any]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def threshold(logits: np.ndarray) -> float:
    """The score that `CANDIDATES` of the (P, C) give; untrained heads reach no usual one."""
    from benchmarks.postprocess import softmax

    scores = softmax(logits)[:, 1:].ravel()
    return float(np.partition(scores, -CANDIDATES)[-CANDIDATES])


def torch_evaluation(case: Case, folder: Path, data: DetectionData) -> Timed:
    """Image by image: read, network, softmax, official post-processing."""
    import cv2
    import torch

    from benchmarks.postprocess import load_peer, official_postprocess

    peer, net, priors = load_peer(), sides.torch_network(case, folder), sides.priors_of(case)
    size = (case.input_size,) * 2
    mean = np.array(DataConfig().mean_bgr, np.float32)

    def forward(path: str) -> Any:
        image = cv2.resize(cv2.imread(path), size).astype(np.float32) - mean
        ready = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
        loc, logits = sides.torch_forward(net, ready)
        return loc[0], logits[0]

    lowest = threshold(forward(data.records[0].path)[1].numpy())

    def evaluate() -> None:
        for record in data.records:
            loc, logits = forward(record.path)
            scores = logits.softmax(1).numpy()
            official_postprocess(peer, loc.numpy(), scores, priors, lowest)

    images = torch.zeros(1, 3, *size)
    once = functools.partial(sides.torch_forward, net, images)
    return _timed(once, len(data.records), evaluate)


def our_evaluation(case: Case, folder: Path, data: DetectionData) -> Timed:
    """As eval.py does it, up to the entries of the results file."""
    from dataclasses import replace

    from src.evaluation.pipeline import detect_split
    from src.formats.checkpoint import Labels
    from src.inference.detector import ArrayDetector
    from src.inference.mindspore_network import cell_network

    config, net = sides.our_network(case, folder)
    network = cell_network(net)
    zeros = np.zeros((1, 3, case.input_size, case.input_size), np.float32)
    lowest = threshold(network(zeros)[1][0])
    test = replace(config.test, score_threshold=lowest)
    numbers = tuple(range(1, sides.CLASSES))
    labels = Labels(tuple(map(str, numbers)), numbers)
    detector = ArrayDetector.from_network(network, replace(config, test=test), labels, "weights")
    arguments = (detector, data, range(len(data.records)), numbers, lambda ids, entries: None)
    workers = config.train.num_workers
    evaluate = functools.partial(detect_split, *arguments, num_workers=workers)
    return _timed(lambda: network(zeros), len(data.records), evaluate)


def torch_epoch(case: Case, folder: Path, data: DetectionData) -> Timed:
    """A DataLoader with one worker, official augmentation and matching, one step a batch."""
    from benchmarks.peers.official_data import official_batches

    step, priors = sides.torch_step(sides.torch_network(case, folder)), sides.priors_of(case)
    make = functools.partial(official_batches, data, priors, case.input_size, case.batch, 1)
    fixed = next(make())

    def epoch() -> None:
        for batch in make():
            step(*batch)

    return _timed(lambda: step(*fixed), len(data.records) // case.batch, epoch)


def our_epoch(case: Case, folder: Path, data: DetectionData) -> Timed:
    """The pipeline and the loop of train.py, without checkpoints."""
    from mindspore import Tensor

    from benchmarks.data_pipeline import our_batches
    from src.training.trainer import Run, train

    config, net = sides.our_network(case, folder)
    step, steps = sides.our_step(config, net), len(data.records) // case.batch
    make = functools.partial(
        our_batches, data, sides.priors_of(case), case.input_size, case.batch, 1
    )
    made = make()
    fixed = [*map(Tensor, next(made)[:3]), Tensor(np.float32(0))]
    made.close()
    run = Run([1e-6] * steps, len(data.records), case.batch)
    return _timed(
        lambda: [x.asnumpy() for x in step(*fixed)], steps, lambda: train(step, make(), run)
    )


def _timed(once: Callable[[], Any], calls: int, job: Callable[[], Any]) -> Timed:
    """Half of the calls before the job and half after it, so that a drift hits both alike."""
    for _ in range(WARM_UP):
        once()
    before = seconds(lambda: [once() for _ in range(calls // 2)])
    took = seconds(job)
    after = seconds(lambda: [once() for _ in range(calls - calls // 2)])
    return Timed(took, before + after)


JOBS: Mapping[str, Mapping[str, Callable[[Case, Path, DetectionData], Timed]]] = {
    "evaluation": {PEER: torch_evaluation, "mindspore": our_evaluation},
    "training epoch": {PEER: torch_epoch, "mindspore": our_epoch},
}


def rows(name: str, found: Mapping[str, Sequence[Timed]]) -> List[str]:
    """Lines of the table; ratios are medians over the turns."""
    lines = []
    for side, times in found.items():
        to_peer = statistics.median(a.job / b.job for a, b in zip(times, found[PEER]))
        cells = [
            name if side == PEER else "",
            side,
            f"{statistics.median(one.job for one in times):.1f}",
            f"{to_peer:.2f}",
            f"{statistics.median(one.alone for one in times):.1f}",
            f"{statistics.median(one.job / one.alone for one in times):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def compare(
    name: str, case: Case, folder: Path, data: DetectionData, rounds: int
) -> Dict[str, List[Timed]]:
    """All sides of a job, in turns."""
    found: Dict[str, List[Timed]] = {side: [] for side in JOBS[name]}
    for _ in range(rounds):
        for side, job in JOBS[name].items():
            found[side].append(in_own_process(job, case, folder, data))
    return found


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=80, help="rendered images")
    parser.add_argument("--dataset_path", type=Path, help="a COCO or VOC folder instead")
    parser.add_argument("--split", default="train", help="of --dataset_path")
    parser.add_argument("--size", type=int, default=320, help="input side in pixels")
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--num_levels", type=int, default=8)
    parser.add_argument("--batch", type=int, default=2, help="of training")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    parser.add_argument("--only", default="", metavar="TEXT", help="jobs whose name holds it")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    case = Case("training", args.size, args.batch, args.backbone, args.num_levels)
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), args.dataset_path
        data = load_data(path, args.split) if path else render(folder, args.images)
        in_own_process(sides.prepare, case, folder, False)
        print(f"{machine()}\n{len(data.records)} images, {case.name}\n\n{HEADER}", flush=True)
        for job in JOBS:
            if args.only in job:
                found = compare(job, case, folder, data, args.rounds)
                print("\n".join(rows(job, found)), flush=True)


if __name__ == "__main__":
    main()
