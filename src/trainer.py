# SPDX-License-Identifier: Apache-2.0
"""The training loop, the optimiser it steps, and resuming."""

import math
import time
from pathlib import Path
from typing import Iterable, Mapping, Sequence, Tuple

import mindspore as ms
import numpy as np
from mindspore import nn

from src.callback import Callback, StepReport
from src.checkpoint import STATE_PREFIX, CheckpointError, read_checkpoint
from src.utils import load_weights

# Consecutive steps without a finite gradient after which a run is given up.
MAX_BAD_STEPS = 20


class TrainingError(ValueError):
    """Training cannot go on."""


def build_optimizer(
    model: nn.Cell,
    learning_rates: Sequence[float],
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    dampening: float = 0.0,
) -> nn.Optimizer:
    """SGD with momentum; no weight decay on biases and BatchNorm (as in the model zoo).

    Args:
        model: its trainable parameters are optimised.
        learning_rates: one per step of the whole run.
        momentum: share of the old velocity that stays.
        weight_decay: L2 penalty on convolution weights.
        dampening: share of the gradient kept out of the velocity.
    """
    parameters = model.trainable_params()
    decayed = [p for p in parameters if p.name.endswith(".weight")]
    others = [p for p in parameters if not p.name.endswith(".weight")]
    groups = [{"params": decayed, "weight_decay": weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    rates = np.asarray(learning_rates, np.float32).tolist()
    if dampening:
        return nn.SGD(groups, rates, momentum, dampening)
    return nn.Momentum(groups, rates, momentum)  # keeps one buffer less than nn.SGD


def total_steps(epochs: int, num_images: int, images_per_step: int) -> int:
    """Steps that show every image `epochs` times; the last batch is filled from the next epoch."""
    return math.ceil(epochs * num_images / images_per_step)


def optimizer_state(optimizer: nn.Optimizer) -> Mapping[str, ms.Parameter]:
    """Momentum buffers and the number of steps taken, by name."""
    state = {p.name: p for p in optimizer.moments}
    state["global_step"] = optimizer.global_step
    return state


def resume(path: Path, model: nn.Cell, optimizer: nn.Optimizer) -> int:
    """Restore weights, momentum and step count from a checkpoint of a run; returns the step.

    Raises:
        CheckpointError: it does not fit, or holds weights only.
    """
    content = read_checkpoint(path)
    wanted = optimizer_state(optimizer)
    missing = [name for name in wanted if STATE_PREFIX + name not in content]
    if missing:
        raise CheckpointError(f"{path} cannot be resumed from: no {missing[0]} in it")
    load_weights(model, path)
    for name, parameter in wanted.items():
        parameter.set_data(ms.Tensor(content[STATE_PREFIX + name].asnumpy(), parameter.dtype))
    return int(optimizer.global_step.asnumpy()[0])


def train(
    step_cell: nn.Cell,
    batches: Iterable[Tuple[ms.Tensor, ...]],
    learning_rates: Sequence[float],
    num_images: int,
    images_per_step: int,
    start_step: int = 0,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Run the steps from `start_step` to the end of `learning_rates`.

    Args:
        step_cell: (images, loc_targets, label_targets) -> loc loss, conf loss, gradient norm.
        batches: its arguments, one tuple a step, starting with that of `start_step`.
        learning_rates: one per step of the whole run.
        num_images: images in the data set.
        images_per_step: batch size times ranks.
        start_step: steps done before.
        callbacks: told of every step.

    Raises:
        TrainingError: no finite gradient in `MAX_BAD_STEPS` steps running, or too few batches.
    """
    step_cell.set_train()
    iterator = iter(batches)
    bad_steps = 0
    total = len(learning_rates)
    for step in range(start_step, total):
        began = time.monotonic()
        batch = next(iterator, None)
        if batch is None:
            raise TrainingError(f"the data ended after step {step} of {total}")
        waited = time.monotonic() - began
        loc_loss, conf_loss, norm = (float(value.asnumpy()) for value in step_cell(*batch))
        bad_steps = 0 if math.isfinite(norm) else bad_steps + 1
        if bad_steps >= MAX_BAD_STEPS:
            raise TrainingError(
                f"no finite gradient in {bad_steps} steps up to step {step + 1}; weights are as"
                " they were before them"
            )
        epoch = (step + 1) * images_per_step // num_images
        report = StepReport(
            step=step + 1,
            total_steps=total,
            epoch=epoch,
            epoch_ended=epoch > step * images_per_step // num_images,
            loc_loss=loc_loss,
            conf_loss=conf_loss,
            grad_norm=norm,
            learning_rate=float(learning_rates[step]),
            images=images_per_step,
            data_seconds=waited,
        )
        for callback in callbacks:
            callback.on_step(report)
    for callback in callbacks:
        callback.on_end()
