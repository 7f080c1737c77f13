"""From one command to the processes of a run: find or start them, let them join, and let all end if one fails."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from traceback import clear_frames

import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tbptt.cli.config import Config, Task, typed
from tbptt.device import keep_freed_memory, pick_device
from tbptt.errors import UserError
from tbptt.launch.failure_monitor import FailureMonitor, RankFailure, describe
from tbptt.launch.local import start_here
from tbptt.launch.rank_info import RankInfo, find_rank_info
from tbptt.launch.stopping import Stopped, requeue
from tbptt.launch.world import World

TIMEOUT = timedelta(minutes=30)  # of a collective: longer than any rank works alone


def run_in_world(
    composed: DictConfig,
    entry: Callable[[DictConfig], None],
    check: Callable[[Config], None],
    work: Callable[[Config, Path, World], None],
) -> None:
    """Call `check(config)`, then `work(config, run_dir, world)` on every rank, which starts with `entry(composed)`.

    What fails is kept in the run directory's error.txt, for the table of a sweep and for who waits for the ranks.
    """
    run_dir, rank_info = Path(HydraConfig.get().runtime.output_dir), find_rank_info()
    try:
        config = typed(composed)
        check(config)
        count = processes(config, rank_info)
        if count > 1:
            start_here(count, entry, composed, run_dir / "error.txt")
        elif in_parallel(config):
            with join_world(rank_info, rank_device(config, rank_info), run_dir) as world:
                work(config, _shared_run_dir(run_dir, world), world)
        elif rank_info.rank == 0:
            work(config, run_dir, World(device=rank_device(config, rank_info)))
    except Stopped as stopped:
        requeue(stopped)
        raise
    except Exception as error:
        if reports_errors(error):
            write_error(run_dir, describe(error))
        if rank_info.launcher == "submitit":
            # Hydra hands the exception to whoever reads the job's result, and only rank 0's is read: to SLURM the job
            # would be a success.
            atexit.register(_exit_with_1)
        raise


def in_parallel(config: Config) -> bool:
    """Whether several processes share the task. Weights that follow a text in one lane, or write one, do not."""
    return config.task is Task.train or (config.task is Task.eval and not config.eval.dynamic.follows)


def processes(config: Config, rank_info: RankInfo) -> int:
    """How many processes to start here: 1 if they have been started already. UserError for what contradicts."""
    devices, lanes = config.trainer.devices, config.data.batch_size
    if rank_info.launcher and devices not in (None, rank_info.size, rank_info.local_size):
        raise UserError(
            f"trainer.devices={devices}, but {rank_info.launcher} started {rank_info.size} processes: leave "
            "trainer.devices out"
        )
    device, visible = pick_device(config.trainer.device), torch.cuda.device_count()
    one_of_many = rank_info.launcher == "submitit" and rank_info.size == 1 and device.type == "cuda" and visible > 1
    if one_of_many and devices is None and in_parallel(config):
        raise UserError(
            f"this job has one task for {visible} GPUs: give it one for each (hydra.launcher.tasks_per_node={visible})"
        )
    if device.type == "cuda" and rank_info.local_size > visible > 1:
        raise UserError(f"{rank_info.local_size} processes on this machine share {visible} GPUs: start one for each")
    count = devices or (visible if device.type == "cuda" and device.index is None else 1)
    if not rank_info.launcher and device.type == "cuda" and count > visible:
        raise UserError(f"trainer.devices={count}, but this machine shows {visible} GPUs")
    asked = max(rank_info.size, devices or 1)
    if config.task is Task.train and asked > lanes:
        raise UserError(
            f"data.batch_size={lanes} lanes are too few for {asked} processes: use {lanes} or fewer, or more lanes"
        )
    if rank_info.launcher or not in_parallel(config):
        return 1
    return min(count, lanes) if config.task is Task.train else count


def rank_device(config: Config, rank_info: RankInfo) -> torch.device:
    """The GPU of this rank among those it sees (all of the machine, or only its own), or what the setting says."""
    device = pick_device(config.trainer.device)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type != "cuda":
        return device
    if device.index is None or rank_info.size > 1:
        device = torch.device("cuda", rank_info.local_rank if torch.cuda.device_count() > 1 else 0)
    torch.cuda.set_device(device)
    return device


@contextmanager
def join_world(rank_info: RankInfo, device: torch.device, run_dir: Path) -> Iterator[World]:
    """The world of this rank. An exception in it becomes, on every rank, that of the rank that failed first."""
    if rank_info.size == 1:
        yield World(device=device)
        return
    # DDP imports it. Imported within a world, it would keep the world's group alive, and gloo's threads with it, which
    # abort a process that ends while they let go of their last tensor.
    import_module("torch._dynamo")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    method = "env://" if rank_info.launcher == "torchrun" else f"tcp://{rank_info.address}:{rank_info.port}"
    dist.init_process_group(backend, method, TIMEOUT, rank_info.size, rank_info.rank)
    world = World(rank_info.rank, rank_info.size, device)

    def tell(cause: str) -> None:
        write_error(run_dir, cause)
        print(f"Error: {cause}", file=sys.stderr, flush=True)

    monitor, stopped = FailureMonitor(world, rank_info.address, tell), None
    try:
        yield world
        world.highest(0)  # nobody leaves before all are done: a rank that is gone looks like one that failed
    except Stopped as caught:
        world.highest(0)
        clear_frames(caught.__traceback__)  # they hold what was trained, and with it the world's group
        stopped = caught
    except Exception as error:
        first = monitor.explain(error)
        if first is error:
            raise
        raise first from None
    finally:
        monitor.close()
    dist.destroy_process_group()
    if stopped:
        raise stopped


def _shared_run_dir(run_dir: Path, world: World) -> Path:
    """Rank 0's run directory. Ranks that composed another (it has a date in its name) move their log there."""
    agreed = Path(world.broadcast(str(run_dir)))
    if agreed != run_dir:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.close()
                handler.baseFilename = str(agreed / Path(handler.baseFilename).name)
        with suppress(OSError):
            run_dir.rmdir()  # if it is empty
    return agreed


def reports_errors(error: Exception) -> bool:
    """Whether this rank is the one to show the error."""
    return find_rank_info().rank == 0 or (isinstance(error, RankFailure) and error.speaks)


def write_error(run_dir: Path, cause: str) -> None:
    (run_dir / "error.txt").write_text(cause + "\n")


def _exit_with_1() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
