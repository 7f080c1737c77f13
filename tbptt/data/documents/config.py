"""The configuration of corpora that are made of documents."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from tbptt.data.config import DataConfig
from tbptt.errors import UserError


@dataclass
class DocumentsConfig(DataConfig):
    """data=documents"""

    documents: bool = True
    text_key: str = "text"  # the key of a JSON object, or the column of a parquet file, that is the document
    held_out: float = 0.005  # share of the documents of train that is a split which has no files

    def check(self) -> None:
        super().check()
        if not self.documents:
            raise UserError(f"data={self.name} is made of documents: remove data.documents=false")
        if not self.text_key:
            raise UserError("data.text_key is empty: it must be the key or column that has the text of a document")
        if not 0 < self.held_out <= 0.25:
            raise UserError(f"data.held_out={self.held_out} must be more than 0 and at most 0.25")

    def settings(self) -> dict[str, object]:
        return super().settings() | {"text_key": self.text_key, "held_out": self.held_out}


@dataclass
class HubConfig(DocumentsConfig):
    """data=hub, data=pg19"""

    repo: str | None = None  # the data set on the Hugging Face hub, as OWNER/NAME, or its folder
    config: str | None = None  # its configuration, if it has several
    revision: str | None = None  # a branch, tag or commit of it
    train_split: str = "train"  # the name of its split of training text
    valid_split: str | None = None  # null: validation, valid, or a held-out share where it has neither
    test_split: str | None = None  # null: test, or a held-out share where it has none

    def source(self) -> dict[str, Any]:
        """The settings that say what is downloaded."""
        keys = ("repo", "config", "revision", "text_key", "train_split", "valid_split", "test_split")
        return {key: getattr(self, key) for key in keys}

    def settings(self) -> dict[str, object]:
        return super().settings() | self.source()

    def source_name(self) -> str:
        digest = hashlib.sha256(json.dumps(self.source(), sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.name}-{digest}"


CONFIGS: dict[str, type[DataConfig]] = {"data": DataConfig, "documents": DocumentsConfig, "hub": HubConfig}
SCHEMAS: dict[str, type[DataConfig]] = {"documents": DocumentsConfig, "hub": HubConfig, "pg19": HubConfig}


def schema_of(name: str) -> type[DataConfig]:
    """The schema of the corpus of this name."""
    return SCHEMAS.get(name, DataConfig)
