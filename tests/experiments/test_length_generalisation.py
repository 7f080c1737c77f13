"""The experiment of training and reading lengths: its commands are valid, and differ in what the ways differ in."""

import csv
from itertools import pairwise

from experiments.length_generalisation import CONTINUED, MODELS, WAYS, draw, folder_of, read_curves, table, training
from tbptt.data.config import Order
from tbptt.report.positions import POSITIONS
from tbptt.training.config import ResetState
from tests.helpers import composed


def test_every_command_is_valid_and_the_ways_differ_in_order_and_reset_alone(tmp_path):
    for model in MODELS:
        configs = {way: composed(*training(tmp_path, model, way, 3, 100)) for way in WAYS | CONTINUED}
        settings = {way: (config.data.order, config.trainer.reset_state) for way, config in configs.items()}
        assert settings["ordinary"] == (Order.shuffled, ResetState.segment)
        assert settings["state passing"] == (Order.shuffled, ResetState.never)
        assert settings["truncated BPTT"] == (Order.sequential, ResetState.epoch)
        for way, config in configs.items():
            assert config.model == configs["ordinary"].model and config.model.tgt_len == 64
            assert config.trainer.max_steps == (10 if way in CONTINUED else 100)
            start = str(folder_of(tmp_path, model, "ordinary", 3)) if way in CONTINUED else None
            assert config.checkpoint == start


def test_the_curves_of_all_seeds_are_tabled_and_drawn(tmp_path):
    edges = [0, 8, 16, 32, 48, 64, 128, 192, 256, 512, 768, 1024]
    for model in MODELS:
        for way in WAYS | CONTINUED:
            for seed in (1, 2):
                folder = tmp_path / f"{folder_of(tmp_path, model, way, seed).name}-reading"
                folder.mkdir()
                with open(folder / POSITIONS, "w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerow(["first", "last", "targets", "pieces", "loss", "standard_error", "bpc"])
                    for first, behind in pairwise(edges):
                        writer.writerow([first, behind - 1, 10, 2, 1.0, 0.1, 100 / behind + seed])
    rows = list(read_curves(tmp_path, [1, 2]))
    lines = table(rows, [1, 2]).splitlines()
    assert lines[0] == "| model | trained by | 32 to 64 | 128 to 256 | 512 to 1,024 |"
    assert len(lines) == 2 + len(MODELS) * len(WAYS | CONTINUED)
    assert "3.323 (2.823 to 3.823)" in lines[2]  # (100/48 + 100/64) / 2, and 1 or 2
    draw(rows, [1, 2], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
