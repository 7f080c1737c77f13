"""Kill a run with SIGKILL at random moments, start it again each time, and compare with one that was left alone.

    python -m experiments.resilience --kills 30

Both runs must end with the same weights and the same losses in metrics.jsonl, bit for bit. The run is short but has
everything that could go wrong: dropout, memory, several epochs, shuffled documents that reset the memory, validations,
and a checkpoint every other step.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file

from tbptt.report.metrics import TIMES

STEPS, LINES = 40, 6  # of the run for each kill; lines of its log (3 steps each) it may get ahead before one, at most
ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [
    "data=text", "data.documents=true", "data.order=shuffled", "trainer.reset_state=document",
    "data.level=byte", "data.batch_size=4", "model.n_layer=2", "model.d_model=32", "model.n_head=2",
    "model.d_head=16", "model.d_inner=64", "model.tgt_len=16", "model.mem_len=24", "model.dropout=0.1",
    "model.dropatt=0.1", "trainer.log_every=3", "trainer.eval_every=20",
    "trainer.save_every=2", "trainer.micro_batch=2", "trainer.device=cpu",
]  # fmt: skip


def command(folder: Path, run_dir: Path, steps: int) -> list[str]:
    paths = [f"data.path={folder}/text", f"data.cache={run_dir}.cache", f"hydra.run.dir={run_dir}"]
    return [sys.executable, str(ROOT / "run.py"), *SETTINGS, f"trainer.max_steps={steps}", *paths]


def make_corpus(folder: Path) -> None:
    """Some thousand bytes of the project's own text, read several times over in a run: each paragraph a document."""
    text = (ROOT / "tbptt/training/checkpoints.py").read_text(encoding="utf-8")
    for split, part in (("train", text[:4200]), ("valid", text[4200:5200]), ("test", text[5200:6200])):
        (folder / "text" / split).mkdir(parents=True)
        for number, paragraph in enumerate(part.split("\n\n")):
            (folder / "text" / split / f"{number:03d}.txt").write_text(paragraph, encoding="utf-8")


def run_undisturbed(start: list[str], run_dir: Path) -> float:
    """Run to the end. Seconds to the first line of metrics."""
    started, first = time.monotonic(), None
    process = subprocess.Popen(start, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if first is None and (run_dir / "metrics.jsonl").exists() and (run_dir / "metrics.jsonl").stat().st_size:
            first = time.monotonic()
        time.sleep(0.01)
    if process.returncode or first is None:
        raise RuntimeError(f"the run failed: see {run_dir}")
    return first - started


def run_and_kill(start: list[str], run_dir: Path, kills: int, startup: float, seed: int) -> None:
    """Start the run again and again and kill it `kills` times; at last let it end.

    A quarter of the kills come while it starts up, the others after a few more lines of its log.
    """
    moments = random.Random(seed)
    for _ in range(kills):
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if moments.random() < 0.25:
            wait_for_lines(run_dir, process, 1, moments.uniform(0.3, 1) * startup)
        else:
            wait_for_lines(run_dir, process, moments.randint(1, LINES))
            time.sleep(moments.uniform(0, 0.03))
        if process.poll() is not None:
            raise RuntimeError("the run ended before it was killed often enough: give it more steps")
        process.kill()
        process.wait()
    subprocess.run(start, check=True, capture_output=True)


def wait_for_lines(run_dir: Path, process: subprocess.Popen, lines: int, seconds: float = 600) -> None:
    """Until the log of the run tells of some more steps, or so many seconds are over."""
    log = run_dir / "run.log"
    before = log.read_text(encoding="utf-8").count(": step ") if log.exists() else 0
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if log.exists() and log.read_text(encoding="utf-8").count(": step ") >= before + lines:
            break
        time.sleep(0.01)


def losses(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def compare(folder: Path, kills: int, seed: int = 1) -> dict:
    """Run once undisturbed and once with kills. What is equal, and how many steps the killed run repeated."""
    make_corpus(folder)
    calm, killed, steps = folder / "calm", folder / "killed", STEPS * kills
    startup = run_undisturbed(command(folder, calm, steps), calm)
    run_and_kill(command(folder, killed, steps), killed, kills, startup, seed)
    weights = [load_file(run_dir / "checkpoints/last/model.safetensors") for run_dir in (calm, killed)]
    results = [json.loads((run_dir / "results.json").read_text(encoding="utf-8"))["loss"] for run_dir in (calm, killed)]
    return {
        "kills": kills,
        "continued_from_steps": continued_from(killed),
        "weights_equal": all(weights[0][name].equal(weights[1][name]) for name in weights[0] | weights[1]),
        "losses_equal": losses(calm) == losses(killed),
        "test_loss_equal": results[0] == results[1],
    }


def continued_from(run_dir: Path) -> list[int]:
    """The steps at which the killed run took up again, as its log tells."""
    lines = (run_dir / "run.log").read_text(encoding="utf-8").splitlines()
    return [
        int(line.split("from step ")[1].split(" of")[0].replace(",", "")) for line in lines if "Continuing from" in line
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = compare(Path(folder), arguments.kills, arguments.seed)
    print(json.dumps(report))
    sys.exit(not (report["weights_equal"] and report["losses_equal"] and report["test_loss_equal"]))
