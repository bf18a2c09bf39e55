# SPDX-License-Identifier: Apache-2.0
"""A detector from a checkpoint, a MINDIR or an ONNX file.

MindSpore is imported for the first two only; ONNX Runtime starts much sooner.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np

from ..config import Config, ConfigError, override
from ..formats.checkpoint import Labels, load_labels, no_checkpoint, resolve_config
from ..formats.exported_network import Exported, load_exported
from ..formats.metadata_check import ExportedError
from .detector import ArrayDetector
from .postprocess import Network, Outputs

EXPORTED = (".mindir", ".onnx")
LOG = logging.getLogger("m2det.detector")


@dataclass(frozen=True, eq=False)
class NetworkFile:
    """The configuration of a network, known before the network is built."""

    path: Path
    config: Config
    labels: Optional[Labels]  # None: no class names in the file or beside it
    exported: Optional[Exported]  # None for a checkpoint

    def detector(self, config: Config, labels: Optional[Labels] = None) -> ArrayDetector:
        """The detector, with `config` in place of the file's and `labels` where it has none.

        Raises:
            ValueError: weights, labels or sizes that do not fit.
        """
        labels = self.labels or labels
        if self.exported is None:
            detector = ArrayDetector.from_checkpoint(self.path, config, labels)
            detector.network = _announced(detector.network)
            return detector
        other = set(config.test.multi_scale) - {config.model.input_size}
        if other:
            raise ExportedError(
                f"{self.path}: takes {config.model.input_size} pixels, so test.multi_scale cannot"
                f" hold {min(other)}; a checkpoint can"
            )
        network: Network = self.exported.network
        if needs_mindspore(self.path):
            network = _announced(network)
        return ArrayDetector.from_network(
            network, config, labels, str(self.path), self.exported.decoded
        )


def showing(config: Config, lowest: float) -> Config:
    """`config` for showing what scores `lowest` or more.

    It detects what scores less where the network's own threshold is lower: such boxes vote for
    those above them, and are members of what views have in common.
    """
    least = min(config.test.score_threshold, lowest)
    return replace(config, test=replace(config.test, score_threshold=least))


def needs_mindspore(path: Path) -> bool:
    """Whether MindSpore runs the network in a file; ONNX Runtime runs ONNX files."""
    return path.suffix != ".onnx"


def prepare_device(
    path: Path, target: str, device_id: int = 0, distribute: bool = False
) -> Tuple[int, int]:
    """Set up the device that the network in a file needs; returns (rank, number of ranks).

    Raises:
        ValueError: the device is not there.
    """
    if not needs_mindspore(path) and not distribute:
        return 0, 1
    from ..runtime.device import setup_device

    return setup_device(target, device_id, distribute)


def read_network_file(
    path: Path, preset: Optional[str] = None, overrides: Sequence[str] = ()
) -> NetworkFile:
    """Reads the configuration that goes with a network, and an exported network itself.

    Args:
        path: .ckpt or .safetensors, with config.json beside it unless there is a preset; or .mindir
            or .onnx.
        preset: instead of the configuration saved with a checkpoint.
        overrides: `section.key=value`; of an exported file's network nothing can be changed.

    Raises:
        ValueError: a file that is missing or damaged, or an invalid configuration.
    """
    if path.suffix not in EXPORTED:
        if not path.is_file():  # before it is config.json that is missing
            raise no_checkpoint(path)
        return NetworkFile(path, resolve_config(preset, overrides, path), load_labels(path), None)
    if preset is not None:
        raise ConfigError(f"{path}: an exported file has its own configuration; leave out --config")
    exported = load_exported(path)
    config = override(exported.config, overrides)
    if (config.model, config.anchors) != (exported.config.model, exported.config.anchors):
        raise ConfigError(f"{path}: model and anchors of an exported file cannot be changed")
    return NetworkFile(path, config, exported.labels, exported)


def _announced(network: Network) -> Network:
    """`network`, with a line in the log when it is first called: MindSpore compiles it then.

    A warning, so that it shows in a notebook that has not set up logging.
    """
    pending: List[str] = ["compiling the network, which takes up to a minute; later calls do not"]

    def run(inputs: np.ndarray) -> Outputs:
        if pending:
            LOG.warning(pending.pop())
        return network(inputs)

    return run
