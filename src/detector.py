# SPDX-License-Identifier: Apache-2.0
"""The project as a Python library: load a detector, give it pictures, use what it returns.

    detector = Detector.load("network.onnx")
    result = detector("street.jpg")
    for found in result:
        print(found.name, found.score, found.box_px)

Boxes are x1, y1, x2, y2 in pixels of the picture. With an ONNX file MindSpore is never imported.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
    overload,
)

import cv2
import numpy as np

from .config import Config
from .data.images import read_image
from .data.records import ImageError
from .drawing.detections import draw_detections
from .formats.checkpoint import Labels
from .formats.shipped import PHOTOS
from .inference.detector import ArrayDetector, Detections
from .inference.image_sources import find_sources
from .inference.onnx_cache import cached_onnx
from .inference.open_network import prepare_device, read_network_file, showing
from .inference.result_files import Found, coco_content, free_name, refuse_inputs
from .runtime.device_choice import device_there
from .runtime.errors import UsageError, printable
from .runtime.files import write_atomically

__all__ = ["Detection", "Detector", "Result", "Results"]

LOG = logging.getLogger("m2det.detector")
NOTEBOOK_PX = 1000  # longer side of a picture shown in a notebook

Picture = Union[str, "os.PathLike[str]", np.ndarray, Any]  # Any: PIL.Image.Image


@dataclass(frozen=True)
class Detection:
    """One object that was found."""

    name: str  # of its class
    score: float
    box_px: Tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the picture


class Result(Sequence[Detection]):
    """The detections of one picture, best first. A notebook shows the picture with them.

    Attributes:
        boxes_px: (N, 4) float32 xyxy. scores: (N,) float32.
        labels: (N,) int32; label i stands for `class_names[i - 1]`.
        class_names: of the network.
        path: of the picture; "" for one that came as an array or PIL image.
        width, height: of the picture.
    """

    def __init__(
        self,
        detections: Detections,
        class_names: Sequence[str],
        image: np.ndarray,
        path: str = "",
    ) -> None:
        self.boxes_px, self.scores = detections.boxes_px, detections.scores
        self.labels = detections.labels
        self.class_names = tuple(class_names)
        self.path = path
        self.height, self.width = image.shape[:2]
        self._image = None if path else image  # a folder's pictures would fill the memory

    @property
    def image(self) -> np.ndarray:
        """The picture, (H, W, 3) uint8 BGR; read again where it came from a file."""
        return read_image(self.path) if self._image is None else self._image

    @property
    def names(self) -> Tuple[str, ...]:
        """Class name of each detection."""
        return tuple(self.class_names[label - 1] for label in self.labels)

    def __len__(self) -> int:
        return len(self.scores)

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice) -> "Result": ...
    def __getitem__(self, index: Union[int, slice]) -> Union[Detection, "Result"]:
        if isinstance(index, slice):
            return self._rows(index)
        x1, y1, x2, y2 = self.boxes_px[index].tolist()
        name = self.class_names[self.labels[index] - 1]
        return Detection(name, float(self.scores[index]), (x1, y1, x2, y2))

    def __repr__(self) -> str:
        found = ", ".join(f"{one.name} {one.score:.2f}" for one in self[:5])
        more = f" and {len(self) - 5} more" if len(self) > 5 else ""
        return printable(f"Result({self.path or 'picture'}: {found or 'nothing found'}{more})")

    def filter(
        self, score: float = 0.0, names: Optional[Union[str, Iterable[str]]] = None
    ) -> "Result":
        """The detections with at least `score`, and of these classes where `names` is given.

        Raises:
            ValueError: a name that the network has no class of.
        """
        chosen = self.scores >= score
        if names is not None:
            chosen_names = [names] if isinstance(names, str) else list(names)
            unknown = set(chosen_names) - set(self.class_names)
            if unknown:
                raise UsageError(
                    f"no class {min(unknown)!r}; the network has {', '.join(self.class_names)}"
                )
            chosen &= np.isin(self.names, chosen_names) if len(self) else chosen
        return self._rows(chosen)

    def plot(self) -> np.ndarray:
        """The picture with the detections drawn in, (H, W, 3) uint8 BGR."""
        return draw_detections(
            self.image, self.boxes_px, self.labels, self.scores, self.class_names
        )

    def save(self, path: Union[str, "os.PathLike[str]"] = "detections") -> Path:
        """Writes the picture with the detections drawn in.

        Args:
            path: a file whose name ends in .png or .jpg, or a folder for NAME.png; made if needed.

        Returns:
            the file.

        Raises:
            OSError: it cannot be written.
            ValueError: it is the picture itself.
        """
        target = Path(path)
        if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            target = target / f"{Path(self.path).stem or 'picture'}.png"
        refuse_inputs([target], [self.path] if self.path else [])
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, _encoded(self.plot(), target.suffix.lower()))
        return target

    def to_coco(self) -> Dict[str, Any]:
        """A COCO annotation file's content: images, categories, and annotations with scores."""
        return Results([self]).to_coco()

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each detection: image, name, score, x1, y1, x2, y2.

        Raises:
            ImportError: pandas is not installed.
        """
        return Results([self]).to_pandas()

    def _repr_png_(self) -> bytes:
        picture = self.plot()
        scale = NOTEBOOK_PX / max(picture.shape[:2])
        if scale < 1:
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return _encoded(picture, ".png")

    def _rows(self, rows: Union[np.ndarray, slice]) -> "Result":
        part = object.__new__(Result)
        part.__dict__.update(self.__dict__)
        part.boxes_px, part.scores = self.boxes_px[rows], self.scores[rows]
        part.labels = self.labels[rows]
        return part


class Results(List[Result]):
    """The results of several pictures."""

    def filter(
        self, score: float = 0.0, names: Optional[Union[str, Iterable[str]]] = None
    ) -> "Results":
        """As `Result.filter`, of each picture."""
        chosen_names = (
            [names] if isinstance(names, str) else names if names is None else list(names)
        )
        return Results(result.filter(score, chosen_names) for result in self)

    def save(self, folder: Union[str, "os.PathLike[str]"] = "detections") -> List[Path]:
        """Writes each picture with its detections, as NAME.png; the files, in order.

        Raises:
            OSError: one cannot be written. ValueError: one would replace a picture of these.
        """
        taken: Set[str] = set()
        stems = [free_name(Path(result.path).stem or "picture", taken) for result in self]
        paths = [Path(folder) / f"{stem}.png" for stem in stems]
        refuse_inputs(paths, [result.path for result in self if result.path])
        return [result.save(path) for result, path in zip(self, paths)]

    def to_coco(self) -> Dict[str, Any]:
        """As `Result.to_coco`, of all pictures."""
        entries = [
            Found(r.path, -1, "", "", r.width, r.height, r.boxes_px, r.scores, r.labels)
            for r in self
        ]
        return coco_content(entries, self[0].class_names if self else ())

    def to_pandas(self) -> Any:
        """As `Result.to_pandas`, of all pictures."""
        try:
            import pandas
        except ImportError:
            raise ImportError("to_pandas needs pandas; pip install pandas") from None
        rows = [
            (result.path, found.name, found.score, *found.box_px)
            for result in self
            for found in result
        ]
        return pandas.DataFrame(rows, columns=("image", "name", "score", "x1", "y1", "x2", "y2"))


class Detector:
    """Pictures in, detections out; made by `load` or `from_checkpoint`.

    Args:
        engine: detects in arrays.
        lowest_score: detections below are left out.
    """

    def __init__(self, engine: ArrayDetector, lowest_score: float = 0.0) -> None:
        self.engine = engine
        self.lowest_score = lowest_score

    @classmethod
    def load(
        cls,
        path: Optional[Union[str, "os.PathLike[str]"]] = None,
        score_threshold: float = 0.3,
        device_target: Optional[str] = None,
        device_id: int = 0,
        overrides: Sequence[str] = (),
    ) -> "Detector":
        """A detector from a checkpoint (.ckpt, .safetensors), a MINDIR or an ONNX file.

        On a CPU where onnx and onnxruntime are installed, a checkpoint is written as ONNX into the
        user's cache once, and starts in about a second from then on, without MindSpore
        (`M2DET_CACHE=off` forbids it). Otherwise MindSpore is set up here, in graph mode, and
        compiles the network at the first picture.

        Args:
            path: the file; None for the network that comes with the project.
            score_threshold: detections below are left out.
            device_target: "CPU", "GPU" or "Ascend"; None for what the machine has.
                An ONNX file runs on the CPU.
            device_id: number of the device.
            overrides: `section.key=value`, such as "test.flip=true".

        Raises:
            ValueError: a missing, damaged or unsuitable file, or a device that is not there.
        """
        if not 0 <= score_threshold <= 1:
            raise UsageError(f"score_threshold must be from 0 to 1, not {score_threshold}")
        if path is None and not PHOTOS.is_file():
            raise UsageError(
                f"{PHOTOS} not found: this copy of the project comes without a network,"
                " so name a checkpoint, MINDIR or ONNX file"
            )
        file = Path(path) if path is not None else PHOTOS
        target = device_target or device_there()
        network = cached_onnx(file, overrides) if target == "CPU" else None
        if network is None:
            prepare_device(file, target, device_id)
            network = read_network_file(file, None, overrides)
        return cls(network.detector(showing(network.config, score_threshold)), score_threshold)

    @classmethod
    def from_checkpoint(
        cls,
        path: Union[str, "os.PathLike[str]"],
        config: Optional[Config] = None,
        labels: Optional[Labels] = None,
    ) -> "Detector":
        """As `ArrayDetector.from_checkpoint`: with the score threshold of the configuration, and a
        configuration and labels of one's own where given.
        """
        return cls(ArrayDetector.from_checkpoint(Path(path), config, labels))

    @property
    def class_names(self) -> Tuple[str, ...]:
        """Of the network, without the background."""
        return self.engine.class_names

    def __call__(self, picture: Union[Picture, Sequence[Picture]]) -> Union[Result, Results]:
        """The detections of a picture.

        Args:
            picture: path of an image, (H, W, 3) uint8 BGR array as OpenCV reads it, or PIL image.
                A folder, pattern ("a/*.jpg") or list gives `Results`, one for each picture; files
                that are no readable images are left out, with a warning in the log.

        Raises:
            ImageError: the one image cannot be read. ValueError: no picture of these forms.
        """
        if isinstance(picture, (list, tuple)):
            return Results(self._each(picture))
        if isinstance(picture, (str, os.PathLike)):
            text = os.fspath(picture)
            if not os.path.isfile(text) and not text.isdigit():
                return Results(self._each([source.name for source in find_sources([text])]))
        return self._detect(*_array(picture))

    def _each(self, pictures: Sequence[Picture]) -> Iterator[Result]:
        for one in pictures:
            try:
                yield self._detect(*_array(one))
            except ImageError as error:
                LOG.warning("passed over: %s", error)

    def _detect(self, image: np.ndarray, path: str) -> Result:
        result = Result(self.engine(image), self.class_names, image, path)
        return result.filter(self.lowest_score)


def _array(picture: Picture) -> Tuple[np.ndarray, str]:
    """A picture as (H, W, 3) uint8 BGR, and its path or ""."""
    if isinstance(picture, (str, os.PathLike)):
        return read_image(os.fspath(picture)), os.fspath(picture)
    if isinstance(picture, np.ndarray):
        return picture, ""
    if hasattr(picture, "convert"):  # PIL.Image.Image, without importing Pillow
        if picture.mode.startswith("I;16"):  # Pillow would make all above 255 white
            return np.dstack([(np.asarray(picture) >> 8).astype(np.uint8)] * 3), ""
        return np.asarray(picture.convert("RGB"))[..., ::-1], ""
    raise UsageError(
        f"picture must be a path, an array or a PIL image, not {type(picture).__name__}"
    )


def _encoded(picture: np.ndarray, suffix: str) -> bytes:
    """The bytes of an image file."""
    return cv2.imencode(suffix, picture)[1].tobytes()
