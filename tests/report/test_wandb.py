"""What befalls wandb does not befall the training; how it is used is decided by logger.mode, else by WANDB_MODE."""

import json
import logging

import pytest
import wandb

from tbptt.errors import UserError
from tbptt.report.config import LoggerConfig, WandbMode
from tbptt.report.logger import Loggers, open_loggers
from tbptt.report.metrics import METRICS, MetricsFile
from tests.helpers import composed

RECORD = {"step": 1, "loss": 2.0}


class Recorded:
    """Stands for wandb's run."""

    def __init__(self, failing: str = ""):
        self.failing, self.calls, self.rows = failing, [], []

    def __getattr__(self, name: str):
        def call(*arguments, **named):
            self.calls.append(name)
            self.rows += arguments if name == "log" else []
            if name == self.failing:
                raise ConnectionResetError("Connection lost")

        return call


@pytest.fixture(autouse=True)
def account(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def started(monkeypatch) -> list:
    """The modes in which runs were started; the first of them fails where `fails` says so."""
    modes: list = []

    def init(mode=None, **arguments):
        modes.append(mode)
        init.arguments = arguments
        if modes == [None] and fails:
            raise wandb.errors.CommError("Run initialization has timed out after 90.0 sec.\nCheck your network")
        return run

    fails, run = [], Recorded()
    monkeypatch.setattr(wandb, "init", init)
    init.fails, init.run = fails, run
    return init, modes


def logged(tmp_path, caplog, config: LoggerConfig) -> list[str]:
    """The warnings of a run that writes two records and ends."""
    with caplog.at_level(logging.WARNING, "tbptt"):
        (logger,) = open_loggers(config, tmp_path, 0, {})
        logger.write(RECORD)
        logger.write(RECORD | {"step": 2})
        logger.close()
    return [record.getMessage() for record in caplog.records if record.name.startswith("tbptt")]


@pytest.mark.parametrize("given", [None, *WandbMode])
def test_the_environment_decides_unless_the_mode_is_given(tmp_path, caplog, started, given):
    _, modes = started
    assert logged(tmp_path, caplog, LoggerConfig(wandb=True, mode=given)) == [] and modes == [given and given.value]
    assert composed("logger=wandb").logger.mode is None


def test_without_a_network_one_sentence_and_a_run_that_can_be_sent_later(tmp_path, caplog, started):
    init, modes = started
    init.fails.append(True)
    (said,) = logged(tmp_path, caplog, LoggerConfig(wandb=True))
    assert modes == [None, "offline"] and "timed out after 90.0 sec." in said and "wandb sync" in said
    assert init.run.calls == ["define_metric", "log", "log", "finish"]


@pytest.mark.parametrize("failing", ["define_metric", "log", "finish"])
def test_a_failure_in_the_middle_is_one_sentence(tmp_path, caplog, started, failing):
    init, _ = started
    init.run.failing = failing
    (said,) = logged(tmp_path, caplog, LoggerConfig(wandb=True))
    assert "wandb failed (Connection lost)" in said and init.run.calls.count(failing) == 1


@pytest.mark.parametrize(("folder", "name"), [("txl", "txl"), ("sweep-1a/0", "sweep-1a/0"), ("seeds/seed=1", "seed=1")])
def test_runs_that_have_a_number_alone_are_called_by_their_sweep_too(tmp_path, started, folder, name):
    init, _ = started
    (tmp_path / folder).mkdir(parents=True)
    open_loggers(LoggerConfig(wandb=True), tmp_path / folder, 0, {})
    assert init.arguments["name"] == name


@pytest.mark.parametrize("resumed", [5, 0])
def test_a_killed_run_that_resumes_sends_every_point_once_and_one_that_begins_anew_is_another(
    tmp_path, started, resumed
):
    init, _ = started
    ids = []
    for start, end in ((0, 8), (resumed, 12)):
        (other,) = open_loggers(LoggerConfig(wandb=True), tmp_path, start, {})
        ids.append(init.arguments["id"])
        metrics = MetricsFile(tmp_path, start)
        logger = Loggers([metrics, other])
        before = len(init.run.rows)
        for step in range(start + 1, end + 1):
            logger.write({"step": step, "loss": 1.0})
            if step % 4 == 0 and (step, end) != (8, 8):  # the first start is killed before its last validation
                logger.write({"step": step, "split": "valid", "loss": 1.0})
        metrics.close()
    assert (ids[0] == ids[1]) is (resumed > 0)
    sent = init.run.rows[0 if resumed else before :]
    for split, steps in (("train", list(range(1, 13))), ("valid", [4, 8, 12])):
        assert [row["step"] for row in sent if f"{split}/loss" in row] == steps


def test_a_run_that_logs_to_wandb_from_its_second_start_on_sends_all_of_that(tmp_path, started):
    init, _ = started
    (tmp_path / METRICS).write_text(json.dumps(RECORD | {"step": 9}) + "\n")
    (logger,) = open_loggers(LoggerConfig(wandb=True), tmp_path, 5, {})
    logger.write(RECORD | {"step": 6})
    assert [row["step"] for row in init.run.rows] == [6]


@pytest.mark.parametrize("mode", ["disabled", "offline", "dryrun"])
def test_a_mode_that_sends_nothing_needs_no_account(tmp_path, caplog, monkeypatch, mode):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(UserError, match="no API key"):
        LoggerConfig(wandb=True).check()
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", mode)
    LoggerConfig(wandb=True).check()
    assert logged(tmp_path, caplog, LoggerConfig(wandb=True)) == []
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == (mode != "disabled")


def test_a_mode_that_wandb_does_not_have_is_refused(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(UserError, match="WANDB_MODE=of must be one of online, offline, disabled"):
        LoggerConfig(wandb=True).check()
