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

from tbptt.config import Config, Task, typed
from tbptt.device import keep_freed_memory, pick_device
from tbptt.errors import UserError
from tbptt.launch.lifeline import Lifeline, RankFailure, describe
from tbptt.launch.local import start_here
from tbptt.launch.place import Place, find_place
from tbptt.launch.stopping import Stopped, hand_over
from tbptt.launch.world import World

TIMEOUT = timedelta(minutes=30)  # of a collective: longer than any rank works alone


def run_in_world(composed: DictConfig, task: Callable[[DictConfig], None], work: Callable[..., None]) -> None:
    """Call `work(config, run_dir, world)` on every rank. `task(composed)` is how another process comes back here.

    What fails is kept in the run directory's error.txt, for the table of a sweep and for who waits for the ranks.
    """
    run_dir, place = Path(HydraConfig.get().runtime.output_dir), find_place()
    try:
        config = typed(composed)
        config.check()
        count = processes(config, place)
        if count > 1:
            start_here(count, task, composed, run_dir / "error.txt")
        elif in_parallel(config):
            with joined(place, rank_device(config, place), run_dir) as world:
                work(config, _agreed(run_dir, world), world)
        elif place.rank == 0:
            work(config, run_dir, World(device=rank_device(config, place)))
    except Stopped as stopped:
        hand_over(stopped)
        raise
    except Exception as error:
        if speaks(error):
            keep_error(run_dir, describe(error))
        if place.launcher == "submitit":
            # Hydra hands the exception to whoever reads the job's result, and only rank 0's is read: to SLURM the job
            # would be a success.
            atexit.register(_exit_with_1)
        raise


def in_parallel(config: Config) -> bool:
    """Whether several processes share the task. Weights that follow a text in one lane, or write one, do not."""
    return config.task is Task.train or (config.task is Task.eval and not config.eval.dynamic.follows)


def processes(config: Config, place: Place) -> int:
    """How many processes to start here: 1 if they have been started already. UserError for what contradicts."""
    devices, lanes = config.trainer.devices, config.data.batch_size
    if place.launcher and devices not in (None, place.size, place.local_size):
        raise UserError(
            f"trainer.devices={devices}, but {place.launcher} started {place.size} processes: leave trainer.devices out"
        )
    device, visible = pick_device(config.trainer.device), torch.cuda.device_count()
    one_of_many = place.launcher == "submitit" and place.size == 1 and device.type == "cuda" and visible > 1
    if one_of_many and devices is None and in_parallel(config):
        raise UserError(
            f"this job has one task for {visible} GPUs: give it one for each (hydra.launcher.tasks_per_node={visible})"
        )
    if device.type == "cuda" and place.local_size > visible > 1:
        raise UserError(f"{place.local_size} processes on this machine share {visible} GPUs: start one for each")
    count = devices or (visible if device.type == "cuda" and device.index is None else 1)
    if not place.launcher and device.type == "cuda" and count > visible:
        raise UserError(f"trainer.devices={count}, but this machine shows {visible} GPUs")
    asked = max(place.size, devices or 1)
    if config.task is Task.train and asked > lanes:
        raise UserError(
            f"data.batch_size={lanes} lanes are too few for {asked} processes: use {lanes} or fewer, or more lanes"
        )
    if place.launcher or not in_parallel(config):
        return 1
    return min(count, lanes) if config.task is Task.train else count


def rank_device(config: Config, place: Place) -> torch.device:
    """The GPU of this rank among those it sees (all of the machine, or only its own), or what the setting says."""
    device = pick_device(config.trainer.device)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type != "cuda":
        return device
    if device.index is None or place.size > 1:
        device = torch.device("cuda", place.local_rank if torch.cuda.device_count() > 1 else 0)
    torch.cuda.set_device(device)
    return device


@contextmanager
def joined(place: Place, device: torch.device, run_dir: Path) -> Iterator[World]:
    """The world of this rank. An exception in it becomes, on every rank, that of the rank that failed first."""
    if place.size == 1:
        yield World(device=device)
        return
    # DDP imports it. Imported within a world, it would keep the world's group alive, and gloo's threads with it, which
    # abort a process that ends while they let go of their last tensor.
    import_module("torch._dynamo")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    method = "env://" if place.launcher == "torchrun" else f"tcp://{place.address}:{place.port}"
    dist.init_process_group(backend, method, TIMEOUT, place.size, place.rank)
    world = World(place.rank, place.size, device)

    def tell(cause: str) -> None:
        keep_error(run_dir, cause)
        print(f"Error: {cause}", file=sys.stderr, flush=True)

    lifeline, stopped = Lifeline(world, place.address, tell), None
    try:
        yield world
        world.highest(0)  # nobody leaves before all are done: a rank that is gone looks like one that failed
    except Stopped as caught:
        world.highest(0)
        clear_frames(caught.__traceback__)  # they hold what was trained, and with it the world's group
        stopped = caught
    except Exception as error:
        first = lifeline.explain(error)
        if first is error:
            raise
        raise first from None
    finally:
        lifeline.close()
    dist.destroy_process_group()
    if stopped:
        raise stopped


def _agreed(run_dir: Path, world: World) -> Path:
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


def speaks(error: Exception) -> bool:
    """Whether this rank is the one to show the error."""
    return find_place().rank == 0 or (isinstance(error, RankFailure) and error.speaks)


def keep_error(run_dir: Path, cause: str) -> None:
    (run_dir / "error.txt").write_text(cause + "\n")


def _exit_with_1() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
