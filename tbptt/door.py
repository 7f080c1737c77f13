"""Between the command line and the tasks: a wrong command is answered with one sentence, before anything is written."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn

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
from submitit.core.utils import UncompletedJobError

from tbptt.config import Config, Task, typed
from tbptt.errors import UserError
from tbptt.generation.config import BeamConfig
from tbptt.launch.lifeline import RankFailure
from tbptt.launch.place import find_place
from tbptt.launch.run import in_parallel, processes, speaks

FORMS = (Task["import"], Task.export)  # the tasks that bring a model into another form


class CheckConfig(Callback):
    """Checks a single run's configuration before Hydra makes its run directory."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        composed = config.copy()
        composed._set_flag("struct", False)
        composed.pop("hydra")
        try:
            checked = typed(composed)
            checked.check()
            processes(checked, find_place())
        except (UserError, OmegaConfBaseException) as error:
            leave(error)  # Hydra swallows a callback's Exceptions, but no SystemExit


def settings_without_effect(config: Config, overrides: list[str]) -> list[str]:
    """One sentence for each word of the command line that changes nothing."""
    sentences = []
    if config.task is Task.train:
        if config.scheduler.warmup_steps >= config.trainer.max_steps:
            sentences.append(
                f"scheduler.warmup_steps={config.scheduler.warmup_steps} is not over by trainer.max_steps="
                f"{config.trainer.max_steps}: the learning rate never reaches optimizer.lr"
            )
        if config.optimizer.from_checkpoint and config.checkpoint is None:
            sentences.append(
                "optimizer.from_checkpoint=true has no effect without checkpoint=RUN, whose state it takes"
            )
    keys = {override.split("=")[0].replace("/", "."): override for override in overrides}
    return sentences + [
        f"{override} has no effect with task={config.task.name}: {why}"
        for key, override in keys.items()
        for name, why in _ignored(config).items()
        if key == name or key.startswith(f"{name}.")
    ]


def _ignored(config: Config) -> dict[str, str]:
    """The keys and groups that the task makes no use of, each with the reason."""
    task = config.task
    unused = {form.name: f"that is for task={form.name}" for form in FORMS if form is not task}
    if task is not Task.generate:
        unused |= dict.fromkeys(("prompt", "generate"), "it writes no text")
    if task is Task.train:
        return unused | {"eval.dynamic": "a training run is scored with its weights as they are: use task=eval"}
    if task in FORMS:
        groups = ("data", "model", "eval", "optimizer", "scheduler", "trainer", "logger", "experiment", "seed")
        unused |= dict.fromkeys(groups, "it only brings a model into another form")
        return unused | ({"checkpoint": "import.path is what it reads"} if task is Task["import"] else {})
    unused |= dict.fromkeys(("optimizer", "scheduler", "logger"), "nothing is trained")
    if task is Task.prepare:
        return unused | dict.fromkeys(("seed", "model", "trainer", "eval"), "only the corpus is prepared")
    unused["model"] = "the model is the checkpoint's, and how far it looks back is set by eval.mem_len and the like"
    if not in_parallel(config):
        unused["trainer.devices"] = "it goes on step by step, on one device"
    if task is Task.generate:
        unused["trainer.micro_batch"] = "its lanes are generate.samples"
        keys = ("eval.split", "eval.batch_size", "eval.burn_in", "eval.max_tokens", "eval.dynamic")
        unused |= dict.fromkeys(keys, "nothing is scored")
        return unused | ({"seed": "nothing is random in it"} if isinstance(config.generate, BeamConfig) else {})
    unused |= dict.fromkeys(("data.batch_size", "trainer.micro_batch"), "its lanes are eval.batch_size")
    if config.data.is_one_text:
        reading = ("data.level", "data.lower", "data.min_count", "data.max_vocab", "data.vocabulary", "eval.split")
        unused |= dict.fromkeys(reading, "data.path is one text, read whole and as the checkpoint's run reads")
    return unused | {"seed": "nothing is random in it"}


def prompt_as_typed(arguments: list[str]) -> list[str]:
    """The command line with the text of prompt= quoted, so that Hydra takes all of it for text, commas and braces too.

    A sweep's is left alone: there a comma stands between two prompts.
    """
    if {"-m", "--multirun"} & set(arguments):
        return arguments
    return [re.sub(r"(?s)\Aprompt=(.*)\Z", lambda match: f'prompt="{_escaped(match[1])}"', word) for word in arguments]


def _escaped(text: str) -> str:
    """Text between double quotes as Hydra reads it: a quote, and backslashes before one, are escaped; so is ${."""
    text = re.sub(r'(\\*)("|\Z)', lambda match: match[1] * 2 + match[2].replace('"', '\\"'), text)
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)


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
        leave(UserError("a group takes the name of a choice, as in model=lstm; null and numbers are none"))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if asked_for_all:
            raise
        leave(error)
    except UncompletedJobError as error:  # of submitit: a job on a cluster
        leave(UserError(f"{error.args[0].splitlines()[0]} ended without a result; the table of the sweep says more"))
    except Exception as error:
        if not speaks(error):
            sys.exit(1)
        raise


def leave(error: Exception) -> NoReturn:
    """Exit with 1 and, on the one rank that speaks for all, the error's sentence."""
    sys.exit(f"Error: {sentence(error)}" if speaks(error) else 1)


def sentence(error: BaseException) -> str:
    """One sentence for an error of ours, of Hydra's or of OmegaConf's; that of another rank with its traceback."""
    if isinstance(error, RankFailure):
        return str(error)
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
    if message.startswith("Invalid type assigned"):
        return f"{error.full_key} is a group of settings: type {'/'.join(str(error.full_key).split('.'))}=CHOICE"
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
