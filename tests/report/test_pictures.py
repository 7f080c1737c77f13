"""Pictures: names are plain text, and one that fails costs nothing but itself."""

import logging

import pytest

from tbptt.data.config import Level
from tbptt.report.curves import draw_curves
from tbptt.report.sweep_figure import draw_sweep

METRICS = [{"tokens": tokens, "ppl": 9.0, "bpc": 3.0 - tokens / 99} for tokens in range(1, 9)]
NAMES = ["p$^$q", "$a$ \\$b", "\\frac", "x_^{", "\\\\$$", "汉字"]
ROWS = [{"level": "byte", "bpc": number, "prompt": name, "seed": 1} for number, name in enumerate(NAMES)]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_plain_text(tmp_path, name, caplog):
    assert draw_curves(METRICS, Level.byte, tmp_path / "curves.png", name)
    assert draw_sweep(ROWS, ["prompt"], "", tmp_path / "names.png")
    numbered = [row | {"seed": seed} for row in ROWS for seed in (1, 2)]
    assert draw_sweep(numbered, ["prompt", "seed"], "", tmp_path / "legend.png")
    assert draw_sweep([row | {name: row["bpc"]} for row in ROWS], [name], "", tmp_path / "axis.png")
    assert not caplog.records


def test_a_picture_that_fails_is_a_warning(tmp_path, caplog):
    target = tmp_path / "sweep.png"
    target.write_text("of an earlier start")
    with caplog.at_level(logging.WARNING):
        assert not draw_sweep([{"level": "byte", "seed": 1}], ["seed"], "", target)
        assert not draw_curves(METRICS, Level.byte, tmp_path / "nowhere/curves.png", "run")
    assert len(caplog.records) == 2 and not target.exists()
