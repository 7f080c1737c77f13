"""Jobs on a real SLURM (slurm_cluster.py, started by .ci/run) against the numbers of processes started here."""

import csv
import json
import re
import shutil
import subprocess
import time

import pytest

from tests.commands import FAULTS, SMALL, command, environment, lines_of, make_home, numbers_of, run, wait_until

NO_CLUSTER = not shutil.which("sinfo") or subprocess.run(["sinfo"], capture_output=True, timeout=60).returncode
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(NO_CLUSTER), reason="no SLURM answers here: see tests/launch/slurm_cluster.py"),
]
FOUR = ["hydra/launcher=slurm", "hydra.launcher.nodes=2", "hydra.launcher.gpus_per_node=2"]
EIGHT_CPUS = "hydra.launcher.cpus_per_task=4"  # of four tasks: all that the cluster has
LONG = ["model.dropout=0.1", "trainer.eval_every=100", "trainer.save_every=1000"]
STEPS = 150


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("slurm"))


@pytest.fixture(scope="module")
def calm(home):
    """Four processes of this machine that nobody disturbs."""
    run(home, *SMALL, *LONG, f"trainer.max_steps={STEPS}", "trainer.devices=4", "hydra.run.dir=calm")
    return home / "calm"


class Started:
    """A command that goes on in the background; what it prints goes to a file."""

    def __init__(self, home, sweep, *words, **more):
        self.home, self.printed, env = home, home / f"{sweep}.out", environment(home) | more
        with self.printed.open("w") as file:
            words = [*words, f"hydra.sweep.dir={sweep}"]
            self.process = subprocess.Popen(command(*words), cwd=home, env=env, stdout=file, stderr=file)

    def end(self, code: int = 0) -> str:
        try:
            assert self.process.wait(600) == code, self.printed.read_text()
        finally:
            self.stop()
        return self.printed.read_text()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module", autouse=True)
def limited(home):
    """A run that waits for the signal before its time limit, which comes two to three minutes after its start."""
    words = [*SMALL, *LONG, "trainer.max_steps=40", "trainer.precision=fp64", "model.dropout=0"]
    limit = ["hydra.launcher.timeout_min=4", "hydra.launcher.signal_delay_s=60", "hydra.launcher.cpus_per_task=1"]
    going = Started(home, "limited", *words, *FOUR, *limit, FAULT="0 20 signalled", PYTHONPATH=FAULTS)
    yield going, words
    going.stop()
    subprocess.run(["scancel", "--me"], check=True)


def job_of(home, sweep: str, lines: int = 2) -> str:
    """The number of a sweep's only job, once it trains."""
    wait_until(lambda: (home / sweep / "0/metrics.jsonl").exists() and len(lines_of(home / sweep / "0")) >= lines)
    (folder,) = (home / sweep / ".submitit").glob("[0-9]*")
    return folder.name


def assert_undisturbed(run_dir, calm) -> None:
    assert numbers_of(run_dir) == numbers_of(calm)
    weights = [(path / "checkpoints/last/model.safetensors").read_bytes() for path in (run_dir, calm)]
    assert weights[0] == weights[1]
    assert "Continuing from step" in (run_dir / "run.log").read_text()


def accounts(job: str) -> dict[str, str]:
    """State and exit code of a job, as SLURM keeps them."""
    asked = ["sacct", "-X", "-n", "-P", "--format=State,ExitCode", "-j", job]
    state, code = subprocess.run(asked, capture_output=True, text=True).stdout.split()[-1].split("|")
    return {"state": state, "code": code}


def rows_of(sweep) -> list[dict[str, str]]:
    return list(csv.DictReader((sweep / "sweep.csv").read_text().splitlines()))


def test_a_training_sweep_on_two_nodes_gives_the_numbers_of_one_process(home):
    words = [*SMALL, "trainer.precision=fp64", "trainer.max_steps=10"]
    one_cpu = "hydra.launcher.cpus_per_task=1"
    printed = run(home, "-m", *words, *FOUR, one_cpu, "seed=1,2", "hydra.sweep.dir=seeds")
    rows = rows_of(home / "seeds")
    assert [row["status"] for row in rows] == ["done", "done"] and "<- best" in printed
    assert (home / "seeds/sweep.png").exists()
    jobs = {path.name for path in (home / "seeds/.submitit").glob("[0-9]*_*")}
    assert len(jobs) == 2 and len({job.split("_")[0] for job in jobs}) == 1  # one job array
    for number, row in enumerate(rows):
        run(home, *words, f"seed={row['seed']}", f"hydra.run.dir=alone{number}")
        expected = json.loads((home / f"alone{number}/results.json").read_text())["loss"]
        assert float(row["loss"]) == pytest.approx(expected, rel=1e-10)
        for line, reference in zip(numbers_of(home / f"seeds/{number}"), numbers_of(home / f"alone{number}")):
            assert line["loss"] == pytest.approx(reference["loss"], rel=1e-10)
        logs = {path.name for path in (home / f"seeds/{number}").glob("run*.log")}
        assert logs == {"run.log", "run.rank1.log", "run.rank2.log", "run.rank3.log"}


def test_a_search_runs_its_trials_as_job_arrays(home):
    words = [*SMALL, "trainer.max_steps=10", "optimizer.lr=tag(log,interval(1e-4,1e-1))", "hydra.sweep.dir=search"]
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2"]
    one_task = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=1", "hydra.launcher.cpus_per_task=1"]
    printed = run(home, "-m", *words, *search, *one_task)
    rows = rows_of(home / "search")
    assert [row["status"] for row in rows] == ["done"] * 4 and "Found: optimizer.lr=" in printed
    assert len({row["optimizer.lr"] for row in rows}) == 4
    jobs = {path.name for path in (home / "search/.submitit").glob("[0-9]*_*")}
    assert len(jobs) == 4 and len({job.split("_")[0] for job in jobs}) == 2


def test_an_evaluation_sweep_gives_the_numbers_of_one_process_and_computes_only_what_is_missing(home, calm):
    words = ["-m", "task=eval", "checkpoint=calm", "eval.mem_len=8,32", "eval.clamp_len=4,8", "trainer.precision=fp64"]
    jobs = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=2", "hydra.launcher.cpus_per_task=1"]
    run(home, *words, "hydra.sweep.dir=here")
    run(home, *words, *jobs, "hydra.sweep.dir=there")
    here, there = rows_of(home / "here"), rows_of(home / "there")
    keys = ["eval.mem_len", "eval.clamp_len", "status", "tokens"]
    assert [[row[key] for key in keys] for row in here] == [[row[key] for key in keys] for row in there]
    for ours, theirs in zip(here, there, strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-12)
    results = [home / f"there/{number}/results.json" for number in range(4)]
    results[2].unlink()
    written = [path.stat().st_mtime_ns for path in results if path.exists()]
    run(home, *words, "hydra.sweep.dir=there")  # by whatever launcher
    assert [path.stat().st_mtime_ns for path in results if path is not results[2]] == written
    assert rows_of(home / "there")[2]["loss"] == here[2]["loss"]


@pytest.mark.parametrize("moment", ["start-up", "no signal"])
def test_a_requeue_at_start_up_or_without_a_signal_is_survived(home, calm, moment):
    sweep = home / moment.replace(" ", "-")
    words = [*SMALL, *LONG, f"trainer.max_steps={STEPS}", "trainer.save_every=7", "hydra.launcher.cpus_per_task=1"]
    going = Started(home, sweep.name, *words, *FOUR, FAULT="0 20 slow", PYTHONPATH=FAULTS)
    if moment == "start-up":
        wait_until(
            lambda: len([path for path in sweep.glob(".submitit/*/*_log.out") if "Loading" in path.read_text()]) == 4
        )
        time.sleep(2)  # the last of them has its handler by now
        assert not (sweep / "0/metrics.jsonl").exists()
        (folder,) = (sweep / ".submitit").glob("[0-9]*")
        subprocess.run(["scancel", "--signal=USR2", folder.name], check=True)
    else:
        job = job_of(home, sweep.name, lines=5)
        wait_until(lambda: (sweep / "0/checkpoints/last").exists())
        subprocess.run(["scancel", "--signal=KILL", job], check=True)
        going.end(code=1)
        going = Started(home, sweep.name, *words, *FOUR)  # the same command again
    going.end()
    assert numbers_of(sweep / "0") == numbers_of(calm)
    assert (sweep / "0/checkpoints/last/model.safetensors").read_bytes() == (
        calm / "checkpoints/last/model.safetensors"
    ).read_bytes()


def test_a_sweep_whose_controller_died_waits_for_its_jobs_and_reports(home):
    words = [*SMALL, "trainer.max_steps=60", "hydra.launcher.cpus_per_task=1"]
    go_on = home / "go-on"
    first = Started(home, "orphans", *words, *FOUR, FAULT="0 20 wait", MARK=str(go_on), PYTHONPATH=FAULTS)
    job_of(home, "orphans")
    first.stop()  # SIGKILL: its job goes on
    second = Started(home, "orphans", *words, *FOUR)
    try:
        wait_until(
            lambda: "Waiting for jobs that an earlier start of this sweep submitted" in second.printed.read_text()
        )
    finally:
        go_on.touch()
    second.end()
    log = (home / "orphans/0/run.log").read_text()
    assert log.count("Scoring the test split") == 1 and "This run is finished" in log
    assert [row["status"] for row in rows_of(home / "orphans")] == ["done"]


def test_sigterm_twice_to_a_running_job_saves_and_requeues_it(home, calm):
    words = [*SMALL, *LONG, f"trainer.max_steps={STEPS}", "hydra.launcher.cpus_per_task=1"]
    going = Started(home, "terminated", *words, *FOUR, FAULT="0 20 slow", PYTHONPATH=FAULTS)
    job = job_of(home, "terminated")
    for _ in range(2):
        subprocess.run(["scancel", "--signal=TERM", job], check=True)
    going.end()
    assert_undisturbed(home / "terminated/0", calm)
    assert accounts(job) == {"state": "COMPLETED", "code": "0:0"}


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("2 7 raise", "ZeroDivisionError: a fault made by a test"),
        ("2 7 kill", "rank 2 on .* exited without reporting an error.*"),
    ],
)
def test_a_rank_that_dies_fails_the_job(home, fault, cause):
    sweep = home / f"fault{fault.split()[-1]}"
    words = [*SMALL, *FOUR, "hydra.launcher.cpus_per_task=1"]
    going = Started(home, sweep.name, *words, FAULT=fault, PYTHONPATH=FAULTS)
    job = job_of(home, sweep.name, lines=1)
    started = time.monotonic()
    wait_until(lambda: accounts(job)["state"] not in ("PENDING", "RUNNING", "COMPLETING"))
    assert time.monotonic() - started < 60  # gloo alone waits for half an hour
    printed = going.end(code=1)
    assert accounts(job)["state"] == "FAILED" and accounts(job)["code"] != "0:0"
    kept = (sweep / "0/error.txt").read_text().strip()
    assert kept.startswith("rank 2 on ") and re.fullmatch(cause, kept.splitlines()[-1])
    assert kept in printed
    assert rows_of(sweep)[0]["status"] == f"failed: {kept.splitlines()[-1]}"


def test_all_members_of_a_sweep_on_this_machine_run_at_once(home):
    words = [*SMALL, "trainer.max_steps=10", "hydra/launcher=local", "hydra.launcher.tasks_per_node=2"]
    run(home, *words, "seed=1,2", "hydra.sweep.dir=local")
    assert [row["status"] for row in rows_of(home / "local")] == ["done", "done"]
    assert "2 processes" in (home / "local/1/run.log").read_text()


def test_a_time_limit_is_met_and_the_job_goes_on(home, limited):
    going, words = limited
    going.end()
    run(home, *words, "hydra.run.dir=unlimited")
    log = (home / "limited/0/run.log").read_text()
    assert re.search(r"Stopped after step \d+ and saved", log) and "Continuing from step" in log
    for line, reference in zip(numbers_of(home / "limited/0"), numbers_of(home / "unlimited"), strict=True):
        assert line["step"] == reference["step"] and line["loss"] == pytest.approx(reference["loss"], rel=1e-10)


def test_a_job_that_makes_room_for_an_urgent_one_comes_back_and_goes_on_bit_for_bit(home, calm):
    words = [*SMALL, *LONG, f"trainer.max_steps={STEPS}", "logger=wandb", "logger.mode=offline"]
    going = Started(home, "preempted", *words, *FOUR, EIGHT_CPUS, FAULT="0 20 slow", PYTHONPATH=FAULTS)
    job = job_of(home, "preempted")
    name = (home / "preempted/0/wandb_id").read_text()
    subprocess.run(["sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"], check=True)
    going.end()
    assert_undisturbed(home / "preempted/0", calm)
    assert accounts(job) == {"state": "COMPLETED", "code": "0:0"}
    assert (home / "preempted/0/wandb_id").read_text() == name
    assert len(list((home / "preempted/0/wandb").glob(f"offline-run-*-{name}"))) == 2
