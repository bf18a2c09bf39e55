# SPDX-License-Identifier: Apache-2.0
"""Images in, detections out: views of an image, the network, post-processing, and merging.

S input side, P priors, C classes with background 0, V views. Boxes are corners in pixels.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from ..config import Config
from ..formats.checkpoint import Labels, load_labels, no_checkpoint, resolve_config
from ..priors import build_priors, make_priors
from ..runtime.errors import UsageError
from ..runtime.stopwatch import Stopwatch
from .merging import merge_views
from .postprocess import Candidates, Detections, Network, Outputs, PostProcessor, candidates
from .views import View, ViewPlan, map_to_image, view_input

__all__ = ["ArrayDetector", "Detections", "PostProcessor", "build_postprocessor", "candidates"]

MOST_RAW = 32  # views whose raw outputs are kept: 11 MB each at 512 pixels with 80 classes
STAGES = ("load", "preprocess", "network", "decode", "nms")


def build_postprocessor(config: Config) -> PostProcessor:
    """The post-processing of a configuration.

    With linear soft-NMS `test.iou` becomes the unused sigma (see `PostProcessor`); without
    soft-NMS it is the threshold of hard NMS.
    """
    test = config.test
    sigma = test.sigma if test.soft_nms_method == "gaussian" else test.iou
    soft: Dict[str, Any] = {"method": test.soft_nms_method, "sigma": sigma}
    hard: Dict[str, Any] = {"method": "hard", "iou_threshold": test.iou}
    return PostProcessor(
        make_priors(config),
        score_threshold=test.score_threshold,
        keep_per_class=test.keep_per_class,
        topk=test.topk,
        class_agnostic=test.class_agnostic,
        voting_iou=test.voting_iou,
        **(soft if test.soft_nms else hard),
    )


def build_plan(config: Config) -> ViewPlan:
    """The views of a configuration."""
    test = config.test
    return ViewPlan(
        config.model.input_size,
        test.multi_scale,
        float(np.sqrt(make_priors(config)[:, 2:].prod(axis=1)).min()),
        test.flip,
        test.tile_px,
        test.tile_overlap,
        test.merge,
    )


Forwarded = Union[List[Outputs], Candidates]  # `image` is the number of the view


class ArrayDetector:
    """Images as arrays in, detections as arrays out; `src.detector.Detector` takes files too.

    Args:
        network: inputs (B, 3, S, S) -> loc (B, P, 4), logits (B, P, C), arrays of float32.
        postprocess: turns those into detections.
        plan: which views are taken of an image, and how their boxes are merged.
        mean_bgr: subtracted from the image.
        labels: what the classes are called.
        priors: of each other input size in the plan.
        decoded: the network gives boxes (B, P, 4), xyxy in [0, 1], and probabilities (B, P, C - 1)
            without the background, as `export.py --outputs boxes` writes them.
    """

    def __init__(
        self,
        network: Network,
        postprocess: PostProcessor,
        plan: ViewPlan,
        mean_bgr: Sequence[float],
        labels: Labels,
        priors: Optional[Mapping[int, np.ndarray]] = None,
        decoded: bool = False,
    ) -> None:
        self.network = network
        self.postprocessor = postprocess
        self.mean_bgr = mean_bgr
        self.labels = labels
        self.plan = plan
        self.decoded = decoded
        self._by_size: Dict[int, PostProcessor] = {
            size: replace(postprocess, priors=table) for size, table in (priors or {}).items()
        }
        self._by_size[plan.base_size] = postprocess

    @classmethod
    def from_checkpoint(
        cls,
        path: Union[str, Path],
        config: Optional[Config] = None,
        labels: Optional[Labels] = None,
    ) -> "ArrayDetector":
        """A detector from a checkpoint and the files saved beside it. Switches MindSpore to graph
        mode, on the device that the machine has, unless it is in that mode.

        Args:
            path: .ckpt or .safetensors.
            config: instead of the `config.json` beside it.
            labels: instead of the `labels.json` beside it; without either, classes are numbered.

        Raises:
            ValueError: a missing or damaged file, or weights that do not fit the configuration.
        """
        from .mindspore_network import cell_network, ensure_graph_mode, load_network

        ensure_graph_mode()
        path = Path(path)
        if not path.is_file():
            raise no_checkpoint(path)
        config = config or resolve_config(None, (), path)
        network = load_network(config, path)
        labels = labels or load_labels(path)
        return cls.from_network(cell_network(network), config, labels, str(path))

    @classmethod
    def from_network(
        cls,
        network: Network,
        config: Config,
        labels: Optional[Labels],
        source: str,
        decoded: bool = False,
    ) -> "ArrayDetector":
        """A detector with the settings of a configuration, around a network from file `source`.

        Raises:
            ValueError: labels for another number of classes, or an input size that does not work.
        """
        numbers = tuple(range(1, config.model.num_classes))
        labels = labels or Labels(tuple(f"class {i}" for i in numbers), numbers)
        if len(labels.class_names) != len(numbers):
            raise UsageError(
                f"{source}: {len(labels.class_names)} class names for a network of {len(numbers)}"
            )
        return cls(
            network,
            build_postprocessor(config),
            build_plan(config),
            config.data.mean_bgr,
            labels,
            {size: build_priors(config, size) for size in config.test.multi_scale},
            decoded,
        )

    @property
    def class_names(self) -> Tuple[str, ...]:
        """Name of each class, without the background: label i is `class_names[i - 1]`."""
        return self.labels.class_names

    def __call__(self, image: np.ndarray) -> Detections:
        """Detections of one image (H, W, 3) uint8 BGR, in its own pixels.

        Raises:
            ValueError: not an image of that form.
        """
        return self.detect_batch([image])[0]

    def detect_batch(self, images: Sequence[np.ndarray], batch_size: int = 1) -> List[Detections]:
        """Detections of each image; the network sees `batch_size` views at a time."""
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
                raise ValueError(f"image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        sizes_px = [(image.shape[1], image.shape[0]) for image in images]
        views = [self.plan.views(*size) for size in sizes_px]
        tasks = [(image, view) for image, own in zip(images, views) for view in own]
        outputs = self.forward(
            [view for _, view in tasks],
            lambda row: view_input(*tasks[row], self.mean_bgr),
            batch_size,
        )
        return self.postprocess(views, outputs, sizes_px)

    def warm_up(self, batch_size: int = 1) -> None:
        """Runs the network once for each input size, so that it is compiled from then on."""
        for size in sorted({self.plan.base_size, *self.plan.sizes}):
            self.network(np.zeros((batch_size, 3, size, size), np.float32))

    def forward(
        self, views: Sequence[View], make_input: Callable[[int], np.ndarray], batch_size: int
    ) -> Forwarded:
        """The network's outputs for V views; `make_input` gives the input (3, S, S) of each.

        Views of one input size go together, `batch_size` at a time; what is left is filled up with
        zeros, so that the network sees one shape for each size. Of many views, such as tiles, the
        outputs would fill the memory: they are decoded piece by piece.
        """
        step = max(MOST_RAW // batch_size, 1) * batch_size
        if len(views) <= step:
            return self._forward(views, make_input, batch_size)
        parts = []
        for start in range(0, len(views), step):
            piece = views[start : start + step]
            outputs = self._forward(piece, lambda row: make_input(start + row), batch_size)  # noqa: B023
            part = self._decode(piece, outputs)
            parts.append(replace(part, image=part.image + start))
        return Candidates.join(parts)

    def _forward(
        self, views: Sequence[View], make_input: Callable[[int], np.ndarray], batch_size: int
    ) -> List[Outputs]:
        outputs: List[Outputs] = [(np.empty(0), np.empty(0))] * len(views)
        for size in sorted({view.size for view in views}):
            rows = [row for row, view in enumerate(views) if view.size == size]
            for start in range(0, len(rows), batch_size):
                chunk = rows[start : start + batch_size]
                inputs = np.zeros((batch_size, 3, size, size), np.float32)
                for slot, row in enumerate(chunk):
                    inputs[slot] = make_input(row)
                loc, logits = self.network(inputs)
                for slot, row in enumerate(chunk):
                    outputs[row] = loc[slot], logits[slot]
        return outputs

    def postprocess(
        self,
        views: Sequence[Sequence[View]],
        outputs: Forwarded,
        sizes_px: Sequence[Tuple[int, int]],
        watch: Optional[Stopwatch] = None,
    ) -> List[Detections]:
        """Detections of each image from what `forward` gave for its views, image by image.

        Raises:
            ValueError: outputs that are not finite or do not fit the priors.
        """
        watch = watch or Stopwatch(STAGES)
        owner = np.repeat(np.arange(len(views)), [len(own) for own in views])
        flat = [view for own in views for view in own]
        with watch.stage("decode"):
            found = outputs if isinstance(outputs, Candidates) else self._decode(flat, outputs)
            found = map_to_image(found, flat, np.asarray(sizes_px)[owner].reshape(-1, 2))
        with watch.stage("nms"):
            if all(len(own) <= 1 for own in views):
                found = replace(found, image=owner[found.image])
                return self.postprocessor.suppress(found, len(views))
            return merge_views(found, flat, owner, sizes_px, self.postprocessor, self.plan.merge)

    def _decode(self, views: Sequence[View], outputs: Sequence[Outputs]) -> Candidates:
        """Candidates in pixels of their windows; `image` is the number of the view."""
        parts = []
        for size in sorted({view.size for view in views}):
            rows = np.array([row for row, view in enumerate(views) if view.size == size])
            loc, logits = (np.stack([outputs[row][kind] for row in rows]) for kind in (0, 1))
            windows = [views[row].size_px for row in rows]
            processor = self._by_size[size]
            decode = processor.threshold if self.decoded else processor.decode
            part = decode(loc, logits, windows)
            parts.append(replace(part, image=rows[part.image]))
        return Candidates.join(parts)
