# SPDX-License-Identifier: Apache-2.0
"""From the start of a process to its first result: `python -m benchmarks.startup`.

A user starts a training or a detector: importing, building the network (drawing its weights for a
training, reading them for inference), compiling, the first step or image. Each side does that in a
new process; here twice, with an empty cache of compiled graphs ("cold") and with what the first has
left ("warm"). PyTorch compiles nothing, and is warm from the second process on.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from benchmarks.peers import sides
from benchmarks.peers.cases import Case
from benchmarks.run import PEER, in_own_process, machine

ROOT = Path(__file__).resolve().parents[1]
OURS = "mindspore"
STAGES = ("imports", "network", "first")
GOALS_S = {("training", "cold"): 30, ("training", "warm"): 12}
GOALS_S.update({("inference", "cold"): 6, ("inference", "warm"): 3})
HEADER = (
    "| first | side | cache | seconds | to PyTorch | imports | network | first call | goal |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
Times = Dict[str, float]  # seconds of each stage, and of the process up to the result: "all"


def torch_side(case: Case, folder: Path) -> None:
    """The reference network's first step or image."""
    import torch

    _say("imports")
    if case.kind == "inference":
        net = sides.torch_network(case, folder)
    else:
        torch.set_num_threads(sides.thread_count())
        net = sides.tests_module("reference_torch").M2Det(**sides.options_of(case))
    _say("network")
    images = torch.from_numpy(sides.images_of(case))
    if case.kind == "inference":
        sides.torch_forward(net, images)
    else:
        targets = sides.targets_of(case, len(sides.priors_of(case)))
        sides.torch_step(net)(images, *map(torch.from_numpy, targets))
    _say("first")


def our_side(case: Case, folder: Path) -> None:
    """The same through the parts of train.py, and of eval.py and demo.py."""
    from mindspore import Tensor

    from src.inference.mindspore_network import cell_network, load_network
    from src.model import build_model
    from src.runtime.device import setup_device

    setup_device("CPU")
    _say("imports")
    config = sides.config_of(case)
    if case.kind == "inference":
        net = load_network(config, folder / case.weights / "weights.ckpt")
        _say("network")
        cell_network(net)(sides.images_of(case))
    else:
        step = sides.our_step(config, build_model(config))
        _say("network")
        targets = sides.targets_of(case, len(sides.priors_of(case)))
        batch = map(Tensor, (sides.images_of(case), *targets, np.float32(0)))
        for value in step(*batch):
            value.asnumpy()
    _say("first")


def _say(stage: str) -> None:
    print(f"stage {stage} {time.time()}", flush=True)


def start(side: str, case: Case, folder: Path, cache: Path) -> Times:
    """Runs a side in a new process; seconds of its stages.

    Raises:
        RuntimeError: the process has failed.
    """
    words = [side, case.kind, case.input_size, case.batch, case.backbone, case.num_levels, folder]
    environment = {"GLOG_v": "3", **os.environ, "M2DET_CACHE": str(cache)}
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.startup", "--child", *map(str, words)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    lines = [x.split() for x in done.stdout.splitlines() if x.startswith("stage ")]
    if done.returncode or [words[1] for words in lines] != list(STAGES):
        raise RuntimeError(f"{side}, {case.name}: {done.stderr.strip()[-500:]}")
    ends = [began, *(float(words[2]) for words in lines)]
    times = {stage: b - a for stage, a, b in zip(STAGES, ends, ends[1:])}
    return {**times, "all": ends[-1] - began}


def child(words: Sequence[str]) -> None:
    side, kind, size, batch, backbone, levels, folder = words
    case = Case(kind, int(size), int(batch), backbone, int(levels))
    {PEER: torch_side, OURS: our_side}[side](case, Path(folder))


def measure(case: Case, folder: Path, rounds: int) -> Dict[Tuple[str, str], List[Times]]:
    """Both sides in turns; ours with an empty cache and with a filled one."""
    start(PEER, case, folder, Path("off"))  # its files into memory
    found: Dict[Tuple[str, str], List[Times]] = {(PEER, ""): [], (OURS, "cold"): []}
    found[OURS, "warm"] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            found[PEER, ""].append(start(PEER, case, folder, Path("off")))
            for state in ("cold", "warm"):
                found[OURS, state].append(start(OURS, case, folder, Path(cache)))
    return found


def rows(case: Case, found: Dict[Tuple[str, str], List[Times]]) -> List[str]:
    """Lines of the table: medians over the rounds."""
    peer = [times["all"] for times in found[PEER, ""]]
    lines = []
    for (side, state), every in found.items():
        ratio = statistics.median(one["all"] / other for one, other in zip(every, peer))
        goal = GOALS_S.get((case.kind, state))
        cells = [case.name if side == PEER else "", side, state]
        cells += [f"{statistics.median(one['all'] for one in every):.1f}", f"{ratio:.2f}"]
        cells += [f"{statistics.median(one[stage] for one in every):.1f}" for stage in STAGES]
        lines.append(f"| {' | '.join([*cells, f'{goal} s' if goal else ''])} |")
    return lines


def table(cases: Sequence[Case], rounds: int = 3) -> List[str]:
    """Header and rows of all cases."""
    lines = [HEADER]
    with tempfile.TemporaryDirectory() as name:
        for case in cases:
            if case.kind == "inference":
                in_own_process(sides.prepare, case, Path(name), False)
            lines += rows(case, measure(case, Path(name), rounds))
    return lines


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=320, help="of the input, pixels")
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--num_levels", type=int, default=8)
    parser.add_argument("--only", default="", choices=("", "training", "inference"))
    parser.add_argument("--child", nargs=7, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> Any:
    args = parse_arguments(argv)
    if args.child:
        return child(args.child)
    network = (args.backbone, args.num_levels)
    cases = [Case("training", args.size, 2, *network), Case("inference", args.size, 1, *network)]
    chosen = [case for case in cases if args.only in case.kind]
    print(machine(), "", *table(chosen, args.rounds), sep="\n", flush=True)


if __name__ == "__main__":
    main()
