"""`task=generate`: continuations of a prompt, on the screen as they come and in the run directory.

Shapes: P tokens of the prompt, B samples or beams.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from torch import Tensor
from tqdm import tqdm

from tbptt.cli.config import Config, as_dict
from tbptt.data.language import Language
from tbptt.errors import UserError
from tbptt.evaluation.score import reported_context
from tbptt.generation.config import BeamConfig, SampleConfig
from tbptt.generation.continuation import beam_search, sample
from tbptt.generation.text import decoder, encode
from tbptt.generation.writer import ContinuationWriter, printable, show
from tbptt.launch.stopping import Stopped, stop_on_signal
from tbptt.launch.world import World
from tbptt.report.results import start_results, write_results
from tbptt.tasks.loading import TrainedModel, language_of, open_trained, require_checkpoint

log = logging.getLogger(__name__)


def check(config: Config) -> None:
    require_checkpoint(config)
    config.generate.check()
    config.generate.read_prompt(config.prompt)


def unused_settings(config: Config) -> dict[str, str]:
    unused = dict.fromkeys(("optimizer", "scheduler", "logger"), "nothing is trained")
    unused["model"] = "the model is the checkpoint's, and how far it looks back is set by eval.mem_len and the like"
    unused["trainer.devices"] = "it goes on step by step, on one device"
    unused["trainer.micro_batch"] = "its lanes are generate.samples"
    keys = ("eval.split", "eval.batch_size", "eval.burn_in", "eval.max_tokens", "eval.dynamic")
    unused |= dict.fromkeys(keys, "nothing is scored")
    return unused | ({"seed": "nothing is random in it"} if isinstance(config.generate, BeamConfig) else {})


def run(config: Config, run_dir: Path, world: World) -> None:
    """Continue a prompt with the model of a checkpoint, under the settings of the `generate` group."""
    start_results(run_dir)
    overrides = HydraConfig.get().overrides.task
    trained = open_trained(config, overrides, world.device)
    _look_back(trained, config)
    language = language_of(config, trained.checkpoint, overrides)
    prompt = _read_prompt(config, language, run_dir)
    log.info("Going on with %s (step %s)", trained.checkpoint.folder, f"{trained.checkpoint.info['step']:,}")
    started = time.perf_counter()
    if isinstance(config.generate, SampleConfig):
        writers, signum = _sample(config, trained, prompt, world)
    else:
        writers, signum = _beam_search(config, trained, prompt, world), 0
    seconds = time.perf_counter() - started
    _show_others(writers, prompt)
    write_results(_results(config, trained, prompt, writers, signum, seconds), run_dir)
    if signum and config.generate.length is not None:
        raise Stopped(signum)


@dataclass
class Prompt:
    """What is to be continued, and where its continuations go."""

    text: str
    tokens_P: Tensor  # int64, on the CPU
    language: Language
    folder: Path

    def writer(self, number: int) -> ContinuationWriter:
        """Of continuation `number`, from 1; the first is shown on the screen as it comes."""
        self.folder.mkdir(exist_ok=True)
        text_decoder = decoder(self.language, self.text, self.tokens_P.numpy())
        return ContinuationWriter(self.folder / f"{number}.txt", self.text, text_decoder, shown=number == 1)


def _look_back(trained: TrainedModel, config: Config) -> None:
    """Set how far the model looks back. UserError if it would not see the prompt at all."""
    trained.model.eval()
    trained.model.set_context(**config.eval.context())
    if trained.model.context().get("mem_len") == 0:
        raise UserError("with a memory of 0 every token would see itself alone: set eval.mem_len to 1 or more")


def _read_prompt(config: Config, language: Language, run_dir: Path) -> Prompt:
    """The prompt in the run's tokens. What an earlier start has generated is deleted."""
    text = config.generate.read_prompt(config.prompt)
    prompt = Prompt(text, torch.from_numpy(encode(text, language)), language, run_dir / "generated")
    shutil.rmtree(prompt.folder, ignore_errors=True)
    return prompt


def _tgt_len(config: Config, trained: TrainedModel) -> int:
    return config.eval.tgt_len or trained.config.tgt_len


def _sample(
    config: Config, trained: TrainedModel, prompt: Prompt, world: World
) -> tuple[list[ContinuationWriter], int]:
    """Write all samples token by token, until their length or a signal, whose number is returned (0: none)."""
    settings, signum = config.generate, 0
    assert isinstance(settings, SampleConfig)
    writers = [prompt.writer(number) for number in range(1, settings.samples + 1)]
    tokens_P, tgt_len = prompt.tokens_P.to(world.device), _tgt_len(config, trained)
    with stop_on_signal(world) as stop:
        for tokens_B, log_probs_B in sample(
            trained.model, tokens_P, settings, config.seed, tgt_len, config.trainer.precision
        ):
            _add(writers, tokens_B, log_probs_B)
            if signum := stop.agreed():
                break
    return writers, signum


def _beam_search(config: Config, trained: TrainedModel, prompt: Prompt, world: World) -> list[ContinuationWriter]:
    """Write the continuations that the search has found, the likeliest first."""
    settings = config.generate
    assert isinstance(settings, BeamConfig)
    tokens_P, tgt_len = prompt.tokens_P.to(world.device), _tgt_len(config, trained)
    with tqdm(total=settings.length, desc="beam search", unit="token", disable=None) as bar:
        found_BL, total_B = beam_search(
            trained.model, tokens_P, settings, tgt_len, config.trainer.precision, bar.update
        )
    writers = [prompt.writer(number) for number in range(1, len(found_BL) + 1)]
    for tokens_B in found_BL.T:
        _add(writers, tokens_B, total_B / found_BL.shape[1])
    return writers


def _add(writers: list[ContinuationWriter], tokens_B: Tensor, log_probs_B: Tensor) -> None:
    for writer, token, log_prob in zip(writers, tokens_B.tolist(), log_probs_B.tolist(), strict=True):
        writer.add(token, log_prob)


def _show_others(writers: list[ContinuationWriter], prompt: Prompt) -> None:
    """End all continuations; show those that were not shown as they came."""
    for writer in writers:
        writer.close()
    for number, writer in enumerate(writers[1:], start=2):
        show(f"--- {number} of {len(writers)} ---\n{printable(prompt.text + writer.continuation())}\n")


def _results(
    config: Config,
    trained: TrainedModel,
    prompt: Prompt,
    writers: list[ContinuationWriter],
    signum: int,
    seconds: float,
) -> dict[str, Any]:
    total = sum(writer.tokens for writer in writers)
    rate = total / seconds
    log.info("%s tokens in %.1f s (%s tokens/s): %s", f"{total:,}", seconds, f"{rate:,.1f}", prompt.folder)
    return {
        "task": config.task.name,
        "checkpoint": str(trained.checkpoint.folder),
        "prompt": prompt.text,
        "prompt_tokens": len(prompt.tokens_P),
        "generate": as_dict(config.generate),
        "seed": config.seed,
        "context": {"tgt_len": _tgt_len(config, trained)} | reported_context(trained.model),
        "signal": signum or None,
        "tokens": total,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(rate, 1),
        "continuations": [
            {"file": f"generated/{writer.path.name}", "tokens": writer.tokens, "log_prob": writer.log_prob}
            | {"text": writer.continuation()}
            for writer in writers
        ],
    }
