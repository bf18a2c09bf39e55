# SPDX-License-Identifier: Apache-2.0
"""Options of an export, and the metadata of an exported file."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

import mindspore as ms
from mindspore import nn

from ..config import Config, to_json
from .checkpoint import CheckpointError, Labels
from .metadata_check import EXPORT_VERSION


@dataclass(frozen=True)
class Request:
    """How a network is to be exported."""

    kind: str = "MINDIR"  # or "ONNX"
    inputs: str = "tensor"  # (B, 3, S, S) float32, BGR minus mean; "image": (B, S, S, 3) uint8 BGR
    outputs: str = "raw"  # "boxes": decoded, with probabilities; "detections": after hard NMS
    batch_size: int = 1  # 0: any
    fold: bool = False  # BatchNorm into the convolutions

    @property
    def ending(self) -> str:
        """Ending of the file's name."""
        return f".{self.kind.lower()}"

    @property
    def checked_batches(self) -> Tuple[int, ...]:
        """Batch sizes the file is tried with."""
        return (self.batch_size,) if self.batch_size else (1, 4)


def describe(
    config: Config,
    labels: Labels,
    request: Request,
    postprocess: Mapping[str, Any],
    checksum: str,
) -> Dict[str, Any]:
    """Everything needed to use an exported file, as it is written inside and beside it.

    Args:
        config: of the network.
        labels: of its classes.
        request: how it is exported.
        postprocess: settings of the post-processing (`PostProcessor.settings`).
        checksum: of the weights.
    """
    return {
        "version": EXPORT_VERSION,
        "made_by": f"MindSpore {ms.__version__}",
        "preset": config.experiment_tag,
        "input": request.inputs,
        "outputs": request.outputs,
        "batch_size": request.batch_size or None,
        "input_size": config.model.input_size,
        "mean_bgr": list(config.data.mean_bgr),
        "class_names": list(labels.class_names),
        "category_ids": list(labels.category_ids),
        "postprocess": dict(postprocess),
        "batchnorm_folded": request.fold,
        "weights_sha256": checksum,
        "config": json.loads(to_json(config)),
    }


def labels_for(config: Config, labels: Optional[Labels], checkpoint: Path) -> Labels:
    """The labels saved beside a checkpoint, or numbered classes where there are none.

    Raises:
        CheckpointError: as many names as the network has classes were expected.
    """
    numbers = tuple(range(1, config.model.num_classes))
    if labels is None:
        return Labels(tuple(f"class {i}" for i in numbers), numbers)
    if len(labels.class_names) != len(numbers):
        raise CheckpointError(
            f"{checkpoint}: {len(labels.class_names)} class names for a network of {len(numbers)}"
        )
    return labels


def weights_sha256(network: nn.Cell) -> str:
    """A checksum of all parameters with their names, whatever their order."""
    digest = hashlib.sha256()
    for name, parameter in sorted(network.parameters_dict().items()):
        digest.update(name.encode())
        digest.update(parameter.asnumpy().tobytes())
    return digest.hexdigest()
