"""`python run.py` as a person types it: real processes, in a directory with a small corpus."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tbptt.report.metrics import TIMES
from tests.forked_commands import run_forked

ROOT = Path(__file__).parents[1]
FAULTS = f"{ROOT / 'tests/launch/faults'}{os.pathsep}{ROOT}"  # on PYTHONPATH, see there; its tbptt is this checkout's
SMALL = ["experiment=debug", "data=text", "data.level=byte", "data.path=text", "data.batch_size=4"]


def make_home(folder: Path) -> Path:
    """A working directory with a small corpus; runs share it, and the token files."""
    text = (ROOT / "tbptt/training/checkpoints.py").read_text()
    (folder / "text").mkdir()
    for split, part in (("train", text[:4000]), ("valid", text[4000:5000]), ("test", text[5000:6000])):
        (folder / "text" / f"{split}.txt").write_text(part)
    return folder


def command(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), *words]


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"TBPTT_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}


def run(home: Path, *words: str, code: int = 0, cwd: Path | None = None, **more: str) -> str:
    """Run a command in `home` or in `cwd`, check its exit code, and give back all it printed.

    `more` are variables of its environment; a command that has some starts anew, since libraries may read them.
    """
    if not more:
        returned, printed = run_forked([str(ROOT / "run.py"), *words], cwd or home, environment(home))
    else:
        env = environment(home) | more
        result = subprocess.run(command(*words), cwd=cwd or home, env=env, capture_output=True, text=True)
        returned, printed = result.returncode, result.stdout + result.stderr
    assert returned == code, printed
    return printed


def train(home: Path, *words: str, code: int = 0, **more: str) -> str:
    return run(home, *SMALL, *words, code=code, **more)


def lines_of(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def numbers_of(run_dir: Path) -> list[dict]:
    """The lines of metrics.jsonl but for the time they took."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines_of(run_dir)]


def wait_until(condition, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


WIDTH, HEIGHT = slice(16, 20), slice(20, 24)  # of a PNG file


def looks_like_a_picture(path: Path) -> bool:
    head = path.read_bytes()[:24]
    return head.startswith(b"\x89PNG") and int.from_bytes(head[WIDTH], "big") > 500 < int.from_bytes(
        head[HEIGHT], "big"
    )
