"""Where files lie is no part of a run: it continues after its cache or its corpus has moved."""

from pathlib import Path

import pytest
from helpers import corpus_config, write_corpus

from tbptt.config import Config
from tbptt.data.config import DataConfig, Level
from tbptt.evaluation.config import EvalConfig
from tbptt.models.lstm import LSTMConfig
from tbptt.report.config import LocalConfig
from tbptt.tasks import train
from tbptt.training.config import TrainerConfig
from tbptt.training.optimizers import AdamConfig
from tbptt.training.schedules import ConstantConfig

TEXT = "to be or not to be\n" * 9


def train_until(max_steps: int, data: DataConfig, run_dir: Path) -> None:
    data.batch_size = 2
    model = LSTMConfig(n_layer=1, d_model=4, tgt_len=5)
    trainer = TrainerConfig(max_steps=max_steps, device="cpu")
    eval_config, optimizer, scheduler = EvalConfig(batch_size=1), AdamConfig(), ConstantConfig()
    train(Config(data=data, model=model, optimizer=optimizer, scheduler=scheduler, trainer=trainer, eval=eval_config,
                 logger=LocalConfig()), run_dir)  # fmt: skip


@pytest.mark.parametrize("moved", ["nothing", "cache", "corpus"])
def test_a_run_continues_after_its_files_have_moved(tmp_path, caplog, moved):
    here, run_dir = write_corpus(tmp_path / "here", TEXT, TEXT, TEXT), tmp_path / "run"
    run_dir.mkdir()
    train_until(2, corpus_config(here, Level.char), run_dir)
    data = corpus_config(here.rename(tmp_path / "there") if moved == "corpus" else here, Level.char)
    if moved == "cache":
        data.cache = str(tmp_path / "other cache")
    with caplog.at_level("INFO"):
        train_until(3, data, run_dir)
    assert "Continuing from step 2" in caplog.text
    assert (run_dir / "checkpoints" / "step_00000003").is_dir()
