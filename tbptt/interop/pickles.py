"""Unpickles files without running their code.

A pickle can call any function while it is loaded. Here, nothing that it refers to is imported: every class or function
is replaced by a placeholder that only stores its arguments. Tensors are read by torch.load(weights_only=True).
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

READ_ERRORS = (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError)


class Placeholder:
    """Replaces a pickled object: the name of its class or function (`origin`), its arguments and its attributes."""

    origin: ClassVar[str] = ""

    def __new__(cls, *arguments: Any, **named: Any) -> Placeholder:
        placeholder = super().__new__(cls)
        placeholder.arguments, placeholder.attributes = arguments, {}
        return placeholder

    def __init__(self, *arguments: Any, **named: Any):
        self.arguments: tuple[Any, ...]
        self.attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.attributes = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Entries of a pickled mapping are ignored: none is needed."""

    @classmethod
    def with_origin(cls, origin: str) -> type[Placeholder]:
        return type("Placeholder", (cls,), {"origin": origin})


class _PlaceholderUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return Placeholder.with_origin(f"{module}.{name}")


def load_pickle(path: Path) -> Any:
    """Load a pickle file. UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return _PlaceholderUnpickler(file).load()
    except PermissionError:
        raise  # it is not damaged
    except Exception as error:  # a damaged pickle can raise any exception
        raise UserError(f"{path} cannot be read as a pickle ({_first_line(error)})") from error


def load_torch(path: Path) -> Any:
    """Load a torch.save file, with tensors on the CPU. UserError if it is damaged or not such a file."""
    try:
        if zipfile.is_zipfile(path):
            names = get_unsafe_globals_in_checkpoint(str(path))  # those that weights_only=True does not allow
        else:
            names, module, in_dict = _globals_in_legacy_file(path)
            if module is not None:
                placeholder = Placeholder.with_origin(module)()
                return {"model": placeholder} if in_dict else placeholder
        with safe_globals([(Placeholder.with_origin(name), name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise  # it is not damaged
    except READ_ERRORS as error:
        raise UserError(
            f"{path} cannot be read as a torch.save file ({_first_line(error)}): it is damaged or has another format"
        ) from error


def _globals_in_legacy_file(path: Path) -> tuple[list[str], str | None, bool]:
    """All classes and functions in a file from before torch 1.6; the class of a pickled module, if there is one, and
    whether it is an entry of a dict.

    torch cannot load such a file with a module under weights_only=True. The file is a series of pickles: a magic
    number, a version, system information, the object. A module is stored as the string `module`, its class, its source.
    """
    with open(path, "rb") as file:
        *before, saved = [list(pickletools.genops(file)) for _ in range(4)]
    operations = [operation for each in [*before, saved] for operation in each]
    opcodes = [(code.name, str(value)) for code, value, _ in operations if code.name in ("GLOBAL", "BINUNICODE")]
    names = [value.replace(" ", ".") for code, value in opcodes if code == "GLOBAL"]
    pairs = pairwise(opcodes)
    modules = (after for before, after in pairs if before == ("BINUNICODE", "module") and after[0] == "GLOBAL")
    module = next(modules, None)
    return names, module and module[1].replace(" ", "."), saved[1][0].name == "EMPTY_DICT"


def plain(value: Any) -> Any:
    """Convert settings, possibly a placeholder for a Namespace or OmegaConf object, to dicts, lists and scalars."""
    if isinstance(value, Placeholder):
        attributes = value.attributes
        return plain(next((attributes[key] for key in ("_content", "_val") if key in attributes), attributes))
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def _first_line(error: Exception) -> str:
    # Before this prefix, torch advises to load the file with weights_only=False.
    message = str(error).split("WeightsUnpickler error:")[-1].strip()
    return message.split("\n")[0][:120] or type(error).__name__
