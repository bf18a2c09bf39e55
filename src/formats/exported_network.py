# SPDX-License-Identifier: Apache-2.0
"""Networks that `export.py` wrote, loaded for use: MINDIR by MindSpore, ONNX by onnxruntime.
Neither is imported before such a file is opened.

B batch, S input side, P priors, C classes with background 0. What a file is travels as JSON beside
it (`FILE.json`, with the file's checksum) and inside it, so that either is enough.
"""

import mmap
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Union

import numpy as np

from ..config import Config
from ..runtime.errors import one_line
from ..runtime.files import file_sha256
from .checkpoint import Labels
from .metadata_check import ExportedError, Shape, check_input, check_metadata, parse_json

METADATA_KEY = "m2det"  # of MINDIR's user_info and ONNX's metadata_props
# The network in a file as a function: its input to all its outputs.
Run = Callable[[np.ndarray], Tuple[np.ndarray, ...]]
Opened = Tuple[Run, Optional[str], Shape]  # with the metadata inside, and the input's shape
_LOCATION = b"location"
# Before that word, the key of an entry in a protocol buffer, in whatever length it is written.
_KEY_OF_ENTRY = re.compile(rb"(\x0a|\x8a\x80*\x00)(\x08|\x88\x80*\x00)\Z")


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported network. `network` takes (B, 3, S, S) float32, BGR minus mean, of any B, and
    gives loc (B, P, 4) and logits (B, P, C), or where `decoded` boxes (B, P, 4), xyxy in [0, 1],
    and probabilities (B, P, C - 1) without the background.
    """

    network: "FileNetwork"
    config: Config
    labels: Labels
    metadata: Mapping[str, Any]

    @property
    def decoded(self) -> bool:
        return self.metadata["outputs"] == "boxes"


def load_exported(path: Union[str, Path]) -> Exported:
    """The network in a .mindir or .onnx file that `export.py --outputs boxes` or `raw` wrote.

    Raises:
        ExportedError: no such file, a damaged or foreign one, one with NMS inside, or
            onnxruntime is missing.
    """
    path = Path(path)
    run, metadata, config = open_exported(path)
    if metadata["outputs"] not in ("boxes", "raw"):
        raise ExportedError(
            f"{path}: gives {metadata['outputs']}, which deploy/ takes; export with --outputs boxes"
        )
    labels = Labels(tuple(metadata["class_names"]), tuple(metadata["category_ids"]))
    return Exported(FileNetwork(run, metadata), config, labels, metadata)


class FileNetwork:
    """Calls an exported file with network inputs, whatever its own input and batch size are.

    Args:
        run: the file.
        metadata: of the file.
    """

    def __init__(self, run: Run, metadata: Mapping[str, Any]) -> None:
        self.run = run
        self.size = metadata["input_size"]
        self.batch_size: Optional[int] = metadata["batch_size"]
        self.mean_bgr = np.asarray(metadata["mean_bgr"], np.float32)
        self.takes_pixels = metadata["input"] == "image"

    def __call__(self, images: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """The two outputs for images (B, 3, S, S) float32, BGR minus mean.

        Raises:
            ExportedError: images of another shape or type, or, where the file takes pixels, values
                that are none.
        """
        shape, kind = np.shape(images), getattr(images, "dtype", type(images).__name__)
        if shape[1:] != (3, self.size, self.size) or len(shape) != 4 or kind != np.float32:
            wanted = f"(B, 3, {self.size}, {self.size}) float32"
            raise ExportedError(f"images must be {wanted}, not {shape} {kind}")
        if not len(images):
            raise ExportedError("images must be at least one")
        first, second = run_in_batches(self.run, self.file_input(images), self.batch_size)
        return first, second

    def file_input(self, images: np.ndarray) -> np.ndarray:
        """The images as the file takes them: as they are, or (B, S, S, 3) uint8 BGR, which it
        subtracts the mean from itself.
        """
        if not self.takes_pixels:
            return images
        values = images.transpose(0, 2, 3, 1) + self.mean_bgr
        pixels = np.rint(values)
        if np.abs(values - pixels).max() > 1e-3 or pixels.min() < 0 or pixels.max() > 255:
            raise ExportedError("this file takes uint8 pixels, and the images hold other values")
        return pixels.astype(np.uint8)


def run_in_batches(run: Run, inputs: np.ndarray, batch_size: Optional[int]) -> Tuple[Any, ...]:
    """`run` on (B, ...) inputs, `batch_size` at a time, the last ones filled up with zeros."""
    if batch_size is None or batch_size == len(inputs):
        return tuple(run(inputs))
    parts = []
    for start in range(0, len(inputs), batch_size):
        part = inputs[start : start + batch_size]
        missing = batch_size - len(part)
        if missing:
            part = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
        parts.append(run(np.ascontiguousarray(part)))
    return tuple(np.concatenate(arrays)[: len(inputs)] for arrays in zip(*parts))


def open_exported(path: Path) -> Tuple[Run, Dict[str, Any], Config]:
    """A function that computes what the file does, the file's metadata, and the configuration.

    Raises:
        ExportedError: as `load_exported`, whatever the outputs.
    """
    openers = {".mindir": _open_mindir, ".onnx": _open_onnx}
    if path.suffix not in openers:
        raise ExportedError(f"{path}: the name of an exported network ends in .mindir or .onnx")
    if not path.is_file():
        raise ExportedError(f"{path}: not found")
    beside = path.with_name(path.name + ".json")
    with ThreadPoolExecutor(1) as pool:  # a checksum of 500 MB takes half a second
        waiting = pool.submit(_metadata_beside, path, beside)
        if path.suffix == ".mindir":  # for a damaged file MindSpore's loader prints pages
            waiting.result()
        run, inside, shape = openers[path.suffix](path)
        metadata = waiting.result()
    where = beside if metadata is not None else path
    if metadata is None:
        if inside is None:
            raise ExportedError(f"{path}: says nothing of its classes, and {beside} is not there")
        metadata = parse_json(inside, where)
    config = check_metadata(metadata, where)
    check_input(metadata, shape, where)
    return run, metadata, config


def _metadata_beside(path: Path, beside: Path) -> Optional[Dict[str, Any]]:
    """The contents of `FILE.json`, once the file's checksum is checked; or None."""
    if not beside.is_file():
        return None
    try:
        text = beside.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ExportedError(f"{beside}: expected UTF-8") from None
    metadata = parse_json(text, beside)
    if "file_sha256" not in metadata:
        raise ExportedError(f"{beside}: file_sha256 is missing")
    if file_sha256(path) != metadata["file_sha256"]:
        raise ExportedError(f"{path}: damaged, or not the file {beside.name} belongs to")
    return metadata


def _open_mindir(path: Path) -> Opened:
    # The protocol buffer is looked at first: for a damaged one MindSpore's loader prints pages.
    import mindspore as ms
    from google.protobuf.message import DecodeError
    from mindspore import nn
    from mindspore.train.mind_ir_pb2 import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ExportedError(f"{path}: damaged, or no MINDIR file") from None
    if not model.graph.node or not model.graph.output:
        raise ExportedError(f"{path}: no MINDIR file, or cut off")
    if any(parameter.HasField("external_data") for parameter in model.graph.parameter):
        raise ExportedError(f"{path}: expected all weights inside, and some lie in other files")
    info = model.user_info  # a map, which MindSpore before 2.10 knows as a list
    notes = info if hasattr(info, "get") else {entry.key: entry.value for entry in info}
    text = notes.get(METADATA_KEY)
    tensors = model.graph.input[0].tensor if model.graph.input else ()
    shape = tuple(side if side > 0 else None for side in tensors[0].dims) if tensors else ()
    del model, info, notes, tensors
    try:
        graph = nn.GraphCell(ms.load(str(path)))
    except Exception as error:  # MindSpore raises many kinds
        raise ExportedError(f"{path}: cannot be loaded: {one_line(error)}") from None

    def run(inputs: np.ndarray) -> Tuple[np.ndarray, ...]:
        return tuple(output.asnumpy() for output in graph(ms.Tensor(inputs)))

    return run, text, shape


def _open_onnx(path: Path) -> Opened:
    session = onnx_session(path)
    first = session.get_inputs()[0]

    def run(inputs: np.ndarray) -> Tuple[np.ndarray, ...]:
        return tuple(session.run(None, {first.name: inputs}))

    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError:
        raise ExportedError(f"{path}: its metadata is not UTF-8") from None
    shape = tuple(side if isinstance(side, int) else None for side in first.shape)
    return run, text, shape


def onnx_session(path: Path) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        ExportedError: the package is missing, it cannot read the file, or weights lie outside it:
            onnxruntime would read any file of this machine that the network names.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ExportedError(
            f"{path}: needs onnxruntime; pip install -r requirements-onnx.txt"
        ) from None
    if _has_external_data(path):
        raise ExportedError(f"{path}: expected all weights inside, and some lie in other files")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong comes as an exception
    try:
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each kind, without a common one
        raise ExportedError(f"{path}: damaged, or no ONNX file: {one_line(error)}") from None


def _has_external_data(path: Path) -> bool:
    """Whether an ONNX file has tensors in other files, each of which has an entry "location".

    Found in the bytes: the onnx package, which would parse them, takes a quarter second to import.
    """
    if not path.stat().st_size:
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(_LOCATION)
        while at >= 0:
            if _KEY_OF_ENTRY.search(content[max(at - 20, 0) : at]):
                return True
            at = content.find(_LOCATION, at + 1)
    return False
