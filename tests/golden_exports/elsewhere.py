"""What the classes of transformers and flash-linear-attention compute of the directories that are exported.

Needs transformers and flash-linear-attention. This records their losses:

    TRITON_INTERPRET=1 python -m tests.golden_exports.elsewhere
"""

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from tests.float64 import Float64
from tests.golden_exports import MODELS, OF_FLA, RECORDED, TOKENS, digest, exported


@contextmanager
def no_fla() -> Iterator[None]:
    """transformers takes the kernels of fla where it is installed, which need a GPU: it looks while it is imported."""
    before = sys.modules.get("fla")
    sys.modules["fla"] = None
    try:
        yield
    finally:
        del sys.modules["fla"]
        if before is not None:
            sys.modules["fla"] = before


def losses(name: str, folder: Path) -> Tensor:
    """In float64. AssertionError if the class misses a weight or has no place for one."""
    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    if name in OF_FLA:
        from tests.golden_fla.record import in_plain_float64

        module, float64 = importlib.import_module("fla.models"), in_plain_float64
    else:
        module, float64 = transformers, Float64
    with nullcontext() if name in OF_FLA else no_fla():
        model, report = getattr(module, architecture).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    model.double().eval()
    with torch.no_grad(), float64():
        logits = model(TOKENS[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.transpose(1, 2), TOKENS[:, 1:], reduction="none")


def main() -> None:
    models = {}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            exported(name, Path(folder))
            models[name] = {"sha256": digest(Path(folder)), "nll64": losses(name, Path(folder)).tolist()}
    packages = ("transformers", "flash-linear-attention", "torch")
    found = {"versions": {package: version(package) for package in packages}, "models": models}
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
