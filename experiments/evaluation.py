"""Exact evaluation in parallel: any lanes, and under same_length any segments, give one number; how fast each way is.

python -m experiments.evaluation WIKITEXT_2 [--threads 2] [--only table|speed]

WIKITEXT_2 is a folder with wiki.valid.tokens and wiki.test.tokens. A small model of words is trained on the validation
file, and the test file's 245,568 targets are scored in every way of the table, and at last by the automatic choice. The
speed is also that of a model of bytes, of the same layers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tbptt.cli.config import from_dict
from tbptt.data.config import DataConfig, Level
from tbptt.data.prepare import open_corpus
from tbptt.device import Precision, keep_freed_memory, parameter_dtype
from tbptt.evaluation.config import EvalConfig
from tbptt.evaluation.score import Score, score
from tbptt.models import CONFIGS as MODELS
from tbptt.threads import share_cores
from tbptt.training.checkpoints import find_checkpoint

ROOT = Path(__file__).resolve().parents[1]
MEM_LEN, CLAMP_LEN = 128, 64
LANES, LENGTHS = (1, 2, 8, 32), (64, 256)
TRAINING = [
    "data=text", "data.batch_size=16", "model.n_layer=2", "model.d_model=64", "model.n_head=4",
    "model.d_head=16", "model.d_inner=128", "model.tgt_len=64", "model.mem_len=64",
    "trainer.max_steps=400", "trainer.eval_every=200", "trainer.eval_tokens=20000", "eval.max_tokens=20000",
]  # fmt: skip


class TrainedModel:
    """A trained model, in each precision, and the text it scores."""

    def __init__(self, wikitext: Path, folder: Path, level: Level):
        (folder / "text").mkdir(parents=True)
        for split, name in (("train", "valid"), ("valid", "valid"), ("test", "test")):
            (folder / f"text/{split}.txt").symlink_to(wikitext.resolve() / f"wiki.{name}.tokens")
        clusters = ["model.cutoffs=[1000,4000]"] if level is Level.word else []
        words = [
            *TRAINING,
            *clusters,
            f"data.level={level.name}",
            f"data.path={folder}/text",
            f"data.cache={folder}/cache",
            f"hydra.run.dir={folder}/run",
        ]
        subprocess.run([sys.executable, str(ROOT / "run.py"), *words], check=True, stdout=subprocess.DEVNULL)
        self.checkpoint = find_checkpoint(str(folder / "run"))
        config = self.checkpoint.info["config"]
        corpus = open_corpus(from_dict(DataConfig, config["data"]))
        self.config, self.stream = from_dict(MODELS["transformer_xl"], config["model"]), corpus.splits["test"]
        self.vocab_size = len(corpus.vocabulary)

    def score(self, precision: Precision, tgt_len: int, same_length: bool, lanes: int | None, walk_len: int | None):
        model = self.config.build(self.vocab_size)
        self.checkpoint.load_weights(model)
        model.to(dtype=parameter_dtype(precision))
        context = {"mem_len": MEM_LEN, "clamp_len": CLAMP_LEN, "same_length": same_length}
        config = EvalConfig(tgt_len=tgt_len, batch_size=lanes, walk_len=walk_len, **context)
        return score(model, self.stream, config, tgt_len, precision)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("wikitext", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("table", "speed"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    share_cores()
    with tempfile.TemporaryDirectory() as folder:
        words, in_bytes = Path(folder) / "words", Path(folder) / "bytes"
        trained = TrainedModel(arguments.wikitext, words, Level.word)
        for same_length in (False, True) if arguments.only != "speed" else ():
            table(trained, same_length)
        if arguments.only != "table":
            speed(words, "words")
            TrainedModel(arguments.wikitext, in_bytes, Level.byte)
            speed(in_bytes, "bytes")


def table(trained: TrainedModel, same_length: bool) -> None:
    """Differences from one lane (under same_length: from one lane in segments of 64), relative."""
    what = "any segments are one number" if same_length else "each segment length is a number of its own"
    print(f"\nsame_length={str(same_length).lower()}: {what}\n")
    print("| segment | lanes | loss, float64 | off by | loss, float32 | off by | seconds, float32 |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    reference: Score | None = None
    for length, lanes in itertools.product(LENGTHS, LANES):
        walk_len = length if same_length else None
        exact = trained.score(Precision.fp64, 64 if same_length else length, same_length, lanes, walk_len)
        single = trained.score(Precision.fp32, 64 if same_length else length, same_length, lanes, walk_len)
        if reference is None or (lanes == 1 and not same_length):
            reference = exact
        off = [abs(found.loss / reference.loss - 1) for found in (exact, single)]
        print(
            f"| {length} | {lanes} | {exact.loss:.12f} | {off[0]:.1e} | {single.loss:.7f} | {off[1]:.1e} "
            f"| {single.seconds:.1f} |",
            flush=True,
        )


WAYS = {
    "one lane": ["eval.batch_size=1", "eval.walk_len=64"],
    "automatic": [],
    "automatic, 2 processes": ["trainer.devices=2"],
}


def speed(folder: Path, units: str) -> None:
    """Evaluations by run.py, in turns: the one-lane protocol in segments of 64, and what it chooses by itself."""
    print(f"\nModel of {units}, in turns, float32, same_length, segments of 64 asked for:\n")
    print("| way | lanes | segment | seconds | tokens/s | loss |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    best = dict.fromkeys(WAYS, float("inf"))
    for turn, (way, words) in itertools.product(range(3), WAYS.items()):
        target = folder / f"{len(words)}{turn}"
        context = ["eval.tgt_len=64", f"eval.mem_len={MEM_LEN}", f"eval.clamp_len={CLAMP_LEN}", "eval.same_length=true"]
        command = [sys.executable, str(ROOT / "run.py"), "task=eval", f"checkpoint={folder}/run", *context, *words]
        subprocess.run([*command, "eval.max_tokens=null", f"hydra.run.dir={target}"], check=True, capture_output=True)
        found = json.loads((target / "results.json").read_text(encoding="utf-8"))
        best[way] = min(best[way], found["seconds"])
        how = f"{found['eval']['batch_size']} | {found['walk_len']} | {found['seconds']:.2f}"
        print(f"| {way} | {how} | {found['tokens_per_second']:,.0f} | {found['loss']:.7f} |", flush=True)
    for way in list(WAYS)[1:]:
        print(f"\nfastest of each: {way} is {best['one lane'] / best[way]:.1f} times as fast as one lane")


if __name__ == "__main__":
    main()
