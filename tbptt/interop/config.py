"""What the `import` and `export` groups configure."""

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
    format: ImportFormat | None = None  # whose model it is
    path: str | None = (
        None  # original, fairseq, nvidia: the checkpoint file; hf: the directory that save_pretrained wrote
    )
    config: str | None = None  # original: a JSON file of its arguments, where the checkpoint has none
    vocabulary: str | None = (
        None  # its words: dict.txt, vocab.txt, vocab.pkl, vocab.bin, cache.pt or our vocabulary.json
    )

    def check(self) -> None:
        if self.format is None or self.path is None:
            raise UserError(
                f"task=import needs import.format={'|'.join(each.name for each in ImportFormat)} and import.path=WHERE"
            )
        if self.config is not None and self.format is not ImportFormat.original:
            raise UserError(f"import.config={self.config} is for import.format=original: the others bring theirs")
        for key in ("path", "config", "vocabulary"):
            where = getattr(self, key)
            if where is not None and not Path(where).expanduser().exists():
                raise UserError(f"import.{key}={where} does not exist")


@dataclass
class ExportConfig:
    format: ExportFormat | None = None  # hf, original: under their names; safetensors: under ours
    path: str | None = None  # the directory to write, which must not exist yet

    def check(self) -> None:
        if self.format is None or self.path is None:
            formats = "|".join(each.name for each in ExportFormat)
            raise UserError(f"task=export needs export.format={formats} and export.path=DIR, a directory to write")
        if Path(self.path).expanduser().exists():
            raise UserError(f"export.path={self.path} exists already: choose a directory that does not")
