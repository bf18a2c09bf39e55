# SPDX-License-Identifier: Apache-2.0
"""A detector from whatever holds a network: a checkpoint, or a MINDIR or ONNX file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from ..config import Config, ConfigError, override
from ..formats.checkpoint import Labels, load_labels, resolve_config
from ..formats.exported_network import Exported, ExportedError, load_exported
from .detector import Detector

EXPORTED = (".mindir", ".onnx")


@dataclass(frozen=True, eq=False)
class NetworkFile:
    """What is known of a network before it is built."""

    path: Path
    config: Config
    labels: Optional[Labels]  # None: the file says nothing of its classes
    exported: Optional[Exported]  # None for a checkpoint

    def detector(self, config: Config, labels: Optional[Labels] = None) -> Detector:
        """The detector, with `config` in place of the file's and `labels` where it has none.

        Raises:
            ValueError: weights, labels or sizes that do not fit.
        """
        labels = self.labels or labels
        if self.exported is None:
            return Detector.from_checkpoint(self.path, config, labels)
        other = set(config.test.multi_scale) - {config.model.input_size}
        if other:
            raise ExportedError(
                f"{self.path}: takes {config.model.input_size} pixels, so test.multi_scale cannot"
                f" hold {min(other)}; a checkpoint can"
            )
        return Detector.from_network(self.exported.network, config, labels, str(self.path))


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
        ValueError: a file that is missing or damaged, or a configuration that makes no sense.
    """
    if path.suffix not in EXPORTED:
        return NetworkFile(path, resolve_config(preset, overrides, path), load_labels(path), None)
    if preset is not None:
        raise ConfigError(f"{path}: an exported file has its own configuration; leave out --config")
    exported = load_exported(path)
    config = override(exported.config, overrides)
    if (config.model, config.anchors) != (exported.config.model, exported.config.anchors):
        raise ConfigError(f"{path}: model and anchors of an exported file cannot be changed")
    return NetworkFile(path, config, exported.labels, exported)
