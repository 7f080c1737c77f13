"""The command that turns a pickled module into a state dict, to be run where the module's code is installed."""

from __future__ import annotations

import os
import re
from pathlib import Path

OPTIMIZER, LOG = "optimizer.pt", "log.txt"  # read from the folder of the original's state dict


def conversion(path: Path, origin: str, in_dict: bool) -> str:
    """The sentence with the command, for a file that is a module of class `origin`, or a dict with one.

    The command works in torch of any age. It writes the state dict beside the file, where the optimizer's state and the
    log lie; if that folder may not be written to, into a new one, with copies of them.
    """
    path = path.absolute()
    folder = path.parent if os.access(path.parent, os.W_OK) else Path.cwd() / f"{path.parent.name}_state_dict"
    target = folder / ("weights.pt" if path.name == "state_dict.pt" else "state_dict.pt")
    module = origin.rpartition(".")[0]
    # The variable instead of weights_only=False, an argument that old torch does not have.
    lines = ["import os, torch", "os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] = '1'"]
    if module == "__main__":
        lines.insert(0, "from SCRIPT import *")
    if folder != path.parent:
        beside = [str(path.with_name(name)) for name in (OPTIMIZER, LOG) if path.with_name(name).is_file()]
        lines += [f"os.makedirs({str(folder)!r}, exist_ok=True)", "import shutil"]
        lines += [f"shutil.copy({each!r}, {str(folder)!r})" for each in beside]
    lines.append(f"m = torch.load({str(path)!r}, map_location='cpu')")
    converted = "{k: v.state_dict() if hasattr(v, 'state_dict') else v for k, v in m.items()}"
    lines.append(f"torch.save({converted if in_dict else 'm.state_dict()'}, {str(target)!r})")
    escaped = re.sub(r'([\\"$`])', r"\\\1", "; ".join(lines))
    return f'in {_folder_of(module)}, run `python -c "{escaped}"` and import the {target.name} that it writes'


def _folder_of(module: str) -> str:
    top, _, inner = module.partition(".")
    if top == "__main__":
        return "the folder of the script that defines it (put its name for SCRIPT)"
    if top == "torch":  # such as DataParallel, around a module of another class
        return "the folder of the code that trained it"
    return f"the folder that contains {top if inner else top + '.py'}"
