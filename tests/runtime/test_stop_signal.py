# SPDX-License-Identifier: Apache-2.0
"""In processes of their own: a signal for a process goes to any of its threads."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src.runtime.stop_signal import interruptible, keep_results

ROOT = Path(__file__).resolve().parents[2]
BEGIN = """
import os, signal, threading, time
from src.runtime.stop_signal import Stopped, StopSignal

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup

def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.1)

"""


def run(script):
    """Exit code and output of a script."""
    command = [sys.executable, "-c", BEGIN + script]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_before_there_is_anything_to_save_it_ends_at_once(number):
    script = f"""
with StopSignal():
    print("begins")
    send({int(number)})
    print("never")
"""
    assert run(script) == (128 + number, ["begins"])


def test_later_it_is_remembered_and_the_second_ends_at_once():
    script = """
with StopSignal() as stop:
    stop.defer()
    print(stop.number)
    send(signal.SIGINT)
    send(signal.SIGTERM)
    print(int(stop.number), flush=True)
    send(signal.SIGINT)
"""
    assert run(script) == (130, ["None", "2"])


def test_a_dropped_connection_is_remembered_as_well():
    script = """
with StopSignal() as stop:
    stop.defer()
    send(signal.SIGHUP)
    raise Stopped(stop.number)
"""
    assert run(script) == (128 + signal.SIGHUP, [])


def test_a_run_put_to_sleep_goes_on():
    """As Ctrl-Z and fg do; Python's sigtimedwait then makes up a number."""
    script = """
import subprocess
with StopSignal() as stop:
    stop.defer()
    sleep = "kill -STOP %d; sleep 0.4; kill -CONT %d; sleep 0.1;" % ((os.getpid(),) * 2)
    subprocess.run(["sh", "-c", 3 * sleep], check=True)
    time.sleep(0.3)
    print(stop.number)
"""
    assert run(script) == (0, ["None"])


def test_a_handler_put_in_its_place_is_never_called():
    """As MindSpore does while a graph runs."""
    script = """
with StopSignal() as stop:
    stop.defer()
    signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    thread = threading.Thread(target=time.sleep, args=(1,), daemon=True)
    thread.start()  # it could be chosen for the signal if it did not inherit the mask
    send(signal.SIGINT)
    raise Stopped(stop.number)
"""
    assert run(script) == (130, [])


def test_afterwards_signals_do_what_they_did_before():
    script = """
with StopSignal() as stop:
    pass
send(signal.SIGTERM)
"""
    assert run(script) == (-signal.SIGTERM, [])


def test_a_forked_worker_is_ended_by_sigterm_and_its_parent_goes_on():
    script = """
with StopSignal() as stop:
    stop.defer()
    child = os.fork()
    if not child:
        send(signal.SIGTERM)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), stop.number)
"""
    assert run(script) == (0, ["-15", "None"])


def test_under_nohup_a_dropped_connection_stops_nothing():
    script = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with StopSignal() as stop:
    stop.defer()
    send(signal.SIGHUP)
    send(signal.SIGHUP)
    print(stop.number)
    send(signal.SIGTERM)
    print(int(stop.number))
"""
    assert run(script) == (0, ["None", "15"])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="OpenBLAS has no thread of its own")
def test_threads_that_come_with_an_import_do_not_take_the_signals():
    """NumPy starts threads, which would end the process by the default action."""
    script = """
from src.runtime.stop_signal import held_signals
os.environ["OPENBLAS_NUM_THREADS"] = "2"
with held_signals():
    import numpy
assert len(os.listdir("/proc/self/task")) > 1
print(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
with StopSignal() as stop:
    stop.defer()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        send(number)
    print(int(stop.number))
"""
    assert run(script) == (0, ["0", "15"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_without_results_a_signal_ends_a_program_at_once_and_nothing_half_written_stays(
    tmp_path, number
):
    script = f"""
import hashlib, signal
from pathlib import Path
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from src.runtime.files import locked, replacing
from src.runtime.stop_signal import interruptible
with interruptible(), locked(Path({str(tmp_path / "out")!r})):
    with replacing(Path({str(tmp_path / "a.png")!r})) as draft, open(draft, "w") as file:
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # in C for many minutes, as MindSpore
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            assert process.wait(20) == 128 + number
        finally:
            process.kill()
    assert os.listdir(tmp_path) == []


def test_results_are_kept_at_the_first_signal_and_given_up_at_the_second():
    ended = []
    with interruptible(ended.append):
        keep_results()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` sends it twice
        time.sleep(0.5)
        assert ended == []
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
    assert ended == [128 + signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_forked_workers_end_by_signals_alone():
    ended = []
    with interruptible(ended.append):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
        time.sleep(0.5)
        worker.terminate()
        worker.join(20)
    assert worker.exitcode == -signal.SIGTERM
    assert ended == []
