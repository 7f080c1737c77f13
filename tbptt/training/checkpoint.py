"""One checkpoint: a folder verified by SHA-256 and read without unpickling code.

It holds model.safetensors, training.pt, checkpoint.json and SHA256SUMS.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tbptt.errors import UserError, denied
from tbptt.files import save_weights
from tbptt.training.optimizers import ADAM_FAMILY

log = logging.getLogger(__name__)
FILES = WEIGHTS, TRAINING, INFO = "model.safetensors", "training.pt", "checkpoint.json"
SUMS = "SHA256SUMS"  # in the format of the sha256sum command
SHOWN = 8  # differences between two runs that a message lists
CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of folders on some network file systems


class DamagedCheckpoint(UserError):
    """A checkpoint with a missing or altered file."""


@dataclass
class Checkpoint:
    """A checkpoint folder. `info` is its checkpoint.json; SHA256SUMS lists the digests of its files."""

    folder: Path
    info: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, verify: Sequence[str] = FILES) -> Checkpoint:
        """Open a checkpoint. DamagedCheckpoint if a file of `verify` is missing or does not match its digest.

        UserError if a file may not be read.
        """
        try:
            listed = (line.split("  ", 1) for line in (folder / SUMS).read_text(encoding="utf-8").splitlines())
            sums = {name: digest for digest, name in listed}
            damaged = [name for name in verify if _sha256(folder / name) != sums.get(name)]
        except PermissionError as error:
            raise UserError(f"checkpoint {folder} may not be read: {denied(error)}") from error
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise DamagedCheckpoint(
                f"checkpoint {folder} is damaged or is not a checkpoint: it has no {missing}"
            ) from error
        except (OSError, ValueError) as error:
            raise DamagedCheckpoint(f"checkpoint {folder} is damaged or is not a checkpoint: {error}") from error
        if damaged:
            raise DamagedCheckpoint(
                f"checkpoint {folder} is damaged: the SHA-256 of {', '.join(damaged)} does not match {SUMS}"
            )
        return cls(folder, json.loads((folder / INFO).read_text(encoding="utf-8")))

    @property
    def run_dir(self) -> Path:
        return self.folder.parent.parent

    @property
    def model_type(self) -> str | None:
        """Of the directory that its weights, or those they began from, were imported from; else None."""
        return self.info.get("imported", {}).get("model_type")

    def identifier(self) -> dict[str, Any]:
        """Identifies this checkpoint: its folder, its step and a digest of its files."""
        return {"folder": str(self.folder), "step": self.info["step"], "sha256": _sha256(self.folder / SUMS)}

    def check_same_run(self, identity: dict[str, Any]) -> None:
        """UserError listing the settings in `identity` that differ from those this checkpoint was made with."""
        if differing := self._differing(identity):
            changed = any(reason.startswith("data.") and "_sha256" in reason for reason in differing)
            raise UserError(
                f"{self.folder} belongs to another run{' or to another text' if changed else ''}: "
                f"{_joined(differing)}. Choose another hydra.run.dir, or start from its weights with checkpoint=RUN"
            )

    def _differing(self, current: dict[str, dict[str, Any]]) -> list[str]:
        """The settings in the groups of `current` that are others than this checkpoint was made with."""
        saved = self.info["identity"]
        for group in ("model", "optimizer", "scheduler"):  # of another kind, it has other settings, too
            kinds = [identity.get(group, {}).get("name") for identity in (current, saved)]
            if group in current and kinds[0] != kinds[1]:
                others = {key: value for key, value in current.items() if key != group}
                return [f"{group}.name is {kinds[0]}, was {kinds[1]}", *self._differing(others)]
        return sorted(
            f"{group}.{key} is {_abbreviated(current[group].get(key))}, "
            f"was {_abbreviated(saved.get(group, {}).get(key))}"
            for group in current
            for key in current[group].keys() | saved.get(group, {}).keys()
            if current[group].get(key) != saved.get(group, {}).get(key)
        )

    def check_vocabulary(self, identity: dict[str, Any]) -> None:
        """UserError if `identity`, that of a corpus, does not have the vocabulary the model was trained with."""
        trained = self.info["identity"]["data"]
        if trained["vocabulary_sha256"] is None and identity["vocab_size"] == trained["vocab_size"]:
            log.warning(
                "The vocabulary of %s is not stored with it: only the vocabulary size was compared", self.folder
            )
            return
        if identity["vocabulary_sha256"] != trained["vocabulary_sha256"]:
            files = [path for name in ("tokenizer.json", "vocabulary.json") if (path := self.run_dir / name).is_file()]
            hint = "to score a text with the run's vocabulary, use data=text data.path=FILE"
            if files:
                hint = f"to read it with the run's vocabulary, set data.vocabulary={files[0]}"
            if identity["vocab_size"] == trained["vocab_size"] + 1:
                hint = "documents have one entry more, their start token: train the first run on documents, too"
            raise UserError(
                f"{self.folder} was trained with another vocabulary ({trained['vocab_size']} entries, "
                f"data={trained['name']}) than that of this corpus ({identity['vocab_size']} entries), or with the "
                f"same entries in another order; {hint}"
            )

    def load_weights(self, model: nn.Module, settings: dict[str, Any] | None = None) -> None:
        """Copy the saved weights into `model`, which was built by `settings`, if they are not the checkpoint's own.

        UserError listing parameters whose name or shape does not match, and the settings that differ.
        """
        try:
            saved = load_file(self.folder / WEIGHTS)
        except SafetensorError as error:
            raise UserError(f"checkpoint {self.folder}: model.safetensors cannot be read ({error})") from error
        parameters = dict(model.named_parameters())
        wrong = sorted(saved.keys() ^ parameters.keys())
        wrong += sorted(name for name in saved.keys() & parameters if saved[name].shape != parameters[name].shape)
        if wrong:
            raise UserError(f"checkpoint {self.folder} holds another model: {self._reasons(wrong, settings or {})}")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])

    def _reasons(self, wrong: list[str], settings: dict[str, Any]) -> str:
        """Why the parameters `wrong` do not fit a model of these settings."""
        saved = self.info["identity"].get("model", {}).get("name")
        if settings and saved != settings["name"]:
            return f"model.name is {settings['name']}, was {saved}; repeat the settings of its model, such as model="
        differing = self._differing({"model": settings}) if settings else []
        return "; ".join([*differing, f"{', '.join(wrong[:5])} do not match"])

    def optimizer_state(self, name: str) -> dict[str, Any]:
        """The saved step and optimizer state. UserError unless it serves the optimizer called `name`."""
        saved_name = self.info["identity"].get("optimizer", {}).get("name")
        if saved_name != name and not {saved_name, name} <= ADAM_FAMILY:
            found = f"that of {saved_name}: use optimizer={saved_name}" if saved_name else "no optimizer state"
            raise UserError(f"optimizer.from_checkpoint=true needs the state of {name}, but {self.folder} has {found}")
        saved = self.training_state()["trainer"]
        return {"step": saved["step"], "state": saved["optimizer"]["state"]}

    def training_state(self, mmap: bool = False) -> dict[str, Any]:
        """With `mmap`, tensors are read only when they are used."""
        return torch.load(self.folder / TRAINING, map_location="cpu", weights_only=True, mmap=mmap)

    def best_step(self) -> int:
        """The step of the best checkpoint of the run when this one was saved."""
        return self.training_state(mmap=True).get("record", {}).get("best_step", self.info["step"])


def write(folder: Path, model: nn.Module, training: dict[str, Any], info: dict[str, Any]) -> None:
    """Write a checkpoint folder and flush it to disk."""
    folder.mkdir(parents=True)
    save_weights({key: value.detach().cpu().contiguous() for key, value in model.named_parameters()}, folder / WEIGHTS)
    with open(folder / TRAINING, "wb") as file:  # of a path, torch would not tell why it cannot be written
        torch.save(training, file)
    (folder / INFO).write_text(json.dumps(info, indent=1), encoding="utf-8")
    sums = "".join(f"{_sha256(folder / name)}  {name}\n" for name in FILES)
    (folder / SUMS).write_text(sums, encoding="utf-8")
    for path in [*folder.iterdir(), folder]:
        flush(path)


def _joined(reasons: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    return "; ".join(reasons[:SHOWN]) + more


def _abbreviated(value: Any) -> Any:
    """The first digits of a SHA-256 digest; any other value unchanged."""
    return f"{value[:8]}..." if isinstance(value, str) and len(value) == 64 else value


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Flush a file or a directory entry to disk, so that a power failure cannot leave it incomplete."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)
