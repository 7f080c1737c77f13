"""Reads from the environment how this process was launched, its rank, and the number of ranks."""

from __future__ import annotations

import os
import re
import subprocess
import zlib
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
    launch: str = ""  # names what was started together, in messages too; ranks of other launches cannot join
    store_is_open: bool = False  # the launcher serves the TCPStore at the port, instead of rank 0

    @property
    def where(self) -> str:
        """Where the ranks meet."""
        return f"{self.address}:{self.port}"


def find_rank_info(env: Mapping[str, str] = os.environ) -> RankInfo:
    """The rank that torchrun, a SLURM step or submitit gave this process. UserError if they contradict each other."""
    if "RANK" in env or "WORLD_SIZE" in env:
        return _from_torchrun(env)
    if env.get("SUBMITIT_EXECUTOR") == "local":
        names = ("GLOBALID", "NTASKS", "LOCALID", "NTASKS", "JOB_ID")
        rank, size, local_rank, local_size, job = (int(env[f"SUBMITIT_LOCAL_{name}"]) for name in names)
        launch = f"submitit job {job}"
        return RankInfo("submitit", rank, size, local_rank, local_size, port=_port(launch), launch=launch)
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
    tasks = _step_tasks(env) if "SLURM_STEP_ID" in env else 1
    if "TORCHELASTIC_RUN_ID" not in env and tasks not in (1, size):
        raise UserError(
            f"WORLD_SIZE={size}, but SLURM started {tasks} tasks: unset RANK and WORLD_SIZE, or start torchrun "
            "with srun"
        )
    run_id, restart = env.get("TORCHELASTIC_RUN_ID", "by hand"), env.get("TORCHELASTIC_RESTART_COUNT", "0")
    launch = f"torchrun {run_id} restart {restart}"
    store_is_open = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return RankInfo("torchrun", rank, size, local_rank, local_size, env["MASTER_ADDR"], port, launch, store_is_open)


def _from_slurm(env: Mapping[str, str]) -> RankInfo:
    """From what SLURM says of the step: a job may run several, smaller than itself and on other nodes."""
    size, nodes = _step_tasks(env), int(env.get("SLURM_STEP_NUM_NODES", "1"))
    if size < nodes:
        raise UserError(
            f"this SLURM step has {nodes} nodes but only {size} task(s): start one task per GPU "
            "(hydra.launcher.tasks_per_node)"
        )
    rank, local_rank = int(env["SLURM_PROCID"]), int(env.get("SLURM_LOCALID", "0"))
    launcher = "submitit" if env.get("SUBMITIT_EXECUTOR") == "slurm" else "slurm"
    if launcher == "slurm" and size == 1:  # such as a shell: a run in it starts its processes itself
        return RankInfo()
    # A requeued job keeps its number, and ranks of its last start may still be alive.
    launch = (
        f"SLURM job {env['SLURM_JOB_ID']} step {env['SLURM_STEP_ID']} restart {env.get('SLURM_RESTART_COUNT', '0')}"
    )
    address = _first_host(env["SLURM_STEP_NODELIST"]) if size > 1 else RankInfo.address
    return RankInfo(launcher, rank, size, local_rank, _tasks_here(env, size, nodes), address, _port(launch), launch)


def _step_tasks(env: Mapping[str, str]) -> int:
    return int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or "1")


def _tasks_here(env: Mapping[str, str], size: int, nodes: int) -> int:
    """The tasks of the step on this node: SLURM_STEP_TASKS_PER_NODE is a list such as 2(x3),1."""
    counts: list[int] = []
    for count, repeat in re.findall(r"(\d+)(?:\(x(\d+)\))?", env.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(repeat or 1)
    node = int(env.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else -(-size // nodes)


def _first_host(node_list: str) -> str:
    """The first host of a list such as node[2-5,9], where SLURM starts rank 0 of a step."""
    command = ["scontrol", "show", "hostnames", node_list]
    try:
        return subprocess.run(command, capture_output=True, check=True).stdout.decode().split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise UserError(f"`{' '.join(command)}` does not name the nodes of this SLURM step ({error})") from error


def _port(launch: str) -> int:
    """The rendezvous port, the same in all processes of a launch, rarely the same in two.

    It lies below the ports that Linux gives to outgoing connections (from 32,768).
    """
    return 20_000 + zlib.crc32(launch.encode()) % 12_000
