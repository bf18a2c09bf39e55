# SPDX-License-Identifier: Apache-2.0
"""The part of export.py that writes 8-bit integers, and measures the AP lost and the time saved."""

import time
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence

import numpy as np

from ..data.coco_utils import find_splits, load_data
from ..data.images import read_image
from ..data.records import DataError, DetectionData
from ..evaluation.coco_metrics import category_ids_for, evaluate_coco
from ..evaluation.pipeline import detect_split
from ..formats.checkpoint import Labels
from ..formats.export_metadata import Request
from ..formats.int8 import import_quantisation, quantise
from ..inference.detector import ArrayDetector
from ..inference.image_sources import find_sources
from ..inference.open_network import read_network_file
from ..inference.views import View, view_input
from ..runtime.errors import UsageError, printable

CALIBRATION_IMAGES = 64
SCORED_IMAGES = 200
TIMED_RUNS = 20
MOST_LOST = 0.01  # AP


class Int8Images:
    """The images that `--int8 PATH` names, read before a network is built.

    Args:
        place: a folder of images, or a data set.
        request: the export that they are for.
        input_size, mean_bgr: of the network.
        labels: of its classes.
        allow_links: follow links that lead out of the data set.

    Attributes:
        inputs: network inputs (3, S, S) to measure ranges with; of a data set, from its training
            split.
        scored: images of its validation split, for AP; None where there is none.

    Raises:
        ValueError: no images there or an unreadable one, classes that are not the network's, or
            another kind of export.
    """

    def __init__(
        self,
        place: Path,
        request: Request,
        input_size: int,
        mean_bgr: Sequence[float],
        labels: Labels,
        allow_links: bool = False,
    ) -> None:
        if request.kind != "ONNX" or request.outputs == "detections":
            raise UsageError("--int8 needs --file_format ONNX and --outputs boxes or raw")
        import_quantisation()
        if not place.is_dir():
            raise UsageError(f"--int8 {place}: expected a folder of images, or a data set")
        self.scored: Optional[DetectionData] = None
        if find_splits(place, allow_links):
            paths = [record.path for record in load_data(place, "train", allow_links).records]
            self.scored = _validation(place, allow_links)
            if self.scored:
                category_ids_for(labels.class_names, self.scored)
        else:
            sources = find_sources([str(place)])
            paths = [source.name for source in sources if source.kind == "image"]
        if not paths:
            raise UsageError(f"--int8 {place}: no images there")
        chosen = _spread(paths, CALIBRATION_IMAGES)
        self.inputs = [_input(path, input_size, mean_bgr) for path in chosen]


def _input(path: str, size: int, mean_bgr: Sequence[float]) -> np.ndarray:
    """The network's input (3, S, S) for a whole image."""
    image = read_image(path)
    view = View(size, (0, 0, image.shape[1], image.shape[0]))
    return view_input(image, view, mean_bgr)


def _validation(place: Path, allow_links: bool) -> Optional[DetectionData]:
    try:
        data = load_data(place, "val", allow_links)
    except DataError:  # a data set for training only
        return None
    return data.subset(_spread(range(len(data.records)), SCORED_IMAGES)) if data.annotated else None


def _spread(items: Sequence[Any], count: int) -> Sequence[Any]:
    """`count` of the items, evenly from first to last; all where there are fewer."""
    return [items[i * len(items) // count] for i in range(count)] if len(items) > count else items


def write_int8(source: Path, images: Int8Images) -> Path:
    """Writes NAME_int8.onnx beside an exported file, and prints AP and speed of both; its path.

    Raises:
        ValueError: it cannot be made.
        OSError: it cannot be written.
    """
    output = source.with_name(f"{source.stem}_int8{source.suffix}")
    before = _detector(source)
    quantise(source, output, images.inputs)
    after = _detector(output)
    made_from = f"from {len(images.inputs)} images"
    print(printable(f"written: {output} and {output.name}.json, {made_from}"))
    sizes = [path.stat().st_size / 1e6 for path in (source, output)]
    times = [_milliseconds(detector) for detector in (before, after)]
    print(f"size: {sizes[0]:.1f} MB, in int8 {sizes[1]:.1f} MB")
    print(f"network alone, one image: {times[0]:.0f} ms, in int8 {times[1]:.0f} ms")
    if images.scored is None:
        print("AP: not measured, as there is no validation split with annotations")
        return output
    points = [_average_precision(detector, images.scored) for detector in (before, after)]
    count = len(images.scored.records)
    print(f"AP on {count} images: {points[0]:.3f}, in int8 {points[1]:.3f}")
    if points[0] - points[1] > MOST_LOST:
        print(f"warning: more than {MOST_LOST} AP lost; other images for --int8 may do better")
    return output


def _detector(path: Path) -> ArrayDetector:
    network = read_network_file(path)
    return network.detector(network.config)


def _milliseconds(detector: ArrayDetector) -> float:
    """Median time of the network for one image."""
    size = detector.plan.base_size
    image = np.zeros((1, 3, size, size), np.float32)
    detector.network(image)
    times = []
    for _ in range(TIMED_RUNS):
        began = time.perf_counter()
        detector.network(image)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


def _average_precision(detector: ArrayDetector, data: DetectionData) -> float:
    """COCO's AP."""
    found: List[Mapping[str, Any]] = []

    def on_batch(_image_ids: List[int], entries: List[List[Mapping[str, Any]]]) -> None:
        for own in entries:
            found.extend(own)

    ids = category_ids_for(detector.class_names, data)
    detect_split(detector, data, range(len(data.records)), ids, on_batch)
    return evaluate_coco(data, found)["AP"]
