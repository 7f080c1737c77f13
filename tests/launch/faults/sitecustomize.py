"""On PYTHONPATH, this makes one rank of a run fail: FAULT="RANK STEP raise|kill|hang|memory|prune" in the environment.

Step -1 is an evaluation (task=eval). "prune" prunes the first trial of a search alone, which leaves a file $MARK. After
"kill" the other ranks take a second to see what it has done to their collectives.

With "slow" all ranks take a while for every step from STEP on; with "wait" they wait before STEP until there is a file
named $MARK, with "signalled" until SLURM's signal reached them; with "validate" or "save" it takes seconds for what
comes after that step, and tells so by that file. With "none" nothing fails, and $MARK is a folder where every process
that trained leaves the names of its last threads.
"""

import atexit
import os

if "FAULT" in os.environ:
    import signal
    import time
    from pathlib import Path

    from tbptt.launch.failure_monitor import FailureMonitor
    from tbptt.tasks import evaluate, train
    from tbptt.training.checkpoints import Checkpoints
    from tbptt.training.trainer import Trainer

    RANK, STEP, HOW = os.environ["FAULT"].split()
    update, save, score, score_split = Trainer.update, Checkpoints.save, train.score, evaluate.score_split
    root_cause = FailureMonitor.root_cause
    done = []  # the steps of this process

    def leave_threads() -> None:
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        (Path(os.environ["MARK"]) / str(os.getpid())).write_text("\n".join(names))

    def fail(step: int, rank: int) -> None:
        if rank != int(RANK) or step != int(STEP):
            return
        if HOW == "raise":
            raise ZeroDivisionError("a fault made by a test")
        if HOW == "memory":
            bytearray(1 << 60)
        if HOW == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if HOW == "hang":
            time.sleep(3600)
        if HOW == "prune" and not Path(os.environ["MARK"]).exists():
            import optuna

            Path(os.environ["MARK"]).touch()
            raise optuna.TrialPruned("pruned by a test")

    def failing_update(self: Trainer):
        if HOW == "none" and not done:
            atexit.register(leave_threads)
        if HOW == "slow":  # all ranks
            time.sleep(0.2 if self.step >= int(STEP) else 0)
        elif HOW == "wait":
            while self.step == int(STEP) and not Path(os.environ["MARK"]).exists():
                time.sleep(0.1)
        elif HOW == "signalled":
            while self.step == int(STEP) and not signal.getsignal(signal.SIGUSR2).__self__.received:
                time.sleep(0.1)
        fail(self.step, self.world.rank)
        done.append(self.step)
        return update(self)

    def failing_evaluation(config, tgt_len, model, corpus, run_dir, world, starts_D):
        fail(-1, world.rank)
        return score_split(config, tgt_len, model, corpus, run_dir, world, starts_D)

    def slow_root_cause(self: FailureMonitor, error: Exception):
        time.sleep(1 if HOW == "kill" else 0)
        return root_cause(self, error)

    def dawdling(function, what):
        def dawdle(*args, **kwargs):
            if what == HOW and done and done[-1] + 1 == int(STEP) and not Path(os.environ["MARK"]).exists():
                Path(os.environ["MARK"]).touch()
                time.sleep(3)
            return function(*args, **kwargs)

        return dawdle

    Trainer.update, evaluate.score_split, FailureMonitor.root_cause = (
        failing_update,
        failing_evaluation,
        slow_root_cause,
    )
    Checkpoints.save, train.score = dawdling(save, "save"), dawdling(score, "validate")
