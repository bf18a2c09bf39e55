# SPDX-License-Identifier: Apache-2.0
"""An exported ONNX file with its convolutions in 8-bit integers, by ONNX Runtime's quantisation.

Static: the range of every activation is measured beforehand, on images that are handed in. The
heads, softmax and the decoding of boxes stay in float32.
"""

import json
import logging
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np

from ..runtime.errors import M2DetError, one_line
from .export_network import draft_folder, put_in_place
from .exported_network import METADATA_KEY, FileNetwork, load_exported
from .onnx_graph import import_onnx

OPSET = 13  # of ONNX, the first with a scale for each channel; MindSpore writes 11
KINDS = ("Conv", "Relu", "Add", "Concat", "Resize", "MaxPool")


class QuantisationError(M2DetError, ValueError):
    """A file that ONNX Runtime cannot quantise, or packages that are missing."""


def import_quantisation() -> Any:
    """onnxruntime.quantization.

    Raises:
        QuantisationError: onnx or onnxruntime is not installed.
    """
    import_onnx()
    try:
        import onnxruntime.quantization
    except ImportError:
        raise QuantisationError(
            "quantisation needs: pip install -r requirements-onnx.txt"
        ) from None
    return onnxruntime.quantization


def quantise(source: Path, output: Path, images: Sequence[np.ndarray]) -> None:
    """Write `source` in 8-bit integers to `output`, and FILE.json beside it, whole or not at all.

    Weights are signed, from -64 to 64 with a scale for each output channel; activations are
    unsigned, with one scale for each tensor, from the least to the largest value of any image.

    Args:
        source: a file of `export.py --file_format ONNX --fold_batchnorm`.
        output: a path that ends in .onnx.
        images: network inputs (3, S, S) float32, BGR minus mean, of images like those to come.

    Raises:
        QuantisationError: ONNX Runtime cannot do it.
        OSError: the file cannot be written.
    """
    exported = load_exported(source)
    metadata = {k: v for k, v in exported.metadata.items() if k != "file_sha256"}
    metadata["quantised"] = {"convolutions": "int8", "calibration_images": len(images)}
    with draft_folder() as folder:
        draft = folder / "int8.onnx"
        _write(source, draft, _Feed(exported.network, images))
        model = import_onnx().load(str(draft))
        import_onnx().helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
        draft.write_bytes(model.SerializeToString())
        put_in_place(draft, output, metadata)


def _write(source: Path, draft: Path, feed: "_Feed") -> None:
    onnx, tool = import_onnx(), import_quantisation()
    logging.disable(logging.WARNING)  # it advises to fold BatchNorm, which has been done
    try:
        model = onnx.version_converter.convert_version(onnx.load(str(source)), OPSET)
        draft.write_bytes(model.SerializeToString())
        tool.quantize_static(
            str(draft),
            str(draft),
            feed,
            quant_format=tool.QuantFormat.QDQ,
            op_types_to_quantize=[*KINDS, "Softmax"],  # which has to be measured with them
            nodes_to_quantize=_before_convolutions(model.graph),
            per_channel=True,
            activation_type=tool.QuantType.QUInt8,
            weight_type=tool.QuantType.QInt8,
            reduce_range=True,  # processors without VNNI cut sums of two larger products to 16 bits
        )
    except Exception as error:  # onnx and onnxruntime raise many kinds
        raise QuantisationError(f"{source}: cannot be quantised: {one_line(error)}") from None
    finally:
        logging.disable(logging.NOTSET)


def _before_convolutions(graph: Any) -> List[str]:
    """Names of the nodes to quantise: those whose output reaches a convolution.

    The last convolutions, which give offsets and class scores, stay in float32: in 8 bits they
    cost most of the AP that is lost. So does what joins and decodes their outputs.
    """
    maker = {output: node for node in graph.node for output in node.output}
    left = [name for node in graph.node if node.op_type == "Conv" for name in node.input]
    found: Dict[str, Any] = {}
    while left:
        node = maker.get(left.pop())
        if node is not None and node.name not in found:
            found[node.name] = node
            left += node.input
    return [name for name, node in found.items() if node.op_type in KINDS]


class _Feed:
    """Images one at a time, in the form that onnxruntime's calibration asks for."""

    def __init__(self, network: FileNetwork, images: Sequence[np.ndarray]) -> None:
        self.network = network
        self._left: Iterator[np.ndarray] = iter(images)

    def get_next(self) -> Optional[Dict[str, np.ndarray]]:
        image = next(self._left, None)
        if image is None:
            return None
        batch = np.repeat(image[None], self.network.batch_size or 1, axis=0)
        return {"images": self.network.file_input(batch)}
