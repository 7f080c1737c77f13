"""The corpora by name: where the files of each split are, and what is known before reading them."""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tbptt.data.config import DataConfig, Level
from tbptt.errors import UserError

SPLITS = ("train", "valid", "test")
Files = dict[str, list[Path]]


@dataclass(frozen=True)
class Corpus:
    """A corpus of one text file per split under `data.path`, named by `pattern`."""

    pattern: str
    levels: tuple[Level, ...] = (Level.word,)
    known_vocabulary: int | None = None  # published number of word types, `<eos>` included
    needs_path: bool = True

    def files(self, config: DataConfig) -> Files:
        assert config.path is not None
        files = {split: [Path(config.path).expanduser() / self.pattern.format(split)] for split in SPLITS}
        missing = [str(path) for paths in files.values() for path in paths if not path.is_file()]
        if missing:
            raise UserError(
                f"data.path={config.path} must be a folder with {', '.join(self.pattern.format(s) for s in SPLITS)}; "
                f"not there: {', '.join(missing)}"
            )
        return files

    def check(self, config: DataConfig) -> None:
        if config.level not in self.levels:
            raise UserError(
                f"data.level={config.level.name} is not how data={config.name} is read: "
                f"it may be {' or '.join(level.name for level in self.levels)}"
            )
        if not self.needs_path and config.path is not None:
            raise UserError(f"data.path has no meaning for data={config.name}: for files of your own use data=text")
        if self.needs_path and config.path is None:
            wanted = ", ".join(self.pattern.format(split) for split in SPLITS)
            raise UserError(f"data={config.name} needs data.path=FOLDER, the folder that holds {wanted}")

    def vocab_size(self, config: DataConfig) -> int | None:
        """The vocabulary's size where it is known before the text is read."""
        return 256 if config.level is Level.byte else self.known_vocabulary


class StandardLibrary(Corpus):
    """The source files of the running Python's standard library, in the order of their names' SHA-256.

    That order is the same everywhere and yet mixes the packages, so that every lane and every part of it is like the
    whole. Test packages are left out: distributions do not all ship them. Of every 40 files one is test text and one
    validation text.
    """

    LEFT_OUT: ClassVar = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}

    def files(self, config: DataConfig) -> Files:
        root = Path(sysconfig.get_path("stdlib"))
        paths = [path.relative_to(root) for path in root.rglob("*.py")]
        paths = [path for path in paths if not self.LEFT_OUT & set(path.parts)]
        paths.sort(key=lambda path: hashlib.sha256(path.as_posix().encode()).digest())
        if len(paths) < 40:
            raise UserError(f"data=stdlib: only {len(paths)} source files in {root}; use data=text data.path=FOLDER")
        files: Files = {split: [] for split in SPLITS}
        for number, path in enumerate(paths):
            files[{19: "valid", 39: "test"}.get(number % 40, "train")].append(root / path)
        return files


CORPORA: dict[str, Corpus] = {
    "stdlib": StandardLibrary(pattern="", levels=(Level.byte,), needs_path=False),
    "text": Corpus(pattern="{}.txt", levels=(Level.word, Level.char, Level.byte)),
    "wikitext2": Corpus(pattern="wiki.{}.tokens", known_vocabulary=33_278),
    "wikitext103": Corpus(pattern="wiki.{}.tokens", known_vocabulary=267_735),
}


def corpus_named(name: str) -> Corpus:
    if name not in CORPORA:
        raise UserError(f"data.name={name} is no corpus: it may be {', '.join(CORPORA)}")
    return CORPORA[name]
