"""Starts several ranks on this machine with torch's elastic launcher: one per GPU, or trainer.devices on a CPU."""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tbptt.launch.failure_monitor import RankFailure
from tbptt.launch.stopping import Stopped
from tbptt.output import outlive_readers
from tbptt.threads import core_count

SHUTDOWN_TIMEOUT = "600"  # seconds after a signal to finish a step and save; after a failure, FailureMonitor is faster


def run_local_ranks(count: int, task: Callable[[DictConfig], None], composed: DictConfig, error_file: Path) -> None:
    """Run `task` in `count` processes and wait. RankFailure with the first error; Stopped if a signal stopped them."""
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_TIMEOUT)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, core_count() // count)))
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):  # they repeat the error reported here
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
        **passed_on(),
    )
    error_file.unlink(missing_ok=True)
    # Until the ranks are there: torch then sets a handler of its own (2.8: none), and leaves it.
    previous_handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        elastic_launch(launch, _run_rank)(task, composed, HydraConfig.instance().cfg)
    except SignalException as error:
        raise Stopped(error.sigval) from None
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if min(codes) > 128:
            raise Stopped(min(codes) - 128) from None
        rank, first = error.get_first_failure()
        cause = f"rank {rank} exited with code {first.exitcode} without reporting an error (killed, or out of memory)"
        raise RankFailure(error_file.read_text(encoding="utf-8").strip() if error_file.exists() else cause) from None
    finally:
        signal.signal(signal.SIGUSR2, previous_handler)


def passed_on() -> dict[str, Any]:
    """The argument of torch's launcher that names the signals it passes on to the ranks; torch 2.8 has none."""
    known = getattr(LaunchConfig, "signals_to_handle", None)
    return {} if known is None else {"signals_to_handle": f"{known},SIGUSR2"}


def _run_rank(task: Callable[[DictConfig], None], composed: DictConfig, hydra: DictConfig) -> None:
    """Run the task in one rank, with the configuration composed by the parent process."""
    setattr(HydraConfig.instance(), "cfg", hydra)  # noqa: B010 (typed as a HydraConf, but always a DictConfig)
    outlive_readers()
    configure_log(hydra.hydra.job_logging, hydra.hydra.verbose)
    try:
        task(composed)
    except Exception:
        logging.getLogger(__name__).debug("this rank failed", exc_info=True)
        raise SystemExit(1) from None  # the parent process shows error.txt
