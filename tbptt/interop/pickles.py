"""Pickled files, read without running anything of what they name.

A pickle may name any function to be called while it is read. Here nothing it names is ever imported: every class or
function, whatever it is called, becomes a stand-in that only remembers what it was given. Tensors are read by torch's
own restricted reader (weights_only).
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from tbptt.errors import UserError

UNREADABLE = (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError)


class StandIn:
    """What is left of a pickled object: the name of its class, the arguments it was made of, its attributes."""

    origin: ClassVar[str] = ""

    def __new__(cls, *arguments: Any, **named: Any) -> StandIn:
        made = super().__new__(cls)
        made.arguments, made.attributes = arguments, {}
        return made

    def __init__(self, *arguments: Any, **named: Any):
        self.arguments: tuple[Any, ...]
        self.attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.attributes = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """A pickled mapping's entries are not kept: none is needed."""

    @classmethod
    def named(cls, origin: str) -> type[StandIn]:
        return type("StandIn", (cls,), {"origin": origin})


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else StandIn.named(f"{module}.{name}")


def load_pickle(path: Path) -> Any:
    """What a plain pickle holds. UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return _InertUnpickler(file).load()
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path} cannot be read as a pickle ({_first_line(error)})") from error


def load_torch(path: Path) -> Any:
    """What torch.save wrote, tensors on the processor. UserError if it is damaged or no such file."""
    try:
        names, module = (_named_in_zip if zipfile.is_zipfile(path) else _named_before_zip)(path)
        if module is not None:
            return StandIn.named(module)()
        with safe_globals([(StandIn.named(name), name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(
            f"{path} cannot be read as a file of torch.save ({_first_line(error)}): it is damaged or of another kind"
        ) from error


def _named_in_zip(path: Path) -> tuple[list[str], None]:
    """The classes and functions that the file names and that torch would not read by itself."""
    return get_unsafe_globals_in_checkpoint(str(path)), None


def _named_before_zip(path: Path) -> tuple[list[str], str | None]:
    """The same of a file older than torch 1.6, and the class of the module in it, with which torch would not read it.

    It is a series of pickles: a magic number, a version, the machine, the object. A module's class is named behind the
    word `module`, and its code follows.
    """
    with open(path, "rb") as file:
        operations = [operation for _ in range(4) for operation in pickletools.genops(file)]
    told = [(code.name, str(value)) for code, value, _ in operations if code.name in ("GLOBAL", "BINUNICODE")]
    names = [value.replace(" ", ".") for code, value in told if code == "GLOBAL"]
    behind = (after for before, after in pairwise(told) if before == ("BINUNICODE", "module") and after[0] == "GLOBAL")
    module = next(behind, None)
    return names, module and module[1].replace(" ", ".")


def plain(value: Any) -> Any:
    """Settings as dicts, lists and scalars, whether they were pickled as such, as a Namespace or by OmegaConf."""
    if isinstance(value, StandIn):
        attributes = value.attributes
        return plain(next((attributes[key] for key in ("_content", "_val") if key in attributes), attributes))
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def _first_line(error: Exception) -> str:
    told = str(error).split("WeightsUnpickler error:")[-1].strip()  # before it, torch advises to run what files name
    return told.split("\n")[0][:120] or type(error).__name__
