"""Training goes on with an imported optimizer as it would have gone on at its home."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tbptt.data.lanes import Lanes
from tbptt.errors import UserError
from tbptt.interop import original
from tbptt.interop.config import ImportConfig
from tbptt.interop.importing import read
from tbptt.interop.pickles import load_torch
from tbptt.models.transformer_xl import TransformerXL
from tbptt.tasks.import_model import write
from tbptt.training.checkpoints import Checkpoint, Checkpoints, find_checkpoint
from tbptt.training.optimizers import AdamConfig, AdamWConfig
from tbptt.training.trainer import Trainer
from tests.interop.foreign_files import fairseq_file, nvidia_file, original_file, original_weights
from tests.models.recorded import golden_model
from tests.models.tiny import random_stream
from tests.training.trainers import make_trainer, numbers_of

NAME = "c_adaptive_div2_proj"


def trainer_of(model: TransformerXL) -> Trainer:
    return make_trainer(model, Lanes.cut(random_stream(2000, seed=3), 4, 8), max_steps=20)


def arranged_as_theirs(model: TransformerXL, state: dict, key: str) -> dict[str, torch.Tensor]:
    """One of the optimizer's tensors for every parameter, under the original's names, in its order, each once."""
    like = copy.deepcopy(model)
    with torch.no_grad():
        for number, parameter in enumerate(like.parameters()):
            parameter.copy_(state["state"][number][key])
    values, tied = original.state_dict(like), original.tied_names(model) | original.BUFFERS
    early = ("r_w_bias", "r_r_bias", "word_emb.emb_layers", "word_emb.emb_projs", "layers.")
    order = [name for begin in early for name in values if name.startswith(begin)]
    return {name: values[name] for name in [*order, *(n for n in values if n not in order)] if name not in tied}


def state_of_theirs(model: TransformerXL, names: list[str], state: dict) -> dict:
    """The state dict of an Adam over the parameters in the order of `names`, as torch writes it."""
    moments = {key: arranged_as_theirs(model, state, key) for key in ("exp_avg", "exp_avg_sq")}
    step = state["state"][0]["step"]
    kept = {i: {"step": step, **{key: moments[key][name] for key in moments}} for i, name in enumerate(names)}
    return {"state": kept, "param_groups": [{"lr": 0.1, "params": list(range(len(names)))}]}


@pytest.fixture(scope="module")
def home():
    """A model that was trained for some steps, and its trainer."""
    trainer = trainer_of(golden_model(NAME, torch.float32))
    for _ in range(5):
        trainer.update()
    return trainer


def names_in_order(weights: dict[str, torch.Tensor], model: TransformerXL) -> list[str]:
    again = original.tied_names(model) | original.BUFFERS
    return [name for name in weights if name not in again]


def run_directory(config: ImportConfig, folder) -> Checkpoint:
    folder.mkdir()
    write(read(config), config, folder)
    return find_checkpoint(str(folder))


def test_training_goes_on_bit_for_bit(tmp_path, home):
    home = copy.deepcopy(home)
    names = names_in_order(original_weights(NAME), home.model)
    away, home = away_and_home(tmp_path, home, state_of_theirs(home.model, names, home.optimizer.state_dict()))
    assert away.step == home.step == 5
    for _ in range(4):
        assert numbers_of(away.update()) == numbers_of(home.update())
    for ours, theirs in zip(away.model.parameters(), home.model.parameters()):
        assert torch.equal(ours, theirs)


def away_and_home(tmp_path, home, theirs: dict) -> tuple[Trainer, Trainer]:
    """A trainer with model and optimizer imported from the original's files of `home`, and `home` as it restarts."""
    config = original_file(tmp_path / "state_dict.pt", NAME)
    ours = original.state_dict(home.model)
    torch.save({name: ours[name] for name in torch.load(config.path, weights_only=True)}, config.path)
    torch.save(theirs, tmp_path / "optimizer.pt")
    imported, away = run_directory(config, tmp_path / "run"), trainer_of(golden_model(NAME, torch.float32))
    imported.load_weights(away.model)
    away.load_optimizer(imported.optimizer_state("adam"))
    home.states = home._empty_states()
    return away, home


def test_parameters_whose_words_came_late_or_not_yet_go_on_bit_for_bit(tmp_path, home):
    """torch's Adam counts the steps of each parameter, and has no entry before the first gradient."""
    home = copy.deepcopy(home)
    names = names_in_order(original_weights(NAME), home.model)
    theirs = state_of_theirs(home.model, names, copy.deepcopy(home.optimizer.state_dict()))
    late, unseen = names.index("crit.out_layers.2.bias"), names.index("crit.out_layers.3.bias")
    theirs["state"][late]["step"] = torch.tensor(2.0)
    home.optimizer.state[home.model.softmax.biases[2]]["step"].fill_(2)
    for index in (unseen, names.index("r_w_bias")):  # the latter is the first of all
        del theirs["state"][index]
    for parameter in (home.model.softmax.biases[3], home.model.content_bias_HE):
        del home.optimizer.state[parameter]
    away, home = away_and_home(tmp_path, home, theirs)
    assert away.step == 5
    for _ in range(4):
        assert numbers_of(away.update()) == numbers_of(home.update())
    for ours, theirs in zip(away.model.parameters(), home.model.parameters()):
        assert torch.equal(ours, theirs)
    notes = find_checkpoint(str(tmp_path / "run")).info["imported"]["notes"]
    assert any("no state yet for r_w_bias, crit.out_layers.3.bias: there" in note for note in notes)


@pytest.mark.parametrize("format", ["fairseq", "nvidia"])
def test_the_other_formats_keep_what_there_is_too(tmp_path, format):
    make = partial(fairseq_file, how="dicts") if format == "fairseq" else partial(nvidia_file, model_name=NAME)
    path = tmp_path / "checkpoint.pt"
    weights = load_torch(Path(make(path).path))["model" if format == "fairseq" else "model_state"]
    again = ("crit.out_layers.0.weight", "inv_freq") if format == "fairseq" else ("shared_out_projs", "inv_freq")
    own = {n: v for n, v in weights.items() if not any(part in n for part in again)}
    kept = {i: {"step": 40, "exp_avg": 2 * v, "exp_avg_sq": 3 * v} for i, v in enumerate(own.values()) if i}
    imported = read(make(path, optimizer={"state": kept, "param_groups": [{"params": [0, *kept]}]}))
    zeros = [name for (name, p), moments in zip(imported.model.named_parameters(), imported.adam["state"].values())
             if not torch.equal(moments["exp_avg"], 2 * p)]  # fmt: skip
    assert len(zeros) == 1 and "no state yet for" in " ".join(imported.notes) and imported.step == 40
    index = [name for name, _ in imported.model.named_parameters()].index(zeros[0])
    assert not any(value.any() for value in imported.adam["state"][index].values())


def test_apexs_step_of_the_group_is_found(tmp_path, home):
    names = names_in_order(original_weights(NAME), home.model)
    theirs = state_of_theirs(home.model, names, home.optimizer.state_dict())
    for entry in theirs["state"].values():
        del entry["step"]
    config = original_file(tmp_path / "state_dict.pt", NAME)
    torch.save(theirs, tmp_path / "optimizer.pt")
    imported = read(config)
    assert imported.adam is None and any("tells no step" in note for note in imported.notes)
    theirs["param_groups"][0]["step"] = 7
    torch.save(theirs, tmp_path / "optimizer.pt")
    assert all(entry["step"] == 7 for entry in read(config).adam["state"].values())


def test_adams_state_serves_adamw_and_the_other_way_round(tmp_path, home):
    """Without weight decay, AdamW goes on from Adam's state as Adam does; in runs of our own, too."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    for name, other in (("adam", AdamWConfig(lr=0.01, weight_decay=0)), ("adamw", AdamConfig(lr=0.01))):
        info = {"identity": {"optimizer": {"name": name}}}
        checkpoints.save(5, home.model, {"trainer": home.state_dict()}, info, best=True)
        checkpoint, same = checkpoints.best(), copy.deepcopy(home)
        same.states = same._empty_states()
        away = make_trainer(golden_model(NAME, torch.float32), same.lanes, other)
        checkpoint.load_weights(away.model)
        away.load_optimizer(checkpoint.optimizer_state(other.name))
        for _ in range(3):
            assert numbers_of(away.update()) == numbers_of(same.update())
        with pytest.raises(
            UserError, match=rf"needs the state of sgd, but .* has that of {name}: use optimizer={name}"
        ):
            checkpoint.optimizer_state("sgd")


def test_the_state_of_another_optimizer_is_refused_by_name(tmp_path, home):
    config = nvidia_file(tmp_path / "checkpoint.pt", NAME)
    with pytest.raises(UserError, match=r"needs the state of adam, but .* has no optimizer state"):
        run_directory(config, tmp_path / "run").optimizer_state("adam")


@pytest.mark.parametrize("flat", [False, True])
def test_fairseqs_moments_find_their_parameters(tmp_path, flat):
    """Each parameter's moments are told by its own values, as one tensor each or (half precision) in one vector."""
    bare = fairseq_file(tmp_path / "bare.pt", "dicts")
    weights = torch.load(bare.path, weights_only=False)["model"]
    own = {n: v for n, v in weights.items() if not n.endswith(("crit.out_layers.0.weight", "inv_freq"))}
    first, second = ([factor * value for value in own.values()] for factor in (2, 3))
    if flat:
        first, second = ([torch.cat([value.flatten() for value in values])] for values in (first, second))
    kept = {i: {"step": 40, "exp_avg": a, "exp_avg_sq": b} for i, (a, b) in enumerate(zip(first, second))}
    state = {"state": kept, "param_groups": [{"params": list(kept)}], "loss_scale": 128.0}
    imported = read(fairseq_file(tmp_path / "checkpoint.pt", "dicts", state))
    for number, parameter in enumerate(imported.model.parameters()):
        moments = imported.adam["state"][number]
        assert torch.equal(moments["exp_avg"], 2 * parameter) and torch.equal(moments["exp_avg_sq"], 3 * parameter)
        assert moments["step"] == 40
    assert any("bias correction" in note for note in imported.notes)


@pytest.mark.parametrize("damage", ["fewer", "shape", "none"])
def test_a_state_that_does_not_fit_is_left_behind_and_said_to_be(tmp_path, home, damage):
    weights = torch.load(original_file(tmp_path / "weights.pt", NAME).path, weights_only=True)
    state = state_of_theirs(home.model, names_in_order(weights, home.model), home.optimizer.state_dict())
    if damage == "fewer":
        state["param_groups"][0]["params"].pop()
    elif damage == "shape":
        state["state"][3]["exp_avg"] = torch.zeros(7, 7)
    else:
        state = {"state": {}, "param_groups": [{"params": [0, 1]}]}
    torch.save(state, tmp_path / "optimizer.pt")
    config = original_file(tmp_path / "weights.pt", NAME)
    imported = read(config)
    assert imported.adam is None and any("does not match its weights" in note for note in imported.notes)
    assert imported.step == (0 if damage == "none" else 5), "the step is kept"
    assert np.isfinite(sum(p.sum().item() for p in imported.model.parameters()))


def test_nvidias_adam_comes_along(tmp_path, home):
    state = home.optimizer.state_dict()
    weights = torch.load(original_file(tmp_path / "weights.pt", NAME).path, weights_only=True)
    theirs = state_of_theirs(home.model, names_in_order(weights, home.model), state)
    imported = read(nvidia_file(tmp_path / "checkpoint.pt", NAME, optimizer=theirs))
    for number in state["state"]:
        assert torch.equal(imported.adam["state"][number]["exp_avg"], state["state"][number]["exp_avg"])
