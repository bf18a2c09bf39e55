# SPDX-License-Identifier: Apache-2.0
"""Export a checkpoint to MINDIR or ONNX and check that the file computes the same."""

import argparse
import os
from pathlib import Path
from typing import Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import nn

from src.checkpoint import load_labels, resolve_config, save_config
from src.model import build_model
from src.utils import add_common_arguments, load_weights, run_main, setup_device

# Largest difference to the network's own output let through, as a share of its largest value.
TOLERANCE = 1e-5


class ExportError(ValueError):
    """The exported file could not be written or does not compute what the network does."""


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint_path", required=True, type=Path)
    parser.add_argument("--file_format", default="MINDIR", choices=("MINDIR", "ONNX"))
    parser.add_argument("--output", type=Path, help="default: the checkpoint's name, new ending")
    parser.add_argument("--batch_size", type=int, default=1)
    add_common_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    config = resolve_config(args.config, args.set, args.checkpoint_path)
    setup_device(args.device_target, args.device_id)
    network = build_model(config)
    load_weights(network, args.checkpoint_path)
    network.set_train(False)
    ending = f".{args.file_format.lower()}"
    output = args.output or args.checkpoint_path.with_suffix(ending)
    if output.suffix != ending:
        raise ExportError(f"{output}: the name of a {args.file_format} file must end in {ending}")
    size = config.model.input_size
    shape = (args.batch_size, 3, size, size)
    images = np.random.default_rng(0).uniform(-128, 128, shape).astype(np.float32)
    difference = export(network, images, output, args.file_format)
    save_config(output.parent, config, load_labels(args.checkpoint_path))
    print(f"written: {output}, input {shape}")
    if difference is not None:
        print(f"largest difference to the network: {difference:.1e} of its largest value")


def export(network: nn.Cell, images: np.ndarray, output: Path, kind: str) -> Optional[float]:
    """Write `network` for inputs of the shape of `images` (B, 3, S, S), whole or not at all.

    Returns:
        the largest difference between file and network as a share of the network's largest
        output, for MINDIR; None for ONNX, which needs a runtime of its own.

    Raises:
        ExportError: it cannot be written, or computes something else.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{os.getpid()}.{output.name}")
    try:
        ms.export(network, ms.Tensor(images), file_name=str(temporary), file_format=kind)
        difference = compare(network, temporary, images) if kind == "MINDIR" else None
        if difference is not None and not difference <= TOLERANCE:
            raise ExportError(f"{output}: differs from the network by {difference:.1e}; not kept")
        os.replace(temporary, output)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"{output}: cannot be exported as {kind}: {reason}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def compare(network: nn.Cell, mindir: Path, images: np.ndarray) -> float:
    """Largest difference between a MINDIR's outputs and the network's, relative to the largest."""
    graph = nn.GraphCell(ms.load(str(mindir)))
    inputs = ms.Tensor(images)
    worst = 0.0
    for own, loaded in zip(network(inputs), graph(inputs)):
        expected = own.asnumpy()
        gap = np.abs(loaded.asnumpy() - expected).max()
        worst = max(worst, float(gap / np.abs(expected).max()))
    return worst


if __name__ == "__main__":
    run_main(main)
