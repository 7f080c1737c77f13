"""The training speed of Hugging Face's port of the original Transformer-XL and ours on a processor, side by side.

    python -m venv PEER && PEER/bin/pip install transformers==4.35.2 'numpy<2' torch==2.13.0   # the last with the model
    python -m experiments.peer PEER/bin/python
    python -m experiments.peer PEER/bin/python trainer.precision=bf16    # ours with another setting

Same shape (experiments.throughput's), words, dropout, optimizer, clipping, torch and threads, in turns (see
experiments.compare). The port trains on one target less a lane and segment, the last. Prints medians in ms an update
and tokens a second, and the median of the ratios of neighbouring turns.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

WORDS, LANES, LENGTH = 32_632, 8, 64


def work_as_the_port(tokens_file: str) -> None:
    import torch
    from transformers import TransfoXLConfig, TransfoXLLMHeadModel

    from experiments.compare import take_turns

    config = TransfoXLConfig(
        vocab_size=WORDS, cutoffs=[2000, 8000, 20000], n_layer=4, d_model=128, d_embed=128, n_head=4, d_head=32,
        d_inner=512, div_val=1, mem_len=LENGTH, clamp_len=-1, same_length=False, untie_r=False, dropout=0.1,
        dropatt=0.0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(1)
    model = TransfoXLLMHeadModel(config).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4)
    tokens_BL = torch.from_numpy(np.load(tokens_file)).view(LANES, -1)
    memory, position = None, 0

    def update() -> None:
        nonlocal memory, position
        tokens_BT = tokens_BL[:, position : position + LENGTH]
        position = (position + LENGTH) % (tokens_BL.shape[1] - LENGTH)
        optimizer.zero_grad()
        output = model(input_ids=tokens_BT, labels=tokens_BT, mems=memory)
        memory = output.mems
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        output.loss.item()

    take_turns(update)


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[1]
    if sys.argv[1:2] == ["--worker"]:
        work_as_the_port(sys.argv[2])
    elif len(sys.argv) < 2 or not shutil.which(sys.argv[1]):
        raise SystemExit(f"{__doc__}\nError: the first argument must be a Python interpreter that has the port")
    else:
        from experiments.compare import Worker, in_turns, version
        from experiments.throughput import CPU_SHAPE, zipf_tokens

        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "tokens.npy")
            np.save(file, zipf_tokens(200 * LANES * LENGTH, WORDS))
            environment = os.environ | {"PYTHONPATH": str(here), "PYTHONWARNINGS": "ignore"}
            port = Worker([sys.argv[1], "-m", "experiments.peer", "--worker", file], cwd=here, env=environment)
            found = in_turns(port, version(here, [*CPU_SHAPE, *sys.argv[2:]], WORDS), turns=20)
        rates = {
            key.replace("_ms", "_tokens_per_second"): round(1000 * LANES * LENGTH / found[key])
            for key in ("before_ms", "now_ms")
        }
        print(json.dumps(found | rates))
