# SPDX-License-Identifier: Apache-2.0
"""Export a checkpoint to MINDIR or ONNX and check that the file computes the same."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Optional, Sequence

from src.formats.checkpoint import load_labels, resolve_config
from src.formats.export_metadata import Request, labels_for
from src.formats.export_network import check_request, export_network
from src.formats.onnx_graph import import_onnx
from src.inference.detector import build_postprocessor
from src.inference.mindspore_network import load_network
from src.runtime.device import setup_device
from src.utils import add_common_arguments, run_main


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint_path", required=True, type=Path)
    parser.add_argument("--file_format", default="MINDIR", choices=("MINDIR", "ONNX"))
    parser.add_argument("--output", type=Path, help="default: the checkpoint's name, new ending")
    parser.add_argument(
        "--inputs",
        default="tensor",
        choices=("tensor", "image"),
        help="tensor: (B, 3, S, S) float32, BGR minus mean; image: (B, S, S, 3) uint8 BGR",
    )
    parser.add_argument(
        "--outputs",
        default="boxes",
        choices=("raw", "boxes", "detections"),
        help="boxes: decoded, with probabilities; raw: offsets and class scores; detections: boxes"
        " after hard NMS, ONNX only, for deploy/ (%(default)s)",
    )
    parser.add_argument("--batch_size", type=int, default=1, help="0 for any number (%(default)s)")
    parser.add_argument(
        "--fold_batchnorm", action="store_true", help="put BatchNorm into the convolutions"
    )
    add_common_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    request = Request(
        args.file_format, args.inputs, args.outputs, args.batch_size, args.fold_batchnorm
    )
    output = args.output or args.checkpoint_path.with_suffix(request.ending)
    config = resolve_config(args.config, args.set, args.checkpoint_path)
    if request.outputs == "detections":
        config = replace(config, test=replace(config.test, soft_nms=False))
    labels = labels_for(config, load_labels(args.checkpoint_path), args.checkpoint_path)
    if request.kind == "ONNX":
        import_onnx()
    check_request(request, config, output)
    setup_device(args.device_target, args.device_id)
    network = load_network(config, args.checkpoint_path)
    postprocess = build_postprocessor(config).settings()
    for difference in export_network(network, config, labels, request, postprocess, output):
        print(
            f"batch {difference.batch_size}: largest difference to the network "
            f"{difference.absolute:.1e}, {difference.relative:.1e} of its largest value"
        )
    print(f"written: {output} and {output.name}.json")
    if request.outputs == "detections":
        print(f"next: python deploy/infer_onnx.py {output} IMAGE")
    else:
        print(f"next: python demo.py --checkpoint_path {output} --input IMAGE")


if __name__ == "__main__":
    run_main(main)
