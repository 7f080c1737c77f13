"""Small corpora of text, prepared, and what they must have become."""

from pathlib import Path

from tbptt.data.config import DataConfig, Level
from tbptt.data.corpora import SPLITS
from tbptt.data.prepare import PreparedCorpus
from tbptt.data.sources import chunks
from tbptt.data.vocabulary import EOS

GOLDEN_FAIRSEQ = Path(__file__).parents[1] / "golden_fairseq"  # a small text and what fairseq-preprocess made of it
TEXT = "a b a\n\nc a b\n"


def write_corpus(folder: Path, train: str = TEXT, valid: str = TEXT, test: str = TEXT, pattern: str = "{}.txt") -> Path:
    """A folder with these texts in one file per split."""
    folder.mkdir(exist_ok=True)
    for split, text in zip(SPLITS, (train, valid, test)):
        (folder / pattern.format(split)).write_bytes(text.encode())
    return folder


def corpus_config(folder: Path, level: Level = Level.word, name: str = "text", **settings) -> DataConfig:
    """A corpus in `folder`, of any size, prepared by this process alone."""
    given = {"path": str(folder), "cache": str(folder / "cache"), "workers": 1, "check_counts": False}
    return DataConfig(name=name, level=level, **given | settings)


def decoded(corpus: PreparedCorpus, split: str) -> list[str]:
    return [corpus.vocabulary.symbols[i] for i in corpus.splits[split]]


def words_of(text: str) -> list[str]:
    """How a text is read at level word."""
    lines = text.split("\n")
    return [word for line in (lines if lines[-1] else lines[:-1]) for word in [*line.split(), EOS]]


def cut_into(size: int):
    """`chunks`, but of another size."""
    return lambda sources, level: chunks(sources, level, size)


def files_of(corpus: PreparedCorpus) -> dict[str, bytes]:
    """All that a prepared corpus is, but where its source was."""
    names = [*(f"{split}.bin" for split in SPLITS), "vocabulary.json"]
    return {name: (corpus.folder / name).read_bytes() for name in names}
