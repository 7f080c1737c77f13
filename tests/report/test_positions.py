"""Tables and figures of losses by position, of a run and of all members of a sweep."""

import csv
import math
from pathlib import Path

import pytest

from tbptt.data.config import Level
from tbptt.report.members import Member, record_member
from tbptt.report.positions import TRAINED, forget_positions, read_positions, write_positions
from tbptt.report.results import write_results
from tbptt.report.sweep import report_sweeps
from tests.commands import looks_like_a_picture

LEVELS = pytest.mark.parametrize("level", [Level.byte, Level.word])


def rows(level: Level, offset: float = 0, pieces: int = 5) -> list[dict]:
    """Of pieces of 23 tokens."""
    firsts = [*range(8), 8, 10, 12, 14, 16, 20]
    found = []
    for first, after in zip(firsts, [*firsts[1:], 23]):
        loss = offset + 1 + 4 / (first + 1)
        error = 0.1 if pieces > 1 else None
        row = {"first": first, "last": after - 1, "targets": pieces * (after - first), "pieces": pieces}
        units = {"ppl": math.exp(loss)} | ({"bpc": loss / math.log(2)} if level is Level.byte else {})
        found.append(row | {"loss": loss, "standard_error": error} | units)
    return found


def member(sweep_dir: Path, number: int, settings: dict, level: Level, table: list[dict], **results) -> None:
    record_member(sweep_dir, number, Member(str(number), settings))
    folder = sweep_dir / str(number)
    folder.mkdir()
    found = {"level": level.name, "vocabulary": "A", "loss": 1.5, "ppl": 4.5, "bpc": 2.2, TRAINED: 16}
    write_results(found | results, folder)
    write_positions(table, level, 16, folder)


@LEVELS
@pytest.mark.parametrize("pieces", [1, 5])
def test_the_table_of_a_run_is_what_was_written(tmp_path, level, pieces, caplog):
    written = rows(level, pieces=pieces)
    write_positions(written, level, 16, tmp_path)
    assert read_positions(tmp_path) == written
    assert looks_like_a_picture(tmp_path / "positions.png") and not caplog.records
    forget_positions(tmp_path)
    assert read_positions(tmp_path) == [] and not list(tmp_path.iterdir())


@LEVELS
def test_a_sweep_has_the_rows_of_all_its_members(tmp_path, level, capsys):
    for number, offset in enumerate((0.0, 0.5)):
        member(tmp_path, number, {"checkpoint": f"runs/{'AB'[number]}"}, level, rows(level, offset))
    member(tmp_path, 2, {"checkpoint": "runs/C"}, level, rows(level))
    (tmp_path / "2/positions.csv").unlink()
    report_sweeps([tmp_path], tmp_path)
    found = list(csv.DictReader((tmp_path / "sweep_positions.csv").read_text().splitlines()))
    expected = [("runs/A", row) for row in rows(level)] + [("runs/B", row) for row in rows(level, 0.5)]
    for row, (checkpoint, values) in zip(found, expected, strict=True):
        assert row.pop("checkpoint") == checkpoint
        assert {key: float(value) for key, value in row.items()} == values
    assert looks_like_a_picture(tmp_path / "sweep_positions.png")
    assert "sweep_positions.png" in capsys.readouterr().out


def test_curves_of_different_vocabularies_are_not_drawn_together(tmp_path, capsys):
    for number, vocabulary in enumerate("AB"):
        member(tmp_path, number, {"seed": number}, Level.byte, rows(Level.byte), vocabulary=vocabulary)
    (tmp_path / "sweep_positions.png").write_text("of an earlier sweep")
    report_sweeps([tmp_path], tmp_path)
    assert not (tmp_path / "sweep_positions.png").exists() and (tmp_path / "sweep_positions.csv").exists()
    assert "different vocabularies" in capsys.readouterr().out


def test_a_run_keeps_its_table_when_it_is_reported_as_a_sweep_of_one(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_results({"level": "byte", "vocabulary": "A", "loss": 1.5, "bpc": 2.2, TRAINED: 16}, run)
    write_positions(rows(Level.byte), Level.byte, 16, run)
    report_sweeps([run], run)
    assert read_positions(run) == rows(Level.byte) and (run / "sweep_positions.png").exists()


def test_a_sweep_without_positions_has_no_such_files(tmp_path):
    record_member(tmp_path, 0, Member("0", {"seed": 1}))
    write_results({"level": "byte", "vocabulary": "A", "loss": 1.5, "bpc": 2.2}, tmp_path)
    report_sweeps([tmp_path], tmp_path)
    assert not list(tmp_path.glob("*positions*"))
