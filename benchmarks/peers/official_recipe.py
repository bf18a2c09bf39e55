# SPDX-License-Identifier: Apache-2.0
"""The original's training recipe in PyTorch: `python -m benchmarks.peers.official_recipe`.

Trains the PyTorch network of the tests on a data set of one's own, with the settings of the
official code: its initialisation, learning rates, weight decay and augmentation, no clipping and no
average. Images and targets come from the pipeline that train.py uses, and the run folder has the
same files, weights converted, so that eval.py and `python -m benchmarks.studies.recipes` treat both
alike.
`--set` goes on top of it all: `--set train.lr=0.001` is another learning rate, and with
`--pretrained_backbone` it starts from ImageNet weights, as the official code does.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, cast

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from benchmarks.peers.sides import tests_module
from src.config import AnchorConfig, Config, ModelConfig, get_config, override, with_classes
from src.data.coco_utils import load_data
from src.data.records import DetectionData
from src.formats.checkpoint import Labels, load_weights, save_config
from src.formats.pytorch_config import layout_of
from src.formats.pytorch_weights import from_official, to_official
from src.model import build_model
from src.priors import map_sizes, prior_shapes_per_cell
from src.runtime.cpu_settings import thread_count
from src.runtime.device import set_seed, setup_device
from src.runtime.errors import UsageError
from src.training import builders as setup
from src.training.callback import Callback, CheckpointSaver, Scored
from src.training.lr_scheduler import learning_rates, total_steps
from src.training.run_log import LogLines, Progress, RunLog, save_run
from src.training.train_step import StepOutcome
from src.training.trainer import Run, train
from src.training.validation import Evaluation
from src.utils import add_config_arguments, run_main

LOG = logging.getLogger("m2det.official")
EPOCHS = 160  # of the official run; its warm-up and steps are shares of this here
PRIORS_PER_CELL = 6
# What the official network can be told; every other option of ours is as it is there.
NETWORK_OPTIONS = (
    *("backbone", "input_size", "num_classes", "planes", "num_levels", "num_scales", "smooth"),
    *("sfam", "shared_squeeze", "shared_sfam", "upsample", "base_feature"),
)


def official(config: Config) -> Config:
    """`config` with the network's dimensions, batch and test settings kept, and the rest official.

    Values: configs/m2det320_vgg.py, utils/core.py and data/data_augment.py of the official code.

    Raises:
        UsageError: the official code has no such network.
    """
    if config.model.neck != "mlfpn":
        raise UsageError(f"model.neck={config.model.neck}: the official code has mlfpn only")
    kept = {name: getattr(config.model, name) for name in NETWORK_OPTIONS}
    base = Config()
    return replace(
        base,
        model=ModelConfig(**kept),
        anchors=AnchorConfig(),
        train=replace(
            base.train,
            lr=0.004,
            scale_lr=False,
            warmup=5.0,
            lr_epochs=(90, 110, 130, 150),
            gamma=(0.5, 0.2, 0.1, 0.1),
            per_batch_size=config.train.per_batch_size * config.train.accumulate,
            total_epochs=config.train.total_epochs,
            total_steps=config.train.total_steps,
            num_workers=1,
            empty_image_negatives=0,
            eval_epochs=config.train.eval_epochs,
            eval_split=config.train.eval_split,
        ),
        data=replace(base.data, random_interpolation=True),
        test=config.test,
        optimizer=replace(base.optimizer, weight_decay=5e-4, clip_grad_norm=0.0),
        random_seed=config.random_seed,
        experiment_tag=f"{config.experiment_tag}_official",
    )


def schedule(config: Config, steps: int) -> np.ndarray:
    """(steps,) float32 learning rates: the official 160 epochs squeezed into as many steps."""
    wanted = config.train
    return learning_rates(
        wanted.lr, steps, steps / EPOCHS, wanted.warmup, wanted.lr_epochs, wanted.gamma
    )


def initialise(network: Any, backbone: str, kaiming_heads: bool = False) -> None:
    """Starting weights, in place, as by the official `init_model` and its ResNets.

    Convolutions of TUMs and FFMs: normal with the variance 2 / fan-out. The heads are meant to get
    the same, but `init_model` looks for "conv" in the names of their parameters, which are
    `0.weight` and `weight`: they keep PyTorch's uniform default, with biases of 0. With
    `kaiming_heads` they get what was meant.
    """
    import torch

    for name, module in network.named_modules():
        if not isinstance(module, torch.nn.Conv2d):
            continue
        part = name.split(".")[0]
        head = part in ("loc", "conf")
        if part.startswith("unet") or part in ("reduce", "up_reduce", "leach"):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif part == "base" and backbone.startswith("resnet"):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif head and kaiming_heads:
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if head:
            torch.nn.init.zeros_(cast(torch.Tensor, module.bias))


class TorchStep:
    """One step of the official optimiser, called like `TrainOneStepCell`."""

    def __init__(self, network: Any, config: Config, rates: np.ndarray) -> None:
        import torch

        wanted = config.optimizer
        self.network, self._rates, self._step = network, rates, 0
        self._mean_bgr = config.data.mean_bgr
        self._loss = tests_module("reference_torch").multibox_loss
        # As there: weight decay on every parameter, biases and BatchNorm too.
        self._optimizer = torch.optim.SGD(
            network.parameters(), float(rates[0]), wanted.momentum, weight_decay=wanted.weight_decay
        )

    def __call__(
        self, images: ms.Tensor, loc_targets: ms.Tensor, label_targets: ms.Tensor, stop: ms.Tensor
    ) -> StepOutcome:
        """The outcome of one step on images (B, 3, S, S) BGR, uint8 or float32 minus the mean."""
        import torch

        pixels = images.asnumpy()
        if pixels.dtype == np.uint8:
            pixels = pixels - np.array(self._mean_bgr, np.float32)[:, None, None]
        inputs, loc, labels = map(
            torch.from_numpy, (pixels, loc_targets.asnumpy(), label_targets.asnumpy())
        )
        for group in self._optimizer.param_groups:
            group["lr"] = float(self._rates[self._step])
        self._step += 1
        self._optimizer.zero_grad()
        losses = self._loss(*self.network(inputs), loc, labels.long())
        sum(losses).backward()
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
        self._optimizer.step()
        positives = (labels > 0).sum()
        loc_loss, conf_loss = (float(loss.item()) for loss in losses)
        return StepOutcome(
            loc_loss, conf_loss, float(norm), float(positives), float(stop.asnumpy())
        )


class Twin:
    """A MindSpore network whose files the PyTorch one reads and writes through it."""

    def __init__(self, network: Any, config: Config) -> None:
        self._source = network
        with no_init_parameters():
            self.cell: nn.Cell = build_model(config)
        self._shapes = {name: tuple(p.shape) for name, p in self.cell.parameters_dict().items()}
        self._keys_of = layout_of(config.model).official_keys

    def load_backbone(self, path: Path) -> None:
        """Give the PyTorch network a backbone that convert.py wrote.

        The backbone's BatchNorm stays in evaluation mode from then on: its statistics may be folded
        into the weights, which those of a batch would undo.

        Raises:
            CheckpointError: missing or damaged file, or another backbone.
        """
        import torch

        backbone: nn.Cell = self.cell.backbone
        load_weights(backbone, path, prefix="backbone.")
        found = {name: p.asnumpy() for name, p in backbone.parameters_dict().items()}
        state = to_official(found, self._keys_of)
        self._source.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, False)
        self._source.base.eval()

    def weights(self) -> Mapping[str, ms.Parameter]:
        """The weights as they are now, by the names of this project.

        Raises:
            ConversionError: values that are not finite.
        """
        state = {k: v.detach().numpy().copy() for k, v in self._source.state_dict().items()}
        converted = from_official(state, self._shapes, self._keys_of).weights
        parameters = self.cell.parameters_dict()
        for name, parameter in parameters.items():
            parameter.set_data(ms.Tensor(converted[name]))
        return parameters


def build_network(config: Config, kaiming_heads: bool = False) -> Any:
    """The PyTorch network with its starting weights, in training mode.

    Raises:
        UsageError: anchors that the official network has no heads for, or PyTorch is missing.
    """
    per_cell = prior_shapes_per_cell(config.anchors, len(map_sizes(config.model)))
    if set(per_cell) != {PRIORS_PER_CELL}:
        raise UsageError(f"anchors.ratios: the official heads have {PRIORS_PER_CELL} priors a cell")
    try:
        import torch
    except ImportError:
        raise UsageError("PyTorch is not installed, see requirements-dev.txt") from None
    torch.set_num_threads(thread_count())
    if config.random_seed is not None:
        torch.manual_seed(config.random_seed)
    options: Dict[str, Any] = {name: getattr(config.model, name) for name in NETWORK_OPTIONS}
    network = tests_module("reference_torch").M2Det(**options)
    initialise(network, config.model.backbone, kaiming_heads)
    return network.train()


def callbacks(
    config: Config, twin: Twin, data: DetectionData, args: argparse.Namespace, log: RunLog
) -> List[Callback]:
    """Log, scores and the last checkpoint, all as train.py has them."""
    folder = args.output / config.experiment_tag
    labels = Labels(data.class_names, data.category_ids)
    save_config(folder, config, labels)
    save_run(folder, sys.argv[1:], {"recipe": "official"})
    prefix = f"{config.model.backbone}_{config.model.input_size}"
    never = sys.maxsize  # such a run cannot be resumed
    saver = CheckpointSaver(folder, prefix, twin.weights, dict, never, 1)
    found: List[Callback] = [Progress([LogLines(LOG), log], args.log_interval)]
    if config.train.eval_epochs:
        split = load_data(args.dataset_path, config.train.eval_split)
        scorer = setup.build_scorer(config, twin.cell, split, labels, 0, 1, lambda: False)

        def score(show: Callable[[str], None]) -> Optional[Scored]:
            twin.weights()
            return scorer(show)

        evaluation = Evaluation(score, config.train.eval_epochs, 0, twin.weights)
        evaluation.watch(saver, [log.scores])
        found.append(evaluation)
    return [*found, saver]


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.official_recipe", description=__doc__.split("\n\n")[1]
    )
    parser.add_argument("--dataset_path", required=True, type=Path, help="COCO or VOC folder")
    parser.add_argument("--split", default="train", help="split to train on (default: train)")
    add_config_arguments(parser, "m2det_tiny")
    parser.add_argument("--output", default="outputs", type=Path, help="output folder")
    parser.add_argument("--pretrained_backbone", type=Path, help="backbone written by convert.py")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="length of the run (default: the preset's)")
    length.add_argument("--steps", type=int, help="the same in steps")
    parser.add_argument(
        "--heads", default="official", choices=("official", "kaiming"), help="what they start from"
    )
    parser.add_argument("--log_interval", type=int, default=10, help="steps between log lines")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    for name in ("epochs", "steps", "log_interval"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name} must be at least 1, not {getattr(args, name)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    setup_device("CPU")
    config = override(official(get_config(args.config)), args.set)
    data = load_data(args.dataset_path, args.split)
    config = with_classes(config, len(data.class_names) + 1)
    batch, images = config.train.per_batch_size, len(data.records)
    steps = args.steps or (0 if args.epochs else config.train.total_steps)
    epochs = args.epochs or config.train.total_epochs
    rates = schedule(config, steps or total_steps(epochs, images, batch))
    set_seed(config.random_seed)
    network = build_network(config, args.heads == "kaiming")
    twin = Twin(network, config)
    if args.pretrained_backbone is not None:
        twin.load_backbone(args.pretrained_backbone)
    batches = setup.build_batches(config, data, 0, len(rates), 0, 1)
    log = RunLog(args.output / config.experiment_tag)
    told = callbacks(config, twin, data, args, log)
    run = Run(rates, images, batch, callbacks=told)
    train(TorchStep(network, config, rates), batches, run)
    LOG.info("done: %s", args.output / config.experiment_tag)


if __name__ == "__main__":
    run_main(main)
