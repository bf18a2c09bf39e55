# SPDX-License-Identifier: Apache-2.0
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from src.runtime import launch

ROOT = Path(__file__).resolve().parents[2]
# The ranks of these tests need no MindSpore of their own. Every role runs the script.
RANK = """
import os, sys, time
if os.environ["MS_ROLE"] == "MS_SCHED":
    time.sleep(60 if "hang" in sys.argv else 0)
    sys.exit(0)
rank, wanted = int(os.environ["RANK_ID"]), sys.argv[1]
print("rank", rank, "of", os.environ["MS_WORKER_NUM"], sys.executable, flush=True)
if rank == 1 and wanted == "fail":
    time.sleep(1)
    print("rank 1 is in trouble")
    sys.exit(7)
if wanted in ("fail", "wait"):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    """Starts two ranks of the script above; kills what is left of them in the end."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    started = []

    def run(*arguments):
        command = [sys.executable, "-m", "src.runtime.launch", "--ranks", "2"]
        command += ["--log_dir", str(tmp_path / "logs"), str(script), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()
    _kill(str(script))


def _kill(script):
    left = [p for p in psutil.process_iter(["cmdline"]) if script in (p.info["cmdline"] or [])]
    for process in left:
        process.kill()
    return left


def test_success(start, tmp_path):
    process = start("ok")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "rank 0 of 2" in out
    assert os.path.realpath(out.split()[-1]) == os.path.realpath(sys.executable)
    assert "rank 1 of 2" in (tmp_path / "logs" / "worker_1.log").read_text()


def test_failing_rank_is_named_and_ends_the_run(start, tmp_path):
    process = start("fail", "hang")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 7
    assert "rank 1 failed with exit code 7" in err
    assert "rank 1 is in trouble" in err
    assert "Traceback" not in out + err
    assert not _kill(str(tmp_path / "rank.py"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_everything(start, tmp_path, number):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
    process = start("wait", "hang")
    signal.signal(signal.SIGHUP, before)
    for line in process.stdout:
        if "ready" in line:
            break
    process.send_signal(signal.SIGHUP)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "stopped by signal" in err
    assert not _kill(str(tmp_path / "rank.py"))


def test_free_port():
    port = launch.free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
    assert 1024 <= port <= 65535
    assert len({launch.free_port() for _ in range(5)}) > 1


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (2, 2), (-9, 137), (-15, 143)])
def test_exit_code(code, expected):
    assert launch.exit_code(code) == expected


def test_last_lines(tmp_path):
    path = tmp_path / "worker_0.log"
    assert launch.last_lines(path) == ""
    path.write_text("".join(f"line {n}\n" for n in range(100)) + "[INFO] DISTRIBUTED(1,2) x\n")
    assert launch.last_lines(path, 2) == "  line 98\n  line 99"


def test_ranks_are_read_on_when_nobody_reads_the_launcher(tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    lines = iter(["step 1\n", "step 2\n", "step 3\n"])
    with open(writer, "w", encoding="utf-8") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        launch.Launcher([], tmp_path)._echo(SimpleNamespace(stdout=lines))
        monkeypatch.undo()
    assert list(lines) == []


def test_no_python3_beside_the_interpreter(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    argv = ["--ranks", "1", "--log_dir", str(tmp_path / "logs"), "train.py"]
    assert launch.main(argv) == 2
    assert "python3: not found" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        launch.main(["--ranks", "0", *argv[2:]])
    with pytest.raises(SystemExit):
        launch.main(["--ranks", "1000000", *argv[2:]])


def test_one_host_takes_any_port():
    assert launch.hosts_from({"MASTER_ADDR": "10.0.0.1", "NODE_RANK": "7"}) == launch.Hosts()
    words = launch.msrun_command(3, launch.Hosts(), Path("logs"), ["train.py", "-x"])
    assert {"--worker_num=3", "--local_worker_num=3", "--tail_worker_log=0"} <= set(words)
    assert words[-3:] == ["python3", "train.py", "-x"]
    assert not any(word.startswith("--node_rank") for word in words)


def test_the_second_of_three_hosts():
    environment = {"NNODES": "3", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1"}
    hosts = launch.hosts_from(environment)
    assert hosts == launch.Hosts(3, 1, "10.0.0.1", 8118)
    assert launch.hosts_from({**environment, "MASTER_PORT": "9000"}).port == 9000
    words = launch.msrun_command(4, hosts, Path("logs"), ["train.py"])
    expected = {"--worker_num=12", "--local_worker_num=4", "--node_rank=1", "--tail_worker_log=4"}
    assert expected | {"--master_addr=10.0.0.1", "--master_port=8118"} <= set(words)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"NNODES": "x"}, "NNODES"),
        ({"NNODES": "0"}, "NNODES"),
        ({"NODE_RANK": ""}, "NODE_RANK must be set"),
        ({"NODE_RANK": "2"}, "below NNODES"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR"),
        ({"MASTER_PORT": "-1"}, "MASTER_PORT"),
    ],
)
def test_hosts_that_do_not_fit(changes, named):
    environment = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", **changes}
    with pytest.raises(ValueError, match=named):
        launch.hosts_from(environment)
