"""All ranks load the same checkpoint, whatever a link says at the moment when each of them looks."""

from typing import ClassVar

from tbptt.launch.world import World
from tbptt.tasks.loading import on_every_rank
from tbptt.training.checkpoints import find_checkpoint
from tests.training.saved_runs import save, saved_run, whole_step


class Heard(World):
    """What rank 0 says is known to a rank that asks later."""

    said: ClassVar[list] = []

    def broadcast(self, value):
        if self.is_main:
            self.said.append(value)
        return self.said[-1]


def test_a_rank_that_looks_later_gets_the_checkpoint_that_rank_0_found(tmp_path):
    checkpoints, last = saved_run(tmp_path, keep=5), str(tmp_path / "last")
    first = on_every_rank(Heard(0, 2), lambda: find_checkpoint(last))
    save(checkpoints, 3)
    assert whole_step(find_checkpoint(last)) == 3
    second = on_every_rank(Heard(1, 2), lambda: find_checkpoint(last))
    assert whole_step(first) == whole_step(second) == 2
