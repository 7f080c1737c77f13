"""Loss curves of the fast paths over that of the exact one, on real text: they must lie on top of each other.

    python -m experiments.loss_curves                                             # a processor: minutes, a tiny model
    python -m experiments.loss_curves model=txl_16l data=wikitext103 --steps 3000 # a GPU

Trains the same model on the same text with the same seed three times: float32 with plain attention, bf16 with plain,
and bf16 with fused attention (without a GPU on Triton's interpreter, which is slow). Prints a table; writes every mean
of so many updates to logs/loss_curves.json and the picture to figures/loss_curves.png, in this folder or in --folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import experiments.interpreter  # isort: skip  # noqa: F401  # before tbptt

import matplotlib
import numpy as np
import torch

from experiments.throughput import composed_with
from tbptt.cli.config import Config
from tbptt.data.lanes import Lanes
from tbptt.data.prepare import open_corpus
from tbptt.device import Precision, parameter_dtype, pick_device
from tbptt.evaluation.score import score
from tbptt.launch.world import World
from tbptt.models.attention.choice import Attention
from tbptt.report.progress import progress
from tbptt.training.trainer import Trainer

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
TINY = [  # what the interpreter can be asked for: every tile of every head and lane costs milliseconds
    "model.n_layer=2", "model.d_model=128", "model.n_head=1", "model.d_head=32", "model.d_inner=512",
    "model.tgt_len=32", "model.mem_len=32", "data.batch_size=2", "optimizer.lr=2.5e-4", "scheduler.warmup_steps=100",
    "eval.max_tokens=2000",
]  # fmt: skip
PATHS = {
    "fp32, plain": (Precision.fp32, Attention.plain),
    "bf16, plain": (Precision.bf16, Attention.plain),
    "bf16, fused": (Precision.bf16, Attention.fused),
}


def curve(config: Config, precision: Precision, attention: Attention, steps: int, every: int) -> dict[str, Any]:
    """The mean loss of every so many updates, and the loss of the validation split afterwards."""
    config.trainer.precision, config.model.attention = precision, attention
    device, corpus = pick_device(config.trainer.device), open_corpus(config.data)
    torch.manual_seed(config.seed)
    model = config.model.build(len(corpus.vocabulary)).to(device, parameter_dtype(precision))
    lanes = Lanes.cut(corpus.splits["train"], config.data.batch_size, config.model.tgt_len)
    schedule, optimizer = config.scheduler.build(config.optimizer.lr, steps), config.optimizer.build(model)
    trainer, losses = Trainer(model, lanes, optimizer, schedule, config.trainer, World(device=device)), []
    with progress(steps, 0, "train", corpus.vocabulary.level) as shown:
        for _ in range(steps):
            losses.append(trainer.update().loss)
            shown.advance()
    valid = score(model, corpus.splits["valid"], config.eval, config.model.tgt_len, precision)
    means = np.array(losses[: steps // every * every]).reshape(-1, every).mean(1)
    return {"losses": [round(x, 5) for x in means], "valid_loss": round(valid.loss, 5)}


def draw(curves: dict[str, dict[str, Any]], every: int, file: Path) -> None:
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, height_ratios=(3, 1), layout="constrained")
    exact = np.array(next(iter(curves.values()))["losses"])
    for (name, found), style in zip(curves.items(), ("-", "--", ":")):
        steps = every * np.arange(1, len(exact) + 1)
        above.plot(steps, found["losses"], style, label=name)
        below.plot(steps, np.array(found["losses"]) - exact, style)
    above.set_ylabel("loss (nats a token)")
    above.legend()
    below.set_ylabel("difference")
    below.set_xlabel(f"updates (means of {every})")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="settings as run.py's; without any, a tiny model")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=HERE)
    options = parser.parse_args()
    for name in ("logs", "figures"):
        (options.folder / name).mkdir(parents=True, exist_ok=True)
    words = options.overrides or TINY
    curves = {name: curve(composed_with(words), *path, options.steps, options.every) for name, path in PATHS.items()}
    exact = np.array(next(iter(curves.values()))["losses"])
    print(
        "| path | last mean | mean distance to the first | largest | validation |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for name, found in curves.items():
        apart = np.abs(np.array(found["losses"]) - exact)
        print(
            f"| {name} | {found['losses'][-1]:.4f} | {apart.mean():.4f} | {apart.max():.4f} | {found['valid_loss']} |"
        )
    about = {"settings": words, "steps": options.steps, "every": options.every, "torch": torch.__version__}
    (options.folder / "logs" / "loss_curves.json").write_text(
        json.dumps(about | {"curves": curves}) + "\n", encoding="utf-8"
    )
    draw(curves, options.every, options.folder / "figures" / "loss_curves.png")
