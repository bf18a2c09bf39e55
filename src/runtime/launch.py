# SPDX-License-Identifier: Apache-2.0
"""Starts the ranks of a distributed run through MindSpore's msrun and monitors them.

What msrun alone leaves open: a free port, signals handed on to the ranks, the exit code of the rank
that failed with the end of its log, and no process left running afterwards.

For several hosts it is started on each of them, with the same `MASTER_ADDR` (the address of the
first), `NNODES` (their number) and `MASTER_PORT` (8118 unless set) in the environment, and a
`NODE_RANK` from 0.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

import psutil

from .cpu_settings import usable_cores
from .errors import M2DetError, UsageError
from .stop_signal import stop_signals

GRACE_SECONDS = 60.0  # for the ranks to end after a signal
SCHEDULER_SECONDS = 30.0  # for msrun and its scheduler to end when no rank is left
FAILED_SECONDS = 3.0  # the same when one has failed: the scheduler would wait minutes for it
POLL_SECONDS = (0.1, 1.0)  # at first, so that ranks that fail at once are seen; and later
POLL_CHANGE_SECONDS = 30.0
LAST_LINES = 20
# Heartbeat timeout of a host in seconds, instead of MindSpore's 300.
LOST_HOST = {"MS_NODE_TIMEOUT": "60", "MS_RECEIVE_MSG_TIMEOUT": "100"}
# msrun's announcements, and what MindSpore logs at its end whatever level is asked for
_NOISE = re.compile(r"Start (scheduler|worker) process |\[INFO\] DISTRIBUTED\(")
_FAILED = re.compile(r"Worker process (\d+) exit with exception. Error code: (-?\d+)")


def free_port() -> int:
    """A TCP port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Hosts:
    """The machines of a run, and which of them this is."""

    count: int = 1
    number: int = 0
    address: str = "127.0.0.1"  # of the first
    port: int = 0  # 0: any that is free, which only one host can know


def hosts_from(environment: Mapping[str, str]) -> Hosts:
    """`NNODES`, `NODE_RANK`, `MASTER_ADDR` and `MASTER_PORT`.

    Raises:
        UsageError: one of them is missing or no number that fits.
    """
    count = _number(environment, "NNODES", 1, "1")
    if count == 1:
        return Hosts()
    number = _number(environment, "NODE_RANK", 0)
    if number >= count:
        raise UsageError(f"NODE_RANK must be below NNODES ({count}), not {number}")
    address = environment.get("MASTER_ADDR")
    if not address:
        raise UsageError(f"MASTER_ADDR, the first host's address, must be set for {count} hosts")
    return Hosts(count, number, address, _number(environment, "MASTER_PORT", 1, "8118"))


def _number(environment: Mapping[str, str], name: str, least: int, default: str = "") -> int:
    text = environment.get(name) or default
    if not text:
        raise UsageError(f"{name} must be set where there are several hosts (NNODES)")
    if not text.isdigit() or int(text) < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, not {text!r}")
    return int(text)


def msrun_command(ranks: int, hosts: Hosts, log_dir: Path, script: Sequence[str]) -> List[str]:
    """The command line that starts `ranks` copies of a Python script (path and arguments)."""
    several = [f"--node_rank={hosts.number}"] if hosts.count > 1 else []
    return [
        *(sys.executable, "-m", "mindspore.parallel.cluster.run"),
        *(f"--worker_num={ranks * hosts.count}", f"--local_worker_num={ranks}"),
        *(f"--master_addr={hosts.address}", f"--master_port={hosts.port or free_port()}"),
        *(*several, "--join=True", f"--log_dir={log_dir}"),
        *(f"--tail_worker_log={ranks * hosts.number}", "python3", *script),
    ]


def rank_environment(environment: Mapping[str, str]) -> Dict[str, str]:
    """`environment` in which the ranks' python3 is this interpreter, and a lost host is noticed.

    Raises:
        FileNotFoundError: there is no python3 beside it; msrun takes no path.
    """
    folder = Path(sys.executable).parent
    if not (folder / "python3").exists():
        raise FileNotFoundError(f"{folder}/python3: not found, msrun needs it")
    path = f"{folder}{os.pathsep}{environment.get('PATH', '')}"
    return {**LOST_HOST, **environment, "PATH": path, "PYTHONUNBUFFERED": "1"}


def exit_code(code: int) -> int:
    """A process's return code as a shell gives it: 128 + n for one ended by signal n."""
    return 128 - code if code < 0 else code


class Launcher:
    """One msrun with its ranks, from start to end."""

    def __init__(self, command: Sequence[str], log_dir: Path, grace: float = GRACE_SECONDS) -> None:
        self._command = command
        self._log_dir = log_dir
        self._grace = grace
        self._ranks: Dict[int, int] = {}  # process id -> rank
        self._children: Dict[int, psutil.Process] = {}
        self._failed: Optional[re.Match] = None
        self._signal: Optional[int] = None
        self._deadline = float("inf")

    def run(self) -> int:
        """Runs to the end; the exit code is 0 only when every rank's was."""
        # A session of its own: Ctrl-C reaches the ranks once, through this process.
        process = subprocess.Popen(
            self._command,
            env=rank_environment(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            errors="replace",
        )
        before = {number: signal.getsignal(number) for number in stop_signals()}
        reader = threading.Thread(target=self._echo, args=(process,), daemon=True)
        try:
            for number in before:
                signal.signal(number, self._stop)
            reader.start()
            self._watch(process)
        finally:
            self._kill_rest(process)
            for number, handler in before.items():
                signal.signal(number, handler)
        reader.join(timeout=5)
        return self._outcome(process.returncode)

    def _echo(self, process: "subprocess.Popen[str]") -> None:
        """Prints rank 0 and msrun line by line, up to msrun's message that a rank has failed."""
        assert process.stdout is not None
        for line in process.stdout:
            self._failed = self._failed or _FAILED.search(line)
            if self._failed is None and not _NOISE.match(line):
                try:
                    print(line, end="", flush=True)
                except OSError:  # `| head -1`: ranks must not wait for someone to read
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _stop(self, number: int, _frame: object) -> None:
        self._signal = self._signal or number
        self._deadline = min(self._deadline, time.monotonic() + self._grace)
        for pid in list(self._ranks):
            self._send(pid, number)

    def _send(self, pid: int, number: int) -> None:
        with contextlib.suppress(psutil.Error):  # it has ended by itself
            self._children[pid].send_signal(number)

    def _watch(self, process: "subprocess.Popen[str]") -> None:
        began = time.monotonic()
        while process.poll() is None and time.monotonic() < self._deadline:
            self._find_children(process.pid)
            alive = any(
                _alive(child) for pid, child in self._children.items() if pid in self._ranks
            )
            if self._signal and not alive:
                return
            if self._ranks and not alive and self._deadline == float("inf"):
                wait = FAILED_SECONDS if self._failed else SCHEDULER_SECONDS
                self._deadline = time.monotonic() + wait
            time.sleep(POLL_SECONDS[time.monotonic() - began > POLL_CHANGE_SECONDS])

    def _find_children(self, pid: int) -> None:
        children: List[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(pid).children(recursive=True)
        for child in children:
            self._children.setdefault(child.pid, child)
            if child.pid in self._ranks:
                continue
            with contextlib.suppress(psutil.Error, KeyError):  # ended while being looked at
                # A rank's own children have its environment too; tail only reads its log. Between
                # fork and exec a rank still shows msrun's environment, hence a look at each poll.
                if child.ppid() != pid or child.name() == "tail":
                    continue
                environment = child.environ()
                if environment.get("MS_ROLE") == "MS_WORKER":
                    self._ranks[child.pid] = int(environment["RANK_ID"])
                    if self._signal:
                        self._send(child.pid, self._signal)

    def _kill_rest(self, process: "subprocess.Popen[str]") -> None:
        self._find_children(process.pid)
        for child in self._children.values():
            with contextlib.suppress(psutil.Error):
                child.kill()
        try:  # with ranks and scheduler gone, msrun ends by itself
            process.wait(timeout=FAILED_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _outcome(self, msrun_code: int) -> int:
        if self._signal:
            print(f"stopped by signal {self._signal}", file=sys.stderr)
            return 128 + self._signal
        if self._failed is None and msrun_code == 0:
            return 0
        code = exit_code(int(self._failed[2]) if self._failed else msrun_code) or 1
        rank = self._ranks.get(int(self._failed[1])) if self._failed else None
        logs = sorted(self._log_dir.glob("worker_*.log"))
        if rank is not None:
            logs = [self._log_dir / f"worker_{rank}.log"]
            print(f"rank {rank} failed with exit code {code}", file=sys.stderr)
        else:
            print(f"the run failed with exit code {code}", file=sys.stderr)
        for path in logs:
            print(f"last lines of {path}:\n{last_lines(path)}", file=sys.stderr)
        return code


def _alive(child: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(child.is_running() and child.status() != psutil.STATUS_ZOMBIE)
    return False


def last_lines(path: Path, count: int = LAST_LINES) -> str:
    """The last `count` lines of a log, indented; empty if it is missing."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 1000 * count))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([f"  {line}" for line in lines if not _NOISE.match(line)][-count:])


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m src.runtime.launch", description=__doc__)
    parser.add_argument("--ranks", type=int, required=True, help="processes to start")
    parser.add_argument("--log_dir", type=Path, required=True, help="for worker_RANK.log")
    parser.add_argument("script", help="Python script that every rank runs")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    args = parser.parse_args(argv)
    most = max(16, 4 * usable_cores())  # each is a process with MindSpore in it
    if not 1 <= args.ranks <= most:
        parser.error(f"--ranks must be from 1 to {most} on this machine, not {args.ranks}")
    script = [args.script, *args.arguments]
    try:
        command = msrun_command(args.ranks, hosts_from(os.environ), args.log_dir, script)
        args.log_dir.mkdir(parents=True, exist_ok=True)
        print(f"{args.ranks} rank(s), logs in {args.log_dir}", flush=True)
        return Launcher(command, args.log_dir).run()
    except (OSError, M2DetError) as error:
        print(f"src.runtime.launch: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
