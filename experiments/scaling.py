"""On paper: what data-parallel training of txl_16l sends, and how fast a link must be to hide it behind the arithmetic.

python -m experiments.scaling [--tokens-per-second 316807]     the speed of one GPU, without any other

A ring all-reduce makes every GPU send (and receive) 2 (W-1)/W of the gradients once per update. It overlaps with the
backward pass, two thirds of the arithmetic. "same batch": the paper's 60 lanes shared by all GPUs; "60 each": as many
lanes for every GPU (another, larger global batch).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from tbptt.cli.config import register, typed

LANES, TGT_LEN, WORDS = 60, 150, 267_735  # the paper's base run
BACKWARD = 2 / 3


def parameters() -> int:
    register()
    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "conf"), version_base=None):
        config = typed(compose("config", ["model=txl_16l", "data=wikitext103", "data.path=.", "trainer.device=cpu"]))
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in config.model.build(WORDS).parameters())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens-per-second", type=float, default=316_807)
    rate, n = parser.parse_args().tokens_per_second, parameters()
    step = LANES * TGT_LEN / rate * 1e3
    print(f"{n:,} parameters, {rate:,.0f} tokens/s on one GPU: {step:.1f} ms for {LANES} lanes\n")
    print("| GPUs | lanes | gradients | sent per GPU and update | backward pass | link that hides it |")
    print("| --- | --- | --- | --- | --- | --- |")
    for gpus in (4, 32, 256):
        for lanes, what in ((LANES / gpus, "same batch"), (LANES, "60 each")):
            if lanes < 1:
                continue
            backward = BACKWARD * lanes * TGT_LEN / rate
            for dtype, size in (("float32", 4), ("bf16", 2)):
                sent = 2 * (gpus - 1) / gpus * size * n
                speed = f"{sent / backward / 1e9:,.0f} GB/s"
                print(f"| {gpus} | {what} | {dtype} | {sent / 1e6:,.0f} MB | {backward * 1e3:.1f} ms | {speed} |")


if __name__ == "__main__":
    main()
