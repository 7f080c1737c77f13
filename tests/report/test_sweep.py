"""The table and the figure of a sweep, from the records of its members."""

import csv
import json
import math
from pathlib import Path

import pytest

from tbptt.report.members import Member, forget_members, members_in, record_member, settings_of
from tbptt.report.results import begin, objective, read_error, read_results, write_error, write_results
from tbptt.report.sweep import report_sweeps

RESULTS = {"level": "byte", "vocabulary": "A", "loss": 2.0, "ppl": 7.4, "bpc": 2.9, "tokens": 9}


def record(sweep_dir: Path, number: int, settings: dict, results: dict | None = None, **more) -> Path:
    member = Member(str(number), settings, **more)
    record_member(sweep_dir, number, member)
    folder = sweep_dir / member.folder
    folder.mkdir(exist_ok=True)
    if results is not None:
        write_results(RESULTS | results, folder)
    return folder


def rows_of(sweep_dir: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((sweep_dir / "sweep.csv").read_text().splitlines()))


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ({"level": "word", "vocabulary": "B", "ppl": 2.7}, "2 different vocabularies"),
        ({"vocabulary": "B"}, "2 different vocabularies"),
        ({"level": "bpe", "vocabulary": "C"}, "2 different vocabularies"),
        ({"text_sha256": "1"}, "2 different texts"),
    ],
)
def test_losses_of_different_tokens_or_texts_are_no_contest(tmp_path, capsys, unit, said):
    record(tmp_path, 0, {"seed": 1}, {"text_sha256": "0"})
    record(tmp_path, 1, {"seed": 2}, {"loss": 1.0})
    report_sweeps([tmp_path], tmp_path)
    assert capsys.readouterr().out.count("<- best") == 1 and (tmp_path / "sweep.png").exists()
    record(tmp_path, 1, {"seed": 2}, {"loss": 1.0} | unit)
    report_sweeps([tmp_path], tmp_path)
    printed = capsys.readouterr().out
    assert "<- best" not in printed and said in printed
    assert [row["loss"] for row in rows_of(tmp_path)] == ["2.0", "1.0"]
    assert not (tmp_path / "sweep.png").exists(), "the figure of the first sweep"


def test_a_diverged_member_is_not_the_best(tmp_path, capsys):
    for number, loss in enumerate((float("nan"), 2.0, 3.0)):
        record(tmp_path, number, {"seed": number}, {"loss": loss})
    report_sweeps([tmp_path], tmp_path)
    (best,) = (line for line in capsys.readouterr().out.splitlines() if line.endswith("<- best"))
    assert best.split()[0] == "1"


def test_the_table_is_of_the_members_of_this_sweep(tmp_path, capsys):
    for number in range(3):
        record(tmp_path, number, {"seed": number}, {})
    forget_members(tmp_path)
    report_sweeps([tmp_path], tmp_path)
    assert "no member of the sweep was started" in capsys.readouterr().out
    record(tmp_path, 0, {"seed": 7}, {})
    report_sweeps([tmp_path], tmp_path)
    assert len(rows_of(tmp_path)) == 1


def test_an_error_is_told_only_until_it_is_repaired(tmp_path):
    folder = record(tmp_path, 0, {"seed": 1})
    member = members_in(tmp_path)[0]
    assert member.row(tmp_path)["status"] == "unfinished"
    write_error(folder, "Traceback\nValueError: no")
    assert member.row(tmp_path)["status"] == "failed: ValueError: no"
    write_results(RESULTS, folder)
    assert not (folder / "error.txt").exists() and member.row(tmp_path)["status"] == "done"
    (folder / "error.txt").write_text("left by an older version")
    assert member.row(tmp_path)["status"] == "done" and read_error(folder) == ""


def test_a_start_leaves_its_error_only_in_a_folder_that_it_has_taken_over(tmp_path):
    finished, interrupted, own = (tmp_path / name for name in ("finished", "interrupted", "own"))
    for folder in (finished, interrupted / "checkpoints", own / "checkpoints"):
        folder.mkdir(parents=True)
    write_results(RESULTS, finished)
    begin(own, is_main=True)
    for folder in (finished, interrupted, own):
        write_error(folder, "refused")
    assert [(folder / "error.txt").exists() for folder in (finished, interrupted, own)] == [False, False, True]
    assert json.loads((finished / "results.json").read_text()) == RESULTS


def test_a_refused_member_has_its_error_though_its_folder_holds_another_run(tmp_path):
    record(tmp_path, 0, {}, {}, refused="belongs to another run")
    assert members_in(tmp_path)[0].row(tmp_path)["status"] == "failed: belongs to another run"


def test_settings_are_read_as_hydra_reads_them():
    words = ["+a.b=010", "c=1_000", "d='3e5'", "e=x\\,y", "f=${g}%*@", "eval/dynamic=sgd", "h=[1,2]", "i=null", "~j"]
    assert settings_of(words) == {
        "a.b": "010", "c": 1000, "d": "3e5", "e": "x,y", "f": "${g}%*@", "eval/dynamic": "sgd", "h": "[1,2]",
        "i": None, "~j": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    "results, expected",
    [
        ({"loss": 2.0}, 2.0),
        ({"loss": 2.0, "dynamic_loss": 1.5}, 1.5),
        ({"loss": 2.0, "train": {"best_valid_loss": 3.0}}, 3.0),
        ({"loss": float("nan")}, float("inf")),
        ({}, None),
    ],
)
def test_a_search_minimises_a_number_that_can_be_compared(tmp_path, results, expected):
    write_results(results, tmp_path)
    assert objective(tmp_path) == expected


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_results_that_are_not_finite_are_json_and_come_back(tmp_path, loss):
    train = {"best_valid_loss": loss, "steps": 3}
    write_results({"loss": loss, "ppl": 2.0, "signal": None, "train": train}, tmp_path)

    def refuse(constant):
        raise AssertionError(constant)

    kept = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert kept == {"loss": None, "ppl": 2.0, "signal": None, "train": {"best_valid_loss": None, "steps": 3}}
    back = read_results(tmp_path)
    assert math.isnan(back["loss"]) and math.isnan(back["train"]["best_valid_loss"]) and back["signal"] is None
    assert objective(tmp_path) == math.inf
