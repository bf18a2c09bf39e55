# SPDX-License-Identifier: Apache-2.0
"""train.py with one phase made long enough to be hit: `engine_phase.py PHASE ARGUMENTS`.

The phase says PHASE-BEGINS when it is entered for the third time (the first one where there is but
one). Not a test; a script for `test_signals.py` and `test_faults.py`.
"""

import os
import signal
import sys
import time

import psutil

import train
from src.runtime.stop_signal import held_signals
from src.utils import run_main

with held_signals():
    from src.programs import train as train_program
    from src.training import builders, callback, train_step
    from src.training import validation as train_eval

calls = 0


def announce(function, at=3, seconds=2.0):
    """`function`, which at its call number `at` says so and takes its time."""

    def slow(*args, **kwargs):
        global calls
        calls += 1
        if calls == at:
            print("PHASE-BEGINS", flush=True)
            time.sleep(seconds)
        return function(*args, **kwargs)

    return slow


def slow_batches(*args):
    batches = build_batches(*args)
    advance = announce(next)
    try:
        while True:
            yield advance(batches)
    finally:
        batches.close()


def worker_dies(*args):
    """After the third batch a worker process is killed."""
    batches = build_batches(*args)
    for number, batch in enumerate(batches):
        if number == 2:
            workers = psutil.Process().children(recursive=True)
            print("PHASE-BEGINS", len(workers), flush=True)
            os.kill(workers[0].pid, signal.SIGKILL)
        yield batch


phase, arguments = sys.argv[1], sys.argv[2:]
build_batches = builders.build_batches
if phase == "loading":
    train_program.load_data = announce(train_program.load_data, at=1)
elif phase == "data":
    builders.build_batches = slow_batches
elif phase == "step":
    train_step.TrainStep.__call__ = announce(train_step.TrainStep.__call__)
elif phase == "checkpoint":
    callback.save_checkpoint = announce(callback.save_checkpoint)
elif phase == "evaluation":
    train_eval.detect_split = announce(train_eval.detect_split, at=2)
elif phase == "worker":
    builders.build_batches = worker_dies
elif phase != "none":
    sys.exit(f"no such phase: {phase}")

run_main(lambda: train.main(arguments))
