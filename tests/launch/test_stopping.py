"""A job that hands itself over to submitit does so whatever signals come meanwhile."""

import os
import subprocess
import sys

import pytest

HAND_OVER = """
import signal
from tbptt.launch.stopping import Stopped, requeue
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGUSR2, lambda *_: print("handed over"))
requeue(Stopped(signal.SIGTERM))
"""
PLACE = {"EXECUTOR": "local", **dict.fromkeys(("GLOBALID", "LOCALID"), "0"), "NTASKS": "1", "JOB_ID": "7"}


@pytest.mark.parametrize(("state", "said"), [("RUNNING", "handed over\n"), ("COMPLETING", "")])
def test_signals_to_the_whole_job_while_slurm_is_asked_change_nothing(tmp_path, state, said):
    squeue = tmp_path / "squeue"  # a stand-in that gets the signals a second scancel sends to all processes
    squeue.write_text(f"#!/bin/sh\nkill -TERM $PPID\nkill -TERM $$\nkill -USR2 $$\necho {state}\n")
    squeue.chmod(0o755)
    place = {f"SUBMITIT_{'' if key == 'EXECUTOR' else 'LOCAL_'}{key}": value for key, value in PLACE.items()}
    env = os.environ | place | {"SLURM_JOB_ID": "7", "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run([sys.executable, "-c", HAND_OVER], env=env, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, said), result.stderr


def test_elsewhere_signals_stay_as_they_are():
    script = HAND_OVER + "assert callable(signal.getsignal(signal.SIGTERM))"
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("SUBMITIT", "SLURM_JOB", "SLURM_STEP"))
    }
    result = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
