"""Sweeps: records their members as they start and end, and writes the table and the figure at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tbptt.cli.directories import words_of
from tbptt.cli.errors import exit_on_user_errors, exit_with, sentence
from tbptt.cli.search import FOUND, report_search
from tbptt.errors import UserError
from tbptt.launch.jobs import wait_for_jobs
from tbptt.launch.rank_info import find_rank_info
from tbptt.report.config import LoggerConfig
from tbptt.report.logger import log_results
from tbptt.report.members import Member, forget_members, record_member, recorded_members, settings_of
from tbptt.report.results import read_error
from tbptt.report.sweep import report_sweeps

_started: dict[Path, LoggerConfig] = {}  # the sweep that this process has started


class SweepReport(Callback):
    """Records the members of a sweep in its directory, in whatever process they run."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_on_user_errors():
            sweep_dir, rank = _sweep_dir(config), find_rank_info().rank
        if rank:
            return
        wait_for_jobs(sweep_dir, "Waiting for jobs that an earlier start of this sweep submitted:")
        forget_members(sweep_dir)
        (sweep_dir / FOUND).unlink(missing_ok=True)
        _started[sweep_dir] = cast(LoggerConfig, OmegaConf.to_object(config.logger))
        if config.hydra.runtime.choices["hydra/launcher"] != "basic":  # logging is not configured yet
            print(f"The members of this sweep run as jobs; what they print is in {sweep_dir}/.submitit", flush=True)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if config.hydra.mode is not RunMode.MULTIRUN or find_rank_info().rank:
            return
        sweep_dir, number = _sweep_dir(config), int(config.hydra.job.num)
        member = _member(config)
        record_member(sweep_dir, number, member)
        sharing = [other for other, each in recorded_members(sweep_dir).items() if each.folder == member.folder]
        if len(sharing) > 1:
            member.refused = (
                f"hydra.sweep.subdir={config.hydra.sweep.subdir} gives members {min(sharing)} and {max(sharing)} of "
                "the sweep the same folder: use a name that differs, such as ${hydra.job.num}"
            )
            record_member(sweep_dir, number, member)
            exit_with(UserError(member.refused))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode is not RunMode.MULTIRUN or find_rank_info().rank:
            return
        member = _member(config)
        member.ended = job_return.status is JobStatus.COMPLETED
        if not member.ended:
            cause = sentence(job_return._return_value)
            recorded = read_error(Path(config.hydra.runtime.output_dir))
            member.refused = "" if recorded.endswith(cause) else cause
        record_member(_sweep_dir(config), int(config.hydra.job.num), member)


@contextmanager
def reported_sweep() -> Iterator[None]:
    """Report the sweep that was started inside, also one that failed or was interrupted.

    A report that fails is an error of the command: one sentence and exit code 1.
    """
    try:
        yield
    except BaseException:
        with suppress(SystemExit):  # the first error is the one to exit with
            _report()
        raise
    _report()


def _report() -> None:
    for sweep_dir, logger in _started.items():
        if not sweep_dir.is_dir():  # the command was refused
            continue
        with suppress(KeyboardInterrupt):
            wait_for_jobs(sweep_dir, "Waiting for the other jobs of this sweep:")
        try:
            report_sweeps([sweep_dir], sweep_dir)
            report_search(sweep_dir)
            log_results(logger, sweep_dir, {"sweep": str(sweep_dir)})
        except Exception as error:  # of whatever kind: the results of the members do not depend on it
            exit_with(UserError(f"the table of {sweep_dir} cannot be written ({type(error).__name__}: {error})"))


def _sweep_dir(config: DictConfig) -> Path:
    return Path(config.hydra.runtime.cwd, str(config.hydra.sweep.dir))  # not the job's working directory


def _member(config: DictConfig) -> Member:
    folder = os.path.relpath(str(config.hydra.runtime.output_dir), _sweep_dir(config))
    return Member(folder, settings_of(words_of(config.hydra.overrides.task)))
