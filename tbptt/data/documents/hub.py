"""Download of a data set of the Hugging Face hub: its texts, streamed into parquet files of the cache.

An interrupted download goes on behind the last file that is complete.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
from tqdm import tqdm

from tbptt.data.documents.config import HubConfig
from tbptt.data.documents.corpora import NAMES
from tbptt.data.documents.pieces import no_text
from tbptt.data.shared import own_path
from tbptt.errors import UserError

log = logging.getLogger(__name__)
FILE_BYTES = 16 << 20  # of text in a file
PROGRESS = "progress.json"


def download_from_hub(config: HubConfig, folder: Path) -> None:
    """Write the texts of every split to `folder`, which is renamed to this name when it is complete.

    UserError if the data set cannot be had, or has no such split or text.
    """
    log.info("Downloading %s from the Hugging Face hub", config.repo)
    building = own_path(folder.with_name(f"{folder.name}.building"))
    data_set = _open(config)
    for split, name in _split_names(config, list(data_set)).items():
        try:
            _download_split(data_set[name], config, building / split, f"{config.repo}, {name}")
        except UserError as error:
            if error.__cause__ is None:  # not an error of the network or the library, behind which it may go on
                shutil.rmtree(building, ignore_errors=True)
            raise
    shutil.rmtree(folder, ignore_errors=True)
    for progress in building.glob(f"*/{PROGRESS}"):
        progress.unlink()
    os.rename(building, folder)


def _open(config: HubConfig) -> Any:
    """The data set, streamed: split -> rows."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"data={config.name} is downloaded from the Hugging Face hub: pip install -e '.[download]' first, or give "
            "data.path=FOLDER with its files"
        ) from None
    with _reported(config):
        return datasets.load_dataset(config.repo, config.config, revision=config.revision, streaming=True)


@contextmanager
def _reported(config: HubConfig) -> Iterator[None]:
    """Turn an error of the library, which raises many kinds, into a UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"data.repo={config.repo} cannot be read from the Hugging Face hub ({reason[:300]}): correct data.repo, "
            "data.config or data.revision, or run the same command again to resume"
        ) from error


def _split_names(config: HubConfig, present: list[str]) -> dict[str, str]:
    """The data set's name of each split that it has. UserError if one that is asked for is not there."""
    chosen = {"train": config.train_split, "valid": config.valid_split, "test": config.test_split}
    for split, name in chosen.items():
        if name is not None and name not in present:
            raise UserError(
                f"data.{split}_split={name} is not a split of data.repo={config.repo}: it has {', '.join(present)}"
            )
    found = {split: name or next((x for x in NAMES[split] if x in present), None) for split, name in chosen.items()}
    return {split: name for split, name in found.items() if name is not None}


def _download_split(rows: Any, config: HubConfig, folder: Path, label: str) -> None:
    """Write the texts of a split as 000000.parquet, 000001.parquet, ..., behind those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = folder / PROGRESS
    done: dict[str, Any] = {"files": 0, "rows": 0, "complete": False}
    if progress.is_file():
        done = json.loads(progress.read_text(encoding="utf-8"))
        with _reported(config):
            rows.load_state_dict(done["state"])
    texts: list[str] = []
    size = 0
    with tqdm(desc=label, initial=done["rows"], unit="document", disable=None) as bar:
        for text in () if done["complete"] else _texts(rows, config, done["rows"], label):
            texts.append(text)
            size += len(text)
            if size >= FILE_BYTES:
                _write(texts, config.text_key, folder, done)
                bar.update(len(texts))
                _save(done | {"state": rows.state_dict()}, progress)
                texts, size = [], 0
    if texts:
        _write(texts, config.text_key, folder, done)
    _save(done | {"complete": True, "state": rows.state_dict()}, progress)


def _texts(rows: Any, config: HubConfig, first: int, label: str) -> Iterator[str]:
    """The text of each row; `first` is the number of the first, from 0."""
    with _reported(config):
        for number, row in enumerate(rows, start=first + 1):
            if config.text_key not in row:
                raise UserError(
                    f"data.repo={config.repo} has no column {config.text_key!r} (its columns: {', '.join(row)}): set "
                    "data.text_key"
                )
            text = row[config.text_key]
            if not isinstance(text, str):
                kind = "null" if text is None else f"a {type(text).__name__}"
                raise no_text(f"{label}, row {number}", config.text_key, kind)
            yield text


def _write(texts: list[str], key: str, folder: Path, done: dict[str, Any]) -> None:
    """Write a file, and count it in `done`."""
    path = folder / f"{done['files']:06d}.parquet"
    new = path.with_suffix(".new")
    parquet.write_table(pa.table({key: pa.array(texts, pa.large_string())}), new, compression="zstd")
    os.replace(new, path)
    done |= {"files": done["files"] + 1, "rows": done["rows"] + len(texts)}


def _save(done: dict[str, Any], progress: Path) -> None:
    new = progress.with_suffix(".new")
    new.write_text(json.dumps(done), encoding="utf-8")
    os.replace(new, progress)
