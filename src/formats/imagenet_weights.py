# SPDX-License-Identifier: Apache-2.0
"""ImageNet weights of backbones from ONNX and NumPy files, under the names of PyTorch checkpoints.

Here BatchNorm that was folded into convolutions comes back as BatchNorm, and the first convolution
is changed to take this project's pixels. NumPy only; `onnx` is imported where such a file is read.
"""

import re
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence
from typing import Counter as Counts

import numpy as np

from .pytorch_keys import VGG_CONVOLUTIONS, ConversionError

Arrays = Mapping[str, np.ndarray]
# What torchvision and Cadene take: RGB in 0..1 minus MEAN_RGB over STD_RGB.
MEAN_RGB = (0.485, 0.456, 0.406)
STD_RGB = (0.229, 0.224, 0.225)
EPSILON = 1e-5  # of BatchNorm in the backbones
_FIRST = ("0", "conv1", "layer0.conv1")  # VGG, ResNet, SE
_KERAS_LAYER = re.compile(r"block(\d)_conv(\d)")


@dataclass
class Source:
    """`state` under the keys of PyTorch checkpoints; `unused` counts what was left out, by reason.

    `folded`: BatchNorm had been folded into the convolutions.
    """

    state: Dict[str, np.ndarray]
    unused: Counts[str] = field(default_factory=Counter)
    folded: bool = False


def read_npz(path: Path) -> Dict[str, np.ndarray]:
    """The arrays of a NumPy archive, floats as float32. Pickled objects are refused, not loaded.

    Raises:
        ConversionError: missing, damaged, or holding something else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: _as_float32(archive[key]) for key in archive.files}
    except FileNotFoundError:
        raise ConversionError(f"{path}: not found") from None
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:100]
        raise ConversionError(f"{path}: expected an archive of arrays ({reason})") from None


def read_onnx(path: Path) -> Dict[str, np.ndarray]:
    """The constants of an ONNX graph, floats as float32.

    Those of convolutions get the name of their layer with `.weight` and `.bias`, where the node
    tells it (`/layer1/layer1.0/conv1/Conv` by PyTorch's exporter); the others keep their own.

    Raises:
        ConversionError: missing, damaged, with weights in other files, or onnx is not installed.
    """
    if not path.is_file():
        raise ConversionError(f"{path}: not found")
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        message = f"{path}: reading it needs onnx, see requirements-onnx.txt"
        raise ConversionError(message) from None
    try:
        graph = onnx.load(path, load_external_data=False).graph
        outside = [x.name for x in graph.initializer if x.data_location == x.EXTERNAL]
        if outside:
            raise ConversionError(f"{path}: expected all weights inside, {outside[0]} lies outside")
        constants = {x.name: _as_float32(numpy_helper.to_array(x)) for x in graph.initializer}
    except ConversionError:
        raise
    except Exception as error:  # protobuf and onnx raise many kinds for a damaged file
        reason = " ".join(str(error).split())[:100]
        raise ConversionError(f"{path}: damaged, or not an ONNX file ({reason})") from None
    if not constants:
        raise ConversionError(f"{path}: expected an ONNX graph with weights, found none")
    for node in graph.node:
        if node.op_type == "Conv":
            _rename(constants, node)
    return constants


def _rename(constants: Dict[str, np.ndarray], node: Any) -> None:
    """Give the constants of a convolution the name of its layer."""
    for name, last in zip(node.input[1:], ("weight", "bias")):
        if name in constants and not name.endswith(f".{last}"):
            layer = _KERAS_LAYER.search(name) or _KERAS_LAYER.search(node.name)
            path = layer.group() if layer else _module_path(node.name)
            if path:
                constants[f"{path}.{last}"] = constants.pop(name)


def _module_path(scope: str) -> str:
    """`layer1.0.conv1` of `/layer1/layer1.0/conv1/Conv`: a child may repeat its parent's name."""
    names = scope.strip("/").split("/")[:-1]
    kept = [a for a, b in zip(names, [*names[1:], ""]) if not b.startswith(f"{a}.")]
    return ".".join(kept)


def _as_float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def name_layers(state: Arrays) -> Source:
    """Keys as in PyTorch checkpoints: VGG's blocks numbered, folded BatchNorm as BatchNorm."""
    if any(_KERAS_LAYER.match(key) for key in state):
        return _numbered(state)
    if "layer1.0.conv1.bias" in state and "layer1.0.bn1.weight" not in state:
        return _unfolded(state)
    return Source(dict(state))


def _numbered(state: Arrays) -> Source:
    """`block1_conv2.weight` becomes `2.weight`; what else there is belongs to another network."""
    source = Source({})
    for key, values in state.items():
        found = _KERAS_LAYER.match(key)
        number = VGG_CONVOLUTIONS.get((int(found[1]), int(found[2]))) if found else None
        if found is None or number is None:
            source.unused["not part of VGG-16's convolutions"] += 1
        else:
            source.state[f"{number}{key[found.end() :]}"] = values
    return source


def _unfolded(state: Arrays) -> Source:
    """A BatchNorm that only adds, after each convolution, takes its bias.

    A stage without the kernels of its blocks is left out.
    """
    stages = {k.split(".")[0] for k in state if re.fullmatch(r"layer\d\.\d+\.conv1\.weight", k)}
    source = Source({}, folded=True)
    for key, values in state.items():
        part = key.split(".")[0]
        if re.fullmatch(r"layer\d", part) and part not in stages:
            source.unused[f"of {part}, whose 3x3 kernels are not there"] += 1
        elif key.endswith(".bias") and part != "fc":
            norm = re.sub(r"downsample\.0$", "downsample.1", key[: -len(".bias")])
            norm = re.sub(r"conv(\d)$", r"bn\1", norm)
            ones = np.ones_like(values)
            source.state[f"{norm}.weight"], source.state[f"{norm}.bias"] = ones, values
            source.state[f"{norm}.running_mean"] = np.zeros_like(values)
            source.state[f"{norm}.running_var"] = ones - np.float32(EPSILON)
        else:
            source.state[key] = values
    return source


def keep_stages(source: Source, stages: int) -> None:
    """Leave out the residual stages after the first `stages`."""
    for key in list(source.state):
        found = re.match(r"layer(\d)\.", key)
        if found and int(found[1]) > stages:
            del source.state[key]
            source.unused[f"of stages after layer{stages}"] += 1


def take_bgr(state: Dict[str, np.ndarray], mean_bgr: Sequence[float]) -> None:
    """Change the first layer from RGB in 0..1, ImageNet mean and deviation, to BGR minus a mean.

    Its outputs stay the same. At the edges they do so if the image is thought to go on in the
    colour `mean_bgr`, where it went on in ImageNet's mean: less than one of 255 levels apart.
    """
    first = next(name for name in _FIRST if f"{name}.weight" in state)
    scale = 1 / (255 * np.array(STD_RGB))
    shift = (np.array(mean_bgr[::-1]) - 255 * np.array(MEAN_RGB)) * scale
    weight = state[f"{first}.weight"].astype(np.float64)
    added = (weight * shift.reshape(1, 3, 1, 1)).sum((1, 2, 3))
    scaled = (weight * scale.reshape(1, 3, 1, 1))[:, ::-1]
    state[f"{first}.weight"] = np.ascontiguousarray(scaled, np.float32)
    mean = f"{first.replace('conv1', 'bn1')}.running_mean"
    key, sign = (f"{first}.bias", 1) if f"{first}.bias" in state else (mean, -1)
    state[key] = (state[key] + sign * added).astype(np.float32)


def is_trunk(state: Arrays) -> bool:
    """Whether it is a VGG-16 of which conv6 and conv7 are not there."""
    return "28.weight" in state and not any(f"{n}.weight" in state for n in (31, 33))
