"""The corpora by name: file names, download addresses, published counts and licences."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from tbptt.data.config import DataConfig, Level
from tbptt.data.corpus import SPLITS, TEXT_LEVELS, Archive, Corpus, Published
from tbptt.data.documents.corpora import DocumentFiles, HubDataset, files_below, raising
from tbptt.data.sources import Source, Sources
from tbptt.errors import UserError

LM1B = "1-billion-word-language-modeling-benchmark-r13output"


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
            one, many = folder / f"{split}.txt", folder / split
            below = files_below(many) if many.is_dir() else []
            if paths := [one] if one.is_file() else [path for path in below if path.suffix == ".txt"]:
                found[split] = [Source(path) for path in paths]
        return found if len(found) == len(SPLITS) else None


@dataclass(frozen=True)
class Fairseq(Corpus):
    """A data-bin folder written by fairseq-preprocess."""

    def check(self, config: DataConfig) -> None:
        super().check(config)
        if config.lower or config.min_count > 1 or config.max_vocab is not None or config.vocabulary is not None:
            raise UserError(
                "data=fairseq has its words in dict.txt: remove data.lower, data.min_count, data.max_vocab and "
                "data.vocabulary"
            )

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
        super().check(replace(config, path=str(self.home)))

    @property
    def home(self) -> Path:
        return Path(sysconfig.get_path("stdlib"))

    def find(self, folder: Path) -> Sources:
        paths = []
        for root, folders, names in os.walk(folder, onerror=raising):
            folders[:] = [name for name in folders if name not in self.EXCLUDED]
            paths += [Path(root, name).relative_to(folder) for name in names if name.endswith(".py")]
        paths.sort(key=lambda path: hashlib.sha256(path.as_posix().encode()).digest())
        if len(paths) < 40:
            raise UserError(f"data=stdlib: {folder} has only {len(paths)} source files; use data=text data.path=FOLDER")
        found: Sources = {split: [] for split in SPLITS}
        for number, path in enumerate(paths):
            found[{19: "valid", 39: "test"}.get(number % 40, "train")].append(Source(folder / path))
        return found


def _per_split(pattern: str) -> dict[str, str]:
    return {split: pattern.format(split) for split in SPLITS}


def _wikitext(version: str, shards: int) -> dict[str, list[str]]:
    train = [f"{version}/train-{i:05d}-of-{shards:05d}.parquet" for i in range(shards)]
    held_out = {"valid": "validation", "test": "test"}
    return {"train": train} | {s: [f"{version}/{name}-00000-of-00001.parquet"] for s, name in held_out.items()}


_MAHONEY = Published({"train": 90_000_000, "valid": 5_000_000, "test": 5_000_000})
_HELD_OUT = "heldout-monolingual.tokenized.shuffled/news.en.heldout-0000{}-of-00050"

CORPORA: dict[str, Corpus] = {
    "stdlib": StandardLibrary("Python's standard library", {}, (Level.byte,), licence="PSF", document="file"),
    "text": Folder("your own text", _per_split("{}.txt"), TEXT_LEVELS, document="file"),
    "documents": DocumentFiles("your own documents", {}, TEXT_LEVELS, document="file"),
    "hub": HubDataset("a data set of the Hugging Face hub", {}, TEXT_LEVELS, document="file"),
    "pg19": HubDataset(
        "PG-19",
        {},
        TEXT_LEVELS,
        published=Published({}, documents={"train": 28_602, "valid": 50, "test": 100}),
        licence="Apache 2.0 (the collection); books in the public domain of the USA",
        document="file",
    ),
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
        document="article",
    ),
    "wikitext103": Corpus(
        "WikiText-103",
        _per_split("wiki.{}.tokens"),
        TEXT_LEVELS,
        Archive("wikitext-103-v1.zip", "https://huggingface.co"),
        _wikitext("wikitext-103-v1", 2),
        Published({"train": 103_227_021, "valid": 217_646, "test": 245_569}, 267_735),
        "CC BY-SA 3.0",
        document="article",
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
