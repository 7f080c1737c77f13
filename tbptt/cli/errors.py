"""Errors of the command line in one sentence, whether ours, Hydra's or OmegaConf's."""

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
from tbptt.errors import UserError
from tbptt.launch.failure_monitor import RankFailure


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
        exit_with(UserError("a group takes the name of a choice, as in model=lstm; null and numbers are none"))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if asked_for_all:
            raise
        exit_with(error)
    except UncompletedJobError as error:  # of submitit: a job on a cluster
        exit_with(
            UserError(f"{error.args[0].splitlines()[0]} ended without a result; the table of the sweep says more")
        )
    except Exception as error:
        if not reports_errors(error):
            sys.exit(1)
        raise


def exit_with(error: Exception) -> NoReturn:
    """Exit with 1 and, on the one rank that speaks for all, the error's sentence."""
    sys.exit(f"Error: {sentence(error)}" if reports_errors(error) else 1)


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
