"""The processes of a run: start them or detect how they were started, join them, and end all if one fails."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from traceback import clear_frames
from typing import Any

import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tbptt.cli.config import Config, typed
from tbptt.cli.devices import process_count, rank_device, runs_in_parallel
from tbptt.cli.directories import result_settings
from tbptt.errors import UserError
from tbptt.launch.failure_monitor import FailureMonitor, RankFailure, describe
from tbptt.launch.local import run_local_ranks
from tbptt.launch.rank_info import RankInfo, find_rank_info
from tbptt.launch.rendezvous import RendezvousError, meet
from tbptt.launch.stopping import Stopped, requeue
from tbptt.launch.world import World
from tbptt.report.results import ERROR, write_error

log = logging.getLogger(__name__)
ERROR_FILE = "TBPTT_ERROR_FILE"  # the variable that names the file in which the ranks of this machine give their error
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # longer than any work that one rank does alone


def run_in_world(
    composed: DictConfig,
    entry: Callable[[DictConfig], Any],
    check: Callable[[Config], None],
    work: Callable[[Config, Path, World], None],
) -> None:
    """Call `check(config)`, then `work(config, run_dir, world)` on every rank; new processes call `entry(composed)`.

    An error is written to error.txt in the run directory, unless this belongs to another run or is finished.
    """
    run_dir, rank_info = Path(HydraConfig.get().runtime.output_dir), find_rank_info()
    escape_what_the_screen_lacks()
    try:
        return_to_start()
        config = typed(composed)
        check(config)
        count = process_count(config, rank_info)
        if count > 1:
            _start_ranks(count, entry, composed)
        elif runs_in_parallel(config):
            settings = {"task": config.task.name} | result_settings(composed)
            with join_world(rank_info, rank_device(config, rank_info), run_dir, settings) as world:
                run_dir = _shared_run_dir(run_dir, world)
                work(config, run_dir, world)
        elif rank_info.rank == 0:
            work(config, run_dir, World(device=rank_device(config, rank_info)))
    except Stopped as stopped:
        requeue(stopped)
        raise
    except Exception as error:
        if reports_errors(error) and (rank_info.rank == 0 or not isinstance(error, RendezvousError)):
            _record_error(run_dir, describe(error))  # another launch does not write into this run
        if rank_info.launcher == "submitit":
            # Hydra stores the exception in the job's result, of which only rank 0's is read, and the process would exit
            # with 0: SLURM would record a success.
            atexit.register(_exit_with_1)
        raise


def return_to_start() -> None:
    """Undo hydra.job.chdir=true: relative paths begin where the command was typed, as when they were checked."""
    hydra = HydraConfig.get()
    if hydra.job.chdir:
        os.chdir(hydra.runtime.cwd)


def escape_what_the_screen_lacks() -> None:
    """Print characters that the encoding of the screen lacks as \\N escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def join_world(rank_info: RankInfo, device: torch.device, run_dir: Path, settings: dict[str, Any]) -> Iterator[World]:
    """Initialise the process group. An exception in one rank is raised in every rank, as a RankFailure.

    `settings` define the numbers of the run: a process that was started with others cannot join.
    """
    if rank_info.size == 1:
        yield World(device=device)
        return
    # DDP imports this module. If that happened after init_process_group, the module would keep the group and gloo's
    # threads alive, and these abort the process if it exits while they release their last tensor.
    import_module("torch._dynamo")
    if rank_info.rank == 0:  # the others may have a directory of their own yet, which is to stay empty
        log.info("Waiting for all %s processes of this run", rank_info.size)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = meet(rank_info, settings)
    dist.init_process_group(
        backend, timeout=COLLECTIVE_TIMEOUT, world_size=rank_info.size, rank=rank_info.rank, store=store
    )
    world = World(rank_info.rank, rank_info.size, device)

    def report(cause: str) -> None:
        _record_error(run_dir, cause)
        print(f"Error: {cause}", file=sys.stderr, flush=True)

    monitor, stopped = FailureMonitor(world, rank_info.address, report), None
    try:
        yield world
        world.max(0)  # a barrier: a rank that exits earlier would look like a failed one
    except Stopped as caught:
        world.max(0)
        clear_frames(caught.__traceback__)  # its frames hold the trainer, and with it the process group
        stopped = caught
    except Exception as error:
        first = monitor.root_cause(error)
        if first is error:
            raise
        raise first from None
    finally:
        monitor.close()
    dist.destroy_process_group()
    if stopped:
        raise stopped


def _shared_run_dir(run_dir: Path, world: World) -> Path:
    """Rank 0's run directory. A rank whose directory differs (by a date in its name) moves its log there."""
    shared = Path(world.broadcast(str(run_dir)))
    if shared != run_dir:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.close()
                handler.baseFilename = str(shared / Path(handler.baseFilename).name)
        with suppress(OSError):
            run_dir.rmdir()  # if it is empty
    return shared


def reports_errors(error: Exception) -> bool:
    """Whether this rank shows the error."""
    if isinstance(error, RendezvousError):  # it has not met rank 0, which reports errors
        return True
    try:
        rank = find_rank_info().rank
    except UserError:  # the environment is contradictory, and this probably the error to show
        return True
    return rank == 0 or (isinstance(error, RankFailure) and error.reports)


def _start_ranks(count: int, entry: Callable[[DictConfig], Any], composed: DictConfig) -> None:
    """Run `entry` in `count` processes. They give their error in a file, whose name they inherit."""
    log.info("Starting %s processes", count)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[ERROR_FILE] = f"{folder}/{ERROR}"
        try:
            run_local_ranks(count, entry, composed, Path(os.environ[ERROR_FILE]))
        finally:
            del os.environ[ERROR_FILE]


def _record_error(run_dir: Path, cause: str) -> None:
    """For the table of the sweep, and for the process that started this rank."""
    write_error(run_dir, cause)
    if ERROR_FILE in os.environ:
        Path(os.environ[ERROR_FILE]).write_text(cause + "\n", encoding="utf-8")


def _exit_with_1() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
