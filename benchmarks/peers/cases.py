# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks/run.py` times: a network of one size, one batch, forward or a training step."""

from dataclasses import dataclass
from typing import Tuple


@dataclass(frozen=True)
class Case:
    """One row of the table; 81 classes."""

    kind: str  # "inference" or "training"
    input_size: int
    batch: int
    backbone: str = "vgg16"
    num_levels: int = 8

    @property
    def name(self) -> str:
        extra = "" if self.num_levels == 8 else f", {self.num_levels} levels"
        return f"{self.kind} {self.backbone} {self.input_size}, batch {self.batch}{extra}"

    @property
    def weights(self) -> str:
        """Name of the files with its weights; cases of one network share them."""
        return f"{self.backbone}_{self.input_size}_{self.num_levels}"


FULL: Tuple[Case, ...] = (
    *(Case("inference", size, batch) for size in (320, 512, 800) for batch in (1, 4)),
    Case("training", 320, 2),
    Case("training", 320, 4),
    Case("training", 512, 2),
)
QUICK: Tuple[Case, ...] = (
    Case("inference", 320, 1),
    Case("inference", 512, 1),
    Case("training", 320, 2),
)
SMALL: Tuple[Case, ...] = (  # for the tests: seconds, and figures without meaning
    Case("inference", 64, 1, "resnet18", 2),
    Case("training", 64, 2, "resnet18", 2),
)
