"""Checkpoints give back what was saved, keep what they promise, and refuse to be another run's."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tbptt.errors import UserError
from tbptt.training.checkpoints import Checkpoints, find_checkpoint
from tests.training.saved_runs import IDENTITY, RNG_STATE, save, saved_run, whole_step


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    checkpoints = saved_run(tmp_path)
    assert whole_step(checkpoints.newest()) == 2
    assert whole_step(checkpoints.best()) == 1
    assert checkpoints.newest().info["identity"] == IDENTITY
    assert torch.equal(checkpoints.newest().training_state()["trainer"]["rng"], RNG_STATE)


@given(st.lists(st.booleans(), min_size=1, max_size=5), st.integers(1, 3))
def test_the_newest_so_many_and_the_best_are_kept(tmp_path_factory, improved, keep):
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder, keep)
    for step, best in enumerate(improved, start=1):
        save(checkpoints, step, best)
    steps = range(1, len(improved) + 1)
    expected = set(steps[-keep:]) | set([step for step in steps if improved[step - 1]][-1:])
    names = {path.name for path in folder.iterdir() if not path.is_symlink()}
    assert names == {f"step_{step:08d}" for step in expected}
    assert whole_step(checkpoints.newest()) == len(improved)


def test_a_rewound_run_has_forgotten_what_came_later(tmp_path):
    checkpoints = saved_run(tmp_path, keep=5)
    save(checkpoints, 3)
    save(checkpoints, 4, best=True)
    (tmp_path / "checkpoints" / "step_00000004" / "training.pt").write_bytes(b"damaged")
    newest = checkpoints.newest()
    checkpoints.rewind(newest, best_step=1)
    assert {path.name for path in checkpoints.folder.glob("step_*")} == {f"step_{step:08d}" for step in (1, 2, 3)}
    assert whole_step(checkpoints.best()) == 1
    assert whole_step(find_checkpoint(str(tmp_path / "last"))) == 3
    checkpoints.rewind(None, best_step=0)
    assert not list(checkpoints.folder.glob("step_*"))


@pytest.mark.parametrize(
    "where, step",
    [
        ("", 1),
        ("best", 1),
        ("last", 2),
        ("checkpoints/best", 1),
        ("checkpoints/last", 2),
        ("checkpoints/step_00000002", 2),
    ],
)
def test_a_checkpoint_is_found_by_every_form_of_its_name(tmp_path, where, step):
    saved_run(tmp_path / "run")
    assert whole_step(find_checkpoint(str(tmp_path / "run" / where))) == step


def test_a_run_that_has_no_best_is_found_by_its_last(tmp_path):
    save(Checkpoints(tmp_path / "checkpoints", keep=2), 7)
    assert whole_step(find_checkpoint(str(tmp_path))) == 7


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="checkpoint="):
        find_checkpoint(str(tmp_path / "nothing"))


def test_another_run_is_refused_and_every_differing_key_named(tmp_path):
    checkpoint, other = saved_run(tmp_path).newest(), copy.deepcopy(IDENTITY)
    checkpoint.check_same_run(other)
    other["model"] |= {"d_model": 16, "dropout": 0.1}
    del other["data"]["vocab_size"]
    with pytest.raises(UserError) as refused:
        checkpoint.check_same_run(other)
    for part in ("model.d_model is 16, was 8", "model.dropout is 0.1", "data.vocab_size"):
        assert part in str(refused.value)
    assert "model.name" not in str(refused.value) and "vocabulary_sha256" not in str(refused.value)


@pytest.mark.parametrize("other, named", [(nn.Linear(2, 4), "weight"), (nn.Linear(2, 3, bias=False), "bias")])
def test_weights_of_another_model_are_refused_and_named(tmp_path, other, named):
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(UserError, match=named):
        saved_run(tmp_path).newest().load_weights(other)
    assert all(torch.equal(p, q) for p, q in zip(other.parameters(), before))


def test_the_settings_in_which_another_model_differs_are_named(tmp_path):
    settings = IDENTITY["model"] | {"d_model": 16}
    checkpoint = saved_run(tmp_path).newest()
    with pytest.raises(UserError, match=r"another model: model\.d_model is 16, was 8; bias, weight do not match"):
        checkpoint.load_weights(nn.Linear(2, 4), settings)
    with pytest.raises(UserError, match=r"another model: model\.name is stack, was lstm; repeat the settings"):
        checkpoint.load_weights(nn.Linear(2, 4), settings | {"name": "stack"})


def test_a_start_token_that_another_vocabulary_lacks_is_named(tmp_path):
    checkpoint = saved_run(tmp_path).newest()
    checkpoint.info["identity"]["data"]["name"] = "stdlib"
    for size, hint in ((31, "documents have one entry more, their start token"), (90, "data=text data.path=FILE")):
        with pytest.raises(UserError, match=f"another vocabulary.*{hint}"):
            checkpoint.check_vocabulary({"vocab_size": size, "vocabulary_sha256": "b"})


def test_a_text_that_has_changed_is_named(tmp_path):
    other = IDENTITY | {"data": IDENTITY["data"] | {"vocabulary_sha256": "b"}}  # its digests are shorter here
    with pytest.raises(UserError, match=r"another run or to another text: data\.vocabulary_sha256 is b, was a"):
        saved_run(tmp_path).newest().check_same_run(other)


def test_a_file_is_no_checkpoint(tmp_path):
    saved_run(tmp_path)
    (tmp_path / "results.json").write_text('{\n "task": "train"\n}\n' * 100)
    with pytest.raises(UserError, match=r"results\.json is not a checkpoint: give a run directory"):
        find_checkpoint(str(tmp_path / "results.json"))
