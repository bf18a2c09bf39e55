# SPDX-License-Identifier: Apache-2.0
"""The sides that `benchmarks/run.py` compares, each run in a process of its own.

A side takes a case and the folder with its weights and gives a function that does the work once
and returns when it is done. Frameworks are imported inside, so that a process pays for one only.
"""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, NamedTuple, Tuple

import numpy as np

from benchmarks.peers.cases import Case
from src.runtime.cpu_settings import thread_count

CLASSES = 81
POSITIVES = 12  # priors of each image that are objects, spread over all maps
ONNX = "onnxruntime"
Run = Callable[[], Any]


class Network(NamedTuple):
    """What is written and counted before timing."""

    parameters: int
    multiply_adds: int  # of one image, forward; convolutions and fully connected layers
    priors: int


def prepare(case: Case, folder: Path, onnx: bool) -> Network:
    """Writes the weights of a case for all sides."""
    import torch

    networks = tests_module("networks")
    reference, ours = networks.pair(planes=256, **options_of(case))
    torch.save(reference.state_dict(), folder / f"{case.weights}.pth")
    from src.formats.checkpoint import save_checkpoint, save_config

    home = folder / case.weights
    save_config(home, config_of(case))
    save_checkpoint(ours.parameters_dict(), home / "weights.ckpt")
    if onnx:
        import export

        arguments = ["--checkpoint_path", str(home / "weights.ckpt"), "--file_format", "ONNX"]
        arguments += ["--outputs", "raw", "--output", str(home / f"batch{case.batch}.onnx")]
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the table
            export.main(arguments)
    counted, priors = _count(reference, case.input_size)
    return Network(sum(p.numel() for p in reference.parameters()), counted, priors)


def pytorch(case: Case, folder: Path) -> Run:
    """The reference network, with the official multibox loss and SGD."""
    import torch

    net = torch_network(case, folder)
    images = torch.from_numpy(images_of(case))
    if case.kind == "inference":
        return lambda: torch_forward(net, images)
    priors = torch_forward(net, images)[0].shape[1]
    batch = (images, *map(torch.from_numpy, targets_of(case, priors)))
    step = torch_step(net)
    return lambda: step(*batch)


def torch_network(case: Case, folder: Path) -> Any:
    """The reference network with the weights of a case, in evaluation mode."""
    import torch

    torch.set_num_threads(thread_count())
    net = tests_module("reference_torch").M2Det(**options_of(case)).eval()
    net.load_state_dict(torch.load(folder / f"{case.weights}.pth", weights_only=True))
    return net


def torch_forward(net: Any, images: Any) -> Any:
    """(loc, logits) without a graph for gradients."""
    import torch

    with torch.inference_mode():
        return net(images)


def torch_step(net: Any) -> Callable[..., float]:
    """A function of (images, offsets, labels) that makes one training step; the gradient norm."""
    import torch

    multibox_loss = tests_module("reference_torch").multibox_loss
    optimizer = torch.optim.SGD(net.parameters(), 1e-6, momentum=0.9, weight_decay=5e-5)
    net.train()

    def step(images: Any, offsets: Any, labels: Any) -> float:
        optimizer.zero_grad()
        sum(multibox_loss(*net(images), offsets, labels.long())).backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 4.0)
        optimizer.step()
        return float(norm)

    return step


def mindspore(case: Case, folder: Path) -> Run:
    """This project, through the parts that train.py and eval.py put together."""
    from mindspore import Tensor

    config, net = our_network(case, folder)
    images = Tensor(images_of(case))
    if case.kind == "inference":
        return lambda: [x.asnumpy() for x in net(images)]
    step = our_step(config, net)
    batch = (images, *map(Tensor, targets_of(case, len(priors_of(case)))), Tensor(np.float32(0)))
    return lambda: step(*batch)


def our_network(case: Case, folder: Path) -> Tuple[Any, Any]:
    """(configuration, network with the weights of a case, in evaluation mode)."""
    from src.inference.mindspore_network import load_network
    from src.runtime.device import setup_device

    setup_device("CPU")
    config = config_of(case)
    return config, load_network(config, folder / case.weights / "weights.ckpt")


def our_step(config: Any, net: Any) -> Any:
    """The training step that train.py compiles, at a learning rate of 1e-6."""
    from src.training.builders import build_step, prepare_network
    from src.training.optimizers import build_optimizer

    prepare_network(config, net, world_size=1)
    optimizer = build_optimizer(net, np.full(10_000, 1e-6), config.optimizer)
    return build_step(config, net, optimizer, world_size=1, loss_scale=1.0)


def priors_of(case: Case) -> np.ndarray:
    """(P, 4) cxcywh."""
    from src.priors import make_priors

    return make_priors(config_of(case))


def onnxruntime(case: Case, folder: Path) -> Run:
    """The exported network in ONNX Runtime."""
    from src.formats.exported_network import load_exported

    network = load_exported(folder / case.weights / f"batch{case.batch}.onnx").network
    images = images_of(case)
    return lambda: network(images)


SIDES: Mapping[str, Callable[[Case, Path], Run]] = {
    "pytorch": pytorch,
    "mindspore": mindspore,
    ONNX: onnxruntime,
}


def ceiling(side: int = 2048, rounds: int = 20) -> float:
    """Multiply-adds a second of a large float32 matrix product: the best of `rounds`."""
    import torch

    torch.set_num_threads(thread_count())
    a = torch.rand(side, side)
    torch.mm(a, a)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        torch.mm(a, a)
        times.append(time.perf_counter() - start)
    return side**3 / min(times)


def tests_module(name: str) -> Any:
    """The PyTorch M2Det and its conversion were written for the tests."""
    folder = str(Path(__file__).resolve().parents[2] / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    return __import__(name)


def options_of(case: Case) -> Dict[str, Any]:
    return {
        "backbone": case.backbone,
        "input_size": case.input_size,
        "num_levels": case.num_levels,
        "num_classes": CLASSES,
    }


def config_of(case: Case) -> Any:
    from src.config import get_config

    overrides = [f"model.{key}={value}" for key, value in options_of(case).items()]
    return get_config("m2det320_vgg16", overrides)


def images_of(case: Case) -> np.ndarray:
    shape = (case.batch, 3, case.input_size, case.input_size)
    return np.random.default_rng(0).normal(0, 50, shape).astype(np.float32)


def targets_of(case: Case, priors: int) -> Tuple[np.ndarray, np.ndarray]:
    """(B, P, 4) offsets and (B, P) int32 labels."""
    labels = np.zeros((case.batch, priors), np.int32)
    labels[:, :: priors // POSITIVES] = 1 + np.arange(case.batch)[:, None]
    offsets = np.random.default_rng(1).normal(0, 1, (case.batch, priors, 4))
    return offsets.astype(np.float32), labels


def _count(reference: Any, size: int) -> Tuple[int, int]:
    """(multiply-adds, priors) of one image."""
    import torch

    counted = [0]

    def note(module: Any, inputs: Any, output: Any) -> None:
        counted[0] += output.numel() * module.weight[0].numel()

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    hooks = [m.register_forward_hook(note) for m in reference.modules() if isinstance(m, kinds)]
    with torch.inference_mode():
        priors = reference.eval()(torch.zeros(1, 3, size, size))[0].shape[1]
    for hook in hooks:
        hook.remove()
    return counted[0], priors
