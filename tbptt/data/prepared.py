"""A prepared corpus: token files in a folder, memory-mapped.

They are `train.bin valid.bin test.bin` (raw little-endian ids), `vocabulary.json`, and `meta.json`; with documents also
`train.starts valid.starts test.starts` (raw little-endian int64: indices of their first tokens).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tbptt.data.corpus import SPLITS
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError

FORMAT = 3
INDEX = np.dtype("<i8")  # of the tokens that begin documents


@dataclass
class PreparedCorpus:
    """Token streams by split (memory-mapped), their vocabulary, and `meta.json`: counts and origin.

    `documents` has for each split the index of every document's first token, the start: int64, ascending, the first 0.
    It is empty for a corpus without documents.
    """

    folder: Path
    splits: dict[str, np.ndarray]
    vocabulary: Vocabulary
    meta: dict[str, Any]
    documents: dict[str, np.ndarray] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """The properties that must match those of a checkpoint to resume it on this corpus."""
        return {
            "name": self.meta["settings"]["name"],
            "level": self.meta["settings"]["level"],
            "vocab_size": len(self.vocabulary),
            "vocabulary_sha256": self.meta["vocabulary_sha256"],
            "train_tokens_sha256": self.meta["splits"]["train"]["sha256"],
            "train_starts_sha256": self.meta["splits"]["train"].get("starts_sha256"),
        }

    def verify(self) -> None:
        """Check the SHA-256 of every token file. UserError if one differs."""
        written = {f"{split}.bin": self.meta["splits"][split]["sha256"] for split in SPLITS}
        written |= {f"{split}.starts": self.meta["splits"][split]["starts_sha256"] for split in self.documents}
        for name, sha256 in written.items():
            with open(self.folder / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != sha256:
                raise UserError(f"{self.folder / name} is not as it was written: delete {self.folder}")


def open_prepared(folder: Path) -> PreparedCorpus:
    """Memory-map a prepared corpus. OSError, ValueError or KeyError if it is damaged."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if meta["format"] != FORMAT:
        raise ValueError(f"format {meta['format']} instead of {FORMAT}")
    vocabulary = Vocabulary.from_file(folder / "vocabulary.json")
    if vocabulary.sha256 != meta["vocabulary_sha256"]:
        raise ValueError("vocabulary.json has another SHA-256 than recorded")
    counts = {split: meta["splits"][split] for split in SPLITS}
    dtype = np.dtype(meta["dtype"])
    splits = {split: _mapped(folder / f"{split}.bin", dtype, counts[split]["tokens"]) for split in SPLITS}
    having = [split for split in SPLITS if "documents" in counts[split]]
    documents = {split: _mapped(folder / f"{split}.starts", INDEX, counts[split]["documents"]) for split in having}
    return PreparedCorpus(folder, splits, vocabulary, meta, documents)


def _mapped(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """Memory-map a file of `count` numbers. ValueError if it has another size."""
    size, expected = path.stat().st_size, count * dtype.itemsize
    if size != expected:
        raise ValueError(f"{path.name} has {size} bytes instead of {expected}")
    return np.memmap(path, dtype=dtype, mode="r")
