# SPDX-License-Identifier: Apache-2.0
"""Speed of the training pipeline beside the official way: `python -m benchmarks.data_pipeline`.

Both decode 640 x 480 JPEG files, augment, and match against the priors of 512 x 512; both are given
the same images, batch and number of workers, and take turns in one run. Images are rendered into a
temporary folder, or taken from `--dataset_path`. A ratio above 1 means ours is faster.
`--memory` watches the memory of three epochs instead.
"""

import argparse
import contextlib
import functools
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import psutil

from src.box_utils import match, prepare_priors
from src.config import DataConfig, get_config
from src.data.coco_utils import load_data
from src.data.dataset import batches, build_train_dataset
from src.data.records import DetectionData, PackedRecords, make_record
from src.data.sample_stream import SampleStream, Shard
from src.priors import make_priors
from src.runtime.cpu_settings import usable_cores

SIZE = 512


def render(folder: Path, count: int) -> DetectionData:
    """Photo-like noise of about 130 KB a file, with 1 to 15 boxes of all sizes, as in COCO."""
    records = []
    for i in range(count):
        rng = np.random.default_rng(i)
        image = np.zeros((480, 640, 3), np.float32)
        for side in (4, 16, 64, 256):
            layer = rng.normal(0, 18, (side * 3 // 4, side, 3)).astype(np.float32)
            image += cv2.resize(layer, (640, 480), interpolation=cv2.INTER_CUBIC)
        path = folder / f"{i:04}.jpg"
        pixels = np.clip(image + 120, 0, 255).astype(np.uint8)
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])
        sides = np.clip(np.exp(rng.normal(4, 1, (rng.integers(1, 16), 2))), 4, 450)
        low = rng.uniform(0, 1, sides.shape) * ((640, 480) - sides)
        boxes = np.concatenate([low, low + sides], axis=1)
        rows = [(box, int(rng.integers(1, 81)), False) for box in boxes.tolist()]
        records.append(make_record(i + 1, str(path), (640, 480), rows))
    names = tuple(f"class{i}" for i in range(1, 81))
    ids = tuple(range(1, 81))
    return DetectionData(PackedRecords(records), names, ids, "train", str(folder), "coco")


def our_batches(
    data: DetectionData,
    priors: np.ndarray,
    size: int,
    batch_size: int,
    workers: int,
    epochs: int = 1,
) -> Generator[Tuple[np.ndarray, ...], None, None]:
    shard = Shard(batch_size, total_steps=epochs * len(data.records) // batch_size)
    stream = SampleStream(data, {size: priors}, DataConfig(), shard, seed=0)
    return batches(build_train_dataset(stream, workers))


def timed(make: Callable[[], Iterator[Any]], batch_size: int) -> Tuple[float, float]:
    """Images per second from the first batch on, and milliseconds of CPU for an image.

    Starting workers is paid once in a run, not every step, and so not counted. CPU time covers
    workers too, and tells more than the clock on a machine that has other things to do.
    """
    made = make()
    next(made)
    before, start, count = cpu_seconds(), time.perf_counter(), 0
    for _ in made:
        count += batch_size
    elapsed = time.perf_counter() - start
    return count / elapsed, 1000 * (cpu_seconds() - before) / count


def cpu_seconds() -> float:
    """CPU time of this process and of all its children, running or ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            spent = child.cpu_times()
            total += spent.user + spent.system
    return total


def compare(
    data: DetectionData, workers: int, batch_size: int, rounds: int
) -> Dict[str, Tuple[float, float]]:
    """Medians of `timed` over alternating epochs."""
    from benchmarks.peers.official_data import official_batches

    cv2.setNumThreads(0)
    priors = make_priors(get_config(f"m2det{SIZE}_vgg16"))
    sides: Dict[str, Callable[..., Iterator[Any]]] = {
        "ours": our_batches,
        "official steps": official_batches,
    }
    times: Dict[str, List[Tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, make in sides.items():
            run = functools.partial(make, data, priors, SIZE, batch_size, workers)
            times[name].append(timed(run, batch_size))
    return {
        name: (statistics.median(t[0] for t in rows), statistics.median(t[1] for t in rows))
        for name, rows in times.items()
    }


def match_milliseconds(boxes: int = 100, rounds: int = 50) -> float:
    """Median CPU time to match one image with many boxes against the priors of 512."""
    priors = prepare_priors(make_priors(get_config(f"m2det{SIZE}_vgg16")))
    times = []
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        sides = np.clip(np.exp(rng.normal(-2, 1, (boxes, 2))), 0.01, 0.9)
        low = rng.uniform(0, 1, (boxes, 2)) * (1 - sides)
        truths = np.concatenate([low, low + sides], axis=1).astype(np.float32)
        start = time.process_time()
        match(truths, np.ones(boxes, np.int32), priors, 0.5)
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def memory_of_epochs(
    data: DetectionData, workers: int, batch_size: int, epochs: int = 3
) -> List[float]:
    """Most MB held by this process and its workers in each epoch, looked at every few steps.

    Counted as proportional set size: a page shared by three processes is a third for each. The
    consumer is slow, as a training step is: how full the queues are would else be all there is to
    see.
    """
    priors = make_priors(get_config(f"m2det{SIZE}_vgg16"))
    steps = len(data.records) // batch_size
    peaks = [0.0] * epochs
    made = our_batches(data, priors, SIZE, batch_size, workers, epochs)
    for step, _ in enumerate(made):
        time.sleep(0.03 * batch_size if step else 8)  # at first all queues fill
        if step % 3 == 0 and step < epochs * steps:
            me = psutil.Process()
            tree = [me, *me.children(recursive=True)]
            held = sum(process.memory_full_info().pss for process in tree) / 2**20
            peaks[step // steps] = max(peaks[step // steps], held)
    return peaks


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    cores = usable_cores()
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, min(2, cores)}))
    parser.add_argument("--images", type=int, default=240, help="rendered images")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dataset_path", type=Path, help="a COCO or VOC folder instead")
    parser.add_argument("--memory", action="store_true", help="memory over three epochs instead")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        path = args.dataset_path
        data = load_data(path, "train") if path else render(Path(folder), args.images)
        if args.memory:
            held = memory_of_epochs(data, max(args.workers), args.batch)
            growth = held[-1] / held[0] - 1
            text = " ".join(f"{value:.0f}" for value in held)
            print(
                f"most memory in each epoch, {max(args.workers)} workers: {text} MB, {growth:+.1%}"
            )
            return
        print(f"matching 32,760 priors with 100 boxes: {match_milliseconds():.2f} ms")
        print(
            f"{len(data.records)} images, batch {args.batch}, median of {args.rounds} epochs each"
        )
        for workers in args.workers:
            found = compare(data, workers, args.batch, args.rounds)
            (ours, our_cpu), (official, official_cpu) = found.values()
            print(
                f"{workers} worker(s): ours {ours:.0f} images/s, official steps {official:.0f}"
                f" images/s, ratio {ours / official:.2f}; CPU ms an image {our_cpu:.1f} and"
                f" {official_cpu:.1f}, ratio {official_cpu / our_cpu:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
