"""Tiny models, random tokens, and the recorded numbers of the original, as several test files need them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from tbptt.config import Config, register, typed
from tbptt.data.config import DataConfig, Level
from tbptt.data.corpora import SPLITS
from tbptt.data.lanes import Lanes
from tbptt.data.prepare import PreparedCorpus
from tbptt.data.sources import chunks
from tbptt.data.vocabulary import EOS
from tbptt.interop import original
from tbptt.models.lstm import LSTMConfig
from tbptt.models.protocol import ModelConfig, RecurrentModel, State
from tbptt.models.transformer_xl import TransformerXL, TransformerXLConfig
from tbptt.training.config import TrainerConfig
from tbptt.training.optimizers import AdamConfig, OptimizerConfig
from tbptt.training.schedules import CosineConfig, SchedulerConfig
from tbptt.training.trainer import Trainer, Update

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_FAIRSEQ = Path(__file__).parent / "golden_fairseq"  # a small text and what fairseq-preprocess made of it
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
CONF = Path(__file__).parents[1] / "conf"
VOCABULARY = 30


def composed(*overrides: str) -> Config:
    """The configuration a command line stands for."""
    register()
    with initialize_config_dir(str(CONF), version_base=None):
        return typed(compose("config", list(overrides)))


def tiny_txl(dtype=torch.float64, checkpointing: bool = False, seed: int = 0, **settings) -> RecurrentModel:
    sizes = {"n_layer": 2, "d_model": 8, "n_head": 2, "d_head": 4, "d_inner": 12, "tgt_len": 4, "mem_len": 6}
    return _build(TransformerXLConfig(**sizes | settings), dtype, seed, checkpointing)


def tiny_lstm(dtype=torch.float64, seed: int = 0, **settings) -> RecurrentModel:
    return _build(LSTMConfig(**{"n_layer": 2, "d_model": 8, "tgt_len": 4} | settings), dtype, seed)


@torch.no_grad()
def _build(config: ModelConfig, dtype: torch.dtype, seed: int, checkpointing: bool = False) -> RecurrentModel:
    """Weights that follow from the seed alone, and far from 0, so that what a loss must depend on shows in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = config.build(VOCABULARY, checkpointing).to(dtype)
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def random_stream(n_tokens: int, seed: int = 0) -> np.ndarray:
    return random_tokens(n_tokens, seed=seed).numpy().astype(np.uint8)


def run_segments(
    model: RecurrentModel, tokens_BL: Tensor, targets_BL: Tensor, lengths: Iterable[int], state: State = None
) -> tuple[Tensor, State]:
    """The losses (B, L) of consecutive segments of these lengths, and the state after the last."""
    state = model.initial_state(len(tokens_BL)) if state is None else state
    nll, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        nll_BT, state = model(tokens_BL[:, part], targets_BL[:, part], state)
        nll.append(nll_BT)
        start += length
    return torch.cat(nll, dim=1), state


def make_trainer(
    model: RecurrentModel,
    lanes: Lanes,
    optimizer: OptimizerConfig | None = None,
    scheduler: SchedulerConfig | None = None,
    **settings,
) -> Trainer:
    optimizer, scheduler = optimizer or AdamConfig(lr=0.01), scheduler or CosineConfig()
    config = TrainerConfig(**{"max_steps": 20, "device": "cpu"} | settings)
    schedule = scheduler.build(optimizer.lr, config.max_steps)
    return Trainer(model, lanes, optimizer.build(model.parameters()), schedule, config)


def numbers_of(update: Update) -> tuple[float, ...]:
    return update.loss, update.grad_norm, update.lr, update.tokens


def assert_close(actual, expected, tolerance: float) -> None:
    """No element further apart than `tolerance`; shapes equal, NaN never close."""
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=0, atol=tolerance)


def assert_relatively_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """The norm of the difference is at most `tolerance` times the norm."""
    assert actual.shape == expected.shape
    assert (actual - expected).norm() <= tolerance * expected.norm()


def golden_model(name: str, dtype: torch.dtype) -> TransformerXL:
    info = MANIFEST["models"][name]
    return original.build(dict(np.load(GOLDEN / info["weights"])), info["config"]).to(dtype)


def under_original_names(
    model: TransformerXL, values: Mapping[str, Tensor], recorded: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Values of our parameters put together as `recorded` has them; every element of it is given exactly once."""
    together = {name: torch.full_like(array, torch.nan) for name, array in recorded.items()}
    for parameter_name, places in original.correspondence(model).items():
        name, rows = next(place for place in places if place[0] in recorded)
        part = together[name] if rows is None else together[name][rows]
        assert part.isnan().all(), f"{parameter_name} gives parts of {name} that another parameter gave"
        assert part.shape == values[parameter_name].shape
        part.copy_(values[parameter_name])
    for name, array in together.items():
        assert not array.isnan().any(), f"no parameter gives all of {name}"
    return together


TEXT = "a b a\n\nc a b\n"


def write_corpus(folder: Path, train: str = TEXT, valid: str = TEXT, test: str = TEXT, pattern: str = "{}.txt") -> Path:
    """A folder with these texts in one file per split."""
    folder.mkdir(exist_ok=True)
    for split, text in zip(SPLITS, (train, valid, test)):
        (folder / pattern.format(split)).write_bytes(text.encode())
    return folder


def corpus_config(folder: Path, level: Level = Level.word, name: str = "text", **settings) -> DataConfig:
    """A corpus in `folder`, of any size, prepared by this process alone."""
    given = {"path": str(folder), "cache": str(folder / "cache"), "workers": 1, "check_counts": False}
    return DataConfig(name=name, level=level, **given | settings)


def decoded(corpus: PreparedCorpus, split: str) -> list[str]:
    return [corpus.vocabulary.symbols[i] for i in corpus.splits[split]]


def words_of(text: str) -> list[str]:
    """How a text is read at level word."""
    lines = text.split("\n")
    return [word for line in (lines if lines[-1] else lines[:-1]) for word in [*line.split(), EOS]]


def cut_into(size: int):
    """`chunks`, but of another size."""
    return lambda sources, level: chunks(sources, level, size)


def files_of(corpus: PreparedCorpus) -> dict[str, bytes]:
    """All that a prepared corpus is, but where its source was."""
    names = [*(f"{split}.bin" for split in SPLITS), "vocabulary.json"]
    return {name: (corpus.folder / name).read_bytes() for name in names}
