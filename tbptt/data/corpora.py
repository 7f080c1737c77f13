"""The corpora by name: file names, download addresses, published counts and licences."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tbptt.data.config import DataConfig, Level
from tbptt.data.sources import Source, Sources
from tbptt.data.vocabulary import EOS
from tbptt.errors import UserError

SPLITS = ("train", "valid", "test")
TEXT_LEVELS = (Level.word, Level.char, Level.byte, Level.bpe)
LM1B = "1-billion-word-language-modeling-benchmark-r13output"


@dataclass(frozen=True)
class Archive:
    """The file a corpus is distributed as."""

    name: str
    url: str
    size: int | None = None  # bytes, where known
    sha256: str | None = None


@dataclass(frozen=True)
class Published:
    """Published counts: tokens per split, and types of the training text, at the first of the corpus's levels."""

    tokens: dict[str, int]
    types: int | None = None


@dataclass(frozen=True)
class Corpus:
    """A corpus with separate files per split, searched by name in `data.path`, its subfolders, or an archive in it."""

    title: str
    files: dict[str, str]  # split -> file name, or a glob pattern of files read in order of their names
    levels: tuple[Level, ...] = (Level.word,)
    archive: Archive | None = None
    hub: dict[str, list[str]] = field(default_factory=dict)  # split -> parquet files on the Hugging Face hub
    published: Published | None = None
    licence: str = ""
    lower: bool = False  # the published text is lower case
    line_end: str = EOS  # at level word: the symbol after every line
    line_start: str = ""  # at level word: the symbol before every line

    def check(self, config: DataConfig) -> None:
        """UserError for invalid settings, without searching for files."""
        if config.level not in self.levels:
            raise UserError(
                f"data.level={config.level.name} is not available for data={config.name}: "
                f"use {' or '.join(level.name for level in self.levels)}"
            )
        if config.path is None and self.archive is None:
            raise UserError(f"data={config.name} needs data.path=FOLDER, a folder with {self.expected()}")
        if config.path is not None and not Path(config.path).expanduser().exists():
            raise UserError(f"data.path={config.path} does not exist: it must be a folder with {self.expected()}")
        if config.path is not None and Path(config.path).expanduser().is_dir():
            os.scandir(Path(config.path).expanduser()).close()  # `glob` takes a folder that may not be read as empty

    def expected(self) -> str:
        """The names of the expected files, for messages."""
        names = ", ".join(dict.fromkeys(self.files.values()))
        return f"{names}, or {self.archive.name}" if self.archive else names

    def find(self, folder: Path) -> Sources | None:
        """The sources of all splits in `folder` or its subfolders; None if any is missing."""
        found: Sources = {}
        for split in SPLITS:
            for depth in ("", "*/", "*/*/"):
                paths = sorted(path for path in folder.glob(depth + self.files[split]) if path.is_file())
                if paths:
                    found[split] = [Source(path) for path in paths]
                    break
        return found if len(found) == len(SPLITS) else None

    def vocab_size(self, config: DataConfig) -> int | None:
        """The vocabulary size if it is known before the text is read, else None."""
        if config.level is Level.byte:
            return 256
        as_published = config.level is Level.word and config.check_counts and config.vocabulary is None
        unchanged = config.min_count == 1 and config.max_vocab is None and config.lower == self.lower
        return self.published.types if self.published and as_published and unchanged else None


@dataclass(frozen=True)
class OneFile(Corpus):
    """A corpus in one file of 100,000,000 bytes: the splits are the first 90, the next 5 and the last 5 million."""

    EDGES: ClassVar = (0, 90_000_000, 95_000_000, 100_000_000)

    def find(self, folder: Path) -> Sources | None:
        found = super().find(folder)
        if found is None:
            return None
        path = found["train"][0].path
        if path.stat().st_size != self.EDGES[-1]:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes, but {self.title} has {self.EDGES[-1]:,}")
        return {split: [Source(path, *self.EDGES[i : i + 2])] for i, split in enumerate(SPLITS)}


@dataclass(frozen=True)
class Folder(Corpus):
    """A user's own text: train.txt, valid.txt, test.txt, or folders of these names with .txt files."""

    def find(self, folder: Path) -> Sources | None:
        found: Sources = {}
        for split in SPLITS:
            one, many = folder / f"{split}.txt", _texts(folder / split)
            if paths := [one] if one.is_file() else many:
                found[split] = [Source(path) for path in paths]
        return found if len(found) == len(SPLITS) else None


@dataclass(frozen=True)
class Fairseq(Corpus):
    """A data-bin folder written by fairseq-preprocess."""

    def find(self, folder: Path) -> Sources | None:
        found = {s: [Source(folder / name) for name in (f"{s}.bin", f"{s}.idx", "dict.txt")] for s in SPLITS}
        wanted = [folder / "dict.txt", *(folder / f"{split}.{end}" for split in SPLITS for end in ("idx", "bin"))]
        return found if all(path.is_file() for path in wanted) else None


@dataclass(frozen=True)
class StandardLibrary(Corpus):
    """The source files of the running Python's standard library, ordered by the SHA-256 of their names.

    This order is reproducible and mixes the packages, so that all parts of the stream have similar text. Test packages
    are excluded because some distributions do not ship them. Of every 40 files, one is test and one validation text.
    """

    EXCLUDED: ClassVar = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}

    def check(self, config: DataConfig) -> None:
        if config.path is not None or config.url is not None:
            raise UserError("data=stdlib does not take data.path or data.url: for your own files use data=text")
        super().check(DataConfig(config.name, path=str(self.home), level=config.level))

    @property
    def home(self) -> Path:
        return Path(sysconfig.get_path("stdlib"))

    def find(self, folder: Path) -> Sources:
        paths = []
        for root, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if name not in self.EXCLUDED]
            paths += [Path(root, name).relative_to(folder) for name in names if name.endswith(".py")]
        paths.sort(key=lambda path: hashlib.sha256(path.as_posix().encode()).digest())
        if len(paths) < 40:
            raise UserError(f"data=stdlib: {folder} has only {len(paths)} source files; use data=text data.path=FOLDER")
        found: Sources = {split: [] for split in SPLITS}
        for number, path in enumerate(paths):
            found[{19: "valid", 39: "test"}.get(number % 40, "train")].append(Source(folder / path))
        return found


def _texts(folder: Path) -> list[Path]:
    """The .txt files below a folder, in order. PermissionError for a folder in it that may not be read."""
    if not folder.is_dir():
        return []
    walk = os.walk(folder, onerror=_raise)
    return sorted(Path(root, name) for root, _, names in walk for name in names if name.endswith(".txt"))


def _raise(error: OSError) -> None:
    raise error


def _per_split(pattern: str) -> dict[str, str]:
    return {split: pattern.format(split) for split in SPLITS}


def _wikitext(version: str, shards: int) -> dict[str, list[str]]:
    train = [f"{version}/train-{i:05d}-of-{shards:05d}.parquet" for i in range(shards)]
    held_out = {"valid": "validation", "test": "test"}
    return {"train": train} | {s: [f"{version}/{name}-00000-of-00001.parquet"] for s, name in held_out.items()}


_MAHONEY = Published({"train": 90_000_000, "valid": 5_000_000, "test": 5_000_000})
_HELD_OUT = "heldout-monolingual.tokenized.shuffled/news.en.heldout-0000{}-of-00050"

CORPORA: dict[str, Corpus] = {
    "stdlib": StandardLibrary("Python's standard library", {}, (Level.byte,), licence="PSF"),
    "text": Folder("your own text", _per_split("{}.txt"), TEXT_LEVELS),
    "fairseq": Fairseq(
        "what fairseq-preprocess wrote",
        {"train": "dict.txt", "valid": "{train,valid,test}.idx", "test": "{train,valid,test}.bin"},
    ),
    "wikitext2": Corpus(
        "WikiText-2",
        _per_split("wiki.{}.tokens"),
        TEXT_LEVELS,
        Archive("wikitext-2-v1.zip", "https://huggingface.co"),
        _wikitext("wikitext-2-v1", 1),
        Published({"train": 2_088_628, "valid": 217_646, "test": 245_569}, 33_278),
        "CC BY-SA 3.0",
    ),
    "wikitext103": Corpus(
        "WikiText-103",
        _per_split("wiki.{}.tokens"),
        TEXT_LEVELS,
        Archive("wikitext-103-v1.zip", "https://huggingface.co"),
        _wikitext("wikitext-103-v1", 2),
        Published({"train": 103_227_021, "valid": 217_646, "test": 245_569}, 267_735),
        "CC BY-SA 3.0",
    ),
    "enwik8": OneFile(
        "enwik8",
        _per_split("enwik8"),
        (Level.byte,),
        Archive(
            "enwik8.zip",
            "http://mattmahoney.net/dc/enwik8.zip",
            36_445_475,
            "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
        ),
        published=_MAHONEY,
        licence="CC BY-SA 3.0, GFDL",
    ),
    "text8": OneFile(
        "text8",
        _per_split("text8"),
        (Level.char, Level.byte),
        Archive(
            "text8.zip",
            "http://mattmahoney.net/dc/text8.zip",
            31_344_016,
            "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
        ),
        published=Published(_MAHONEY.tokens, 27),
        licence="CC BY-SA 3.0, GFDL",
    ),
    "lm1b": Corpus(
        "One Billion Word Benchmark",
        {
            "train": "training-monolingual.tokenized.shuffled/news.en-*-of-00100",
            "valid": _HELD_OUT.format(0),
            "test": _HELD_OUT.format(0),
        },
        (Level.word,),
        Archive(
            f"{LM1B}.tar.gz",
            f"http://www.statmt.org/lm-benchmark/{LM1B}.tar.gz",
            1_792_209_805,
            "01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e",
        ),
        # 768,648,884 words in 30,301,028 sentences, and 153,583 in 6,075; every sentence adds two <S>
        published=Published({"train": 829_250_940, "valid": 165_733, "test": 165_733}),
        licence="of its news sources",
        line_end="<S>",
        line_start="<S>",
    ),
    "ptb": Corpus(
        "Penn Treebank (Mikolov's)",
        _per_split("ptb.{}.txt"),
        (Level.word, Level.char, Level.byte),
        Archive("simple-examples.tgz", "http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz"),
        published=Published({"train": 929_589, "valid": 73_760, "test": 82_430}, 10_000),
        licence="LDC user agreement",
        lower=True,
    ),
}


def corpus_named(name: str) -> Corpus:
    """The corpus of this name. UserError if there is none."""
    if name not in CORPORA:
        raise UserError(f"data.name={name} is not a corpus: use one of {', '.join(CORPORA)}")
    return CORPORA[name]
