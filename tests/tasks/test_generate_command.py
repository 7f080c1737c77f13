"""`task=generate` from the outside: what stands on the screen and in the run directory. Every test starts processes."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.commands import command, environment, make_home, run, train

pytestmark = pytest.mark.slow
GENERATE = ["task=generate", "checkpoint=trained", "generate.length=20"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A working directory with a run in it, of a model that knows little."""
    folder = make_home(tmp_path_factory.mktemp("home"))
    train(folder, "hydra.run.dir=trained")
    return folder


def results_of(run_dir: Path) -> dict:
    return json.loads((run_dir / "results.json").read_text())


def test_samples_are_on_the_screen_in_files_and_in_the_results(home):
    prompt = 'def f(x, y={1: "a"}):  # ${z}\n'
    words = [*GENERATE, f"prompt={prompt}", "generate.samples=2", "hydra.run.dir=sampled"]
    printed = run(home, *words)
    results = results_of(home / "sampled")
    assert results["prompt"] == prompt and results["tokens"] == 40 and results["prompt_tokens"] == len(prompt)
    for number, continuation in enumerate(results["continuations"], start=1):
        assert continuation["file"] == f"generated/{number}.txt" and continuation["tokens"] == 20
        assert (home / "sampled" / continuation["file"]).read_bytes().decode() == prompt + continuation["text"]
        assert continuation["log_prob"] < 0
    assert printed.count(prompt) == 2 and "--- 2 of 2 ---" in printed
    run(home, *words, "trainer.precision=fp32")
    assert results_of(home / "sampled")["continuations"] == results["continuations"]


def test_a_run_speaks_without_its_corpus_and_with_it(home):
    run(home, *GENERATE, "prompt=def ", "hydra.run.dir=kept")
    (home / "text").rename(home / "away")
    run(home, *GENERATE, "prompt=def ", "hydra.run.dir=alone")
    assert results_of(home / "alone")["continuations"] == results_of(home / "kept")["continuations"]
    (home / "trained/vocabulary.json").rename(home / "vocabulary.json")
    assert "data.path" in run(home, *GENERATE, "prompt=def ", "hydra.run.dir=mute", code=1)
    (home / "away").rename(home / "text")
    run(home, *GENERATE, "prompt=def ", "hydra.run.dir=read")
    assert results_of(home / "read")["continuations"] == results_of(home / "kept")["continuations"]
    (home / "vocabulary.json").rename(home / "trained/vocabulary.json")


def test_a_beam_search_goes_on_from_a_file(home):
    (home / "prompt.txt").write_text("    return ")
    run(home, *GENERATE, "generate=beam", "generate.beams=3", "generate.prompt_file=prompt.txt", "hydra.run.dir=beam")
    found = results_of(home / "beam")["continuations"]
    assert len(found) == 3 and [each["log_prob"] for each in found] == sorted(
        (each["log_prob"] for each in found), reverse=True
    )
    assert all((home / "beam" / each["file"]).read_text().startswith("    return ") for each in found)


@pytest.mark.parametrize("length, code", [("null", 0), ("1000000", 128 + signal.SIGINT)])
def test_what_is_interrupted_is_kept(home, length, code):
    words = ["task=generate", "checkpoint=trained", f"generate.length={length}", f"hydra.run.dir=stopped{length}"]
    process = subprocess.Popen(command(*words), cwd=home, env=environment(home), stdout=subprocess.DEVNULL)
    written = home / f"stopped{length}/generated/1.txt"
    while not written.exists() or not written.stat().st_size:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() == code
    results = results_of(written.parents[1])
    assert results["signal"] == signal.SIGINT and results["tokens"] > 0
    assert written.read_bytes().decode() == results["continuations"][0]["text"]


def test_results_are_kept_when_the_reader_of_the_text_has_gone(home):
    """What has a length comes to its end; what has none stops."""
    words, pipe = GENERATE[:2], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = {
        length: subprocess.Popen(
            command(*words, f"generate.length={length}", f"hydra.run.dir=unread{length}"),
            cwd=home, env=environment(home), **pipe,
        )
        for length in ("300", "null")
    }  # fmt: skip
    for process in processes.values():
        process.stdout.read(20)
        process.stdout.close()
    for length, process in processes.items():
        with process.stderr:
            assert process.stderr.read() == b"" and process.wait() == 0
        results = results_of(home / f"unread{length}")
        assert results["tokens"] == 300 or (length == "null" and results["tokens"] > 0)
        written = (home / f"unread{length}/generated/1.txt").read_bytes().decode()
        assert written == results["continuations"][0]["text"]


def test_a_model_without_memory_is_told_of_it(home):
    printed = run(home, *GENERATE, "eval.mem_len=0", "hydra.run.dir=forgetful", code=1)
    assert "set eval.mem_len to 1 or more" in printed
    assert not (home / "forgetful/generated").exists()


def test_documents_that_a_run_does_not_know_are_refused_and_what_was_generated_is_kept(home):
    run(home, *GENERATE, "prompt=def ", "hydra.run.dir=documents")
    words = ["prompt=def ", "eval.reset_state=document", "hydra.run.dir=documents"]
    assert "eval.reset_state=document needs documents" in run(home, *GENERATE, *words, code=1)
    assert (home / "documents/generated/1.txt").is_file() and (home / "documents/results.json").is_file()


def test_a_training_run_is_not_overwritten(home):
    assert "belongs to a training run" in run(home, *GENERATE, "hydra.run.dir=trained", code=1)
    assert results_of(home / "trained")["task"] == "train"
