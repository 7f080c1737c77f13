"""Checkpoint folders: written atomically, verified by SHA-256, and read without unpickling code.

checkpoints/step_00001000/ holds model.safetensors, training.pt, checkpoint.json and SHA256SUMS;
checkpoints/last and checkpoints/best are symbolic links to such folders.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tbptt.errors import UserError
from tbptt.training.optimizers import ADAM_FAMILY

log = logging.getLogger(__name__)
LAST, BEST = "last", "best"
FILES = WEIGHTS, TRAINING, INFO = "model.safetensors", "training.pt", "checkpoint.json"
SUMS = "SHA256SUMS"  # in the format of the sha256sum command


@dataclass
class Checkpoint:
    """A verified checkpoint folder. `info` is its checkpoint.json; SHA256SUMS lists the digests of its files."""

    folder: Path
    info: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Verify and open a checkpoint. UserError if a file is missing or does not match its digest."""
        try:
            listed = (line.split("  ", 1) for line in (folder / SUMS).read_text(encoding="utf-8").splitlines())
            sums = {name: digest for digest, name in listed}
            damaged = [name for name in FILES if _sha256(folder / name) != sums.get(name)]
        except (OSError, ValueError) as error:
            raise UserError(f"checkpoint {folder} is damaged or is not a checkpoint: {error}") from error
        if damaged:
            raise UserError(
                f"checkpoint {folder} is damaged: the SHA-256 of {', '.join(damaged)} does not match {SUMS}"
            )
        return cls(folder, json.loads((folder / INFO).read_text(encoding="utf-8")))

    @property
    def run_dir(self) -> Path:
        return self.folder.parent.parent

    def identifier(self) -> dict[str, Any]:
        """Identifies this checkpoint: its folder, its step and a digest of its files."""
        return {"folder": str(self.folder), "step": self.info["step"], "sha256": _sha256(self.folder / SUMS)}

    def check_same_run(self, identity: dict[str, Any]) -> None:
        """UserError listing the settings in `identity` that differ from those this checkpoint was made with."""
        current, saved = identity, self.info["identity"]
        differing = [
            f"{group}.{key} is {_abbreviated(current[group].get(key))}, "
            f"was {_abbreviated(saved.get(group, {}).get(key))}"
            for group in current
            for key in current[group].keys() | saved.get(group, {}).keys()
            if current[group].get(key) != saved.get(group, {}).get(key)
        ]
        if differing:
            raise UserError(
                f"{self.folder} belongs to another run: {'; '.join(sorted(differing))}. "
                "Choose another hydra.run.dir, or start from its weights with checkpoint=RUN"
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
            raise UserError(
                f"{self.folder} was trained with another vocabulary ({trained['vocab_size']} entries, "
                f"data={trained['name']}) than that of this corpus ({identity['vocab_size']} entries), or with the "
                "same entries in another order; to score a text with the run's vocabulary, use data=text data.path=FILE"
            )

    def load_weights(self, model: nn.Module) -> None:
        """Copy the saved weights into `model`. UserError listing parameters whose name or shape does not match."""
        try:
            saved = load_file(self.folder / WEIGHTS)
        except SafetensorError as error:
            raise UserError(f"checkpoint {self.folder}: model.safetensors cannot be read ({error})") from error
        parameters = dict(model.named_parameters())
        wrong = sorted(saved.keys() ^ parameters.keys())
        wrong += [name for name in saved.keys() & parameters.keys() if saved[name].shape != parameters[name].shape]
        if wrong:
            raise UserError(f"checkpoint {self.folder} holds another model: {', '.join(wrong[:5])} do not match")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])

    def optimizer_state(self, name: str) -> dict[str, Any]:
        """The saved step and optimizer state. UserError unless it serves the optimizer called `name`."""
        saved_name = self.info["identity"].get("optimizer", {}).get("name")
        if saved_name != name and not {saved_name, name} <= ADAM_FAMILY:
            found = f"that of {saved_name}: use optimizer={saved_name}" if saved_name else "no optimizer state"
            raise UserError(f"optimizer.from_checkpoint=true needs the state of {name}, but {self.folder} has {found}")
        saved = self.training_state()["trainer"]
        return {"step": saved["step"], "state": saved["optimizer"]["state"]}

    def training_state(self) -> dict[str, Any]:
        return torch.load(self.folder / TRAINING, map_location="cpu", weights_only=True)


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, and the best."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def save(self, step: int, model: nn.Module, training: dict[str, Any], info: dict[str, Any], best: bool) -> None:
        """Write a checkpoint, point `last` (and `best`) to it, then delete the checkpoints that exceed `keep`."""
        name = _name(step)
        writing = self.folder / f"{name}.writing"
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        weights = {key: value.detach().cpu().contiguous() for key, value in model.named_parameters()}
        save_file(weights, writing / WEIGHTS)
        torch.save(training, writing / TRAINING)
        (writing / INFO).write_text(json.dumps(info | {"step": step}, indent=1), encoding="utf-8")
        sums = "".join(f"{_sha256(writing / name)}  {name}\n" for name in FILES)
        (writing / SUMS).write_text(sums, encoding="utf-8")
        for path in [*writing.iterdir(), writing]:
            _fsync(path)
        # A folder for this step exists if the run was resumed from an older checkpoint: replace it.
        shutil.rmtree(self.folder / name, ignore_errors=True)
        os.rename(writing, self.folder / name)
        self._link(LAST, name)
        if best:
            self._link(BEST, name)
        _fsync(self.folder)
        self._delete_old()

    def newest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint, or None if there are no checkpoints. Damaged ones are logged and skipped.

        UserError if all are damaged: training again from step 0 would delete them.
        """
        folders = self._folders()
        for folder in reversed(folders):
            try:
                return Checkpoint.open(folder)
            except UserError as error:
                log.warning("%s; trying the checkpoint before it", error)
        if folders:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged: repair one, or delete the folder to start from step 0"
            )
        return None

    def best(self) -> Checkpoint:
        if not (self.folder / BEST).exists():
            raise UserError(f"{self.folder} has no best checkpoint: no validation loss was finite")
        return Checkpoint.open(self.folder / BEST)

    def rewind(self, checkpoint: Checkpoint | None, best_step: int) -> None:
        """Delete the checkpoints after `checkpoint` and restore the links, as if they had never been made."""
        keep_up_to = checkpoint.folder.name if checkpoint else ""
        for folder in self._folders():
            if folder.name > keep_up_to:
                shutil.rmtree(folder)
        if checkpoint:
            self._link(LAST, checkpoint.folder.name)
            if (self.folder / _name(best_step)).exists():
                self._link(BEST, _name(best_step))
            else:  # deleted for a better one that is lost now: the continued run will make that one again
                (self.folder / BEST).unlink(missing_ok=True)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step_*") if path.name.removeprefix("step_").isdigit())

    def _link(self, link: str, name: str) -> None:
        new = self.folder / f"{link}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(name)
        os.replace(new, self.folder / link)

    def _delete_old(self) -> None:
        best = self.folder / BEST
        kept = {best.resolve().name} if best.exists() else set()
        for folder in self._folders()[: -self.keep]:
            if folder.name not in kept:
                shutil.rmtree(folder)


def _abbreviated(value: Any) -> Any:
    """The first digits of a SHA-256 digest; any other value unchanged."""
    return f"{value[:8]}..." if isinstance(value, str) and len(value) == 64 else value


def _name(step: int) -> str:
    return f"step_{step:08d}"


def find_checkpoint(name: str) -> Checkpoint:
    return Checkpoint.open(locate_checkpoint(name))


def locate_checkpoint(name: str) -> Path:
    """The folder that checkpoint=`name` means. UserError if there is none.

    `name` is a run directory (its best checkpoint, else its last), RUN/best, RUN/last, or a checkpoint folder.
    """
    path = Path(name).expanduser()
    for candidate in (
        path / "checkpoints" / BEST,
        path / "checkpoints" / LAST,
        path.parent / "checkpoints" / path.name,
        path,
    ):
        if (candidate / INFO).is_file():
            return candidate.resolve()
    raise UserError(
        f"checkpoint={name} is not a checkpoint: give a run directory, RUN/best, RUN/last or a checkpoint folder"
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    """Flush a file or a directory entry to disk, so that a power failure cannot leave it incomplete."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
