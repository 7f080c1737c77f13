"""Steps and jobs of a real SLURM that run at the same time do not meet: each has the numbers that it has alone."""

import json
import os
import shlex
import signal
import subprocess
from contextlib import suppress

import pytest

from tests.commands import SMALL, command, environment, make_home, run, wait_until
from tests.launch.test_slurm import pytestmark as pytestmark

LEARNING_RATES = (0.01, 0.02, 0.03)
WORDS = [*SMALL, "trainer.precision=fp64", "trainer.max_steps=10"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("steps"))


@pytest.fixture(scope="module")
def alone(home):
    """The test loss for each learning rate, of one process that nothing runs beside."""
    for lr in LEARNING_RATES:
        run(home, *WORDS, f"optimizer.lr={lr}", f"hydra.run.dir=alone{lr}")
    return [loss_of(home / f"alone{lr}") for lr in LEARNING_RATES]


def loss_of(run_dir) -> float:
    return json.loads((run_dir / "results.json").read_text())["loss"]


def train(name: str, lr: float) -> str:
    return shlex.join(command(*WORDS, f"optimizer.lr={lr}", f"hydra.run.dir={name}"))


def submit(home, script: str, *options: str) -> subprocess.Popen:
    """A job that is waited for; what it prints goes to job.out."""
    words = ["sbatch", "--wait", "--open-mode=append", "-o", "job.out", *options, "--wrap", script]
    return subprocess.Popen(words, cwd=home, env=environment(home), stdout=subprocess.DEVNULL)


def assert_done(home, *jobs: subprocess.Popen) -> None:
    assert [job.wait(240) for job in jobs] == [0] * len(jobs), (home / "job.out").read_text()


def test_steps_of_one_job_meet_each_their_own_ranks(home, alone):
    """Two of both nodes, and one of one task on the second."""
    places = ("-N2 -n2", "-N2 -n2", "-N1 -n1 -w node1")
    steps = [f"srun --exact {p} {train(f'step{i}', lr)}" for i, (p, lr) in enumerate(zip(places, LEARNING_RATES))]
    starts = [f"{step} & p{i}=$!" for i, step in enumerate(steps)]
    assert_done(home, submit(home, "\n".join([*starts, "wait $p0 && wait $p1 && wait $p2"]), "-N2", "-n6"))
    assert [loss_of(home / f"step{i}") for i in range(3)] == pytest.approx(alone, rel=1e-10)


def test_jobs_on_one_node_do_not_meet(home, alone):
    one_node = ["-N1", "-n2", "-w", "node0"]
    assert_done(home, *[submit(home, f"srun {train(f'job{i}', LEARNING_RATES[i])}", *one_node) for i in range(2)])
    assert [loss_of(home / f"job{i}") for i in range(2)] == pytest.approx(alone[:2], rel=1e-10)


def test_a_requeued_job_does_not_meet_a_rank_of_its_last_start(home, alone):
    words = train("requeued", LEARNING_RATES[0])
    left_over = f"[ $SLURM_PROCID = 0 ] || {{ setsid nohup {words} > old.out 2>&1 & echo $! > old.pid; }}; sleep 1"
    first = f"srun sh -c {shlex.quote(left_over)}; scontrol requeue $SLURM_JOB_ID; sleep 60"
    script = f'if [ -z "$SLURM_RESTART_COUNT" ]; then {first}; else srun {words}; fi'
    job = submit(home, script, "--requeue", "-N1", "-n2", "-w", "node0")
    wait_until(lambda: (home / "old.pid").exists() and (home / "old.pid").read_text().strip())
    old = int((home / "old.pid").read_text())
    try:
        assert_done(home, job)
        os.kill(old, 0)  # it was alive all the time
    finally:
        with suppress(ProcessLookupError):
            os.kill(old, signal.SIGKILL)
    assert loss_of(home / "requeued") == pytest.approx(alone[0], rel=1e-10)
