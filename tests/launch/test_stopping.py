"""A job that hands itself over to submitit does so whatever signals come meanwhile."""

import os
import subprocess
import sys

import pytest

from tbptt.launch import local

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


TIME_LIMIT = """
import os, signal, sys
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from tbptt.errors import UserError
from tbptt.launch import stopping
minutes, how = float(sys.argv[1]), sys.argv[2]
HydraConfig.instance().cfg = OmegaConf.create({"hydra": {"launcher": {"timeout_min": minutes, "signal_delay_s": 60}}})
signal.signal(signal.SIGUSR2, lambda *_: print("requeued"))
try:
    with stopping.not_requeued_at_time_limit("this evaluation"):
        if how == "stopped":
            raise stopping.Stopped(signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
except UserError as error:
    print(error)
except stopping.Stopped:
    print("stopped")
print(signal.getsignal(signal.SIGUSR2).__name__)
"""


@pytest.mark.parametrize(
    ("minutes", "how", "said"),
    [("3", "signal", "timeout_min=3.0"), ("99", "signal", "requeued"), ("3", "stopped", "timeout_min=3.0"),
     ("99", "stopped", "stopped")],
)  # fmt: skip
def test_at_its_time_limit_what_cannot_be_continued_fails_and_a_preemption_requeues_it(minutes, how, said):
    place = {f"SUBMITIT_{'' if key == 'EXECUTOR' else 'LOCAL_'}{key}": value for key, value in PLACE.items()}
    words = [sys.executable, "-c", TIME_LIMIT, minutes, how]
    result = subprocess.run(words, env=os.environ | place, capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and len(lines) == 2 and said in lines[0], result.stdout + result.stderr
    assert lines[1] == "<lambda>"  # submitit's handler is back


def test_a_scontrol_that_dies_of_a_signal_does_not_keep_a_job_from_its_requeue(tmp_path):
    (tmp_path / "scontrol").write_text("#!/bin/sh\nkill -TERM $$\n")
    (tmp_path / "scontrol").chmod(0o755)
    place = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}
    place |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "node0"}
    env = os.environ | place | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    script = HAND_OVER.replace("requeue(Stopped(signal.SIGTERM))", "requeue(Stopped(signal.SIGUSR2))")
    result = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "handed over\n"), result.stderr


def test_sigusr2_is_passed_on_where_torch_can(monkeypatch):
    assert local.passed_on()["signals_to_handle"].split(",")[-1] == "SIGUSR2"
    monkeypatch.delattr(local.LaunchConfig, "signals_to_handle")  # as in torch 2.8
    assert local.passed_on() == {}
