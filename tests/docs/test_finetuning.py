"""The commands of docs/finetuning.md, as they are written there, on a small model and small documents."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import CONF
from tests.interop.pretrained import copied, tiny_tokenizer, weights_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/finetuning.md").read_text()
COMMANDS = re.findall(r"^python run\.py (.*)$", PAGE.replace("\\\n", " "), re.MULTILINE)
FEWER = ["trainer.max_steps=3", "trainer.eval_every=2", "model.tgt_len=16", "scheduler.warmup_steps=0"]
pytestmark = pytest.mark.skipif(not (CONF / "data/documents.yaml").is_file(), reason="there is no data=documents")


def test_there_are_five():
    assert len(COMMANDS) == 5


@pytest.mark.slow
def test_they_lead_from_a_published_folder_to_one_that_was_trained_on(tmp_path):
    source = copied("mamba2", tmp_path).rename(tmp_path / "mamba2-130m-hf")
    tokenizer = tiny_tokenizer(40)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(source / "tokenizer.json"))
    for split in ("train", "valid", "test"):
        documents = [{"text": f"{'abc ' * (1 + i * 7 % 11)}end\n"} for i in range(20)]
        (tmp_path / "reports").mkdir(exist_ok=True)
        lines = "".join(json.dumps(document) + "\n" for document in documents)
        (tmp_path / "reports" / f"{split}.jsonl").write_text(lines)
    environment = os.environ | {"TBPTT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    for command in COMMANDS:
        words = shlex.split(command) + (FEWER if "model=imported" in command else [])
        call = [sys.executable, str(ROOT / "run.py"), *words]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    before, tuned = (
        json.loads((tmp_path / "runs" / name / "results.json").read_text()) for name in ("before", "tuned")
    )
    assert before["tokens"] == tuned["tokens"] and tuned["loss"] < before["loss"]
    weights, sources = weights_of(tmp_path / "mamba2-130m-reports"), weights_of(source)
    assert weights.keys() == sources.keys() and not any(weights[name].equal(sources[name]) for name in weights)
    assert (tmp_path / "mamba2-130m-reports/tokenizer.json").is_file()
    last = json.loads((tmp_path / "runs/tuned/checkpoints/last/checkpoint.json").read_text())
    assert last["imported"] == {"model_type": "mamba2"}  # by which it is exported as what it was
