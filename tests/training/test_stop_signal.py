"""SIGTERM is a request while a run trains, and the end of a process before and after."""

import signal
import subprocess
import sys
import threading

import pytest

from cinema_verl.training.stop_signal import EXIT_CODE, StopSignal


def test_it_sets_a_flag_however_often_it_comes_and_puts_back_what_was_there():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
    assert signal.getsignal(signal.SIGTERM) is before
    assert EXIT_CODE == 143


def test_outside_the_main_thread_it_says_that_it_cannot():
    caught = []

    def enter():
        try:
            StopSignal().__enter__()
        except ValueError as error:
            caught.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert len(caught) == 1


LOADER = """
import os, signal, sys
import torch
from cinema_verl.training.stop_signal import StopSignal, ignore_stop_signal
with StopSignal() as stop:
    loader = torch.utils.data.DataLoader(range(200), num_workers=2, worker_init_fn=INIT)
    for number, _ in enumerate(loader):
        if number == 5:
            os.killpg(0, signal.SIGTERM)  # as torchrun and Slurm send it
print("flag", stop.requested, "rows", number + 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("init", "survives"), [("ignore_stop_signal", True), ("None", False)])
def test_the_processes_of_a_loader_outlive_it(init, survives):
    done = subprocess.run(
        [sys.executable, "-c", LOADER.replace("INIT", init)], capture_output=True, text=True, start_new_session=True
    )
    assert (done.returncode == 0) is survives
    assert ("flag True rows 200" in done.stdout) is survives


def test_afterwards_it_ends_the_process_as_ever():
    program = """
import os, signal
from cinema_verl.training.stop_signal import StopSignal
with StopSignal():
    pass
os.kill(os.getpid(), signal.SIGTERM)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGTERM
