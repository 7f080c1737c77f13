"""Files of documents in every format, and the documents that a prepared corpus says it has."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from tokenizers import Tokenizer

from tbptt.data.config import Level
from tbptt.data.corpora import SPLITS
from tbptt.data.documents.config import DocumentsConfig
from tbptt.data.prepare import PreparedCorpus

FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet", "txt")
Documents = Sequence[str]


def json_lines(documents: Documents, key: str = "text", **more) -> bytes:
    """One object a line; some letters are escaped, others are not."""
    lines = [json.dumps({"id": i, key: text} | more, ensure_ascii=i % 2 == 0) for i, text in enumerate(documents)]
    return "".join(f"{line}\n" for line in lines).encode()


def write_documents(path: Path, documents: Documents, key: str = "text") -> None:
    """Write `path`, in the format of its ending; for txt a folder of this name without it, one file a document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".txt"):
        folder = path.with_suffix("")
        folder.mkdir()
        for i, text in enumerate(documents):
            (folder / f"{i:03d}.txt").write_bytes(text.encode())
    elif path.name.endswith(".parquet"):
        table = pa.table({"id": range(len(documents)), key: pa.array(documents, pa.string())})
        parquet.write_table(table, path, row_group_size=2)
    else:
        pack: dict[str, Callable[[bytes], bytes]] = {
            ".jsonl": bytes,
            ".gz": gzip.compress,
            ".zst": lambda content: pa.compress(content, "zstd", asbytes=True),
        }
        path.write_bytes(pack[path.suffix](json_lines(documents, key)))


def write_splits(folder: Path, documents: Documents, ending: str) -> Path:
    for split in SPLITS:
        write_documents(folder / f"{split}.{ending}", documents)
    return folder


def documents_config(folder: Path, level: Level, **settings) -> DocumentsConfig:
    given = {"path": str(folder), "cache": f"{folder} cache", "workers": 1, "bpe_size": 300}
    return DocumentsConfig("documents", level=level, **given | settings)


def documents_of(corpus: PreparedCorpus, split: str) -> list[np.ndarray]:
    """The ids of every document without its start token, which is checked to be there and nowhere else."""
    starts, stream = corpus.documents[split], np.array(corpus.splits[split])
    assert starts.dtype == np.int64 and starts.tolist() == np.flatnonzero(stream == corpus.vocabulary.start).tolist()
    assert starts[0] == 0 and len(starts) == corpus.meta["splits"][split]["documents"]
    return [part[1:] for part in np.split(stream, starts[1:])]


def texts_of(corpus: PreparedCorpus, split: str) -> list:
    """The text of every document; at level word its words, with one <eos> for every line."""
    level, symbols = corpus.vocabulary.level, corpus.vocabulary.symbols
    documents = documents_of(corpus, split)
    if level is Level.byte:
        return [bytes(ids.astype(np.uint8)).decode() for ids in documents]
    if level is Level.bpe:
        tokenizer = Tokenizer.from_file(str(corpus.folder / "tokenizer.json"))
        return [tokenizer.decode(ids.tolist(), skip_special_tokens=False) for ids in documents]
    words = [[symbols[i] for i in ids] for ids in documents]
    return words if level is Level.word else ["".join(letters) for letters in words]


def files_of(corpus: PreparedCorpus) -> dict[str, bytes]:
    """All that a prepared corpus is, but where its source was."""
    names = [f"{split}.{end}" for split in SPLITS for end in ("bin", "starts")]
    return {name: (corpus.folder / name).read_bytes() for name in [*names, "vocabulary.json"]}
