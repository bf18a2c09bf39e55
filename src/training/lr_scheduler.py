# SPDX-License-Identifier: Apache-2.0
"""One learning rate per step. NumPy only."""

import math
from typing import Sequence

import numpy as np

from ..config import MOST_STEPS
from ..runtime.typed_config import ConfigError

WARMUP_START = 1e-6  # where the official warm-up begins


def learning_rates(
    base_lr: float,
    total_steps: int,
    steps_per_epoch: float,
    warmup_epochs: float = 0,
    milestones: Sequence[int] = (),
    gamma: Sequence[float] = (),
    schedule: str = "step",
) -> np.ndarray:
    """The learning rate of each step, (total_steps,) float32.

    A linear warm-up from 1e-6, then either the base rate times `gamma[i]` from epoch
    `milestones[i]` on ("step"; factors multiply), or half a cosine from the base rate to 0.

    Args:
        base_lr: rate after the warm-up.
        total_steps: steps of the whole run.
        steps_per_epoch: steps in an epoch; need not be whole.
        warmup_epochs: length of the warm-up.
        milestones: ascending epochs at which the rate changes.
        gamma: one factor for each milestone, or one for all.
        schedule: "step" or "cosine".

    Raises:
        ConfigError: milestones out of order, or a number of factors that does not fit them.
        ValueError: an unknown schedule.
    """
    if len(gamma) not in (1, len(milestones)):
        raise ConfigError(
            f"train.gamma must hold one value, or one for each of train.lr_epochs"
            f" ({len(milestones)}), not {len(gamma)}"
        )
    if list(milestones) != sorted(milestones):
        raise ConfigError(f"train.lr_epochs must ascend, not {list(milestones)}")
    epoch = np.arange(total_steps) / steps_per_epoch
    if schedule == "step":
        factors = list(gamma) * (len(milestones) if len(gamma) == 1 else 1)
        rates = np.full(total_steps, float(base_lr))
        for milestone, factor in zip(milestones, factors):
            rates[epoch >= milestone] *= factor
    elif schedule == "cosine":
        total_epochs = total_steps / steps_per_epoch
        done = (epoch - warmup_epochs) / max(total_epochs - warmup_epochs, 1e-9)
        rates = base_lr * 0.5 * (1 + np.cos(np.pi * done.clip(0, 1)))
    else:
        raise ValueError(f"unknown schedule {schedule!r}; choose from step, cosine")
    if warmup_epochs > 0:
        rising = WARMUP_START + (base_lr - WARMUP_START) * epoch / warmup_epochs
        rates = np.where(epoch < warmup_epochs, rising, rates)
    return rates.astype(np.float32)


def total_steps(epochs: int, num_images: int, images_per_step: int) -> int:
    """Steps that show every image `epochs` times; the last batch is filled from the next epoch.

    Raises:
        ConfigError: they are too many.
    """
    steps = math.ceil(epochs * num_images / images_per_step)
    if steps > MOST_STEPS:
        raise ConfigError(
            f"train.total_epochs={epochs} is {steps:,} steps, expected at most {MOST_STEPS:,}"
        )
    return steps
