"""Between the command line and the tasks: a wrong command is answered with one sentence, before anything is written."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from tbptt.config import Config, Task, typed
from tbptt.errors import UserError


class CheckConfig(Callback):
    """Checks a single run's configuration before Hydra makes its run directory."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        composed = config.copy()
        composed._set_flag("struct", False)
        composed.pop("hydra")
        try:
            typed(composed).check()
        except (UserError, OmegaConfBaseException) as error:
            raise SystemExit(f"Error: {sentence(error)}") from error  # Hydra swallows a callback's Exceptions


def settings_without_effect(config: Config, overrides: list[str]) -> list[str]:
    """One sentence for each word of the command line that changes nothing."""
    if config.task is Task.train:
        sentences = []
        if config.scheduler.warmup_steps >= config.trainer.max_steps:
            sentences.append(
                f"scheduler.warmup_steps={config.scheduler.warmup_steps} is not over by trainer.max_steps="
                f"{config.trainer.max_steps}: the learning rate never reaches optimizer.lr"
            )
        return sentences
    ignored = {
        "model": "the model is the checkpoint's, and how far it looks back is set by eval.mem_len and the like",
        "seed": "nothing is random in it",
        **dict.fromkeys(("optimizer", "scheduler", "logger"), "nothing is trained"),
        **dict.fromkeys(("data.batch_size", "trainer.micro_batch"), "its lanes are eval.batch_size"),
    }
    keys = {override.split("=")[0]: override for override in overrides}
    return [
        f"{override} has no effect with task=eval: {why}"
        for key, override in keys.items()
        for name, why in ignored.items()
        if key == name or key.startswith(f"{name}.")
    ]


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Print mistakes of the command line as one sentence and exit with 1; let all other exceptions show themselves."""
    asked_for_all = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints exceptions itself, in its own way, and exits
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except ValueError as error:
        if asked_for_all or not str(error).startswith("Config group override"):
            raise
        sys.exit("Error: a group takes the name of a choice, as in model=lstm; null and numbers are none")
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if asked_for_all:
            raise
        sys.exit(f"Error: {sentence(error)}")


def sentence(error: BaseException) -> str:
    """One sentence for an error of ours, of Hydra's or of OmegaConf's."""
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        error = error.__cause__
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and error.full_key:
        return _unknown_key(error)
    if isinstance(error, MissingMandatoryValue):
        key = str(error.full_key).removesuffix(".name")
        return (
            f"{key} is not set: give {key}=CHOICE" if key != error.full_key else f"{key} is not set: give {key}=VALUE"
        )
    if isinstance(error, ValidationError) and error.full_key:
        return _wrong_type(error)
    if isinstance(error, OverrideParseException):
        return f"'{error.override}' is not key=value or group=choice: {str(error).splitlines()[0]}"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        choices = [option for option in error.options if not option.startswith("schema")]
        return f"{group}={choice} is no choice of {group}: it may be {', '.join(choices)}"
    return " ".join(str(error).split())


def _unknown_key(error: OmegaConfBaseException) -> str:
    *parents, key = str(error.full_key).split(".")
    where = ".".join(parents)
    schema: Any = error.object_type
    known = [field.name for field in fields(schema)] if is_dataclass(schema) else []
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {'.'.join([*parents, close[0]])}? " if close else ""
    there = f"{where} has" if where else "there are"
    return f"unknown key {error.full_key}: {hint}{there} {', '.join(known)}"


def _wrong_type(error: OmegaConfBaseException) -> str:
    message = str(error).split("\n")[0]
    quoted = re.search(r"[Vv]alue '(.*?)'", message)
    given = f"'{quoted[1]}'" if quoted else "what was given"
    if choices := re.search(r"expected one of \[(.*)\]", message):
        return f"{error.full_key} may be {choices[1]}; {given} is none of them"
    kinds = {
        "to Integer": "a whole number",
        "to Float": "a number",
        "bool": "true or false",
        "not a ListConfig": "a list",
    }
    for kind, words in kinds.items():
        if kind in message:
            return f"{error.full_key} must be {words}; {given} is not"
    return f"{error.full_key}: {message}"
