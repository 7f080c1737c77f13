"""task=import from the outside: one command brings a model in; it evaluates, trains on, and goes out by another."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tbptt.interop import original
from tests.data.small_corpora import write_corpus
from tests.interop.foreign_files import log_of_train, nvidia_file, original_file, original_weights, words
from tests.models.recorded import MANIFEST

ROOT = Path(__file__).parents[2]
NAME = "b_adaptive_div1"
WORDS = words(MANIFEST["models"][NAME]["config"]["n_token"])
TEXT = "".join(" ".join(WORDS[2 + i * k % 90] for i in range(9)) + "\n" for k in range(1, 30))
pytestmark = pytest.mark.slow


def run(home: Path, *arguments: str, code: int = 0) -> str:
    environment = os.environ | {"TBPTT_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_corpus(folder / "text", TEXT, TEXT, TEXT)
    (folder / "mine.txt").write_text(TEXT + "zebra\n")
    return folder


@pytest.fixture(scope="module")
def imported(home) -> str:
    """What importing a checkpoint prints; its run directory is `nvidia`."""
    nvidia_file(home / "checkpoint_best.pt", NAME)
    return run(home, "task=import", "import.format=nvidia", "import.path=checkpoint_best.pt", "hydra.run.dir=nvidia")


def test_what_differs_and_what_is_left_behind_is_said(home, imported):
    assert "after 40 updates" in imported and "mem_len + 1 keys" in imported and "jitlamb" in imported
    info = json.loads((home / "nvidia/checkpoints/last/checkpoint.json").read_text())
    assert info["imported"]["format"] == "nvidia" and len(info["imported"]["notes"]) == 2
    assert "has checkpoints already" in run(
        home, "task=import", "import.format=nvidia", "import.path=checkpoint_best.pt", "hydra.run.dir=nvidia", code=1
    )


def test_an_imported_run_scores_a_text_of_ones_own(home, imported):
    scores = {}
    for start in ("empty", "zeros"):
        own = ["data=text", "data.path=mine.txt", f"eval.initial_memory={start}", f"hydra.run.dir=eval_{start}"]
        printed = run(home, "task=eval", "checkpoint=nvidia", *own)
        assert re.search(r"1 of \d+ tokens \(1 types, such as 'zebra'\) are unknown", printed)
        results = json.loads((home / f"eval_{start}/results.json").read_text())
        scores[start] = results["loss"]
        assert results["tokens"] == len(TEXT.split()) + 29 + 1 and results["split"] == "text"
    assert scores["empty"] != scores["zeros"]


def test_an_imported_run_without_a_corpus_asks_for_one(home, imported):
    assert "has no corpus" in run(home, "task=eval", "checkpoint=nvidia", code=1)
    said = run(home, "task=eval", "checkpoint=nvidia", "data=text", "data.path=text", code=1)
    assert "another vocabulary" in said


def test_an_imported_run_goes_on_from_a_prompt_in_its_own_words(home, imported):
    words = ["task=generate", "checkpoint=nvidia", "prompt=w3 w4\n zebra", "generate.length=30"]
    printed = run(home, *words, "eval.initial_memory=zeros", "data=text", "data.path=nowhere", "hydra.run.dir=told")
    assert "'zebra') are unknown" in printed and "data.path=nowhere has no effect with task=generate" in printed
    results = json.loads((home / "told/results.json").read_text())
    assert results["prompt_tokens"] == 4 and results["context"]["initial_memory"] == "zeros"
    said = results["continuations"][0]["text"]
    assert said.count("\n") + len(said.split()) == 30 and set(said.split()) <= set(WORDS)


def test_without_a_vocabulary_it_speaks_the_words_of_a_corpus_that_is_named(home, imported):
    original_file(home / "weights.npz", NAME)
    words = ["import.path=weights.npz", "import.config=args.json", "hydra.run.dir=wordless"]
    assert "No vocabulary was found" in run(home, "task=import", "import.format=original", *words)
    words = ["task=generate", "checkpoint=wordless", "prompt=w3", "eval.mem_len=8", "hydra.run.dir=spoken"]
    assert "has no corpus" in run(home, *words, code=1)
    named = ["data=text", "data.path=text", "data.vocabulary=nvidia/vocabulary.json"]
    assert "only the vocabulary size was compared" in run(home, *words, *named)
    results = json.loads((home / "spoken/results.json").read_text())
    assert set(results["continuations"][0]["text"].split()) <= set(WORDS)


def test_the_printed_command_trains_it_on(home, imported):
    (line,) = re.findall(r"Continue its training: python run\.py (.*)", imported)
    words = [word for word in line.split() if word != "data=..."]
    own = ["data=text", "data.path=text", "data.vocabulary=nvidia/vocabulary.json", "data.batch_size=2", "eval=default"]
    own += ["trainer.max_steps=3", "trainer.log_every=1", "hydra.run.dir=on", "optimizer.lr=1e-3"]
    assert "Starting from the weights of" in run(home, *words, *own)
    said = run(home, *words, *own[:-2], "hydra.run.dir=adam", "optimizer.from_checkpoint=true", code=1)
    assert "needs the state of adam" in said


CODE = """
from torch import nn
class MemTransformerLM(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = weights
    def state_dict(self):
        return self.weights
"""
SAVE = """
import mem_transformer, torch
torch.save(mem_transformer.MemTransformerLM(torch.load('weights.pt')), 'model.pt')
"""


def test_what_train_py_leaves_behind_trains_on(home, imported):
    """A pickled module, log.txt and optimizer.pt; by the commands that are printed, and with adamw instead of adam."""
    work, code = home / "LM-TFM-enwik8", home / "code"
    work.mkdir()
    code.mkdir()
    (code / "mem_transformer.py").write_text(CODE)
    weights = original_weights("a_plain")
    torch.save(weights, work / "weights.pt")
    subprocess.run([sys.executable, "-c", SAVE], cwd=work, env=os.environ | {"PYTHONPATH": str(code)}, check=True)
    log_of_train(work / "log.txt", "a_plain")
    model = original.build(weights, MANIFEST["models"]["a_plain"]["config"])
    again = original.tied_names(model) | original.BUFFERS
    own = [value for name, value in weights.items() if name not in again]
    group = {"lr": 1e-4, "betas": (0.8, 0.99), "eps": 1e-7, "weight_decay": 0.0, "params": list(range(len(own)))}
    state = {i: {"step": 30, "exp_avg": value, "exp_avg_sq": value**2} for i, value in enumerate(own) if i != 2}
    torch.save({"state": state, "param_groups": [group]}, work / "optimizer.pt")
    (work / "vocab.txt").write_text("\n".join(WORDS[:97]))
    import_words = ["task=import", "import.format=original", f"import.vocabulary={work}/vocab.txt"]
    said = run(home, *import_words, f"import.path={work}/model.pt", "hydra.run.dir=trained", code=1)
    assert not (home / "trained").exists() and "the folder that contains mem_transformer.py" in said
    (line,) = [part for part in said.split("`") if part.startswith("python -c")]
    subprocess.run(["bash", "-c", f"{sys.executable}{line.removeprefix('python')}"], cwd=code, check=True)
    said = run(home, *import_words, f"import.path={work}/state_dict.pt", "hydra.run.dir=trained")
    assert "after 30 updates" in said and "no state yet for" in said
    (line,) = re.findall(r"Continue its training: python run\.py (.*)", said)
    assert "optimizer=adam optimizer.betas=[0.8,0.99] optimizer.eps=1e-07 optimizer.from_checkpoint=true" in line
    vocabulary = "data.vocabulary=trained/vocabulary.json"
    words = [word for word in line.replace("optimizer=adam ", "optimizer=adamw ").split() if word != "data=..."]
    own = [
        "data=text",
        "data.path=text",
        vocabulary,
        "data.batch_size=2",
        "eval=default",
    ]
    said = run(home, *words, *own, "trainer.max_steps=32", "hydra.run.dir=adamw")
    assert "at step 30" in said
    own += ["optimizer=sgd", "optimizer.from_checkpoint=true", "hydra.run.dir=sgd"]
    said = run(home, *words[: words.index("model=imported") + 1], "checkpoint=trained", *own, code=1)
    assert "needs the state of sgd, but" in said and "has that of adam" in said


def test_a_run_goes_on_with_the_optimizer_of_another(home, imported):
    settings = ["experiment=debug", "data=text", "data.path=text", "data.batch_size=2"]
    run(home, *settings, "hydra.run.dir=first", "trainer.max_steps=10")
    own = ["data=text", "data.path=text/test.txt", "hydra.run.dir=scored"]
    run(home, "task=eval", "checkpoint=first", *own, "eval.max_tokens=2000")
    scored, split = (json.loads((home / name / "results.json").read_text()) for name in ("scored", "first"))
    assert scored["loss"] == split["loss"] and scored["tokens"] == split["tokens"]
    printed = run(home, *settings, "hydra.run.dir=second", "checkpoint=first/last", "optimizer.from_checkpoint=true")
    assert "at step 10" in printed
    lines = [json.loads(line) for line in (home / "second/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "split" not in line] == [15, 20]
    words = ["hydra.run.dir=third", "checkpoint=first/last", "optimizer.from_checkpoint=true", "trainer.max_steps=10"]
    assert "continues at step 10" in run(home, *settings, *words, code=1)
    for own, said in (
        (["data=text"], "needs data.path=FILE"),
        (["data=text", "data.path=nowhere"], "found no data.path"),
    ):
        assert said in run(home, "task=eval", "checkpoint=first", *own, code=1)


def test_an_export_of_a_model_of_bytes_comes_back_with_its_vocabulary(home, imported):
    run(
        home,
        "experiment=debug",
        "data=text",
        "data.level=byte",
        "data.path=text",
        "data.batch_size=2",
        "hydra.run.dir=bytes",
    )
    run(home, "task=export", "checkpoint=bytes", "export.format=hf", "export.path=bytes-hf")
    printed = run(home, "task=import", "import.format=hf", "import.path=bytes-hf", "hydra.run.dir=back")
    assert "No vocabulary was found" not in printed
    vocabularies = [(home / name / "vocabulary.json").read_bytes() for name in ("bytes", "back")]
    assert vocabularies[0] == vocabularies[1]


def test_an_imported_run_goes_out_again(home, imported):
    words = ["task=export", "checkpoint=nvidia", "export.format=hf", "export.path=out"]
    assert "Exported" in run(home, *words)
    assert {path.name for path in (home / "out").iterdir()} >= {"config.json", "model.safetensors", "vocabulary.json"}
    assert "exists already" in run(home, *words, code=1)


@pytest.mark.parametrize(
    "words, said",
    [
        (["import.format=hf", "import.path=text"], "config.json"),
        (["import.format=fairseq", "import.path=mine.txt"], "mine.txt"),
    ],
)
def test_a_wrong_file_is_answered_in_one_sentence_and_writes_nothing(home, words, said):
    before = sorted(home.rglob("*"))
    printed = run(home, "task=import", *words, code=1)
    assert printed.startswith("Error: ") and said in printed and printed.count("\n") == 1
    assert sorted(home.rglob("*")) == before
