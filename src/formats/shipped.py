# SPDX-License-Identifier: Apache-2.0
"""The network that comes with the project, and how its file is made from a checkpoint.

python -m src.formats.shipped --checkpoint_path RUN/NAME-final.ckpt --output weights/photos
"""

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

import numpy as np

from ..runtime.files import file_sha256, write_atomically
from .checkpoint import (
    STATE_PREFIX,
    CheckpointError,
    load_labels,
    read_checkpoint,
    resolve_config,
    save_checkpoint,
    save_config,
)

NAME = "photos"  # what `--finetune` calls it
_PACKAGE = Path(__file__).resolve().parents[1]
_HOME = _PACKAGE if _PACKAGE.name == "m2det" else _PACKAGE.parent  # installed, or a checkout
PHOTOS = _HOME / "weights" / NAME / f"{NAME}.safetensors"
PRESET = "m2det_photos"
SUMS = "SHA256SUMS"


def write_half(source: Path, folder: Path) -> Path:
    """Write the weights of a checkpoint as float16, with configuration, labels and checksum beside.

    Raises:
        CheckpointError: it cannot be read, has no labels, or a weight is too large for float16.
    """
    import mindspore as ms

    config, labels = resolve_config(None, (), source), load_labels(source)
    if labels is None:
        raise CheckpointError(f"{source}: no labels.json beside it")
    with np.errstate(over="ignore"):  # seen below
        weights = {
            name: parameter.asnumpy().astype(np.float16)
            for name, parameter in read_checkpoint(source).items()
            if not name.startswith(STATE_PREFIX)
        }
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise CheckpointError(f"{source}: {name} does not fit into float16")
    path = folder / PHOTOS.name
    save_checkpoint({name: ms.Tensor(values) for name, values in weights.items()}, path)
    save_config(folder, config, labels)
    write_atomically(folder / SUMS, f"{file_sha256(path)}  {path.name}\n")
    return path


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Command line; returns the exit code: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint_path", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path, help="folder for the files")
    args = parser.parse_args(argv)
    try:
        path = write_half(args.checkpoint_path, args.output)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
