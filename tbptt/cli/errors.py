"""One-sentence messages for errors in the command line, raised by this project, Hydra or OmegaConf."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Any, NoReturn, get_type_hints

from hydra.core.utils import JobReturn, JobStatus
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
from submitit.core.utils import FailedJobError, UncompletedJobError

from tbptt.cli.config import GROUPS, text_keys
from tbptt.cli.processes import escape_what_the_screen_lacks, reports_errors
from tbptt.cli.quoting import quoted
from tbptt.data.reading import decode
from tbptt.errors import UserError, denied_files_reported, full_disk_reported
from tbptt.launch.failure_monitor import RankFailure
from tbptt.output import outlive_readers

PYTHON = {"True": "true", "False": "false", "None": "null"}  # and what a person types
AS_TYPED = re.compile(rf"(?<=\w=)(?:{'|'.join(PYTHON)})\b")


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Print errors in the command line as one sentence and exit with 1; other exceptions keep their traceback."""
    escape_what_the_screen_lacks()
    full_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints exceptions itself and exits
    outlive_readers()
    try:
        with denied_files_reported(), full_disk_reported("the run directory", "hydra.run.dir"):
            yield
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if full_traceback:
            raise
        exit_with(error)
    except UnicodeDecodeError as error:
        if full_traceback or (file := _configuration_file(error)) is None:
            raise
        try:
            decode(file.read_bytes(), file)
        except UserError as refused:
            exit_with(refused)
        raise
    except ValueError as error:
        if str(error).startswith("No trials are completed"):  # Optuna, asked for the best of them
            exit_with(UserError("no trial of the search has ended with a loss: the table of the sweep has the causes"))
        if not full_traceback and _module(error).startswith("optuna."):
            exit_with(UserError(f"hydra/sweeper=optuna cannot search this: {error}"))
        if full_traceback or not str(error).startswith("Config group override"):
            raise
        exit_with(
            UserError("the value of a group must be the name of a choice, as in model=lstm, not null or a number")
        )
    except UncompletedJobError as error:  # from submitit: a cluster job
        exit_with(UserError(_lost_job(error)))
    except Exception as error:
        if not reports_errors(error):
            sys.exit(1)
        raise


def _configuration_file(error: Exception) -> Path | None:
    """The file of the configuration that Hydra was reading."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    read = [frame.f_locals["full_path"] for frame in frames if "full_path" in frame.f_locals]
    return Path(read[-1]) if read else None


def _module(error: Exception) -> str:
    """The module that raised an error."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "")


def _lost_job(error: UncompletedJobError) -> str:
    """Why a job has no result: the last line of its traceback, if it has left one."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if not isinstance(error, FailedJobError):
        return f"{lines[0]} ended without a result: see the table of the sweep for the cause"
    end = next((i for i, line in enumerate(lines) if i > 1 and line.startswith("-----")), len(lines))
    return f"a job of the sweep could not start: {lines[end - 1]}"


@contextmanager
def exit_on_user_errors() -> Iterator[None]:
    """For Hydra's callbacks, whose Exceptions Hydra suppresses, but not SystemExit."""
    try:
        yield
    except (UserError, OmegaConfBaseException) as error:
        exit_with(error)


def exit_with(error: Exception) -> NoReturn:
    """Exit with 1; the reporting rank prints the error as one sentence, at once."""
    if reports_errors(error):
        sys.stdout.flush()
        print(f"Error: {sentence(error)}", file=sys.stderr, flush=True)
    sys.exit(1)


class QuietErrors(Callback):
    """Keeps Hydra from printing a line of its own before the error of a job."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if job_return.status is JobStatus.FAILED:
            job_return.__class__ = FailedJob


class FailedJob(JobReturn):
    """The outcome of a failed job: to ask for its value raises its error, without a word of Hydra's."""

    @property  # type: ignore[misc]  # it is set only once
    def return_value(self) -> Any:
        raise self._return_value


def sentence(error: BaseException) -> str:
    """The error as one sentence; a RankFailure with its traceback."""
    if isinstance(error, RankFailure):
        return str(error)
    if isinstance(error, OmegaConfBaseException | HydraException):  # it may hold an error raised inside a resolver
        for cause in _causes(error):
            if isinstance(cause, UserError):
                return sentence(cause)
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
        return f"'{error.override}' is not of the form key=value or group=choice: {str(error).splitlines()[0]}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        choices = [option for option in error.options or () if not option.startswith("schema")]  # of a list: unknown
        allowed = f"{group} may be {', '.join(choices)}" if choices else "python run.py --help lists the choices"
        return f"{group}={choice} does not exist: {allowed}"
    if misfit := re.search(r"In '(.*)/(.*)': .*Key '(.*)' not in '(\w+)'\s+full_key: (\S*)", str(error), re.DOTALL):
        group, choice, _, _, key = misfit.groups()
        parent = key.rpartition(".")[0].replace(".", "/")
        return (
            f"{group}={choice} sets {key}, which this choice of {parent} does not have: use another {parent} with "
            f"{group}={choice}, or another {group}"
        )
    if several := re.match("Ambiguous value for argument '(.*?)=(.*)'$", str(error), re.MULTILINE):
        key, values = several.groups()
        other = f"quote it, as in {quoted(key, values)}" if key in text_keys() else f"give a list, {key}=[{values}]"
        return f"{key}={values} has several values: add -m to run each of them, or {other}"
    return AS_TYPED.sub(lambda value: PYTHON[value[0]], " ".join(str(error).split()))


def _causes(error: BaseException) -> Iterator[BaseException]:
    while cause := error.__cause__ or error.__context__:
        yield cause
        error = cause


def _unknown_key(error: OmegaConfBaseException) -> str:
    *parents, key = str(error.full_key).split(".")
    group = ".".join(parents)
    schema: Any = error.object_type
    known = [field.name for field in fields(schema)] if is_dataclass(schema) else []
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {'.'.join([*parents, close[0]])}? " if close else ""
    owner = f"{group} has" if group else "valid keys are"
    return f"unknown key {error.full_key}: {hint}{owner} {', '.join(known)}"


def _of_a_group(error: OmegaConfBaseException) -> str:
    *parents, key = str(error.full_key).split(".")
    if (group := "/".join([*parents, key])) in GROUPS:
        return f"use {group}=CHOICE"
    kind: Any = get_type_hints(error.object_type)[key]
    return f"it has {', '.join(f'{error.full_key}.{field.name}' for field in fields(kind))}"


def _wrong_type(error: OmegaConfBaseException) -> str:
    message = str(error).split("\n")[0]
    quoted = re.search(r"[Vv]alue '(.*?)'", message)
    given = f"'{quoted[1]}'" if quoted else "the given value"
    if message.startswith("Invalid type assigned"):
        return f"{error.full_key} is a group of settings: {_of_a_group(error)}"
    if choices := re.search(r"expected one of \[(.*)\]", message):
        return f"{error.full_key} must be one of {choices[1]}, not {given}"
    expected_types = {
        "to Integer": "a whole number",
        "to Float": "a number",
        "bool": "true or false",
        "not a ListConfig": "a list",
    }
    for pattern, expected in expected_types.items():
        if pattern in message:
            return f"{error.full_key} must be {expected}, not {given}"
    return f"{error.full_key}: {message}"
