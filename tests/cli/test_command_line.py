"""`python run.py` from the outside: what it writes, prints and returns. Every test starts real processes."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from tbptt.cli.directories import sweep_dir
from tests.commands import ROOT, SMALL, command, environment, lines_of, looks_like_a_picture, make_home, run, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def trained(home) -> Path:
    train(home, "hydra.run.dir=trained")
    return home / "trained"


def test_a_training_run_leaves_all_that_it_should(trained):
    results = json.loads((trained / "results.json").read_text())
    assert results.keys() >= {
        "task",
        "split",
        "tokens",
        "loss",
        "loss_base2",
        "ppl",
        "bpc",
        "params",
        "seconds",
        "eval",
    }
    assert results["eval"].keys() == {"tgt_len", "mem_len", "clamp_len", "same_length", "batch_size", "burn_in"}
    assert results["tokens"] == 999 and results["train"]["steps"] == 20 and results["compressors"]["zlib"] > 0
    steps = [line["step"] for line in lines_of(trained) if "split" not in line]
    assert steps == [5, 10, 15, 20]
    training = lines_of(trained)[0]
    assert training.keys() >= {"step", "epoch", "tokens", "loss", "bpc", "lr", "grad_norm", "tokens_per_second"}
    validation = next(line for line in lines_of(trained) if "split" in line)
    assert validation["split"] == "valid" and "grad_norm" not in validation
    assert looks_like_a_picture(trained / "curves.png")
    assert {"last", "best"} <= {path.name for path in (trained / "checkpoints").iterdir()}
    assert (trained / "run.log").stat().st_size and (trained / ".hydra/config.yaml").exists()


def test_the_default_run_directory_follows_from_the_settings(home):
    printed = train(home, "seed=7", "+hydra.callbacks.value._target_=tests.cli.returned.PrintValue")
    (run_dir,) = home.glob("runs/text-txl_tiny-*")
    before = (run_dir / "metrics.jsonl").read_text()
    best = json.loads((run_dir / "results.json").read_text())["train"]["best_valid_loss"]
    assert f"returned {best}" in printed
    again = train(home, "seed=7", "trainer.micro_batch=2", "trainer.log_every=7")  # how, not what is computed
    assert "Results:" in printed and "This run is finished" in again and "delete" in again
    assert (run_dir / "metrics.jsonl").read_text() == before
    train(home, "seed=8", "trainer.max_steps=1", "scheduler.warmup_steps=0")
    assert len(list(home.glob("runs/text-txl_tiny-*"))) == 2


def test_an_evaluation_prints_what_it_found(home, trained):
    results = json.loads((trained / "results.json").read_text())
    printed = run(home, "task=eval", "checkpoint=trained", "hydra.run.dir=evaluated", "model.n_layer=9")
    evaluated = json.loads((home / "evaluated/results.json").read_text())
    assert evaluated["loss"] == pytest.approx(results["loss"], rel=1e-6) and evaluated["params"] == results["params"]
    assert re.search(r"Number of parameters: [\d,]+\n", printed)
    assert re.search(r"Evaluated 999 tokens in [\d.]+ s \([\d,.]+ tokens/s\)", printed)
    assert re.search(r"Loss \(base 2\): \d+\.\d+, Perplexity: \d+\.\d+", printed)
    assert "model.n_layer=9 has no effect with task=eval" in printed
    for form in ("trained/best", "trained/checkpoints/last", "trained/checkpoints/step_00000020"):
        assert "Loss" in run(home, "task=eval", f"checkpoint={form}", "eval.split=valid", "eval.max_tokens=50")


def test_a_corpus_is_found_from_another_directory(home, trained, tmp_path):
    printed = run(home, "task=eval", f"checkpoint={trained}", f"hydra.run.dir={tmp_path}/elsewhere", cwd=tmp_path)
    assert "Evaluated 999 tokens" in printed


def test_an_evaluation_sweep_leaves_one_table_and_one_figure(home, trained):
    sweep = ["eval.mem_len=8,16,32", "eval.clamp_len=4,8", "eval.same_length=true", "hydra.sweep.dir=sweep"]
    printed = run(home, "-m", "task=eval", "checkpoint=trained", *sweep)
    rows = list(csv.DictReader((home / "sweep/sweep.csv").read_text().splitlines()))
    assert [(row["eval.mem_len"], row["eval.clamp_len"]) for row in rows] == [
        (mem_len, clamp_len) for mem_len in ("8", "16", "32") for clamp_len in ("4", "8")
    ]
    assert {row["status"] for row in rows} == {"done"} and len({row["loss"] for row in rows}) == 6
    best = min(rows, key=lambda row: float(row["loss"]))
    (marked,) = (line for line in printed.splitlines() if line.endswith("<- best"))
    assert marked.split()[:2] == [best["eval.mem_len"], best["eval.clamp_len"]]
    assert looks_like_a_picture(home / "sweep/sweep.png")


def test_a_sweep_over_the_choices_of_a_group_names_them(home, trained):
    sweep = ["eval=default,wt103_base", "eval.max_tokens=300", "hydra.sweep.dir=choices"]
    printed = run(home, "-m", "task=eval", "checkpoint=trained", *sweep)
    rows = list(csv.DictReader((home / "choices/sweep.csv").read_text().splitlines()))
    assert [row["eval"] for row in rows] == ["default", "wt103_base"]
    assert {line.split()[0] for line in printed.splitlines() if " done " in line} == {"default", "wt103_base"}


def test_losses_of_every_token_are_kept_and_members_of_a_sweep_do_not_share_them(home, trained):
    words = ["task=eval", "checkpoint=trained", "eval.max_tokens=300"]
    run(home, *words, "eval.save_losses=losses", "hydra.run.dir=kept")
    kept = home / "kept/losses"
    size = kept.stat().st_size
    assert size == 4 * 300
    kept.unlink()
    run(home, *words, "eval.save_losses=losses", "hydra.run.dir=kept")
    assert kept.stat().st_size == size
    for name in ("results.json", "./results", "run.log"):
        printed = run(home, *words, f"eval.save_losses={name}", "hydra.run.dir=overwritten", code=1)
        assert "of the run: choose another name" in printed and not (home / "overwritten").exists()
    (home / "other").mkdir()
    elsewhere = home / "other/results.json"  # of no run
    run(home, *words, f"eval.save_losses={elsewhere}", "hydra.run.dir=elsewhere")
    assert elsewhere.stat().st_size == size
    shared = f"eval.save_losses={home / 'shared'}"
    printed = run(home, "-m", *words, "eval.mem_len=4,8", shared, "hydra.sweep.dir=sharing", code=1)
    assert "would be written by every member of the sweep" in printed and not (home / "shared").exists()
    printed = run(home, "-m", *SMALL, "seed=1,2", shared, "hydra.sweep.dir=untrained", code=1)
    assert "would be written by every member of the sweep" in printed
    assert not list((home / "untrained").glob("*/checkpoints"))


def test_a_run_that_goes_on_with_other_validations_forgets_the_best_of_before(home):
    words = [*SMALL, "trainer.eval_every=2", "hydra.run.dir=validated"]
    run(home, *words, "trainer.max_steps=4")
    before = json.loads((home / "validated/results.json").read_text())["train"]
    assert "other settings" not in run(home, *words, "trainer.max_steps=6")
    printed = run(home, *words, "trainer.max_steps=8", "trainer.eval_tokens=1")
    assert "Validations have other settings than before" in printed
    after = json.loads((home / "validated/results.json").read_text())["train"]
    assert before["best_step"] <= 4 and after["best_step"] == 8
    losses = [line["loss"] for line in lines_of(home / "validated") if line.get("split") and line["step"] > 6]
    assert after["best_valid_loss"] == min(losses)


def test_a_failed_member_of_a_training_sweep_is_in_the_table_and_the_exit_code(home):
    printed = run(home, "-m", *SMALL, "model.n_head=0,2", "trainer.max_steps=6", "hydra.sweep.dir=broken", code=1)
    failed, done = csv.DictReader((home / "broken/sweep.csv").read_text().splitlines())
    assert failed["status"] == "failed: model.n_head=0 must be 1 or more" and not failed["loss"]
    assert done["status"] == "done" and float(done["loss"]) > 0
    assert "Error: model.n_head=0 must be 1 or more" in printed
    assert "Error executing job" not in printed and "Traceback" not in printed


@pytest.mark.parametrize("setting", ["hydra.sweep.subdir=${hydra.job.override_dirname}", "hydra.output_subdir=null"])
def test_a_sweep_whose_folders_are_named_otherwise_has_its_table(home, trained, setting):
    words = ["task=eval", "checkpoint=trained", "eval.max_tokens=50", "hydra.sweep.dir=named", setting]
    run(home, "-m", *words, "eval.mem_len=4,8")
    run(home, "-m", *words, "eval.mem_len=16")  # the directory again, for fewer
    rows = list(csv.DictReader((home / "named/sweep.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["done"]


def test_paths_and_corpora_of_an_evaluation_are_as_they_are_typed(home, trained):
    for path in ("010", "c,d"):
        shutil.copytree(home / "text", home / path)
    words = ["task=eval", "checkpoint=trained", "eval.max_tokens=50"]
    run(home, "-m", *words, 'data.path=010,"c,d"', "hydra.sweep.dir=typed")
    rows = list(csv.DictReader((home / "typed/sweep.csv").read_text().splitlines()))
    assert [(row["data.path"], row["status"]) for row in rows] == [("010", "done"), ("c,d", "done")]


def test_a_rank_that_does_not_know_its_number_is_refused_in_one_sentence(home):
    printed = train(home, "hydra.run.dir=unranked", code=1, RANK="0", WORLD_SIZE="1")
    assert printed.startswith("Error: the environment has RANK, WORLD_SIZE but not") and printed.count("\n") == 1


@pytest.mark.parametrize("words", [["model.n_layrs=3"], ["model.n_head=0"], ["data=text"], ["task=eval"]])
def test_a_wrong_command_writes_nothing(home, tmp_path, words):
    printed = subprocess.run(command(*words), cwd=tmp_path, env=environment(home), capture_output=True, text=True)
    assert printed.returncode == 1 and printed.stdout == ""
    assert printed.stderr.startswith("Error: ") and printed.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", ["trainer.max_steps=80", "task=eval checkpoint=trained", "task=generate checkpoint=trained"]
)
def test_what_a_directory_says_of_its_run_survives_a_command_that_is_refused(home, trained, wrong):
    record = trained / ".hydra/overrides.yaml"
    before = record.read_bytes()
    printed = run(home, *wrong.split(), "hydra.run.dir=trained", code=1)
    assert "belongs to a" in printed and printed.count("\n") == 1 and len(printed) < 1000
    assert record.read_bytes() == before


@pytest.mark.parametrize("wrong", ["data.workers=-3", "data=text", "data=wikitext2 data.path=nowhere"])
def test_an_evaluation_of_wrong_data_writes_nothing(home, trained, wrong):
    printed = run(home, "task=eval", "checkpoint=trained", *wrong.split(), "hydra.run.dir=nothing", code=1)
    assert printed.startswith("Error: ") and wrong.split()[-1] in printed and not (home / "nothing").exists()


def test_another_model_or_corpus_is_refused_with_what_differs(home, trained):
    before = lines_of(trained)
    more = ["trainer.max_steps=30", "hydra.run.dir=trained"]
    printed = run(home, *SMALL, *more, "model.n_layer=3", "data.batch_size=2", code=1)
    assert "model.n_layer is 3, was 2" in printed and "data.batch_size is 2, was 4" in printed
    printed = run(home, "experiment=debug", "data.batch_size=4", *more, code=1)
    assert "data.name is stdlib, was text" in printed and "train_tokens_sha256" in printed
    assert "Error executing job" not in printed and "Traceback" not in printed
    assert lines_of(trained) == before and not (trained / "error.txt").exists()


def test_a_finished_run_is_not_taken_for_one_of_other_settings(home, trained):
    for word, words in (
        ("model.mem_len=8", "model.mem_len is 8, was 32"),
        ("optimizer=sgd", "optimizer.name is sgd, was adam"),
        ("scheduler=plateau", "scheduler.name is plateau, was cosine"),
        ("seed=9", "run.seed is 9, was 1"),
    ):
        assert words in run(home, *SMALL, word, "hydra.run.dir=trained", code=1)
    assert "This run is finished" in run(home, *SMALL, "hydra.run.dir=trained")


def test_a_run_directory_has_one_purpose_and_one_process(home, trained):
    evaluation = ["task=eval", "checkpoint=trained"]
    assert "belongs to a training run" in run(home, *evaluation, "hydra.run.dir=trained", code=1)
    assert "eval=wt103_base" in run(home, *evaluation, "model=txl_16l", "hydra.run.dir=other", code=1)
    with FileLock(trained / "run.lock"):
        assert "another process is training" in run(home, *SMALL, "hydra.run.dir=trained", code=1)


def test_sweeps_in_another_order_do_not_share_a_directory():
    assert sweep_dir(["seed=1,2", "optimizer.lr=1,2"]) != sweep_dir(["optimizer.lr=1,2", "seed=1,2"])


def test_a_run_starts_from_the_weights_of_a_checkpoint(home, trained):
    train(home, "checkpoint=trained/last", "trainer.max_steps=5", "hydra.run.dir=started")
    assert lines_of(home / "started")[0]["loss"] < lines_of(trained)[0]["loss"]


def test_a_resumed_run_continues_the_same_wandb_run(home):
    first = ["logger=wandb", "logger.mode=offline", "hydra.run.dir=watched"]
    train(home, *first, "trainer.max_steps=10")
    name = (home / "watched/wandb_id").read_text()
    train(home, *first, "trainer.max_steps=20")
    assert (home / "watched/wandb_id").read_text() == name
    assert len(list((home / "watched/wandb").glob(f"offline-run-*-{name}"))) == 2


def test_a_corpus_is_prepared_ahead_once_and_read_through_on_demand(home, tmp_path):
    words = ["task=prepare", "data=text", f"data.path={home}/text", f"data.cache={tmp_path}", "data.min_count=2"]
    assert "Preparing data=text" in run(home, *words, "data.workers=2")
    again = run(home, *words, "data.workers=1", "data.verify=true")
    assert "Preparing" not in again and "every token file is as it was written" in again
    assert re.search(r"valid: [\d,]+ tokens, [\d,.]+ .*unknown", again), again
    (path,) = tmp_path.glob("text-word-*/test.bin")
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    printed = run(home, *words, "data.verify=true", code=1)
    assert "test.bin is not as it was written" in printed


def test_help_names_groups_choices_and_keys(home):
    printed = run(home, "--help")
    assert all(word in printed for word in ("txl_16l", "wikitext103", "cosine", "mem_len:", "batch_size:"))


def test_finished_sweeps_are_drawn_again_together(home, trained):
    for number, length in enumerate((2, 6)):
        words = [
            "task=eval",
            "checkpoint=trained",
            f"eval.clamp_len={length}",
            "eval.mem_len=4,8",
            "eval.max_tokens=99",
        ]
        run(home, "-m", *words, f"hydra.sweep.dir=part{number}")
    printed = subprocess.run(
        [sys.executable, "-m", "experiments.sweeps", home / "part0", home / "part1", "--to", home / "both"],
        cwd=ROOT, env=environment(home), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    rows = list(csv.DictReader((home / "both/sweep.csv").read_text().splitlines()))
    found = [(row["eval.clamp_len"], row["eval.mem_len"]) for row in rows]
    assert found == [("2", "4"), ("2", "8"), ("6", "4"), ("6", "8")]
    assert printed.count("<- best") == 1 and looks_like_a_picture(home / "both/sweep.png")


def test_what_does_not_fit_the_checkpoint_is_refused_before_a_run_directory_is_made(home):
    run(home, *SMALL[1:], "model=lstm", "model.d_model=8", "trainer.max_steps=2", "hydra.run.dir=lstm")
    for task in ("eval", "generate"):
        words = [f"task={task}", "checkpoint=lstm", "prompt=a", "eval.same_length=true", "hydra.run.dir=refused"]
        assert "eval.same_length=true does not apply" in run(home, *words, code=1)
        assert not (home / "refused").exists()


def test_settings_of_the_data_that_training_refuses_an_evaluation_refuses_too(home, trained):
    words = ["task=eval", "checkpoint=trained", "data=documents", "data.level=byte", "data.path=text"]
    assert "data.documents=false" in run(home, *words, "data.documents=false", code=1)
    assert "data.workers=-3" in run(home, *words[:2], "data.workers=-3", code=1)


def test_a_split_of_empty_documents_is_scored_without_compressors(home):
    (home / "empty").mkdir()
    for split, texts in (("train", ["some words"] * 60), ("valid", ["more words"]), ("test", [""] * 3)):
        (home / f"empty/{split}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["experiment=debug", "data=documents", "data.level=byte", "data.path=empty", "data.batch_size=2"]
    run(home, *words, "trainer.max_steps=2", "hydra.run.dir=trained_on_empty")
    results = json.loads((home / "trained_on_empty/results.json").read_text())
    assert results["tokens"] == 2 and "compressors" not in results


def test_an_evaluation_that_is_repeated_says_so_and_one_that_is_not_is_done(home, trained):
    words = ["task=eval", "checkpoint=trained", "eval.max_tokens=50", "eval.save_losses=losses", "hydra.run.dir=again"]
    words.append("+hydra.callbacks.value._target_=tests.cli.returned.PrintValue")
    assert "Evaluated 50 tokens" in (printed := run(home, *words))
    returned = f"returned {json.loads((home / 'again/results.json').read_text())['loss']}"
    (home / "again/error.txt").write_text("of a start that was repaired")
    assert "Already scored" in (repeated := run(home, *words)) and not (home / "again/error.txt").exists()
    assert returned in printed and returned in repeated
    assert (home / "again/losses").stat().st_size == 4 * 50
    assert "Evaluated 50 tokens" in run(home, *words, "eval.clamp_len=3")
