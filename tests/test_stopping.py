# SPDX-License-Identifier: Apache-2.0
import os
import signal
import time

import pytest

from src.stopping import Stopped, StopSignal


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_there_is_anything_to_save_it_ends_at_once(number):
    with StopSignal(), pytest.raises(Stopped) as caught:
        send(number)
    assert caught.value.code == 128 + number


def test_later_it_is_remembered_and_the_second_ends_at_once():
    with StopSignal() as stop:
        stop.defer()
        assert stop.number is None
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert stop.number == signal.SIGINT
        with pytest.raises(Stopped):
            send(signal.SIGINT)


def test_a_library_that_takes_a_signal_does_not_keep_it():
    with StopSignal() as stop:
        stop.defer()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert stop.poll() is None
        send(signal.SIGINT)
        assert stop.poll() == signal.SIGINT


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_forked_worker_is_ended_by_sigterm_and_overhears_sigint():
    with StopSignal() as stop:
        stop.defer()
        child = os.fork()
        if not child:
            send(signal.SIGINT)
            send(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
        assert stop.number is None
