"""Documents in parquet files: one row each, a column of text.

The processes read row groups; one that is large is read in batches by a single process, which sends them to the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from tbptt.data.documents import pieces
from tbptt.data.documents.pieces import Pieces, check_utf8, no_text, whole_documents
from tbptt.data.reading import readable
from tbptt.errors import UserError


@dataclass(frozen=True)
class Rows:
    """Consecutive rows: row groups of the file, or the texts themselves."""

    path: Path
    key: str
    content: tuple[int, ...] | pa.Array
    row: int  # the first, from 0
    number: int
    stop: int
    size: int

    def pieces(self) -> Pieces:
        texts = self.content if isinstance(self.content, pa.Array) else self._read(self.content)
        if texts.null_count:
            row = self.row + int(np.flatnonzero(texts.is_null().to_numpy(zero_copy_only=False))[0])
            raise no_text(f"{self.path}, row {row + 1}", self.key, "null")
        check_utf8(texts, lambda i: f"{self.path}, row {self.row + i + 1},")
        return whole_documents(texts, self.number + np.arange(len(texts), dtype=np.int64))

    def _read(self, groups: tuple[int, ...]) -> pa.Array:
        with open_parquet(self.path) as file, damage_reported(self.path):
            column = file.read_row_groups(list(groups), columns=[self.key], use_threads=False).column(0)
            return pa.chunked_array(column.chunks, column.type).cast(pa.large_string()).combine_chunks()


def row_chunks(path: Path, key: str, number: int) -> Iterator[Rows]:
    """The chunks of a file, whose first row has this number. UserError if it lacks the column, or that is no text."""
    with readable(path), open_parquet(path) as file:
        _check_column(file, path, key)
        sizes, counts = _group_sizes(file, key)
        row = group = 0
        while group < len(sizes):
            last = group + 1
            while last < len(sizes) and sum(sizes[group : last + 1]) <= pieces.CHUNK:
                last += 1
            size, count = sum(sizes[group:last]), sum(counts[group:last])
            if size <= 2 * pieces.CHUNK:
                yield Rows(path, key, tuple(range(group, last)), row, number + row, number + row + count, size)
            else:
                yield from _batches(file, path, key, group, row, number, size // pieces.CHUNK)
            row, group = row + count, last


def _batches(
    file: parquet.ParquetFile, path: Path, key: str, group: int, row: int, number: int, batches: int
) -> Iterator[Rows]:
    """The rows of one large row group, in about so many batches."""
    rows = max(1, file.metadata.row_group(group).num_rows // batches)
    with damage_reported(path):
        for batch in file.iter_batches(rows, row_groups=[group], columns=[key], use_threads=False):
            texts = batch.column(0).cast(pa.large_string())
            yield Rows(path, key, texts, row, number + row, number + row + len(texts), texts.nbytes)
            row += len(texts)


def open_parquet(path: Path) -> parquet.ParquetFile:
    """UserError if it is not a parquet file."""
    with damage_reported(path):
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


@contextmanager
def damage_reported(path: Path) -> Iterator[None]:
    """Turn an error of the parquet library into a UserError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        first_line = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(f"{path} cannot be read as parquet ({first_line}): it is damaged or not complete") from error


def _check_column(file: parquet.ParquetFile, path: Path, key: str) -> None:
    schema = file.schema_arrow
    if key not in schema.names:
        raise UserError(f"{path} has no column {key!r} (its columns: {', '.join(schema.names)}): set data.text_key")
    kind = schema.field(key).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_kind(value) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        raise UserError(f"{path}: column {key!r} is of type {kind}, but must be text: set data.text_key")


def _group_sizes(file: parquet.ParquetFile, key: str) -> tuple[list[int], list[int]]:
    """Bytes of the column (not compressed), and rows, of every row group."""
    metadata = file.metadata
    column = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == key)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return [group.column(column).total_uncompressed_size for group in groups], [group.num_rows for group in groups]
