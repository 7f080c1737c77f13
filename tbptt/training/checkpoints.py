"""Checkpoints: folders that appear whole or not at all, checked by SHA-256, read without unpickling code.

checkpoints/step_00001000/ holds model.safetensors, training.pt, checkpoint.json and SHA256SUMS;
checkpoints/last and checkpoints/best are links to such folders.
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

log = logging.getLogger(__name__)
LAST, BEST = "last", "best"
FILES = WEIGHTS, TRAINING, INFO = "model.safetensors", "training.pt", "checkpoint.json"
SUMS = "SHA256SUMS"  # as sha256sum writes and checks it


@dataclass
class Checkpoint:
    """A checkpoint folder that was found whole. `info` is its checkpoint.json; SHA256SUMS lists all its files."""

    folder: Path
    info: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """UserError if a file is missing or not as it was written."""
        try:
            listed = (line.split("  ", 1) for line in (folder / SUMS).read_text().splitlines())
            sums = {name: digest for digest, name in listed}
            damaged = [name for name in FILES if _sha256(folder / name) != sums.get(name)]
        except (OSError, ValueError) as error:
            raise UserError(f"checkpoint {folder} is damaged or none: {error}") from error
        if damaged:
            raise UserError(f"checkpoint {folder} is damaged: {', '.join(damaged)} is not as it was written")
        return cls(folder, json.loads((folder / INFO).read_text()))

    @property
    def run_dir(self) -> Path:
        return self.folder.parent.parent

    def name(self) -> dict[str, Any]:
        """What tells it from every other checkpoint: where it is, its step, and a digest of its files."""
        return {"folder": str(self.folder), "step": self.info["step"], "sha256": _sha256(self.folder / SUMS)}

    def refuse_other(self, identity: dict[str, Any]) -> None:
        """UserError naming the settings of model, vocabulary or corpus that differ from this checkpoint's."""
        ours, theirs = identity, self.info["identity"]
        differing = [
            f"{group}.{key} is {_short(ours[group].get(key))}, was {_short(theirs.get(group, {}).get(key))}"
            for group in ours
            for key in ours[group].keys() | theirs.get(group, {}).keys()
            if ours[group].get(key) != theirs.get(group, {}).get(key)
        ]
        if differing:
            raise UserError(
                f"{self.folder} belongs to another run: {'; '.join(sorted(differing))}. "
                "Choose another hydra.run.dir, or start from its weights with checkpoint="
            )

    def refuse_other_vocabulary(self, identity: dict[str, Any]) -> None:
        """UserError if the corpus to be scored does not have the vocabulary the model was trained with."""
        trained = self.info["identity"]["data"]
        if trained["vocabulary_sha256"] is None and identity["vocab_size"] == trained["vocab_size"]:
            log.warning("The words of %s are not known: only their number was compared", self.folder)
            return
        if identity["vocabulary_sha256"] != trained["vocabulary_sha256"]:
            raise UserError(
                f"{self.folder} was trained with another vocabulary ({trained['vocab_size']} entries of "
                f"data={trained['name']}) than this corpus has ({identity['vocab_size']} entries), "
                "or in another order; a text of your own is read with the run's own: data=text data.path=FILE"
            )

    def load_weights(self, model: nn.Module) -> None:
        """Copy the saved weights into `model`. UserError naming the parameters that do not fit."""
        try:
            saved = load_file(self.folder / WEIGHTS)
        except SafetensorError as error:
            raise UserError(f"checkpoint {self.folder}: model.safetensors cannot be read ({error})") from error
        parameters = dict(model.named_parameters())
        wrong = sorted(saved.keys() ^ parameters.keys())
        wrong += [name for name in saved.keys() & parameters.keys() if saved[name].shape != parameters[name].shape]
        if wrong:
            raise UserError(f"checkpoint {self.folder} is of another model: {', '.join(wrong[:5])} do not fit")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])

    def optimizer_state(self, name: str) -> dict[str, Any]:
        """The state of its optimizer and the number of its updates. UserError if it has none of that name."""
        theirs = self.info["identity"].get("optimizer", {}).get("name")
        if theirs != name:
            has = f"that of {theirs}" if theirs else "none"
            raise UserError(f"optimizer.from_checkpoint=true wants the state of {name}, and {self.folder} has {has}")
        saved = self.training_state()["trainer"]
        return {"step": saved["step"], "state": saved["optimizer"]["state"]}

    def training_state(self) -> dict[str, Any]:
        return torch.load(self.folder / TRAINING, map_location="cpu", weights_only=True)


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, and the best."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def save(self, step: int, model: nn.Module, training: dict[str, Any], info: dict[str, Any], best: bool) -> None:
        """Write a checkpoint, then let `last` (and `best`) point to it, then drop what is no longer kept."""
        name = _name(step)
        writing = self.folder / f"{name}.writing"
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        weights = {key: value.detach().cpu().contiguous() for key, value in model.named_parameters()}
        save_file(weights, writing / WEIGHTS)
        torch.save(training, writing / TRAINING)
        (writing / INFO).write_text(json.dumps(info | {"step": step}, indent=1))
        (writing / SUMS).write_text("".join(f"{_sha256(writing / name)}  {name}\n" for name in FILES))
        for path in [*writing.iterdir(), writing]:
            _flush(path)
        # A folder of that step exists if a run was resumed from an older one: it gives way.
        shutil.rmtree(self.folder / name, ignore_errors=True)
        os.rename(writing, self.folder / name)
        self._link(LAST, name)
        if best:
            self._link(BEST, name)
        _flush(self.folder)
        self._drop_old()

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones are reported and passed over. None if there never was one.

        UserError if there are some, but none is whole: to train them away is not for us to decide.
        """
        folders = self._folders()
        for folder in reversed(folders):
            try:
                return Checkpoint.open(folder)
            except UserError as error:
                log.warning("%s; looking for the one before it", error)
        if folders:
            raise UserError(
                f"no checkpoint in {self.folder} is whole: mend them, or delete {self.folder} to start afresh"
            )
        return None

    def best(self) -> Checkpoint:
        if not (self.folder / BEST).exists():
            raise UserError(f"{self.folder} has no best checkpoint: no validation gave a finite loss")
        return Checkpoint.open(self.folder / BEST)

    def rewind(self, checkpoint: Checkpoint | None, best_step: int) -> None:
        """Forget what was written after `checkpoint`, so that the run continues as if it had never gone further."""
        keep_up_to = checkpoint.folder.name if checkpoint else ""
        for folder in self._folders():
            if folder.name > keep_up_to:
                shutil.rmtree(folder)
        if checkpoint:
            self._link(LAST, checkpoint.folder.name)
            if (self.folder / _name(best_step)).exists():
                self._link(BEST, _name(best_step))
            else:  # dropped for a better one that is lost: the run will find it again
                (self.folder / BEST).unlink(missing_ok=True)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step_*") if path.name.removeprefix("step_").isdigit())

    def _link(self, link: str, name: str) -> None:
        new = self.folder / f"{link}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(name)
        os.replace(new, self.folder / link)

    def _drop_old(self) -> None:
        best = self.folder / BEST
        kept = {best.resolve().name} if best.exists() else set()
        for folder in self._folders()[: -self.keep]:
            if folder.name not in kept:
                shutil.rmtree(folder)


def _short(value: Any) -> Any:
    """A digest by its first letters, everything else as it is."""
    return f"{value[:8]}..." if isinstance(value, str) and len(value) == 64 else value


def _name(step: int) -> str:
    return f"step_{step:08d}"


def find_checkpoint(where: str) -> Checkpoint:
    return Checkpoint.open(locate_checkpoint(where))


def locate_checkpoint(where: str) -> Path:
    """What `checkpoint=` names: a run directory (its best, else its last), `best` or `last` of one, or a checkpoint."""
    path = Path(where).expanduser()
    for candidate in (
        path / "checkpoints" / BEST,
        path / "checkpoints" / LAST,
        path.parent / "checkpoints" / path.name,
        path,
    ):
        if (candidate / INFO).is_file():
            return candidate.resolve()
    raise UserError(
        f"checkpoint={where} is no checkpoint: name a run directory, RUN/best, RUN/last or a folder in RUN/checkpoints"
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Bring a file or folder entry onto the disk: after a power cut it must not be found half there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
