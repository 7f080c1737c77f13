"""Run directories for pages that compare them, and a page as a parser reads it."""

import csv
import json
import math
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

from tbptt.data.config import Level
from tbptt.report.members import Member, record_member
from tbptt.report.positions import POSITIONS
from tbptt.report.results import write_error, write_results

VOID = {"meta", "link", "br", "wbr", "img", "input", "hr"}
CONFIG = {"task": "train", "seed": 1, "checkpoint": None, "data": {"name": "text", "cache": "${oc.env:SECRET_PLACE}"}}
CONFIG |= {"model": {"name": "lstm", "layers": ["a"], "a": {"size": 3}, "b": {"size": 4}}, "generate": {"length": 9}}


def units(loss: float, level: Level) -> dict[str, float]:
    return {"loss": loss, "ppl": math.exp(loss)} | ({"bpc": loss / math.log(2)} if level is Level.byte else {})


def make_run(folder: Path, config: dict[str, Any] | None = None, loss: float = 2.0, level=Level.byte, steps=4) -> Path:
    """A finished training, whose losses end near `loss`. Every second step is validated."""
    (folder / ".hydra").mkdir(parents=True)
    config = CONFIG | (config or {})
    (folder / ".hydra/config.yaml").write_text(json.dumps(config))  # JSON is YAML
    (folder / ".hydra/overrides.yaml").write_text(
        json.dumps(["seed='" + str(config["seed"]).replace("'", "\\'") + "'"])
    )
    lines = []
    for step in range(1, steps + 1):
        line = {"step": step, "epoch": 0, "tokens": 10 * step}
        lines.append(line | units(loss + 1 / step, level) | {"tokens_per_second": 5.0 * step})
        if step % 2 == 0:
            lines.append(line | {"split": "valid"} | units(loss + 2 / step, level) | {"tokens_per_second": 100.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {"task": "train", "split": "test", "level": level.name, "vocabulary": level.name * 8, "tokens": 1234}
    train = {"tokens": 10 * steps, "tokens_per_second": 5.5, "seconds": 61.0, "best_valid_loss": loss + 0.5}
    write_results(results | units(loss, level) | {"params": 1000, "tokens_per_second": 99.0, "train": train}, folder)
    return folder


def add_positions(folder: Path, level: Level, length: int) -> list[dict[str, Any]]:
    """A table of losses by position, after training on segments of `length`; None of its errors is missing."""
    borders = [*range(8), 8, 12, 16, 32, 64]
    rows = [
        {"first": first, "last": after - 1, "targets": 5, "pieces": 5} | units(1 + 4 / (first + 1), level)
        for first, after in pairwise(borders)
    ]
    rows = [row | {"standard_error": 0.1} for row in rows]
    results = json.loads((folder / "results.json").read_text())
    write_results(results | {"trained_tgt_len": length}, folder)
    with open(folder / POSITIONS, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def make_generation(folder: Path, prompt: str, text: str) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra/config.yaml").write_text(json.dumps(CONFIG | {"task": "generate", "prompt": prompt}))
    continuation = {"file": "generated/1.txt", "tokens": 4, "log_prob": -6.0, "text": text}
    write_results({"task": "generate", "prompt": prompt, "continuations": [continuation]}, folder)
    return folder


def make_sweep(folder: Path, losses: list[float], error: str = "") -> Path:
    """One member for every loss, and one that failed if there is an error."""
    for number, loss in enumerate(losses):
        make_run(folder / str(number), {"seed": number}, loss)
        record_member(folder, number, Member(str(number), {"seed": number}, ended=True))
    if error:
        (folder / "failed").mkdir(parents=True)
        write_error(folder / "failed", error)
        record_member(folder, len(losses), Member("failed", {"seed": -1}))
    return folder


class Element:
    def __init__(self, name: str, attributes: dict[str, str | None]):
        self.name, self.attributes, self.inside = name, attributes, []

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.inside)

    def all(self, name: str = "", **attributes: str) -> list["Element"]:
        """The elements in this one, in order, of this name and with these attributes; `cls` stands for class."""
        wanted = {"class" if key == "cls" else key: value for key, value in attributes.items()}
        found = []
        for child in self.inside:
            if isinstance(child, Element):
                if name in ("", child.name) and wanted.items() <= child.attributes.items():
                    found.append(child)
                found += child.all(name, **attributes)
        return found

    def section(self, heading: str) -> "Element":
        (found,) = (each for each in self.all("section") if heading in each.all("h2")[0].text)
        return found


class Document(HTMLParser):
    """A tree of elements; AssertionError for one that is not closed."""

    def __init__(self, page: str):
        super().__init__()
        self.open = [Element("", {})]
        self.feed(page)
        self.close()
        assert len(self.open) == 1, [element.name for element in self.open]

    @property
    def root(self) -> Element:
        return self.open[0]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].inside.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)


def parse(page: Path) -> Element:
    return Document(page.read_text(encoding="utf-8")).root


def charts_of(page: Element) -> dict[str, Any]:
    return json.loads(page.all("script", id="data")[0].text)
