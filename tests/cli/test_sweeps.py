"""The callbacks of a sweep, without its jobs."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tbptt.cli import sweeps
from tbptt.cli.config import register
from tbptt.cli.errors import QuietErrors, exit_with, sentence
from tbptt.cli.sweeps import SweepReport, reported_sweep
from tbptt.errors import UserError
from tbptt.report.config import LoggerConfig
from tbptt.report.members import members_in
from tbptt.report.results import write_error
from tests.helpers import CONF


def job(sweep_dir: Path, number: int, folder: str) -> DictConfig:
    hydra = {
        "mode": RunMode.MULTIRUN,
        "job": {"num": number},
        "sweep": {"dir": sweep_dir.name, "subdir": folder},
        "runtime": {"cwd": str(sweep_dir.parent), "output_dir": str(sweep_dir / folder)},
        "overrides": {"task": [f"seed={number}", "data.cache=${nowhere}"]},
    }
    return OmegaConf.create({"hydra": hydra})


def failed(error: Exception) -> JobReturn:
    return JobReturn(status=JobStatus.FAILED, _return_value=error)


def test_members_are_recorded_with_their_ends(tmp_path):
    report, ends = SweepReport(), [JobReturn(status=JobStatus.COMPLETED), failed(UserError("no")), None]
    for number, end in enumerate(ends):
        config = job(tmp_path, number, f"a/b={number}")
        report.on_job_start(config)
        if end:
            report.on_job_end(config, job_return=end)
    rows = [(member.settings["seed"], member.row(tmp_path)["status"]) for member in members_in(tmp_path)]
    assert rows == [(0, "done"), (1, "failed: no"), (2, "unfinished")]


def test_two_members_of_one_folder_are_refused(tmp_path, capsys):
    SweepReport().on_job_start(job(tmp_path, 0, "x"))
    SweepReport().on_job_start(job(tmp_path, 0, "x"))  # requeued
    with pytest.raises(SystemExit):
        SweepReport().on_job_start(job(tmp_path, 1, "x"))
    assert "hydra.sweep.subdir=x gives members 0 and 1" in capsys.readouterr().err
    assert "hydra.sweep.subdir" in members_in(tmp_path)[1].row(tmp_path)["status"]


@pytest.fixture
def unwritable(tmp_path, monkeypatch) -> Path:
    """A sweep whose table cannot be written."""
    SweepReport().on_job_start(job(tmp_path, 0, "0"))
    (tmp_path / "sweep.csv").mkdir()
    monkeypatch.setattr(sweeps, "_started", {tmp_path: LoggerConfig()})
    return tmp_path


def test_a_table_that_cannot_be_written_is_an_error_of_the_command(unwritable, capsys):
    with pytest.raises(SystemExit) as end, reported_sweep():
        pass
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.startswith(f"Error: the table of {unwritable}") and said.count("\n") == 1


def test_the_first_error_counts_when_the_table_fails_too(unwritable, capsys):
    with pytest.raises(SystemExit) as end, reported_sweep():
        raise SystemExit(130)
    assert end.value.code == 130 and "the table of" in capsys.readouterr().err


def test_hydra_says_nothing_before_the_error_of_a_job(capsys):
    returned = failed(UserError("no"))
    QuietErrors().on_job_end(OmegaConf.create(), job_return=returned)
    with pytest.raises(UserError, match="no"):
        _ = returned.return_value
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("key", ["hydra.output_subdir", "hydra.job_logging.handlers.screen.level"])
def test_an_error_inside_a_resolver_is_one_sentence_on_a_rank_that_does_not_know_its_number(monkeypatch, capsys, key):
    register()
    monkeypatch.setenv("RANK", "0")
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("config", return_hydra_config=True)
    with pytest.raises(OmegaConfBaseException) as raised:
        OmegaConf.select(config, key, throw_on_missing=True)
    assert sentence(raised.value).startswith("the environment has RANK but not WORLD_SIZE")
    with pytest.raises(SystemExit):
        exit_with(raised.value)
    said = capsys.readouterr().err
    assert said.startswith("Error: the environment has RANK but not") and said.count("\n") == 1


def test_a_cause_that_the_folder_tells_is_not_told_twice(tmp_path):
    config, error = job(tmp_path, 0, "0"), UserError("no")
    SweepReport().on_job_start(config)
    (tmp_path / "0").mkdir()
    write_error(tmp_path / "0", str(error))
    SweepReport().on_job_end(config, job_return=failed(error))
    (member,) = members_in(tmp_path)
    assert member.refused == "" and member.row(tmp_path)["status"] == "failed: no"
