# SPDX-License-Identifier: Apache-2.0
"""A network to a file in MINDIR or ONNX, compared with the network before it is kept."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, ContextManager, Dict, List, Mapping

import mindspore as ms
import numpy as np
from mindspore import nn

from ..config import Config
from ..priors import make_priors
from ..runtime.errors import M2DetError, one_line
from ..runtime.files import file_sha256, naming, replacing, scratch_folder, write_json
from .checkpoint import Labels
from .export_cells import build_export_form
from .export_check import (
    Difference,
    as_inputs,
    check_detections,
    compare_file,
    decoded,
    network_outputs,
    noise,
)
from .export_metadata import Request, describe, weights_sha256
from .exported_network import METADATA_KEY
from .onnx_graph import append_nms, finish

# Largest difference allowed, relative to the network's largest output.
TOLERANCE = {"MINDIR": 1e-5, "ONNX": 1e-4}
DRAFTS = "m2det-export-"  # begins the names of temporary folders


class ExportError(M2DetError, ValueError):
    """A request that a format cannot fulfil, or a file that does not compute what it should."""


def check_request(request: Request, config: Config, output: Path) -> None:
    """Refuse what needs no network to be refused, and a place that cannot be written to.

    Raises:
        ExportError: what cannot be done.
        OSError: the place.
    """
    if output.suffix != request.ending:
        raise ExportError(f"{output}: the name must end in {request.ending} for {request.kind}")
    if request.batch_size < 0:
        raise ExportError(f"the batch size must be 0 or more, not {request.batch_size}")
    if request.outputs == "detections":
        if request.kind != "ONNX":
            raise ExportError("MINDIR has no NMS by class: ask for boxes, or for ONNX")
        if config.test.class_agnostic:
            raise ExportError("NMS in the file is by class: set test.class_agnostic=false")
    if request.kind == "ONNX" and config.model.upsample == "bilinear":
        raise ExportError("MindSpore's ONNX has no bilinear resizing (model.upsample=bilinear)")
    if output.is_dir():
        raise ExportError(f"{output}: is a folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output.parent):
        pass


def export_network(
    network: nn.Cell,
    config: Config,
    labels: Labels,
    request: Request,
    postprocess: Mapping[str, Any],
    output: Path,
) -> List[Difference]:
    """Write `network`, which is used up, to `output` and FILE.json beside it, whole or not at all.

    Args:
        network: of `config`, with its weights, in evaluation mode.
        config: its configuration.
        labels: of its classes.
        request: how.
        postprocess: settings of the post-processing, for those who use the file.
        output: a path that `check_request` has passed.

    Returns:
        the differences to the network, for each batch size tried.

    Raises:
        ExportError: the format cannot hold the network, or the file computes something else.
        OSError: the file cannot be written.
    """
    metadata = describe(config, labels, request, postprocess, weights_sha256(network))
    batches = request.checked_batches
    images = noise(max(batches), config.model.input_size)
    expected = network_outputs(network, as_inputs(images, "tensor", config.data.mean_bgr))
    if request.outputs != "raw":
        expected = decoded(*expected, make_priors(config))
    form = build_export_form(network, config, request.inputs, request.outputs, request.fold)
    inputs = as_inputs(images, request.inputs, config.data.mean_bgr)
    with draft_folder() as folder:
        draft = folder / f"network{request.ending}"
        write(form, request, config.model.input_size, draft, json.dumps(metadata))
        differences = compare_file(draft, inputs, expected, batches)
        worst = max(difference.relative for difference in differences)
        if not worst <= TOLERANCE[request.kind]:
            raise ExportError(f"{output}: differs from the network by {worst:.1e}; not kept")
        if request.outputs == "detections":
            draft = add_nms(draft, inputs, metadata)
        put_in_place(draft, output, metadata)
    return differences


def draft_folder() -> ContextManager[Path]:
    """A folder for files that are not finished, after removing those of exports that were killed.

    Not in the output's folder: MindSpore takes few characters in paths, and closes it to others.
    """
    return scratch_folder(Path(tempfile.gettempdir()), DRAFTS)


def write(form: nn.Cell, request: Request, size: int, draft: Path, metadata: str) -> None:
    """Write the form to `draft`, with the metadata inside.

    Raises:
        ExportError: the format has nothing for one of its operators.
    """
    onnx = request.kind == "ONNX"
    batch = request.batch_size or (1 if onnx else None)
    image = request.inputs == "image"
    shape = [batch, size, size, 3] if image else [batch, 3, size, size]
    dtype = ms.uint8 if image else ms.float32
    example = ms.Tensor(shape=shape, dtype=dtype)
    if batch is not None:
        example = ms.Tensor(np.zeros(example.shape), dtype)
    options: Dict[str, Any] = {} if onnx else {"custom_func": MetadataWriter(metadata)}
    try:
        ms.export(form, example, file_name=str(draft), file_format=request.kind, **options)
    except Exception as error:  # MindSpore raises many kinds
        raise ExportError(f"cannot be exported as {request.kind}: {one_line(error)}") from None
    if not draft.is_file():
        raise ExportError("the network is above 1 GB, which MindSpore writes as many files")
    draft.chmod(0o600)  # MindSpore leaves it read-only
    if onnx:
        names = ("loc", "logits") if request.outputs == "raw" else ("boxes", "scores")
        finish(draft, names, not request.batch_size, metadata)


class MetadataWriter:
    """Writes text into a MINDIR while it is made."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, model: Any) -> None:
        if hasattr(model.user_info, "add"):  # a map, which MindSpore before 2.10 knows as a list
            model.user_info.add(key=METADATA_KEY, value=self.text)
        else:
            model.user_info[METADATA_KEY] = self.text


def add_nms(draft: Path, inputs: np.ndarray, metadata: Dict[str, Any]) -> Path:
    """A copy of a file of boxes with NMS at its end, compared with NumPy's.

    Raises:
        ExportError: they find different boxes.
    """
    keys = ("score_threshold", "iou_threshold", "keep_per_class")
    limits = {key: metadata["postprocess"][key] for key in keys}
    whole = draft.with_name(f"whole{draft.suffix}")
    shutil.copyfile(draft, whole)
    append_nms(whole, **limits)
    check_detections(whole, draft, inputs, limits)
    return whole


def put_in_place(draft: Path, output: Path, metadata: Dict[str, Any]) -> None:
    """Move a finished file to `output`, and write its metadata beside it, checksum included."""
    checksum = file_sha256(draft)
    with replacing(output) as temporary, naming(temporary):  # the draft is in another folder
        shutil.copyfile(draft, temporary)
    content = {**metadata, "file_sha256": checksum}
    write_json(output.with_name(output.name + ".json"), content, indent=2, ensure_ascii=False)
