"""The settings of the `import` and `export` groups."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tbptt.errors import UserError


class ImportFormat(Enum):
    original = "original"
    hf = "hf"
    fairseq = "fairseq"
    nvidia = "nvidia"


class ExportFormat(Enum):
    hf = "hf"
    original = "original"
    safetensors = "safetensors"


@dataclass(eq=False)  # so that an instance may be the default of a field
class ImportConfig:
    format: ImportFormat | None = None  # the system that wrote the checkpoint
    path: str | None = None  # the checkpoint file; with hf, the folder with config.json and weights
    config: str | None = None  # original: log.txt of train.py, or JSON of the constructor arguments, if not with it
    vocabulary: str | None = (
        None  # dict.txt, vocab.txt, vocab.pkl, vocab.bin, cache.pt, vocabulary.json or tokenizer.json
    )

    def check(self) -> None:
        if self.format is None or self.path is None:
            raise UserError(
                f"task=import needs import.format={'|'.join(each.name for each in ImportFormat)} and import.path=PATH"
            )
        if self.config is not None and self.format is not ImportFormat.original:
            raise UserError(
                f"import.config={self.config} is only for import.format=original: other formats contain their settings"
            )
        for key in ("path", "config", "vocabulary"):
            path = getattr(self, key)
            if path is not None and not Path(path).expanduser().exists():
                raise UserError(f"import.{key}={path} does not exist")


@dataclass
class ExportConfig:
    format: ExportFormat | None = None  # hf, original: their parameter names; safetensors: our parameter names
    path: str | None = None  # the directory to write, which must not exist yet

    def check(self) -> None:
        if self.format is None or self.path is None:
            formats = "|".join(each.name for each in ExportFormat)
            raise UserError(f"task=export needs export.format={formats} and export.path=DIR, a new directory")
        if Path(self.path).expanduser().exists():
            raise UserError(f"export.path={self.path} exists already: choose a new directory")
