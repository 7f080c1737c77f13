"""Reads from the environment how this process was launched, its rank, and the number of ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tbptt.errors import UserError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class RankInfo:
    """The rank of this process and how it was launched. `launcher` is empty for a run of one process."""

    launcher: str = ""  # torchrun (also for tbptt/launch/local.py), slurm or submitit
    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its own machine
    local_size: int = 1
    address: str = "127.0.0.1"  # of rank 0
    port: int = 0


def find_rank_info(env: Mapping[str, str] = os.environ) -> RankInfo:
    """The rank that torchrun, a SLURM step or submitit gave this process. UserError if they contradict each other."""
    if "RANK" in env or "WORLD_SIZE" in env:
        return _from_torchrun(env)
    if env.get("SUBMITIT_EXECUTOR") == "local":
        names = ("GLOBALID", "NTASKS", "LOCALID", "NTASKS", "JOB_ID")
        rank, size, local_rank, local_size, job = (int(env[f"SUBMITIT_LOCAL_{name}"]) for name in names)
        return RankInfo("submitit", rank, size, local_rank, local_size, port=_port(job))
    if "SLURM_STEP_ID" in env and "SLURM_PROCID" in env:
        return _from_slurm(env)
    if int(env.get("SLURM_JOB_NUM_NODES", "1")) > 1:
        raise UserError(
            f"this SLURM job has {env['SLURM_JOB_NUM_NODES']} nodes, but run.py was started on only one of them: start "
            "it with srun, one task per GPU, or use hydra/launcher=slurm"
        )
    return RankInfo()


def _from_torchrun(env: Mapping[str, str]) -> RankInfo:
    if missing := [name for name in TORCHRUN if name not in env]:
        present = ", ".join(name for name in TORCHRUN if name in env)
        raise UserError(
            f"the environment has {present} but not {', '.join(missing)}: start run.py with torchrun, which sets all "
            "of them, or unset them"
        )
    try:
        rank, size, local_rank, local_size = (int(env[name]) for name in TORCHRUN[:4])
        port = int(env["MASTER_PORT"])
    except ValueError:
        values = ", ".join(f"{name}={env[name]}" for name in TORCHRUN)
        raise UserError(f"{values}: all but MASTER_ADDR must be whole numbers, as set by torchrun") from None
    if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
        raise UserError(
            f"RANK={rank}, WORLD_SIZE={size}, LOCAL_RANK={local_rank}, LOCAL_WORLD_SIZE={local_size} are inconsistent: "
            "each rank must be below its world size, and LOCAL_WORLD_SIZE at most WORLD_SIZE"
        )
    tasks = int(env["SLURM_NTASKS"]) if "SLURM_STEP_ID" in env and "SLURM_NTASKS" in env else 1
    if "TORCHELASTIC_RUN_ID" not in env and tasks not in (1, size):
        raise UserError(
            f"WORLD_SIZE={size}, but SLURM started {tasks} tasks: unset RANK and WORLD_SIZE, or start torchrun "
            "with srun"
        )
    return RankInfo("torchrun", rank, size, local_rank, local_size, env["MASTER_ADDR"], port)


def _from_slurm(env: Mapping[str, str]) -> RankInfo:
    from submitit.slurm.slurm import SlurmJobEnvironment  # slow to import, and needed only in a SLURM job

    size, nodes = int(env.get("SLURM_NTASKS", "1")), int(env.get("SLURM_JOB_NUM_NODES", "1"))
    if size < nodes:
        raise UserError(
            f"this SLURM job has {nodes} nodes but only {size} task(s): start one task per GPU "
            "(hydra.launcher.tasks_per_node)"
        )
    rank, local_rank = int(env["SLURM_PROCID"]), int(env.get("SLURM_LOCALID", "0"))
    launcher = "submitit" if env.get("SUBMITIT_EXECUTOR") == "slurm" else "slurm"
    address = SlurmJobEnvironment().hostnames[0]
    return RankInfo(launcher, rank, size, local_rank, -(-size // nodes), address, _port(int(env["SLURM_JOB_ID"])))


def _port(job: int) -> int:
    """The rendezvous port, derived from the job id: the same in all processes of a job, rarely the same in two jobs."""
    return 20_000 + job % 40_000
