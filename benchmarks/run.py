# SPDX-License-Identifier: Apache-2.0
"""This implementation beside a PyTorch M2Det and ONNX Runtime: `python -m benchmarks.run`.

Every side of a case has a process of its own, with the same weights and inputs. The sides take
turns, one repetition each, and idle while another works. A ratio is the median over the turns of
the time divided by PyTorch's in the same turn: below 1 is faster than PyTorch.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from benchmarks.peers.cases import FULL, QUICK, SMALL, Case
from benchmarks.peers.sides import ONNX, SIDES, Network, Run, ceiling, prepare
from src.runtime.cpu_settings import thread_count

PEER = "pytorch"
SUITES = {"full": (FULL, 9), "quick": (QUICK, 5), "small": (SMALL, 2)}
HEADER = (
    "| case | side | first s | median s | to PyTorch | peak GB | to PyTorch | of the limit |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Measured:
    """One side of one case."""

    first: float  # seconds of the first repetition, compiling included
    times: List[float]  # of those after it
    peak_gb: float  # most memory the process has held


class Worker:
    """What `prepare(*arguments)` gives, in a process of its own, which works only when told to."""

    def __init__(self, prepare: Callable[..., Run], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, prepare, *arguments))
        self._process.start()
        far_end.close()
        self.first = self.repeat()

    def repeat(self) -> float:
        """Seconds of one repetition."""
        return self._ask("repeat")

    def close(self) -> float:
        """Ends the process; the most memory it has held, in GB."""
        peak = self._ask("memory")
        self._pipe.send(None)
        self._process.join()
        return peak

    def _ask(self, question: str) -> float:
        try:
            self._pipe.send(question)
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(f"{self._process.name} ended; its error is above") from None


def _serve(pipe: Connection, prepare: Callable[..., Run], *arguments: Any) -> None:
    os.environ["M2DET_CACHE"] = "off"  # the first call compiles
    run = prepare(*arguments)
    for question in iter(pipe.recv, None):
        if question == "memory":
            pipe.send(_peak_gb())
        else:
            start = time.perf_counter()
            run()
            pipe.send(time.perf_counter() - start)


def _peak_gb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def measure(case: Case, sides: Sequence[str], folder: Path, rounds: int) -> Dict[str, Measured]:
    """All sides of a case, in turns."""
    return take_turns({side: Worker(SIDES[side], case, folder) for side in sides}, rounds)


def take_turns(workers: Mapping[str, Worker], rounds: int) -> Dict[str, Measured]:
    """One repetition of each, `rounds` times; ends the workers."""
    for worker in workers.values():
        worker.repeat()  # caches and thread choices settle
    times: Dict[str, List[float]] = {side: [] for side in workers}
    for _ in range(rounds):
        for side, worker in workers.items():
            times[side].append(worker.repeat())
    return {
        side: Measured(worker.first, times[side], worker.close())
        for side, worker in workers.items()
    }


def in_own_process(function: Any, *arguments: Any) -> Any:
    """What `function` returns, called where its memory and threads end with it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def rows(case: Case, network: Network, found: Dict[str, Measured], limit: float) -> List[str]:
    """Lines of the table; `limit` is multiply-adds a second."""
    work = network.multiply_adds * case.batch * (3 if case.kind == "training" else 1)
    peer = found[PEER]
    lines = []
    for side, one in found.items():
        median = statistics.median(one.times)
        ratio = statistics.median(a / b for a, b in zip(one.times, peer.times))
        cells = [
            case.name if side == PEER else "",
            side,
            f"{one.first:.2f}",
            f"{median:.3f}",
            f"{ratio:.2f}",
            f"{one.peak_gb:.2f}",
            f"{one.peak_gb / peer.peak_gb:.2f}",
            f"{work / median / limit:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def machine() -> str:
    """What the figures hold for: processor, cores, releases, commit."""
    names = ("mindspore", "torch", "onnxruntime", "numpy")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    asked = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).parent
    commit = subprocess.run(asked, cwd=here, capture_output=True, text=True).stdout.strip()
    return (
        f"{_processor()}, {thread_count()} threads, load {os.getloadavg()[0]:.1f} at the start;"
        f" Python {platform.python_version()}, {', '.join(versions)}; commit {commit or 'unknown'}"
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return next(x.split(":")[1].strip() for x in text.splitlines() if "model name" in x)
    except (OSError, StopIteration):
        return platform.machine()


def sides_of(case: Case, onnx: bool) -> Tuple[str, ...]:
    extra = (ONNX,) if onnx and case.kind == "inference" else ()
    return (PEER, "mindspore", *extra)


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", choices=SUITES, default="full")
    parser.add_argument("--quick", dest="suite", action="store_const", const="quick")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds it")
    parser.add_argument("--rounds", type=int, help="turns of each side")
    parser.add_argument("--no_onnx", dest="onnx", action="store_false")
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(argv)
    cases, rounds = SUITES[args.suite]
    cases = tuple(case for case in cases if args.only in case.name)
    if not cases:
        sys.exit(f"error: --only {args.only!r} is in no name of this suite's cases")
    lines = [machine(), "", HEADER]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        limit = 0.0
        print("\n".join(lines), flush=True)
        for case in cases:
            # Again before each case, as others on the machine may have slowed it down until then.
            limit = max(limit, in_own_process(ceiling))
            sides = sides_of(case, args.onnx)
            network = in_own_process(prepare, case, folder, ONNX in sides)
            made = rows(case, network, measure(case, sides, folder, args.rounds or rounds), limit)
            print("\n".join(made), flush=True)
            lines += made
    lines += ["", f"limit: {2e-9 * limit:.0f} GFLOP/s, the best matrix product"]
    print("\n".join(lines[-2:]))
    if args.output:
        args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
