"""On PYTHONPATH, this makes one rank of a run fail: FAULT="RANK STEP raise|kill|hang|memory" in the environment.

With "slow" all ranks take a while for every step from STEP on; with "wait" they wait before STEP until there is a file
named $MARK; with "validate" or "save" it takes seconds for what comes after that step, and tells so by that file. With
"none" nothing fails, and $MARK is a folder where every process that trained leaves the names of its last threads.
"""

import atexit
import os

if "FAULT" in os.environ:
    import signal
    import time
    from pathlib import Path

    from tbptt.tasks import train
    from tbptt.training.checkpoints import Checkpoints
    from tbptt.training.trainer import Trainer

    RANK, STEP, HOW = os.environ["FAULT"].split()
    update, save, score = Trainer.update, Checkpoints.save, train.score
    done = []  # the steps of this process

    def leave_threads() -> None:
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        (Path(os.environ["MARK"]) / str(os.getpid())).write_text("\n".join(names))

    def failing_update(self: Trainer):
        if HOW == "none" and not done:
            atexit.register(leave_threads)
        if HOW == "slow":  # all ranks
            time.sleep(0.2 if self.step >= int(STEP) else 0)
        elif HOW == "wait":
            while self.step == int(STEP) and not Path(os.environ["MARK"]).exists():
                time.sleep(0.1)
        elif self.world.rank == int(RANK) and self.step == int(STEP):
            if HOW == "raise":
                raise ZeroDivisionError("a fault made by a test")
            if HOW == "memory":
                bytearray(1 << 60)
            if HOW == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if HOW == "hang":
                time.sleep(3600)
        done.append(self.step)
        return update(self)

    def dawdling(function, what):
        def dawdle(*args, **kwargs):
            if what == HOW and done and done[-1] + 1 == int(STEP) and not Path(os.environ["MARK"]).exists():
                Path(os.environ["MARK"]).touch()
                time.sleep(3)
            return function(*args, **kwargs)

        return dawdle

    Trainer.update = failing_update
    Checkpoints.save, train.score = dawdling(save, "save"), dawdling(score, "validate")
