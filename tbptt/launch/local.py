"""Several processes on this machine, one per GPU (on a CPU as many as asked for), by torch's own elastic launcher."""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tbptt.launch.failure_monitor import RankFailure
from tbptt.launch.stopping import Stopped

PATIENCE = "600"  # seconds to finish a step and save; a failure is spread by the lifeline, which does not wait for it


def start_here(count: int, task: Callable[[DictConfig], None], composed: DictConfig, error_file: Path) -> None:
    """Run `task` in `count` processes and wait. RankFailure with the first cause, Stopped if a signal stopped them."""
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", PATIENCE)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):  # they repeat what is said here
        logging.getLogger(name).setLevel(logging.CRITICAL)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        run_id=secrets.token_hex(8),
        max_restarts=0,
    )
    error_file.unlink(missing_ok=True)
    # The ranks are told of SIGUSR2 by whoever sends it; this process only waits for them.
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        elastic_launch(launch, _rank)(task, composed, HydraConfig.instance().cfg)
    except SignalException as error:
        raise Stopped(error.sigval) from None
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if min(codes) > 128:
            raise Stopped(min(codes) - 128) from None
        rank, first = error.get_first_failure()
        ended = f"rank {rank} ended with code {first.exitcode}, before the ranks had found each other"
        raise RankFailure(error_file.read_text().strip() if error_file.exists() else ended) from None
    finally:
        signal.signal(signal.SIGUSR2, before)


def _rank(task: Callable[[DictConfig], None], composed: DictConfig, hydra: DictConfig) -> None:
    """What each process does: the task, under the configuration that the first process composed."""
    setattr(HydraConfig.instance(), "cfg", hydra)  # noqa: B010 (typed as a HydraConf, but always a DictConfig)
    configure_log(hydra.hydra.job_logging, hydra.hydra.verbose)
    try:
        task(composed)
    except Exception:
        logging.getLogger(__name__).debug("this rank ended", exc_info=True)
        raise SystemExit(1) from None  # error.txt tells, and the process that waits shows it
