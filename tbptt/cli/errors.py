"""One-sentence messages for errors in the command line, raised by this project, Hydra or OmegaConf."""

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
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)
from submitit.core.utils import UncompletedJobError

from tbptt.cli.processes import reports_errors
from tbptt.errors import UserError, denied_files_reported, full_disk_reported
from tbptt.launch.failure_monitor import RankFailure
from tbptt.output import outlive_readers


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Print errors in the command line as one sentence and exit with 1; other exceptions keep their traceback."""
    full_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints exceptions itself and exits
    outlive_readers()
    try:
        with denied_files_reported(), full_disk_reported("the run directory", "hydra.run.dir"):
            yield
    except KeyboardInterrupt:
        sys.exit(130)
    except ValueError as error:
        if full_traceback or not str(error).startswith("Config group override"):
            raise
        exit_with(
            UserError("the value of a group must be the name of a choice, as in model=lstm, not null or a number")
        )
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if full_traceback:
            raise
        exit_with(error)
    except UncompletedJobError as error:  # from submitit: a cluster job
        exit_with(
            UserError(
                f"{error.args[0].splitlines()[0]} ended without a result: see the table of the sweep for the cause"
            )
        )
    except Exception as error:
        if not reports_errors(error):
            sys.exit(1)
        raise


def exit_with(error: Exception) -> NoReturn:
    """Exit with 1; the reporting rank prints the error as one sentence."""
    sys.exit(f"Error: {sentence(error)}" if reports_errors(error) else 1)


def sentence(error: BaseException) -> str:
    """The error as one sentence; a RankFailure with its traceback."""
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
        return f"'{error.override}' is not of the form key=value or group=choice: {str(error).splitlines()[0]}"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        choices = [option for option in error.options if not option.startswith("schema")]
        return f"{group}={choice} does not exist: {group} may be {', '.join(choices)}"
    return " ".join(str(error).split())


def _unknown_key(error: OmegaConfBaseException) -> str:
    *parents, key = str(error.full_key).split(".")
    group = ".".join(parents)
    schema: Any = error.object_type
    known = [field.name for field in fields(schema)] if is_dataclass(schema) else []
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {'.'.join([*parents, close[0]])}? " if close else ""
    owner = f"{group} has" if group else "valid keys are"
    return f"unknown key {error.full_key}: {hint}{owner} {', '.join(known)}"


def _wrong_type(error: OmegaConfBaseException) -> str:
    message = str(error).split("\n")[0]
    quoted = re.search(r"[Vv]alue '(.*?)'", message)
    given = f"'{quoted[1]}'" if quoted else "the given value"
    if message.startswith("Invalid type assigned"):
        return f"{error.full_key} is a group of settings: use {'/'.join(str(error.full_key).split('.'))}=CHOICE"
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
