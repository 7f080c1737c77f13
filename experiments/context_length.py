"""How far back models make use of what they have read: the loss by available context, and the relative effective
context length (RECL; Dai et al. 2019, arXiv 1901.02860, section 4.3 and appendix C; after Khandelwal et al. 2018).

    python -m experiments.context_length RUN RUN ... --step 64 --longest 640 --figure context_length.png

The runs are one model group of one vocabulary, read on the first one's test split. l_i(c, t) is model i's loss at token
t when it starts empty c tokens before. b(c, t) is the least of the group. With f_i(c, c') the mean of min(b(c, t),
l_i(c', t)) over the share r of positions where b(c, t) is largest, the gain from c to c' = c + step is
1 - exp f_i(c, c') / exp f_i(c, c), and the RECL the first c = step, 2 step, ... whose gain is below 1 %.

Models walk in their own segments, which end at the targets: `--step` is a multiple of every tgt_len.

Shapes: W windows, C their length, M context lengths (step, 2 step, ...), N positions, I models.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from tbptt import tasks
from tbptt.cli.config import register, text_keys, typed
from tbptt.cli.quoting import quote_texts
from tbptt.data.prepare import PreparedCorpus
from tbptt.device import pick_device
from tbptt.errors import UserError
from tbptt.evaluation.score import evaluating
from tbptt.models.protocol import RecurrentModel
from tbptt.report.picture import plain
from tbptt.tasks.loading import TrainedModel, corpus_to_score, open_trained

CONF = Path(__file__).resolve().parents[1] / "conf"
THRESHOLD = 0.01
RATIOS = (0.1, 0.5, 1.0)


@torch.no_grad()
def window_losses(model: RecurrentModel, stream: np.ndarray, step: int, longest: int, windows: int, tgt_len: int):
    """The losses (W, C) in nats of windows of `longest` tokens that start empty at 0, step, 2 step, ...

    Column c - 1 holds the losses of targets with c tokens of context.
    """
    device, parts = next(model.parameters()).device, []
    with evaluating(model):
        for start in range(0, windows, 128):
            starts_B = np.arange(start, min(start + 128, windows)) * step
            text_BC = torch.from_numpy(stream[starts_B[:, None] + np.arange(longest + 1)].astype(np.int64)).to(device)
            state, nll = model.initial_state(len(starts_B)), []
            for begin in range(0, longest, tgt_len):
                end = min(begin + tgt_len, longest)
                nll_BT, state = model(text_BC[:, begin:end], text_BC[:, begin + 1 : end + 1], state)
                nll.append(nll_BT)
            parts.append(torch.cat(nll, dim=1).double().cpu().numpy())
    return np.concatenate(parts)


def by_context(nll_WC: np.ndarray, step: int) -> np.ndarray:
    """The losses (M, N) of the same N positions, all multiples of `step`, with step, 2 step, ... tokens of context."""
    steps = nll_WC.shape[1] // step
    positions = len(nll_WC) - steps + 1
    return np.stack([nll_WC[steps - m : steps - m + positions, m * step - 1] for m in range(1, steps + 1)])


def gains(losses_IMN: np.ndarray, r: float) -> np.ndarray:
    """The relative gains (I, M - 1) from each context length to the next one, over the share `r` of hard positions."""
    models, lengths, positions = losses_IMN.shape
    found_IM = np.empty((models, lengths - 1))
    for m in range(lengths - 1):
        baseline_N = losses_IMN[:, m].min(axis=0)
        hard = np.argsort(-baseline_N, kind="stable")[: max(1, round(r * positions))]
        before = baseline_N[hard].mean()
        after_I = np.minimum(baseline_N[hard], losses_IMN[:, m + 1, hard]).mean(axis=1)
        found_IM[:, m] = 1 - np.exp(after_I - before)
    return found_IM


def effective_length(gains_M: np.ndarray, step: int) -> int | None:
    """The first context length that gains less than the threshold; None if there was none."""
    below = np.flatnonzero(gains_M < THRESHOLD)
    return int(below[0] + 1) * step if len(below) else None


@dataclass
class Curve:
    """What is drawn and told of one model."""

    name: str
    nll_WC: np.ndarray
    gains: dict[float, np.ndarray]  # by r


def measure(runs: list[str], step: int, longest: int, positions: int) -> list[Curve]:
    """UserError for runs that cannot be compared, or a test split that is too short."""
    trained, corpora = zip(*map(open_run, runs))
    for run, one, corpus in zip(runs, trained, corpora):
        if corpus.vocabulary.sha256 != corpora[0].vocabulary.sha256:
            raise UserError(f"{run} has another vocabulary than {runs[0]}: losses of a group are compared by token")
        if step % one.config.tgt_len:
            raise UserError(f"--step {step} must be a multiple of the tgt_len of {run}, {one.config.tgt_len}")
    if longest % step or longest < 2 * step:
        raise UserError(f"--longest {longest} must be a multiple of --step {step}, two of them at least")
    windows, stream = positions + longest // step - 1, corpora[0].splits["test"]
    if (windows - 1) * step + longest >= len(stream):
        raise UserError(f"--positions {positions} is more than the test split of {len(stream):,} tokens has")
    nll = [window_losses(one.model, stream, step, longest, windows, one.config.tgt_len) for one in trained]
    losses_IMN = np.stack([by_context(nll_WC, step) for nll_WC in nll])
    by_r = {r: gains(losses_IMN, r) for r in RATIOS}
    return [
        Curve(Path(run).name, nll_WC, {r: found[i] for r, found in by_r.items()})
        for i, (run, nll_WC) in enumerate(zip(runs, nll))
    ]


def open_run(run: str) -> tuple[TrainedModel, PreparedCorpus]:
    register()
    with initialize_config_dir(str(CONF), version_base=None):
        words = quote_texts(["task=eval", f"checkpoint={run}"], text_keys())
        config = typed(compose("config", words))
    tasks.check(config)
    trained = open_trained(config, [], pick_device(config.trainer.device))
    return trained, corpus_to_score(config, trained.checkpoint, [])


def table(curves: list[Curve], step: int, longest: int) -> str:
    """RECL for each r, and the mean loss in bits with growing context, as Markdown."""
    contexts = [c for c in (1, 4, 16) if c < step] + [step * 2**i for i in range(20) if step * 2**i <= longest]
    head = ["model", *(f"RECL, r = {r}" for r in RATIOS), *(f"bits at {c}" for c in contexts)]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for curve in curves:
        lengths = [effective_length(curve.gains[r], step) for r in RATIOS]
        cells = [f"{length:,}" if length else f"{longest:,} or more" for length in lengths]
        cells += [f"{curve.nll_WC[:, c - 1].mean() / math.log(2):.3f}" for c in contexts]
        lines.append("| " + " | ".join([curve.name, *cells]) + " |")
    return "\n".join(lines)


def draw(curves: list[Curve], step: int, target: Path) -> None:
    """Left the loss by available context, right the gain of each further step over the hardest tenth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for curve in curves:
        bits_C = curve.nll_WC.mean(axis=0) / math.log(2)
        edges = np.unique(np.geomspace(1, len(bits_C) + 1, 60).round().astype(int))  # bins even on a logarithmic axis
        bins = [slice(low - 1, high - 1) for low, high in pairwise(edges)]
        middles = [math.sqrt((part.start + 1) * part.stop) for part in bins]
        left.plot(middles, [bits_C[part].mean() for part in bins], label=plain(curve.name))
        gain_M = curve.gains[RATIOS[0]]
        right.plot(step * np.arange(1, len(gain_M) + 1), 100 * gain_M, marker="o", ms=4, label=plain(curve.name))
    left.set(xscale="log", xlabel="context available (tokens)", ylabel="loss (bits per token)", title="all positions")
    right.axhline(100 * THRESHOLD, color="black", lw=0.8, ls=":", label="threshold of the RECL")
    right.set(
        xlabel="context length c (tokens)",
        ylabel=f"perplexity reduction from c to c + {step} (%)",
        title=f"the hardest {RATIOS[0]:.0%} of positions",
    )
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(target, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--step", type=int, default=64)
    parser.add_argument("--longest", type=int, default=640)
    parser.add_argument("--positions", type=int, default=2000)
    parser.add_argument("--figure", type=Path, default=Path("context_length.png"))
    arguments = parser.parse_args()
    try:
        curves = measure(arguments.runs, arguments.step, arguments.longest, arguments.positions)
    except UserError as error:
        parser.error(str(error))
    print(table(curves, arguments.step, arguments.longest))
    draw(curves, arguments.step, arguments.figure)
    print(f"\nFigure: {arguments.figure}")
