"""Another system's checkpoint -> a run directory: checkpoint, configuration and vocabulary, whole or not at all."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from tbptt.data import language
from tbptt.data.config import Level
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError
from tbptt.interop import fairseq, hf, nvidia, original, original_files
from tbptt.interop.config import ImportConfig, ImportFormat
from tbptt.interop.foreign import Foreign, read_vocabulary
from tbptt.launch.world import World
from tbptt.models.transformer_xl import TransformerXL, TransformerXLConfig
from tbptt.training.checkpoints import Checkpoints
from tbptt.training.optimizers import AdamConfig

log = logging.getLogger(__name__)


@dataclass
class Imported:
    """A model of the framework's, and what came with it."""

    model: TransformerXL
    config: TransformerXLConfig
    vocabulary: Vocabulary | None
    step: int
    adam: dict[str, Any] | None  # the state dict of an Adam over the model's parameters
    notes: list[str]


def import_model(config: Any, run_dir: Path, world: World) -> None:
    """The task: make a run directory of `config.importing`."""
    imported = read(config.importing)
    write(imported, config.importing, run_dir)
    report(imported, run_dir)


def read(config: ImportConfig) -> Imported:
    """Read and check all of it. UserError, in one sentence, for what is wrong, damaged, missing or does not fit."""
    assert config.path is not None
    path = Path(config.path).expanduser()
    vocabulary = None if config.vocabulary is None else Path(config.vocabulary).expanduser()
    if config.format is ImportFormat.hf:
        foreign = hf.read(path)
    elif not path.is_file():
        raise UserError(f"import.path={config.path} must be a checkpoint file")
    elif config.format is ImportFormat.original:
        foreign = original_files.read(path, None if config.config is None else Path(config.config).expanduser())
    elif config.format is ImportFormat.fairseq:
        foreign = fairseq.read(path, vocabulary)
    else:
        foreign = nvidia.read(path)
    if vocabulary is not None and config.format is not ImportFormat.fairseq:
        foreign.vocabulary = read_vocabulary(vocabulary)
    return _built(foreign)


def _built(foreign: Foreign) -> Imported:
    words, n_token = foreign.vocabulary, foreign.arguments["n_token"]
    if type(n_token) is not int or n_token < 1:
        raise UserError(f"n_token={n_token}, the entries of the model's vocabulary, must be a whole number")
    if words is not None and len(words) != n_token:
        raise UserError(
            f"the vocabulary has {len(words):,} words and the model {n_token:,} entries: it is another model's; give "
            "import.vocabulary=FILE, the one it was trained with"
        )
    if broken := [name for name, value in foreign.weights.items() if not value.isfinite().all()]:
        raise UserError(f"the weights are damaged: {', '.join(broken[:3])} hold numbers that are not finite")
    config = original.model_config(foreign.arguments)
    model = config.build(n_token)
    original.load(model, foreign.into_original(foreign.weights))
    notes = list(foreign.notes)
    if any(value.dtype is torch.float16 for value in foreign.weights.values()):
        notes.append("its weights are in half precision, and stay as coarse as they are")
    adam = None
    if foreign.adam is not None:
        adam = _adam(model, foreign)
        if adam is None:
            notes.append("the state of its optimizer does not fit its weights and is left behind")
    step = foreign.step or (int(adam["state"][0]["step"]) if adam else 0)  # the original's only record of it
    return Imported(model, config, words, step, adam, notes)


def _adam(model: TransformerXL, foreign: Foreign) -> dict[str, Any] | None:
    """The source's Adam state, kept by the number of the parameter there, by that of ours. None if it does not fit.

    A module's parameters come in the order of its state dict, tied ones at their first name; fairseq's half precision
    keeps all of them in one flat vector.
    """
    originals = foreign.into_original(foreign.weights)
    again = original.tied_names(model) | original.BUFFERS
    shapes = {
        name: value.shape for (name, value), there in zip(foreign.weights.items(), originals) if there not in again
    }
    try:
        assert foreign.adam is not None
        numbers = [number for group in foreign.adam["param_groups"] for number in group["params"]]
        states = [foreign.adam["state"][number] for number in numbers]
        moments = {
            key: original.arranged(model, foreign.into_original(_by_name([state[key] for state in states], shapes)))
            for key in ("exp_avg", "exp_avg_sq")
        }
        step = float(states[0]["step"])
    except (KeyError, TypeError, AttributeError, RuntimeError, IndexError, ValueError, UserError):
        return None
    optimizer = AdamConfig().build(model.parameters())
    for name, parameter in model.named_parameters():
        kept = {key: moments[key][name].float().contiguous() for key in moments}
        optimizer.state[parameter] = {"step": torch.tensor(step), **kept}
    return optimizer.state_dict()


def _by_name(values: list[Tensor], shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """One tensor for each parameter, or all of them in one vector. ValueError if they are not that many numbers."""
    if len(values) == 1 and values[0].dim() == 1:
        values = list(values[0].split([shape.numel() for shape in shapes.values()]))
    if len(values) != len(shapes):
        raise ValueError(f"{len(values)} tensors for {len(shapes)} parameters")
    return {name: value.reshape(shape) for (name, shape), value in zip(shapes.items(), values)}


def write(imported: Imported, config: ImportConfig, run_dir: Path) -> None:
    """The run directory; its checkpoint comes last, so that what can be used is whole. UserError if it has one."""
    assert config.format is not None
    checkpoints = Checkpoints(run_dir / "checkpoints", keep=1)
    if checkpoints.folder.exists():
        raise UserError(f"{run_dir} has checkpoints already: delete it, or choose another hydra.run.dir")
    words = imported.vocabulary
    if words is not None:
        new = run_dir / f"{language.FILE}.new"
        new.write_text(words.to_json(), encoding="utf-8")
        os.replace(new, run_dir / language.FILE)
    model = OmegaConf.to_container(OmegaConf.structured(imported.config), enum_to_str=True)
    data = {
        "name": f"import.format={config.format.name}",
        "level": (words.level if words is not None else Level.word).name,
        "vocab_size": imported.model.embedding.bounds[-1][1],
        "vocabulary_sha256": words.sha256 if words is not None else None,
        "train_sha256": None,
    }
    optimizer = {"optimizer": {"name": AdamConfig.name}} if imported.adam else {}
    info = {
        "identity": {"model": model, "data": data} | optimizer,
        "config": {"model": model, "data": None},
        "imported": {"format": config.format.name, "path": config.path, "notes": imported.notes},
    }
    training = {"trainer": {"step": imported.step, "optimizer": imported.adam}}
    checkpoints.save(imported.step, imported.model, training, info, best=True)


def report(imported: Imported, run_dir: Path) -> None:
    params = sum(parameter.numel() for parameter in imported.model.parameters())
    log.info("%s parameters, after %s updates", f"{params:,}", f"{imported.step:,}")
    for note in imported.notes:
        log.info("Note: %s", note)
    if imported.vocabulary is None:
        log.warning(
            "No vocabulary came along: of a corpus only the number of words can be compared (import.vocabulary=)"
        )
    log.info("Evaluate it: python run.py task=eval checkpoint=%s data=...", run_dir)
    log.info("Train it on: python run.py checkpoint=%s data=... %s", run_dir, " ".join(_words(imported)))


def _words(imported: Imported) -> list[str]:
    """The command line's words for the imported model's settings."""
    plain = OmegaConf.to_container(OmegaConf.structured(imported.config), enum_to_str=True)
    assert isinstance(plain, dict)
    chosen = {str(key): value for key, value in plain.items() if key != "name"}
    words = {key: str(value).lower().replace(" ", "").replace("none", "null") for key, value in chosen.items()}
    adam = ["optimizer.from_checkpoint=true"] if imported.adam else []
    return ["model=txl_16l", *(f"model.{key}={word}" for key, word in words.items()), *adam]
