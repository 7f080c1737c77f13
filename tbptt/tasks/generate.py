"""`task=generate`: generates continuations of a prompt, on the screen and in the run directory.

Shapes: P tokens of the prompt, B samples or beams.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from torch import Tensor
from tqdm import tqdm

from tbptt.cli.config import Config, as_dict
from tbptt.cli.directories import words_of
from tbptt.data.language import Language
from tbptt.errors import UserError
from tbptt.evaluation.config import EvalConfig, EvalReset
from tbptt.evaluation.score import reported_context
from tbptt.generation.config import BeamConfig, SampleConfig
from tbptt.generation.continuation import beam_search, sample
from tbptt.generation.text import decoder, encode
from tbptt.generation.writer import ContinuationWriter, printable, show
from tbptt.launch.stopping import Stopped, not_requeued_at_time_limit, stop_on_signal
from tbptt.launch.world import World
from tbptt.output import reader_gone
from tbptt.report.logger import log_results
from tbptt.report.results import begin, refuse_training_run, write_results
from tbptt.tasks.loading import TrainedModel, check_trained, language_of, open_trained, require_checkpoint
from tbptt.tasks.scoring import resets_at_documents

log = logging.getLogger(__name__)


def check(config: Config) -> None:
    require_checkpoint(config)
    config.generate.check()
    config.logger.check()
    config.generate.read_prompt(config.prompt)
    check_trained(config)


def unused_settings(config: Config) -> dict[str, str]:
    unused = dict.fromkeys(("optimizer", "scheduler"), "nothing is trained")
    unused["model"] = "the model is the checkpoint's; set its context with eval.mem_len, eval.clamp_len, ..."
    unused["trainer.devices"] = "it runs sequentially, on one device"
    unused["trainer.micro_batch"] = "the number of lanes is generate.samples"
    unused["data.order"] = "it reads no corpus"
    used = ("tgt_len", "mem_len", "clamp_len", "same_length", "initial_memory", "reset_state")
    scoring = (field.name for field in fields(EvalConfig) if field.name not in used)
    unused |= dict.fromkeys((f"eval.{key}" for key in scoring), "nothing is scored")
    return unused | ({"seed": "nothing is random in a beam search"} if isinstance(config.generate, BeamConfig) else {})


def run(config: Config, run_dir: Path, world: World) -> None:
    """Continue a prompt with the model of a checkpoint, with the settings of the `generate` group."""
    with not_requeued_at_time_limit("this continuation"):
        _generate(config, run_dir, world)


def _generate(config: Config, run_dir: Path, world: World) -> None:
    refuse_training_run(run_dir)
    overrides = words_of(HydraConfig.get().overrides.task)
    log.info("Loading %s", config.checkpoint)
    trained = open_trained(config, overrides, world)
    _set_context(trained, config)
    language = language_of(config, trained.checkpoint, overrides)
    prompt = _read_prompt(config, language, run_dir)
    start = _start(config, trained, language)
    begin(run_dir, world.is_main)
    shutil.rmtree(prompt.folder, ignore_errors=True)  # the continuations of an earlier start
    log.info("Generating with %s (step %s)", trained.checkpoint.folder, f"{trained.checkpoint.info['step']:,}")
    started = time.perf_counter()
    if isinstance(config.generate, SampleConfig):
        writers, signum = _sample(config, trained, prompt, world, start)
    else:
        writers, signum = _beam_search(config, trained, prompt, world, start), 0
    seconds = time.perf_counter() - started
    _show_others(writers, prompt)
    write_results(_results(config, trained, prompt, writers, signum, seconds), run_dir)
    log_results(config.logger, run_dir, as_dict(config), trained.checkpoint.info["step"])
    if signum and config.generate.length is not None:
        raise Stopped(signum)


@dataclass
class Prompt:
    """The prompt, and the folder for its continuations."""

    text: str
    tokens_P: Tensor  # int64, on the CPU
    language: Language
    folder: Path

    def writer(self, number: int) -> ContinuationWriter:
        """A writer for continuation `number`, from 1. The first is printed while it is generated."""
        self.folder.mkdir(exist_ok=True)
        text_decoder = decoder(self.language, self.text, self.tokens_P.numpy())
        return ContinuationWriter(self.folder / f"{number}.txt", self.text, text_decoder, echo=number == 1)


def _set_context(trained: TrainedModel, config: Config) -> None:
    """Apply the context settings of the `eval` group. UserError if the model could not attend to the prompt."""
    trained.model.eval()
    trained.model.set_context(**config.eval.context())
    if trained.model.reach(1) == 0:
        raise UserError("with mem_len=0, a token attends only to itself: set eval.mem_len to 1 or more")


def _read_prompt(config: Config, language: Language, run_dir: Path) -> Prompt:
    text = config.generate.read_prompt(config.prompt)
    return Prompt(text, torch.from_numpy(encode(text, language)), language, run_dir / "generated")


def _tgt_len(config: Config, trained: TrainedModel) -> int:
    return config.eval.tgt_len or trained.config.tgt_len


def _start(config: Config, trained: TrainedModel, language: Language) -> int | None:
    """The token that empties the state, if documents do so in evaluations of this model."""
    start = language.vocabulary.start
    if start is None and config.eval.reset_state is EvalReset.document:
        raise UserError(
            "eval.reset_state=document needs documents, and the run was trained on text without any: leave it out"
        )
    return start if resets_at_documents(config, trained.reset_state) else None


def _sample(
    config: Config, trained: TrainedModel, prompt: Prompt, world: World, start: int | None
) -> tuple[list[ContinuationWriter], int]:
    """Write all samples token by token, up to their length or a stop signal. Returns the signal too, or 0.

    Without a length, it also stops when nobody reads the output any more (`| head`).
    """
    settings, signum = config.generate, 0
    assert isinstance(settings, SampleConfig)
    writers = [prompt.writer(number) for number in range(1, settings.samples + 1)]
    tokens_P, tgt_len = prompt.tokens_P.to(world.device), _tgt_len(config, trained)
    with stop_on_signal(world) as stop:
        for tokens_B, log_probs_B in sample(
            trained.model, tokens_P, settings, config.seed, tgt_len, config.trainer.precision, start
        ):
            _add(writers, tokens_B, log_probs_B)
            if (signum := stop.agreed_signal()) or (settings.length is None and reader_gone()):
                break
    return writers, signum


def _beam_search(
    config: Config, trained: TrainedModel, prompt: Prompt, world: World, start: int | None
) -> list[ContinuationWriter]:
    """Run a beam search and write the continuations found, most likely first."""
    settings = config.generate
    assert isinstance(settings, BeamConfig)
    tokens_P, tgt_len = prompt.tokens_P.to(world.device), _tgt_len(config, trained)
    with tqdm(total=settings.length, desc="beam search", unit="token", disable=None) as bar:
        found_BL, total_B = beam_search(
            trained.model, tokens_P, settings, tgt_len, config.trainer.precision, bar.update, start
        )
    writers = [prompt.writer(number) for number in range(1, len(found_BL) + 1)]
    for tokens_B in found_BL.T:
        _add(writers, tokens_B, total_B / found_BL.shape[1])
    return writers


def _add(writers: list[ContinuationWriter], tokens_B: Tensor, log_probs_B: Tensor) -> None:
    for writer, token, log_prob in zip(writers, tokens_B.tolist(), log_probs_B.tolist(), strict=True):
        writer.add(token, log_prob)


def _show_others(writers: list[ContinuationWriter], prompt: Prompt) -> None:
    """Close all writers; print all continuations but the first, which was printed while it was generated."""
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
