"""A run does not depend on the kernels it began with: it continues and is evaluated where they cannot run."""

import json

import pytest
import torch

from tests.commands import lines_of, make_home, run, train

pytestmark = pytest.mark.slow
NO_TRITON = {"TRITON_INTERPRET": "0", "CUDA_VISIBLE_DEVICES": ""}
SHORT = ["model.tgt_len=8", "model.mem_len=8", "trainer.log_every=1", "trainer.eval_tokens=60", "eval.max_tokens=60"]


def test_a_run_with_fused_attention_goes_on_and_is_evaluated_without(tmp_path):
    pytest.importorskip("triton", reason="Triton is not on this machine")
    home = make_home(tmp_path)
    settings = [*SHORT, "hydra.run.dir=there", "scheduler=constant", "scheduler.warmup_steps=0"]
    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    printed = train(home, *settings, "model.attention=fused", "trainer.max_steps=2", **interpret)
    assert "model.attention=fused: attention is fused" in printed

    printed = train(home, *settings, "model.attention=auto", "trainer.max_steps=3", **NO_TRITON)
    assert "Continuing from step 2" in printed and "model.attention=auto: attention is plain" in printed
    assert [line["step"] for line in lines_of(home / "there") if "split" not in line] == [1, 2, 3]

    run(home, "task=eval", "checkpoint=there/step_00000002", "eval.max_tokens=60", "hydra.run.dir=score", **NO_TRITON)
    assert json.loads((home / "score/results.json").read_text())["tokens"] == 60


def test_fused_attention_without_a_gpu_is_refused_and_nothing_is_written(tmp_path):
    home = make_home(tmp_path)
    printed = train(home, "model.attention=fused", "hydra.run.dir=none", code=1, **NO_TRITON)
    assert printed.startswith("Error: model.attention=fused needs ") and printed.count("\n") == 1
    assert not (home / "none").exists()
