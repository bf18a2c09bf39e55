# SPDX-License-Identifier: Apache-2.0
"""Export a checkpoint to MINDIR or ONNX and check that the file computes the same."""

import argparse
from dataclasses import replace
from pathlib import Path
from shlex import quote

from ..formats.checkpoint import load_labels, resolve_config
from ..formats.export_metadata import Request, labels_for
from ..formats.export_network import check_request, export_network
from ..formats.onnx_graph import import_onnx
from ..inference.detector import build_postprocessor
from ..inference.mindspore_network import load_network
from ..runtime.device import setup_device
from ..runtime.errors import printable
from .export_int8 import Int8Images, write_int8


def main(args: argparse.Namespace) -> None:
    fold = args.fold_batchnorm or args.int8 is not None
    request = Request(args.file_format, args.inputs, args.outputs, args.batch_size, fold)
    output = args.output or args.checkpoint_path.with_suffix(request.ending)
    config = resolve_config(args.config, args.set, args.checkpoint_path)
    if request.outputs == "detections":
        config = replace(config, test=replace(config.test, soft_nms=False))
    labels = labels_for(config, load_labels(args.checkpoint_path), args.checkpoint_path)
    if request.kind == "ONNX":
        import_onnx()
    check_request(request, config, output)
    images = None
    if args.int8:
        of_network = config.model.input_size, config.data.mean_bgr, labels
        images = Int8Images(args.int8, request, *of_network, config.data.allow_links)
    setup_device(args.device_target, args.device_id)
    network = load_network(config, args.checkpoint_path)
    postprocess = build_postprocessor(config).settings()
    for difference in export_network(network, config, labels, request, postprocess, output):
        print(
            f"batch {difference.batch_size}: largest difference to the network "
            f"{difference.absolute:.1e}, {difference.relative:.1e} of its largest value"
        )
    print(printable(f"written: {output} and {output.name}.json"))
    if images:
        output = write_int8(output, images)
    print(printable(next_command(request, output)))


def next_command(request: Request, output: Path) -> str:
    """How to use the file, as it is typed."""
    name = quote(str(output))
    if request.outputs == "detections":
        return f"next: python deploy/infer_onnx.py {name} IMAGE"
    return f"next: python demo.py --checkpoint_path {name} --input IMAGE"
