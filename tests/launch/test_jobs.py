"""Whether jobs of a sweep still run is asked until SLURM answers."""

import os

import pytest

from tbptt.errors import UserError
from tbptt.launch import jobs


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A stand-in that does not answer so many times, then lists job 71."""

    def fails(times: int) -> None:
        asked = tmp_path / "asked"
        script = f"#!/bin/sh\necho x >> {asked}\n[ $(wc -l < {asked}) -gt {times} ] && echo 71 && exit 0\n"
        (tmp_path / "squeue").write_text(f"{script}echo 'Unable to contact slurm controller' >&2\nexit 1\n")
        (tmp_path / "squeue").chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(jobs, "POLL", 0.0)
    monkeypatch.setattr(jobs, "ATTEMPTS", 3)
    return fails


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "sweep/.submitit/71").mkdir(parents=True)
    (tmp_path / "sweep/.submitit/70").mkdir()
    return tmp_path / "sweep"


@pytest.mark.parametrize("times", [0, 2])
def test_an_answer_that_comes_late_counts(squeue, sweep, times):
    squeue(times)
    assert jobs.unfinished_jobs(sweep) == ["71"]


def test_without_an_answer_no_job_is_taken_for_ended(squeue, sweep):
    squeue(9)
    with pytest.raises(UserError, match=r"squeue does not say which jobs .* \(Unable to contact slurm controller\)"):
        jobs.unfinished_jobs(sweep)
