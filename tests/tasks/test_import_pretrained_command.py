"""A pretrained stack from the outside: it comes in, reads a text with its tokenizer, trains on, and goes out again."""

import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.data.small_corpora import write_corpus
from tests.interop.pretrained import copied, tiny_tokenizer, weights_of
from tests.tasks.test_import_command import run

TEXT = "".join(f"{'abc' * (k % 5 + 1)} {'xyz' * (k % 3)} end\n" for k in range(60))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Its run directory of the imported model is `came`; `mine.txt` and `text` are to be read."""
    folder = tmp_path_factory.mktemp("home")
    source = copied("olmo_hybrid", folder)
    tiny_tokenizer(40).save(str(source / "tokenizer.json"))
    write_corpus(folder / "text", TEXT, TEXT, TEXT)
    (folder / "mine.txt").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def printed(home) -> str:
    return run(home, "task=import", "import.format=hf", "import.path=olmo_hybrid", "hydra.run.dir=came")


def test_what_was_imported_is_said(home, printed):
    assert "39,580 parameters, after 0 updates" in printed and "sees all earlier tokens" in printed
    assert "No vocabulary was found" not in printed


def test_it_scores_a_text_with_its_tokenizer(home, printed):
    run(home, "task=eval", "checkpoint=came", "data=text", "data.path=mine.txt", "hydra.run.dir=scored")
    results = json.loads((home / "scored/results.json").read_text())
    assert results["level"] == "bpe" and results["tokens"] == len(TEXT) - 1  # this tokenizer's tokens are bytes


def test_the_printed_command_trains_it_on_and_it_goes_out_again(home, printed):
    (line,) = re.findall(r"Continue its training: python run\.py (.*)", printed)
    model = OmegaConf.load(home / "came/conf/model/imported.yaml").model
    assert model.norm_after == ["attention"] and model.attention.window is None and "mamba2" not in model
    words = [word for word in line.split() if word != "data=..."]
    own = ["data=text", "data.path=text", "data.level=bpe", "data.vocabulary=came/tokenizer.json", "data.batch_size=2"]
    own += ["trainer.max_steps=2", "trainer.log_every=1", "eval=default", "hydra.run.dir=on"]
    assert "Starting from the weights of" in run(home, *words, *own)
    run(home, "task=export", "checkpoint=on", "export.format=hf", "export.path=trained")
    trained, source = (weights_of(home / name) for name in ("trained", "olmo_hybrid"))
    assert trained.keys() == source.keys() and not any(trained[name].equal(source[name]) for name in source)
