"""The training speed of Mamba-2 and Gated DeltaNet on a processor: Hugging Face's plain path and ours, side by side.

    python -m venv PEER && PEER/bin/pip install torch==2.13.0 transformers==5.24.0   # no fla, triton or mamba-ssm
    python -m experiments.recurrent_peer PEER/bin/python
    python -m experiments.recurrent_peer PEER/bin/python mamba2 --turns 20

Both sides have as many parameters, which is checked first, and the same shape (4 layers, d 128, 256 words, 8 lanes of
256 tokens), words, optimizer (Adam, fused), clipping, torch and threads; they train in turns (see experiments.compare).
transformers refuses a model of Gated DeltaNet alone, so that one layer of four is attention in both. Its models cannot
train with carried state without changes, and begin every segment empty; ours carries its state. It trains on one target
less a lane and segment, the last. Its Gated DeltaNet has chunks of 64; its Mamba-2 gets them as well, unless
--peer-chunk says otherwise (its default, 256, is slower here).

Prints medians in ms an update and tokens a second, and the median of the ratios of neighbouring turns; the rows go to
logs/recurrent_peer.jsonl, in this folder or in --folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
WORDS, LANES, LENGTH, LAYERS, WIDTH = 256, 8, 256, 4, 128
SHAPE = [f"model.n_layer={LAYERS}", f"model.d_model={WIDTH}", f"model.tgt_len={LENGTH}", f"data.batch_size={LANES}"]
OURS = {
    "mamba2": ["model=mamba2_tiny"],
    "gated_delta": [
        "model=hybrid_tiny", "model.gated_delta.n_head=4", "model.d_inner=320", "model.attention.qk_norm=all",
        "model.attention.window=128",
    ],
}  # fmt: skip


def peer_model(name: str, chunk: int) -> Any:
    """Hugging Face's model of that shape."""
    import transformers

    common = {
        "vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "tie_word_embeddings": True,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "use_cache": False,
    }  # fmt: skip
    if name == "mamba2":
        config = transformers.Mamba2Config(
            **common, num_heads=4, head_dim=64, state_size=64, n_groups=1, chunk_size=chunk
        )
        return transformers.Mamba2ForCausalLM(config)
    config = transformers.OlmoHybridConfig(
        **common, intermediate_size=320, num_attention_heads=4, linear_key_head_dim=32, linear_value_head_dim=64
    )
    return transformers.OlmoHybridForCausalLM(config)


def work_as_the_peer(name: str, chunk: int, precision: str, tokens_file: str) -> None:
    import torch

    from experiments.compare import take_turns

    torch.manual_seed(1)
    model = peer_model(name, chunk).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    tokens_BL = torch.from_numpy(np.load(tokens_file)).view(LANES, -1)
    position = 0

    def update() -> None:
        nonlocal position
        tokens_BT = tokens_BL[:, position : position + LENGTH]
        position = (position + LENGTH) % (tokens_BL.shape[1] - LENGTH)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=tokens_BT, labels=tokens_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    take_turns(update)


def our_parameters(name: str) -> int:
    from experiments.throughput import composed_with

    model = composed_with([*OURS[name], *SHAPE]).model.build(WORDS)
    return sum(parameter.numel() for parameter in model.parameters())


def compare(python: str, name: str, chunk: int, precision: str, turns: int) -> dict[str, Any]:
    """A row. SystemExit if the two models differ in their number of parameters."""
    from experiments.compare import Worker, in_turns, version
    from experiments.throughput import zipf_tokens

    command = [python, "-m", "experiments.recurrent_peer", "--peer-chunk", str(chunk), "--precision", precision, name]
    where = {"cwd": HERE.parent, "env": os.environ | {"PYTHONPATH": str(HERE.parent), "PYTHONWARNINGS": "ignore"}}
    counted = subprocess.run([*command, "--count"], **where, check=True, stdout=subprocess.PIPE).stdout
    if int(counted) != our_parameters(name):
        raise SystemExit(f"Error: {name} has {int(counted):,} parameters there and {our_parameters(name):,} here")
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "tokens.npy")
        np.save(file, zipf_tokens(200 * LANES * LENGTH, WORDS))
        peer = Worker([*command, "--worker", file], **where)
        ours = [*OURS[name], *SHAPE, f"trainer.precision={precision}"]
        found = in_turns(peer, version(HERE.parent, ours, WORDS), turns)
    row = {"model": name, "parameters": int(counted), "peer_ms": found["before_ms"]}
    row |= {"our_ms": found["now_ms"], "ratio": found["ratio"]}
    for side in ("peer", "our"):
        row[f"{side}_tokens_per_second"] = round(1000 * LANES * LENGTH / row[f"{side}_ms"])
    return row


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="a Python interpreter that has transformers, then models")
    parser.add_argument("--peer-chunk", type=int, default=64, help="tokens of a chunk of the peer's Mamba-2")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of both")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=HERE)
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    options.inside = options.count or options.worker is not None
    options.python = None if options.inside else next(iter(options.words), "")
    options.models = options.words if options.inside else options.words[1:] or list(OURS)
    if not options.inside and not shutil.which(options.python):
        parser.error("the first argument must be a Python interpreter that has transformers")
    if unknown := [name for name in options.models if name not in OURS]:
        parser.error(f"{unknown[0]} is none of {', '.join(OURS)}")
    return options


if __name__ == "__main__":
    options = arguments()
    if options.count:
        print(sum(parameter.numel() for parameter in peer_model(options.models[0], options.peer_chunk).parameters()))
    elif options.worker:
        work_as_the_peer(options.models[0], options.peer_chunk, options.precision, options.worker)
    else:
        from experiments.mixers import machine

        (options.folder / "logs").mkdir(parents=True, exist_ok=True)
        rows, about = [], {"peer_chunk": options.peer_chunk, "precision": options.precision}
        for name in options.models:
            rows.append(compare(options.python, name, options.peer_chunk, options.precision, options.turns))
            print(json.dumps(rows[-1]), flush=True)
        with open(options.folder / "logs/recurrent_peer.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row | about | machine()) + "\n" for row in rows)
