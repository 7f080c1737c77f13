"""Wrong commands: each must end with a sentence and a non-zero exit, and leave nothing half written.

    python -m experiments.bad_inputs [--every N]

Wrong types for every typed key, values out of range, choices that are not there, what tasks need and do not get; files
that are empty, binary, truncated, huge, unreadable or folders, in every place where a command reads a file. Every
command is a process of its own. Prints a line for each that is not answered as it should, and a table of all kinds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from tbptt.cli import config as schemas
from tests.commands import ROOT, SMALL
from tests.forked_commands import run_forked

GROUPS: dict[str, dict[str, type]] = {
    "model": dict(schemas.models.CONFIGS),
    "optimizer": dict(schemas.optimizers.CONFIGS),
    "scheduler": dict(schemas.schedules.CONFIGS),
    "generate": dict(schemas.generation.CONFIGS),
    "eval/dynamic": dict(schemas.dynamic_config.CONFIGS),
    "logger": {"wandb": schemas.LoggerConfig},
    "data": {"stdlib": schemas.DataConfig},
    "trainer": {"default": schemas.TrainerConfig},
    "eval": {"default": schemas.EvalConfig},
}
CHOICES = {"transformer_xl": "txl_tiny"}  # of conf/model, where they are not called like their schema
WRONG_TYPES: dict[type, list[str]] = {
    int: ["many", "1.5", "[1]"],
    float: ["fast", "[0.1]"],
    bool: ["maybe", "3.5"],
    list: ["7"],
}
COMMANDS = Path(__file__).with_suffix(".txt")  # values out of range, and contradictions


@dataclass
class Case:
    kind: str
    words: list[str]


def wrong_types() -> Iterator[Case]:
    """Every typed key of every schema, with values of other types."""
    for group, choices in GROUPS.items():
        for name, schema in choices.items():
            choice = [] if group in ("data", "trainer", "eval") else [f"{group}={CHOICES.get(name, name)}"]
            for key, kind in typed_keys(schema):
                values = ["nonsense"] if issubclass(kind, Enum) else WRONG_TYPES.get(kind, [])
                for value in values:
                    yield Case("wrong type", [*choice, f"{group.replace('/', '.')}.{key}={value}"])
        yield Case("wrong choice", [f"{group}=nonsense"])
        yield Case("unknown key", [f"{group.replace('/', '.')}.nonsense=1"])
    for key in ("seed", "import.format", "export.format", "task"):
        yield Case("wrong type", [f"{key}=nonsense"])


def typed_keys(schema: type) -> Iterator[tuple[str, type]]:
    """The fields of a dataclass and the type of each; of an optional one, the type it has if it is given."""
    hints = get_type_hints(schema)
    for each in fields(schema):
        hint: Any = hints[each.name]
        kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)]
        kind = hint.__origin__ if getattr(hint, "__origin__", None) is list else kinds[0]
        if isinstance(kind, type) and not is_dataclass(kind) and each.name != "name":
            yield each.name, kind


def empty(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(255, 0, -1)) * 20)


def truncated(path: Path) -> None:
    """The first half of what is there, or of a JSON text."""
    content = path.read_bytes() if path.is_file() else b'{"names": ["values", '
    path.write_bytes(content[: len(content) // 2])


def huge(path: Path) -> None:
    """A gigabyte of zeros that takes no room on the disk."""
    path.write_bytes(b"")
    os.truncate(path, 1 << 30)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def unreadable(path: Path) -> None:
    """A link to itself, which root cannot read either."""
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


DAMAGES: list[Callable[[Path], None]] = [empty, binary, truncated, folder, unreadable]
TEXT = ["data=text", "data.path=damaged"]
TRAINED = ["task=eval", "checkpoint=damaged"]
READ_FILES: list[tuple[str, list[str]]] = [  # of the folder `damaged`: the file, and the command that reads it
    ("train.txt", [*TEXT, "data.level=word"]),
    ("train.txt", [*TEXT, "data.level=char"]),
    ("train.txt", [*TEXT, "data.level=bpe"]),
    ("valid.txt", [*TEXT, "data.level=word"]),
    ("test.txt", ["task=prepare", *TEXT, "data.level=word"]),
    ("words.txt", [*TEXT, "data.level=word", "data.vocabulary=damaged/words.txt"]),
    ("words.json", [*TEXT, "data.level=word", "data.vocabulary=damaged/words.json"]),
    ("tokenizer.json", [*TEXT, "data.level=bpe", "data.vocabulary=damaged/tokenizer.json"]),
    ("enwik8.zip", ["data=enwik8", "data.path=damaged"]),
    ("checkpoints/last/model.safetensors", TRAINED),
    ("checkpoints/last/checkpoint.json", TRAINED),
    ("checkpoints/last/SHA256SUMS", TRAINED),
    ("checkpoints/last/model.safetensors", ["task=export", "checkpoint=damaged", "export.format=safetensors",
                                            "export.path=out"]),
    ("vocabulary.json", [*TRAINED, "data=text", "data.path=text/test.txt"]),
    ("prompt.txt", ["task=generate", "checkpoint=trained", "generate.prompt_file=damaged/prompt.txt"]),
    ("own.txt", ["task=eval", "checkpoint=trained", "data=text", "data.path=damaged/own.txt"]),
    ("config.json", ["task=import", "import.format=hf", "import.path=damaged"]),
    ("model.safetensors", ["task=import", "import.format=original", "import.path=damaged/model.safetensors"]),
    ("model.npz", ["task=import", "import.format=original", "import.path=damaged/model.npz"]),
    ("model.pt", ["task=import", "import.format=original", "import.path=damaged/model.pt"]),
    ("args.json", ["task=import", "import.format=original", "import.path=damaged/whole.pt",
                   "import.config=damaged/args.json"]),
    ("checkpoint.pt", ["task=import", "import.format=fairseq", "import.path=damaged/checkpoint.pt"]),
    ("checkpoint.pt", ["task=import", "import.format=nvidia", "import.path=damaged/checkpoint.pt"]),
]  # fmt: skip
HARMLESS = {  # what is no fault there: a text of bytes, an empty prompt, a split that is only shorter
    ("empty", "prompt.txt"),
    ("truncated", "prompt.txt"),
    ("truncated", "own.txt"),
    ("binary", "own.txt"),
    ("truncated", "train.txt"),
    ("truncated", "valid.txt"),
    ("truncated", "test.txt"),
}


def all_cases() -> list[Case]:
    cases, kind = [], ""
    for line in COMMANDS.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            kind = line.removeprefix("# ")
        elif line:
            cases.append(Case(kind, line.split()))
    for name, words in READ_FILES:
        for damage in [*DAMAGES, *([huge] if name in ("words.txt", "checkpoint.pt", "config.json") else [])]:
            if (damage.__name__, name) not in HARMLESS:
                cases.append(Case(f"{damage.__name__} file", [f"@{name}", *words]))
    return [*wrong_types(), *cases]


class Workplace:
    """A folder with a small corpus and a trained run; every command finds it as it was."""

    def __init__(self, folder: Path):
        self.folder, self.env = folder, os.environ | {"TBPTT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        text = (ROOT / "tbptt/training/checkpoints.py").read_text(encoding="utf-8")
        (folder / "text").mkdir()
        for split, part in (("train", text[:4000]), ("valid", text[4000:5000]), ("test", text[5000:6000])):
            (folder / f"text/{split}.txt").write_text(part, encoding="utf-8")
        code, printed = self.run([*SMALL, "hydra.run.dir=trained"])
        assert code == 0, printed

    def run(self, words: list[str]) -> tuple[int, str]:
        return run_forked([str(ROOT / "run.py"), *words], self.folder, self.env)

    def prepare(self, case: Case) -> list[str]:
        """The command of a case, its damaged file in place."""
        if not case.words[0].startswith("@"):
            words = case.words if case.words[0].startswith(("task=", "data=", "model=lstm")) else [*SMALL, *case.words]
            return words
        damaged, name = self.folder / "damaged", case.words[0][1:]
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(self.folder / "trained", damaged, symlinks=True)
        for split in ("train", "valid", "test"):
            shutil.copy(self.folder / f"text/{split}.txt", damaged)
        damage = {each.__name__: each for each in [*DAMAGES, huge]}[case.kind.split()[0]]
        damage(damaged / name)
        return [*SMALL, *case.words[1:]] if case.words[1].startswith("data=") else case.words[1:]

    def left(self) -> set[Path]:
        """Files that tell of something finished, or half written."""
        patterns = ("**/results.json", "**/checkpoints", "**/*.writing", "**/*.building", "**/*.new", "out")
        found = {path for pattern in patterns for path in self.folder.glob(pattern)}
        return {path for path in found if "damaged" not in path.parts or path.name == "results.json"}


def fault(place: Workplace, case: Case) -> str:
    """What is wrong with the answer to a command; empty if nothing is."""
    words, before = place.prepare(case), place.left()
    code, printed = place.run(words)
    errors = [line for line in printed.splitlines() if line.startswith("Error")]
    if code == 0:
        return f"exit 0: {printed.strip().splitlines()[-1:]}"
    if "Traceback" in printed:
        return f"a traceback: {printed.strip().splitlines()[-1]}"
    if len(errors) != 1 or not printed.strip().splitlines()[-1].startswith("Error: "):
        return f"{len(errors)} lines of errors: {errors or printed.strip().splitlines()[-2:]}"
    if left := place.left() - before:
        return f"left behind: {', '.join(str(path.relative_to(place.folder)) for path in left)}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="only every so-manieth case")
    cases = all_cases()[:: parser.parse_args().every]
    count: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as where:
        place = Workplace(Path(where))
        for case in cases:
            count[case.kind] += 1
            if found := fault(place, case):
                wrong[case.kind] += 1
                print(f"{case.kind}: {' '.join(case.words)}: {found}", flush=True)
    print("| kind | commands | not answered as it should be |\n| --- | ---: | ---: |")
    for kind in count:
        print(f"| {kind} | {count[kind]} | {wrong[kind]} |")
    print(f"| all | {count.total()} | {wrong.total()} |")
    sys.exit(wrong.total() > 0)


if __name__ == "__main__":
    main()
