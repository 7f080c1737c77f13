"""Several processes of one command: one run directory, one end for all, and signals that all obey together."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.commands import (
    FAULTS,
    ROOT,
    SMALL,
    command,
    environment,
    lines_of,
    make_home,
    numbers_of,
    run,
    train,
    wait_until,
)  # fmt: skip

pytestmark = pytest.mark.slow
LONG = ["model.dropout=0.1", "trainer.max_steps=300", "trainer.eval_every=100", "trainer.save_every=1000"]
WEIGHTS = "checkpoints/last/model.safetensors"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def alone(home):
    train(home, "hydra.run.dir=alone", "trainer.precision=fp64")
    return home / "alone"


def assert_equal_numbers(run_dir, expected):
    lines = numbers_of(run_dir)
    for line, reference in zip(lines, expected, strict=True):
        assert line.pop("split", None) == reference.get("split")
        assert line == pytest.approx({key: reference[key] for key in line}, rel=1e-10)


def test_two_processes_of_ours_and_three_of_torchrun_write_the_one_process_numbers(home, alone):
    train(home, "hydra.run.dir=ours", "trainer.precision=fp64", "trainer.devices=2")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3"]
    words = [*SMALL, "trainer.precision=fp64", "hydra.run.dir=torchrun-${now:%f}"]  # a date, on each rank another
    result = subprocess.run(
        [*start, str(ROOT / "run.py"), *words], cwd=home, env=environment(home), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    (torchrun,) = home.glob("torchrun-*")
    for run_dir in (home / "ours", torchrun):
        assert_equal_numbers(run_dir, numbers_of(alone))
        found, expected = (json.loads((path / "results.json").read_text()) for path in (run_dir, alone))
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-12) and found["tokens"] == expected["tokens"]
        names = {path.name for path in run_dir.iterdir()}
        assert names - {"run.rank1.log", "run.rank2.log"} == {path.name for path in alone.iterdir()}
        assert "run.rank1.log" in names
    assert result.stdout.count("Loss (base 2)") == 1


def test_a_rank_ends_without_threads_of_the_world(home, tmp_path):
    train(home, "trainer.devices=2", "hydra.run.dir=calm", FAULT="0 0 none", PYTHONPATH=FAULTS, MARK=str(tmp_path))
    threads = [path.read_text().split() for path in tmp_path.iterdir()]
    assert len(threads) == 2 and not any("gloo" in name for names in threads for name in names)


def test_a_rank_that_is_stopped_ends_without_them_too(home, tmp_path):
    words = [*SMALL, *LONG, "trainer.devices=2", "hydra.run.dir=left"]
    env = environment(home) | {"FAULT": "0 0 none", "MARK": str(tmp_path), "PYTHONPATH": FAULTS}
    process = subprocess.Popen(command(*words), cwd=home, env=env)
    wait_until(lambda: (home / "left" / "metrics.jsonl").exists() and len(lines_of(home / "left")) >= 4)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    threads = [path.read_text().split() for path in tmp_path.iterdir()]
    assert threads and not any("gloo" in name for names in threads for name in names)


def test_a_checkpoint_is_evaluated_by_any_number_of_processes(home, alone):
    results = []
    for devices in (1, 3):
        words = ["eval.max_tokens=null", "trainer.precision=fp64", f"trainer.devices={devices}"]
        run(home, "task=eval", "checkpoint=alone", *words, f"hydra.run.dir=eval{devices}")
        results.append(json.loads((home / f"eval{devices}/results.json").read_text()))
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-12)
    assert results[0]["tokens"] == results[1]["tokens"] == 999


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("1 3 raise", "ZeroDivisionError: a fault made by a test"),
        ("1 3 memory", "MemoryError"),
        ("0 3 kill", "rank 0 on .* exited without reporting an error \\(killed, or out of memory\\)"),
        ("1 3 kill", "rank 1 on .* exited without reporting an error \\(killed, or out of memory\\)"),
    ],
)
def test_one_rank_that_fails_ends_all(home, fault, cause):
    name = f"hydra.run.dir=fault-{fault.replace(' ', '')}"
    printed = train(home, name, "trainer.devices=2", code=1, FAULT=fault, PYTHONPATH=FAULTS)
    (error_file,) = home.glob(f"fault-{fault.replace(' ', '')}/error.txt")
    assert time.time() - error_file.with_name("run.log").stat().st_mtime < 60  # gloo alone waits for half an hour
    kept = error_file.read_text().strip()
    assert kept in printed and printed.count(kept) == 1
    assert re.fullmatch(f".*{cause}.*", kept.splitlines()[-1])
    assert f"rank {fault[0]}" in kept
    if fault == "0 3 kill":
        assert "Results:" in train(home, name, "trainer.devices=2")  # the same command goes on


@pytest.mark.parametrize(
    ("fault", "cause"),
    [("1 -1 raise", "ZeroDivisionError: a fault made by a test"), ("0 -1 kill", "rank 0 on .* exited without .*")],
)
def test_one_rank_that_fails_ends_an_evaluation(home, alone, fault, cause):
    """Nothing there handles SIGTERM, which the launcher sends to the other ranks."""
    folder = home / f"eval-fault-{fault.replace(' ', '')}"
    words = ["task=eval", f"checkpoint={alone}", "trainer.devices=2", f"hydra.run.dir={folder}"]
    printed = run(home, *words, code=1, FAULT=fault, PYTHONPATH=FAULTS)
    kept = (folder / "error.txt").read_text().strip()
    assert printed.count(kept) == 1 and re.fullmatch(cause, kept.splitlines()[-1])


def test_an_evaluation_is_stopped_without_an_error(home, alone):
    folder, words = home / "eval-stopped", ["task=eval", f"checkpoint={alone}", "trainer.devices=2"]
    env = environment(home) | {"FAULT": "0 -1 hang", "PYTHONPATH": FAULTS}
    process = subprocess.Popen(command(*words, f"hydra.run.dir={folder}"), cwd=home, env=env)
    wait_until(lambda: (folder / "run.log").exists() and "Evaluating" in (folder / "run.log").read_text())
    time.sleep(1)  # until rank 1 waits for rank 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not (folder / "error.txt").exists()


@pytest.mark.parametrize(
    ("devices", "signum", "to_rank"), [(1, 15, False), (2, 15, False), (2, 12, False), (2, 12, True), (2, 2, True)]
)
def test_a_signal_saves_and_the_same_command_continues_bit_for_bit(home, devices, signum, to_rank):
    """Sent to the command, or to one rank only; twice, as impatient clusters do."""
    calm, stopped = home / f"calm{devices}", home / f"stopped{devices}-{signum}-{to_rank}"
    words = [*SMALL, *LONG, f"trainer.devices={devices}"]
    if not calm.exists():
        run(home, *words, f"hydra.run.dir={calm}")
    process = subprocess.Popen(command(*words, f"hydra.run.dir={stopped}"), cwd=home, env=environment(home))
    wait_until(lambda: (stopped / "metrics.jsonl").exists() and len(lines_of(stopped)) >= 4)
    target = ranks_of(process.pid)[1] if to_rank else process.pid
    for _ in range(2):
        subprocess.run(["kill", f"-{signum}", str(target)], check=False)
    assert process.wait() == 128 + signum
    assert "Continuing from step" in run(home, *words, f"hydra.run.dir={stopped}")
    assert numbers_of(calm) == numbers_of(stopped)
    assert (calm / WEIGHTS).read_bytes() == (stopped / WEIGHTS).read_bytes()


@pytest.mark.parametrize(("step", "moment"), [(100, "validate"), (100, "save"), (300, "save")])
def test_a_signal_during_a_validation_or_a_save_is_obeyed_after_it(home, step, moment):
    calm, stopped, mark = home / "calm2", home / f"stopped-{moment}-{step}", home / f"mark-{moment}-{step}"
    words = [*SMALL, *LONG, "trainer.devices=2"]
    if not calm.exists():
        run(home, *words, f"hydra.run.dir={calm}")
    env = environment(home) | {"FAULT": f"0 {step} {moment}", "MARK": str(mark), "PYTHONPATH": FAULTS}
    process = subprocess.Popen(command(*words, f"hydra.run.dir={stopped}"), cwd=home, env=env)
    wait_until(mark.exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert "Continuing from step" in run(home, *words, f"hydra.run.dir={stopped}")
    assert numbers_of(calm) == numbers_of(stopped)
    assert (calm / WEIGHTS).read_bytes() == (stopped / WEIGHTS).read_bytes()


def ranks_of(pid: int) -> list[int]:
    """The processes that a command has started, without multiprocessing's own helper."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "spawn_main" in line]


def test_a_second_ctrl_c_ends_at_once(home):
    words = [*SMALL, "trainer.max_steps=100000", "hydra.run.dir=impatient"]
    process = subprocess.Popen(
        command(*words), cwd=home, env=environment(home) | {"FAULT": "0 9 hang", "PYTHONPATH": FAULTS}
    )
    wait_until(lambda: (home / "impatient/metrics.jsonl").exists() and lines_of(home / "impatient"))
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(3)
    assert process.poll() is None  # it finishes its step first
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trainer.devices=5"], "data.batch_size=4 lanes are too few for 5 processes"),
        (["trainer.devices=0"], "trainer.devices=0 must be 1 or more"),
    ],
)
def test_impossible_numbers_of_processes_are_refused(home, words, sentence):
    printed = train(home, *words, "hydra.run.dir=impossible", code=1)
    assert printed.startswith(f"Error: {sentence}") and not (home / "impossible").exists()


def test_torchrun_and_another_number_of_devices_contradict_each_other(home):
    names = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    printed = train(home, "trainer.devices=3", "hydra.run.dir=torn", code=1, MASTER_PORT="29511", **names)
    assert "trainer.devices=3, but torchrun started 2 processes" in printed
