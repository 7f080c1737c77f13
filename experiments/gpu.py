"""All that is to be measured on a GPU, in one command, in the order of importance, until the time is up.

    pip install -e '.[kernels,dev]' flash-linear-attention
    python -m experiments.gpu --minutes 9 --folder FOUND
    python -m experiments.gpu --only checks training

Every step is a command of its own with a time limit; what it printed lies in FOUND/<step>.log, what it measured beside
it. One JSON line a step says how it ended; a step for which no time was left is named too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
# A small corpus that every machine has; at this size its words are bytes.
PATHS = ["fused+graphs", "fused", "plain", "fused+compiled+graphs", "fused+compiled", "plain+compiled"]
BYTES = ["data=stdlib", "model=txl_16l", "model.cutoffs=[]", "model.div_val=1", "data.batch_size=60"]


def steps(folder: Path) -> dict[str, tuple[int, list[str]]]:
    """Seconds at most, and the arguments of `python -m`."""
    base = ["experiments.throughput", "model=txl_16l", "eval=wt103_base", "data=wikitext103", "trainer.precision=bf16"]
    kernels = ["tests/models/test_fused_attention.py", "tests/models/mixers/test_kernels.py"]
    return {
        # Exactness first: a number of tokens a second of wrong results is worth nothing.
        "checks": (200, ["pytest", "-v", "--tb=short", "-n", "8", "--dist", "load", "tests/test_gpu.py", *kernels]),
        "training": (200, [*base, "--steps", "30", "--json", f"{folder}/throughput.jsonl", "--paths", *PATHS]),
        "mixers": (150, ["experiments.fla_kernels", "--speed"]),
        "curves": (240, ["experiments.loss_curves", *BYTES, "--steps", "1000", "--folder", str(folder)]),
    }


def run(name: str, limit: float, arguments: list[str], folder: Path) -> dict[str, object]:
    """Run a step; a step that is stopped at its limit has the exit status None."""
    started = time.monotonic()
    with open(folder / f"{name}.log", "w", encoding="utf-8") as log:
        try:
            status = subprocess.run(
                [sys.executable, "-u", "-m", *arguments], cwd=ROOT, stdout=log, stderr=log, timeout=limit
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
    return {"step": name, "status": status, "seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--folder", type=Path, default=Path("gpu"))
    parser.add_argument("--only", nargs="+", choices=steps(Path()), help="these steps alone")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this machine has no GPU")
    options.folder.mkdir(parents=True, exist_ok=True)
    folder, end = options.folder.resolve(), time.monotonic() + 60 * options.minutes
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)
    for name, (limit, arguments) in steps(folder).items():
        if options.only and name not in options.only:
            continue
        left = end - time.monotonic()
        ended: dict[str, object] = {"step": name, "skipped": "no time left"}
        if left > 0:
            ended = run(name, min(limit, left), arguments, folder)
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
