"""`task=generate`: continuations of a prompt, on the screen as they come and in the run directory.

Shapes: P tokens of the prompt, B samples or beams.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from torch import Tensor
from tqdm import tqdm

from tbptt.config import Config, as_dict
from tbptt.data.language import Language
from tbptt.errors import UserError
from tbptt.evaluation.score import told_context
from tbptt.generation.config import BeamConfig, SampleConfig
from tbptt.generation.continuation import beam_search, sample
from tbptt.generation.page import Page, on_screen, show
from tbptt.generation.text import decoder, encode
from tbptt.launch.stopping import Stopped, stop_on_signal
from tbptt.launch.world import World
from tbptt.loading import Trained, language_of, open_trained
from tbptt.report.results import start_results, write_results

log = logging.getLogger(__name__)


def generate(config: Config, run_dir: Path, world: World) -> None:
    """Continue a prompt with the model of a checkpoint, under the settings of the `generate` group."""
    start_results(run_dir)
    overrides = HydraConfig.get().overrides.task
    trained = open_trained(config, overrides, world.device)
    results = _continue(config, trained, language_of(config, trained.checkpoint, overrides), run_dir, world)
    write_results(results, run_dir)
    if results["signal"] and config.generate.length is not None:
        raise Stopped(results["signal"])


def _continue(config: Config, trained: Trained, language: Language, run_dir: Path, world: World) -> dict[str, Any]:
    """Write generated/1.txt, 2.txt, ... (the prompt and what follows it); return what results.json says of them.

    A signal ends the samples where they are: `signal` of the result is its number, else None.
    """
    model, settings = trained.model.eval(), config.generate
    model.set_context(**config.eval.context())
    if model.context().get("mem_len") == 0:
        raise UserError("with a memory of 0 every token would see itself alone: set eval.mem_len to 1 or more")
    prompt = settings.read_prompt(config.prompt)
    prompt_tokens = encode(prompt, language)
    prompt_P = torch.from_numpy(prompt_tokens).to(world.device)
    tgt_len, precision = config.eval.tgt_len or trained.config.tgt_len, config.trainer.precision
    folder = run_dir / "generated"
    shutil.rmtree(folder, ignore_errors=True)

    def page(number: int, shown: bool) -> Page:
        folder.mkdir(exist_ok=True)
        return Page(folder / f"{number}.txt", prompt, decoder(language, prompt, prompt_tokens), shown)

    log.info("Going on with %s (step %s)", trained.checkpoint.folder, f"{trained.checkpoint.info['step']:,}")
    started, signum = time.perf_counter(), 0
    if isinstance(settings, SampleConfig):
        pages = [page(number, shown=number == 1) for number in range(1, settings.samples + 1)]
        with stop_on_signal(world) as stop:
            for tokens_B, log_probs_B in sample(model, prompt_P, settings, config.seed, tgt_len, precision):
                _add(pages, tokens_B, log_probs_B)
                if signum := stop.agreed():
                    break
    else:
        assert isinstance(settings, BeamConfig)
        with tqdm(total=settings.length, desc="beam search", unit="token", disable=None) as bar:
            found_BL, total_B = beam_search(model, prompt_P, settings, tgt_len, precision, bar.update)
        pages = [page(number, shown=number == 1) for number in range(1, len(found_BL) + 1)]
        for tokens_B in found_BL.T:
            _add(pages, tokens_B, total_B / found_BL.shape[1])
    seconds = time.perf_counter() - started
    for each in pages:
        each.close()
    for number, each in enumerate(pages[1:], start=2):
        show(f"--- {number} of {len(pages)} ---\n{on_screen(prompt + each.continuation())}\n")
    total = sum(each.tokens for each in pages)
    log.info("%s tokens in %.1f s (%s tokens/s): %s", f"{total:,}", seconds, f"{total / seconds:,.1f}", folder)
    return {
        "task": config.task.name,
        "checkpoint": str(trained.checkpoint.folder),
        "prompt": prompt,
        "prompt_tokens": len(prompt_tokens),
        "generate": as_dict(settings),
        "seed": config.seed,
        "context": {"tgt_len": tgt_len} | told_context(model),
        "signal": signum or None,
        "tokens": total,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(total / seconds, 1),
        "continuations": [
            {"file": f"generated/{each.path.name}", "tokens": each.tokens, "log_prob": each.log_prob}
            | {"text": each.continuation()}
            for each in pages
        ],
    }


def _add(pages: list[Page], tokens_B: Tensor, log_probs_B: Tensor) -> None:
    for page, token, log_prob in zip(pages, tokens_B.tolist(), log_probs_B.tolist(), strict=True):
        page.add(token, log_prob)
