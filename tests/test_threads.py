"""Threads notice busy neighbours and stop spinning beside them, unless the user says how they are to wait."""

import os
import subprocess
import sys

import pytest

from tbptt import threads

# Ends when the extra team is there; at the latest after 30 seconds.
TRAINING = """
import threading, time, torch
from tbptt.threads import share_cores
torch.set_num_threads(2)
share_cores()
watched, x, started = threading.active_count() > 1, torch.randn(500, 500), time.monotonic()
while watched and threading.active_count() < 3 and time.monotonic() - started < 30:
    x @ x
print(threading.active_count())
"""


def threads_of_training(**env: str) -> int:
    env = {name: value for name, value in os.environ.items() if name not in threads.CHOICES} | env
    return int(subprocess.run([sys.executable, "-c", TRAINING], env=env, stdout=subprocess.PIPE).stdout)


@pytest.mark.skipif(threads.seconds_without_core() is None, reason="the system does not say how long threads wait")
def test_busy_neighbours_bring_a_crowd():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())]
    try:
        assert threads_of_training() >= 3
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize("choice", threads.CHOICES)
def test_what_the_user_chose_is_left_alone(choice):
    assert threads_of_training(**{choice: "passive" if choice.startswith("OMP") else "5"}) == 1


def test_the_crowd_stays_until_the_neighbours_have_been_away_for_a_while(monkeypatch):
    seconds, waited = 0.0, 0.0
    neighbours = iter([0, 0.05, 0.5, 0.02, 0, 0.3, 0, 0, 0, 0.01])  # seconds without a core in every second
    there, seen = False, []

    class Recorder:
        def gather(self):
            nonlocal there
            there = True

        def leave(self):
            nonlocal there
            there = False

    def sleep(period):
        nonlocal seconds, waited
        seen.append(there)
        seconds, waited = seconds + period, waited + next(neighbours)

    monkeypatch.setattr(threads, "Crowd", Recorder)
    monkeypatch.setattr(threads, "seconds_without_core", lambda: waited)
    monkeypatch.setattr(threads.time, "monotonic", lambda: seconds)
    monkeypatch.setattr(threads.time, "sleep", sleep)
    with pytest.raises(StopIteration):
        threads._watch()
    assert seen == 3 * [False] + 6 * [True] + 2 * [False]
