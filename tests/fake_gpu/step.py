# SPDX-License-Identifier: Apache-2.0
"""Training steps on the device that `build.py` makes; prints what the last of them did as JSON.

Several networks in one process, each after a `then`, spare the start of the others: a line each.
"""

import argparse
import ctypes
import json
import tempfile
from pathlib import Path
from typing import Dict, List, Tuple

import mindspore as ms
import numpy as np
from mindspore import nn

from src.config import Config, get_config, override
from src.model import build_model
from src.priors import make_priors
from src.training import builders, train_step
from src.training.ema import Ema
from src.training.optimizers import build_optimizer
from src.utils import set_seed, setup_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", metavar="[PRESET] section.key=value ... [then ...]")
    parser.add_argument("--distribute", action="store_true")
    parser.add_argument("--without", choices=("streams", "layout"), help="this workaround")
    args = parser.parse_args()
    configs = [configuration(words) for words in separated(args.words)]
    allow_tf32 = configs[0].train.allow_tf32
    rank, world_size = setup_device("GPU", 0, args.distribute, allow_tf32)
    if args.without == "layout":
        ms.set_context(disable_format_transform=False)
    elif args.without == "streams":
        train_step.UnusedSum = lambda world_size: nn.Identity()
    for config in configs:
        set_seed(config.random_seed)
        step = make_step(config, world_size)
        sizes = config.data.multi_scale or (config.model.input_size,)
        for size in (*sizes, *sizes):  # the second round has nothing to compile
            counts = count(step, batch(override(config, [f"model.input_size={size}"])))
        print(json.dumps({"rank": rank, **summary(counts)}), flush=True)


def separated(words: List[str]) -> List[List[str]]:
    groups: List[List[str]] = [[]]
    for word in words:
        if word == "then":
            groups.append([])
        else:
            groups[-1].append(word)
    return groups


def configuration(words: List[str]) -> Config:
    named = bool(words) and "=" not in words[0]
    return get_config(words[0] if named else "m2det_tiny", words[named:])


def make_step(config: Config, world_size: int) -> builders.Step:
    model = build_model(config)
    builders.prepare_network(config, model, world_size)
    rates = np.full(9, 1e-3, np.float32)
    optimizer = build_optimizer(model, rates, config.optimizer)
    average = Ema(list(model.get_parameters()), config.train.ema) if config.train.ema else None
    return builders.build_step(config, model, optimizer, world_size, 1.0, average)


def batch(config: Config) -> List[ms.Tensor]:
    images, size = config.train.per_batch_size * config.train.accumulate, config.model.input_size
    priors = len(make_priors(config))
    arrays = [
        np.zeros((images, 3, size, size), np.uint8),
        np.zeros((images, priors, 4), np.float32),
        np.zeros((images, priors), np.int32),
        np.zeros((), np.float32),
    ]
    return [ms.Tensor(array) for array in arrays]


def count(step: builders.Step, inputs: List[ms.Tensor]) -> Dict[str, Tuple[int, int]]:
    """How often each function was called in one step, and the bytes it moved."""
    device = ctypes.CDLL("libcuda.so.1")
    device.fake_gpu_reset()
    step(*inputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts"
        device.fake_gpu_write(str(path).encode())
        rows = [line.rsplit(" ", 2) for line in path.read_text().splitlines()]
    return {name: (int(calls), int(size)) for name, calls, size in rows}


def summary(counts: Dict[str, Tuple[int, int]]) -> Dict[str, int]:
    kernels = {name: calls for name, (calls, _) in counts.items() if name.startswith("_Z")}
    waits = [f"cuda{what}Synchronize" for what in ("Stream", "Device", "Event")]
    convolutions = [counts[name][0] for name in counts if name.startswith("cudnnConvolution")]
    return {
        "kernels": sum(kernels.values()),
        "convolutions": sum(convolutions),
        "on tensor cores": counts["convolutions on tensor cores"][0],
        "waits": sum(counts.get(name, (0, 0))[0] for name in waits),
        "reductions": counts["ncclAllReduce"][0],
        "copies to host": counts["copy to host"][0],
        "copies on device": counts["copy on device"][0],
        "bytes to device": counts["copy to device"][1],
    }


if __name__ == "__main__":
    main()
