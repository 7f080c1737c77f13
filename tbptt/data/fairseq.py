"""Reader for the output of `fairseq-preprocess --only-source`: dict.txt, and an index and token ids per split.

File layout: `.idx` holds the magic bytes, a version (u64), a code for the integer type (u8), the number of sentences
(u64), their sizes (i32 each) and byte offsets (i64 each); `.bin` holds the ids of all sentences, each with a final
`</s>`.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from tbptt.data.config import Level
from tbptt.data.reading import read_users_text, readable
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQ")
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
SPECIAL_SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>"]  # precede the entries of dict.txt


def read_dictionary(path: Path) -> Vocabulary:
    """The vocabulary in fairseq's order: the four special symbols, then those of dict.txt ("symbol count" lines)."""
    symbols = list(SPECIAL_SYMBOLS)
    for number, line in enumerate(read_users_text(path).removesuffix("\n").split("\n"), start=1):
        symbol, _, count = line.removesuffix(" #fairseq:overwrite").rpartition(" ")
        if not symbol or not count.isdigit():
            raise UserError(f"{path}, line {number}, must be a symbol, a space and its count, not {line!r}")
        symbols.append(symbol)
    return Vocabulary(Level.word, symbols)


def read_tokens(prefix: Path) -> np.ndarray:
    """The ids of a split in order, memory-mapped from PREFIX.bin. UserError if index and data are inconsistent."""
    index, data = prefix.with_suffix(".idx"), prefix.with_suffix(".bin")
    with readable(index), open(index, "rb") as file:
        header = file.read(HEADER.size)
        if len(header) < HEADER.size or not header.startswith(MAGIC):
            raise UserError(f"{index} is not an index written by fairseq-preprocess with --dataset-impl mmap")
        _, version, code, sentences = HEADER.unpack(header)
        if version != 1 or code not in DTYPES:
            raise UserError(f"{index} has version {version} and integer type {code}, which fairseq does not use")
        if index.stat().st_size != HEADER.size + 12 * sentences:
            raise UserError(f"{index} is damaged: its size does not match its {sentences:,} sentences")
        sizes = np.fromfile(file, dtype="<i4", count=sentences)
        pointers = np.fromfile(file, dtype="<i8", count=sentences)
    dtype = np.dtype(DTYPES[code])
    expected = int(sizes.sum(dtype=np.int64)) * dtype.itemsize
    in_order = np.concatenate([[0], np.cumsum(sizes[:-1], dtype=np.int64)]) * dtype.itemsize if sentences else pointers
    if data.stat().st_size != expected:
        raise UserError(
            f"{data} has {data.stat().st_size:,} bytes, but {index.name} expects {expected:,}: one of them is damaged"
        )
    if not np.array_equal(in_order, pointers):
        raise UserError(f"{index}: the sentences do not follow each other in {data.name}")
    with readable(data):
        return np.memmap(data, dtype=dtype, mode="r") if expected else np.zeros(0, dtype)
