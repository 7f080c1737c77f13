"""Every corpus in a few words, under the names of its distribution."""

import io
import tarfile
import zipfile
from pathlib import Path

from tbptt.data.config import DataConfig, Level
from tbptt.data.corpora import CORPORA, LM1B, SPLITS
from tbptt.data.prepare import open_corpus
from tests.data.small_corpora import corpus_config

TRAIN, VALID, TEST = b"a b <unk> c\n\nb a\n", b"b b\n", b"a c\n"
_HELD_OUT = f"{LM1B}/heldout-monolingual.tokenized.shuffled/news.en.heldout-0000{{}}-of-00050"
MEMBERS = {  # by corpus: what its archive holds
    "wikitext2": {f"wikitext-2/wiki.{s}.tokens": text for s, text in zip(SPLITS, (TRAIN, VALID, TEST))},
    "wikitext103": {f"wikitext-103/wiki.{s}.tokens": text for s, text in zip(SPLITS, (TRAIN, VALID, TEST))},
    "enwik8": {"enwik8": TRAIN + VALID + TEST},
    "text8": {"text8": TRAIN + VALID + TEST},
    "lm1b": {
        f"{LM1B}/training-monolingual.tokenized.shuffled/news.en-00001-of-00100": TRAIN,
        _HELD_OUT.format(0): TEST,
        _HELD_OUT.format(1): b"not this\n",
    },
    "ptb": {f"./simple-examples/data/ptb.{s}.txt": text for s, text in zip(SPLITS, (TRAIN, VALID, TEST))}
    | {f"./simple-examples/data/ptb.char.{s}.txt": b"not this\n" for s in SPLITS}
    | {"./simple-examples/README": b"not this\n"},
}


def packed(name: str, members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    else:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def archive_of(name: str) -> tuple[str, bytes]:
    file = CORPORA[name].archive.name
    return file, packed(file, MEMBERS[name])


def config_of(folder: Path, name: str, **settings) -> DataConfig:
    level = {"enwik8": Level.byte, "text8": Level.char}.get(name, Level.word)
    return corpus_config(folder, level, name, **{"path": None, "cache": str(folder / "cache")} | settings)


def symbols_of(config: DataConfig, content: bytes) -> list[str]:
    """How a split is read."""
    if config.level is Level.byte:
        return [f"{byte:02x}" for byte in content]
    if config.level is Level.char:
        return list(content.decode())
    start, end = (["<S>"], "<S>") if config.name == "lm1b" else ([], "<eos>")
    return [word for line in content.decode().splitlines() for word in [*start, *line.split(), end]]


def check(config: DataConfig) -> None:
    """The corpus says what its files say."""
    corpus = open_corpus(config)
    for split, content in zip(SPLITS, (TRAIN, TEST if config.name == "lm1b" else VALID, TEST)):
        assert [corpus.vocabulary.symbols[i] for i in corpus.splits[split]] == symbols_of(config, content)
