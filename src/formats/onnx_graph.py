# SPDX-License-Identifier: Apache-2.0
"""What MindSpore's ONNX exporter leaves out, put into the finished graph with the onnx package.

B batch, P priors, C classes with background 0, M detections of the whole batch.
"""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from ..runtime.errors import M2DetError, one_line
from .exported_network import METADATA_KEY

ANY_BATCH = "batch"


class OnnxError(M2DetError, ValueError):
    """The onnx package is missing, or the graph has a form that is not known here."""


def import_onnx() -> Any:
    """The onnx package.

    Raises:
        OnnxError: it is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise OnnxError("ONNX export needs: pip install -r requirements-onnx.txt") from None
    return onnx


def finish(path: Path, outputs: Sequence[str], any_batch: bool, metadata: str) -> None:
    """Complete the file MindSpore has written, in place.

    Args:
        path: the .onnx file; its input becomes "images".
        outputs: what its outputs are called from now on.
        any_batch: let the batch be of any size instead of the one it was exported with.
        metadata: text to keep in the file.

    Raises:
        OnnxError: as `import_onnx`, or a graph that cannot be changed so.
    """
    onnx = import_onnx()
    model = onnx.load(str(path))
    names = [value.name for value in [*model.graph.input, *model.graph.output]]
    _rename(model.graph, dict(zip(names, ["images", *outputs])))
    if any_batch:
        free_batch(model)
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata})
    save(model, path)


def save(model: Any, path: Path) -> None:
    """Write a model after the onnx package's own check.

    Raises:
        OnnxError: it does not pass.
    """
    onnx = import_onnx()
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise OnnxError(f"the graph is not valid: {one_line(error)}") from None
    path.write_bytes(model.SerializeToString())


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in [*graph.input, *graph.output]:
        value.name = names.get(value.name, value.name)


def free_batch(model: Any) -> None:
    """Take the batch size out of input, outputs and the two operators that hold it: Reshape and
    Resize.
    """
    onnx = import_onnx()
    graph = model.graph
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = ANY_BATCH
    constants = _constants(graph)
    nodes: List[Any] = []
    for node in graph.node:
        if node.op_type == "Reshape":
            shape = _shape(constants, node.input[1])
            node.input[1] = f"{node.output[0]}/shape"
            shape[0] = 0  # as in the input
            graph.initializer.append(onnx.numpy_helper.from_array(shape, node.input[1]))
        elif node.op_type == "Resize":
            nodes += _resize_sizes(onnx, graph, node, _shape(constants, node.input[3]))
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [n for n in nodes if n.op_type != "Constant" or n.output[0] in used]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)


def _constants(graph: Any) -> Dict[str, Any]:
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = node.attribute[0].t
    return found


def _shape(constants: Mapping[str, Any], name: str) -> np.ndarray:
    if name not in constants:
        raise OnnxError(f"the batch size cannot be made free: {name} is no constant")
    return import_onnx().numpy_helper.to_array(constants[name]).copy()


def _resize_sizes(onnx: Any, graph: Any, node: Any, sizes: np.ndarray) -> List[Any]:
    """Nodes that join batch and channels of a Resize's input to its (height, width)."""
    prefix = node.output[0]
    names = {part: f"{prefix}/{part}" for part in ("shape", "lead", "pick", "side", "sizes")}
    graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([0, 1], np.int64), names["pick"])
    )
    graph.initializer.append(
        onnx.numpy_helper.from_array(sizes[2:].astype(np.int64), names["side"])
    )
    make = onnx.helper.make_node
    added = [
        make("Shape", [node.input[0]], [names["shape"]]),
        make("Gather", [names["shape"], names["pick"]], [names["lead"]], axis=0),
        make("Concat", [names["lead"], names["side"]], [names["sizes"]], axis=0),
    ]
    node.input[3] = names["sizes"]
    return added


def append_nms(
    path: Path, score_threshold: float, iou_threshold: float, keep_per_class: int
) -> None:
    """Replace outputs "boxes" (B, P, 4) and "scores" (B, P, C - 1) by what hard NMS leaves of them.

    New outputs: boxes (M, 4) float32, scores (M,) float32, labels (M,) int64 from 1, image_index
    (M,) int64 places in the batch. They are sorted by image and class, best first. ONNX's operator
    drops a box whose IoU is above the threshold, and counts no pixel more than corners differ.
    """
    onnx = import_onnx()
    model = onnx.load(str(path))
    graph = model.graph
    _rename(graph, {"boxes": "all_boxes", "scores": "all_scores"})
    most = keep_per_class or np.iinfo(np.int32).max
    values = {
        "most": np.array([most], np.int64),
        "iou_threshold": np.array([iou_threshold], np.float32),
        "score_threshold": np.array([score_threshold], np.float32),
        "0": np.array(0, np.int64),
        "1": np.array(1, np.int64),
        "0_and_2": np.array([0, 2], np.int64),
    }
    for name, array in values.items():
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"nms/{name}"))
    graph.node.extend(_nms_nodes(onnx))
    del graph.output[:]
    graph.output.extend(_detections(onnx))
    save(model, path)


def _nms_nodes(onnx: Any) -> List[Any]:
    """From "all_boxes" and "all_scores" to the outputs; each row found is (image, class, prior)."""
    make = onnx.helper.make_node
    limits = ["nms/most", "nms/iou_threshold", "nms/score_threshold"]
    return [
        make("Transpose", ["all_scores"], ["nms/scores"], perm=[0, 2, 1]),
        make("NonMaxSuppression", ["all_boxes", "nms/scores", *limits], ["nms/found"]),
        make("GatherND", ["nms/scores", "nms/found"], ["scores"]),
        make("Gather", ["nms/found", "nms/0_and_2"], ["nms/rows"], axis=1),
        make("GatherND", ["all_boxes", "nms/rows"], ["boxes"]),
        make("Gather", ["nms/found", "nms/1"], ["nms/classes"], axis=1),
        make("Add", ["nms/classes", "nms/1"], ["labels"]),
        make("Gather", ["nms/found", "nms/0"], ["image_index"], axis=1),
    ]


def _detections(onnx: Any) -> List[Any]:
    """What the outputs of a file that ends in NMS are."""
    floats, integers = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    make = onnx.helper.make_tensor_value_info
    return [
        make("boxes", floats, ["found", 4]),
        make("scores", floats, ["found"]),
        make("labels", integers, ["found"]),
        make("image_index", integers, ["found"]),
    ]
