"""Which rank a process is follows from its environment, and contradictions are one sentence."""

import os

import pytest

from tbptt.errors import UserError
from tbptt.launch.rank_info import RankInfo, find_rank_info

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
MASTER = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
STEP = {
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "node[4-5]",
    "SLURM_NODEID": "1",
}
JOB = {"SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_NODELIST": "node[3-5]", "SLURM_NTASKS": "6"}
LOCAL = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "9", "SUBMITIT_LOCAL_NTASKS": "2"}


def test_a_process_without_a_launcher_is_alone():
    assert find_rank_info({}) == RankInfo() and RankInfo().size == 1


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """In the found of SLURM's: names the hosts of node[A-B]."""
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho $3 | sed 's/node\\[\\(.*\\)-.*/node\\1/'\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


def test_torchrun_says_it_all():
    found = find_rank_info(TORCHRUN | MASTER | {"TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert found == RankInfo("torchrun", 3, 4, 1, 2, "node0", 29500, "torchrun a restart 0", store_is_open=True)
    assert not find_rank_info(TORCHRUN | MASTER).store_is_open


def test_a_slurm_step_meets_on_its_own_first_node(scontrol):
    found = find_rank_info(STEP | JOB)
    assert found == RankInfo("slurm", 3, 4, 1, 2, "node4", found.port, "SLURM job 71 step 0 restart 0")
    assert find_rank_info(STEP | JOB | {"SUBMITIT_EXECUTOR": "slurm"}).launcher == "submitit"


@pytest.mark.parametrize("other", [{"SLURM_JOB_ID": "72"}, {"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"}])
def test_other_jobs_steps_and_starts_meet_elsewhere(scontrol, other):
    ours, theirs = find_rank_info(STEP | JOB), find_rank_info(STEP | JOB | other)
    assert ours.port != theirs.port and ours.launch != theirs.launch
    assert 1024 < theirs.port < 32_768


def test_a_step_of_one_task_runs_alone_wherever_its_job_is():
    one = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}
    step = STEP | JOB | one | {"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_STEP_NODELIST": "node5"}
    assert find_rank_info(step) == RankInfo(), "it starts as many processes as it likes"
    found = find_rank_info(step | {"SUBMITIT_EXECUTOR": "slurm"})
    assert (found.launcher, found.rank, found.size, found.local_size) == ("submitit", 0, 1, 1)


@pytest.mark.parametrize(
    ("per_node", "node", "here"), [("2(x3),1", 2, 2), ("2(x3),1", 3, 1), ("4", 0, 4), ("3,1", 1, 1), ("", 0, 2)]
)
def test_tasks_of_a_node_are_counted_as_slurm_lists_them(scontrol, per_node, node, here):
    found = find_rank_info(STEP | JOB | {"SLURM_STEP_TASKS_PER_NODE": per_node, "SLURM_NODEID": str(node)})
    assert found.local_size == here


def test_submitit_on_one_machine():
    ranks = {"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_LOCALID": "1"}
    found = find_rank_info(LOCAL | ranks)
    assert (found.launcher, found.rank, found.size) == ("submitit", 1, 2)


def test_torchrun_inside_a_slurm_step_wins():
    env = STEP | JOB | TORCHRUN | MASTER | {"SLURM_STEP_NUM_TASKS": "2", "TORCHELASTIC_RUN_ID": "x"}
    assert find_rank_info(env).launcher == "torchrun"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"RANK": "0"}, ["RANK", "WORLD_SIZE", "torchrun"]),
        (TORCHRUN, ["MASTER_ADDR", "MASTER_PORT"]),
        (TORCHRUN | MASTER | {"RANK": "4"}, ["RANK=4", "WORLD_SIZE=4"]),
        (TORCHRUN | MASTER | {"RANK": "one"}, ["RANK=one"]),
        (TORCHRUN | MASTER | STEP | {"SLURM_STEP_NUM_TASKS": "8"}, ["WORLD_SIZE=4", "8 tasks"]),
        ({"SLURM_JOB_NUM_NODES": "2"}, ["2 nodes", "srun"]),
        (STEP | JOB | {"SLURM_STEP_NUM_TASKS": "1"}, ["2 nodes", "1 task"]),
    ],
)
def test_a_contradictory_environment_is_refused(env, words):
    with pytest.raises(UserError) as error:
        find_rank_info(env)
    assert all(word in str(error.value) for word in words)
