"""Which rank a process is follows from its environment, and contradictions are one sentence."""

import pytest

from tbptt.errors import UserError
from tbptt.launch.rank_info import RankInfo, find_rank_info

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
MASTER = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
STEP = {"SLURM_JOB_ID": "71", "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
NODES = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[4-5]"}
LOCAL = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "9", "SUBMITIT_LOCAL_NTASKS": "2"}


def test_a_process_without_a_launcher_is_alone():
    assert find_rank_info({}) == RankInfo() and RankInfo().size == 1


def test_torchrun_says_it_all():
    assert find_rank_info(TORCHRUN | MASTER) == RankInfo("torchrun", 3, 4, 1, 2, "node0", 29500)


def test_a_slurm_step_meets_on_its_first_node(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_NODELIST", NODES["SLURM_JOB_NODELIST"])
    place = find_rank_info(STEP | NODES)
    assert place == RankInfo("slurm", 3, 4, 1, 2, "node4", place.port) and place.port > 1024
    assert find_rank_info(STEP | NODES | {"SUBMITIT_EXECUTOR": "slurm"}).launcher == "submitit"
    assert find_rank_info(STEP | NODES | {"SLURM_JOB_ID": "72"}).port != place.port


def test_submitit_on_one_machine():
    ranks = {"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_LOCALID": "1"}
    place = find_rank_info(LOCAL | ranks)
    assert (place.launcher, place.rank, place.size) == ("submitit", 1, 2)


def test_torchrun_inside_a_slurm_step_wins():
    env = STEP | NODES | TORCHRUN | MASTER | {"SLURM_NTASKS": "2", "TORCHELASTIC_RUN_ID": "x"}
    assert find_rank_info(env).launcher == "torchrun"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"RANK": "0"}, ["RANK", "WORLD_SIZE", "torchrun"]),
        (TORCHRUN, ["MASTER_ADDR", "MASTER_PORT"]),
        (TORCHRUN | MASTER | {"RANK": "4"}, ["RANK=4", "WORLD_SIZE=4"]),
        (TORCHRUN | MASTER | {"RANK": "one"}, ["RANK=one"]),
        (TORCHRUN | MASTER | STEP | {"SLURM_NTASKS": "8"}, ["WORLD_SIZE=4", "8 tasks"]),
        ({"SLURM_JOB_NUM_NODES": "2"}, ["2 nodes", "srun"]),
        (STEP | NODES | {"SLURM_NTASKS": "1"}, ["2 nodes", "1 task"]),
    ],
)
def test_a_contradictory_environment_is_refused(env, words):
    with pytest.raises(UserError) as error:
        find_rank_info(env)
    assert all(word in str(error.value) for word in words)
