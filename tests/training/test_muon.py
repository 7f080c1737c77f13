"""optimizer=muon is torch's Muon on every projection by itself, and torch's AdamW on all other parameters."""

import pytest
import torch
from torch import nn

from tbptt.device import Precision
from tbptt.errors import UserError
from tbptt.models.mixers.mlstm import MLSTMConfig
from tbptt.training.muon import AdjustRate
from tbptt.training.optimizers import AdamWConfig, Decay, MuonConfig, SGDConfig, load_state, saved_state
from tests.models.tiny import MIXERS, tiny_lstm, tiny_stack, tiny_txl
from tests.training.test_trainer import lanes_of, restore, snapshot, weights_of
from tests.training.trainers import make_trainer, numbers_of

MODELS = {"txl": tiny_txl, "lstm": tiny_lstm, "stack": lambda: tiny_stack(layers=["slstm", "rg_lru", "mamba2"])}
SETTINGS = {"precision": Precision.fp64, "clip": 0.05}


def with_gradients(build, seed: int) -> nn.Module:
    model = build()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_every_projection_moves_as_if_it_were_a_parameter_of_its_own(name):
    config = MuonConfig(lr=0.02, adam_lr=0.005, weight_decay=0.1)
    model, expected = MODELS[name](), MODELS[name]()
    ours = config.build(model)
    groups = expected.parameter_groups()
    parts = [nn.Parameter(x.clone()) for p, split in groups.matrices.items() for x in split(p.detach())]
    muon = torch.optim.Muon(parts, 0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW([*groups.vocabulary, *groups.rest], 0.005, weight_decay=0.0)
    for step in range(3):
        for each in (model, expected):
            source = with_gradients(MODELS[name], step)
            for p, q in zip(each.parameters(), source.parameters(), strict=True):
                p.grad = q.grad
        gradients = [x for p, split in groups.matrices.items() for x in split(p.grad)]
        for part, gradient in zip(parts, gradients, strict=True):
            part.grad = gradient.clone()
        ours.step(), muon.step(), adam.step()
    found = [x for p, split in model.parameter_groups().matrices.items() for x in split(p.detach())]
    for ours_x, expected_x in zip(found, parts, strict=True):
        assert torch.equal(ours_x, expected_x)
    others = [model.parameter_groups().vocabulary + model.parameter_groups().rest, groups.vocabulary + groups.rest]
    for ours_x, expected_x in zip(*others, strict=True):
        torch.testing.assert_close(ours_x, expected_x, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", MODELS)
def test_a_continued_run_has_the_bits_of_one_that_never_stopped(name):
    def trainer():
        return make_trainer(MODELS[name](), lanes_of(4, 22), MuonConfig(lr=0.01), **SETTINGS)

    straight, first = trainer(), trainer()
    numbers = [numbers_of(straight.update()) for _ in range(7)]
    for _ in range(3):
        first.update()
    second = restore(trainer(), snapshot(first))
    assert [numbers_of(second.update()) for _ in range(4)] == numbers[3:]
    assert torch.equal(weights_of(second), weights_of(straight))


@pytest.mark.parametrize("adjust_lr", AdjustRate)
def test_the_rate_is_adjusted_as_torch_does(adjust_lr):
    model = with_gradients(tiny_txl, 1)
    matrix = next(iter(model.parameter_groups().matrices))
    before = matrix.detach().clone()
    MuonConfig(lr=0.1, weight_decay=0.0, adjust_lr=adjust_lr).build(model).step()
    rows, columns = matrix.shape
    expected = (
        0.2 * max(rows, columns) ** 0.5 if adjust_lr is AdjustRate.match_rms_adamw else max(1, rows / columns) ** 0.5
    )
    # Singular values of an orthogonalised update are between 0.5 and 1.5.
    singular = torch.linalg.svdvals(before - matrix.detach()) / (0.1 * expected)
    assert singular.min() > 0.3 and singular.max() < 1.6


@pytest.mark.parametrize("kind", [*MIXERS, "mlstm with biases", "lstm alone", "txl", "untied txl"])
def test_all_parameters_are_in_one_group_and_projections_are_matrices(kind):
    others = {
        "mlstm with biases": lambda: tiny_stack(layers=["mlstm"], mlstm=MLSTMConfig(bias=True)),
        "lstm alone": tiny_lstm,
        "txl": tiny_txl,
        "untied txl": lambda: tiny_txl(untie_r=True),
    }
    model = others[kind]() if kind in others else tiny_stack(layers=[kind])
    groups = model.parameter_groups()
    together = [*groups.matrices, *groups.vocabulary, *groups.rest]
    assert len(together) == len(set(together)) and set(together) == set(model.parameters())
    assert set(groups.vocabulary) == {
        p for n, p in model.named_parameters() if n.startswith(("embed", "softmax")) and p.dim() > 1
    }
    for parameter, split in groups.matrices.items():
        parts = split(parameter.detach())
        assert all(part.dim() == 2 for part in parts)
        assert sum(part.numel() for part in parts) == parameter.numel()
        assert len({part.data_ptr() for part in parts}) == len(parts)
        assert all(part.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr() for part in parts)
    for name, parameter in model.named_parameters():
        is_matrix = not any(word in name for word in ("norm", "bias", "log", "skip", "decay_W", "convolution"))
        assert (parameter not in set(groups.rest)) is is_matrix or parameter in set(groups.vocabulary), name


@pytest.mark.parametrize("kind", [AdamWConfig, SGDConfig])
@pytest.mark.parametrize("decay", Decay)
def test_weight_decay_is_of_hidden_matrices_unless_it_is_of_all(kind, decay):
    model = tiny_txl()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {p: p.detach().clone() for p in model.parameters()}
    kind(lr=0.1, weight_decay=0.5, decay=decay).build(model).step()
    decayed = {p for p, old in before.items() if not torch.equal(p.detach(), old)}
    nonzero = {p for p, old in before.items() if old.any()}
    assert decayed == (set(model.parameter_groups().matrices) if decay is Decay.matrices else nonzero)


def test_where_torch_has_no_muon_it_is_refused(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UserError, match=r"optimizer=muon needs torch 2\.9 or newer"):
        MuonConfig().check()


def test_on_another_device_the_counts_of_steps_are_loaded_to_it():
    """AdamW's fused kernel reads them there. Checked by torch's own rule, without a second device."""
    model = MODELS["stack"]()
    optimizer = MuonConfig(lr=0.01).build(model)
    rule = type(optimizer)._process_value_according_to_param_policy
    groups = [group | {"params": [id(p) for p in group["params"]]} for group in optimizer.param_groups]
    elsewhere = nn.Parameter(torch.empty(1, device="meta"))
    for number in (number for group in groups[1:] for number in group["params"]):
        assert rule(elsewhere, torch.ones(()), number, groups, "step").device.type == "meta"


def test_a_state_of_other_matrices_is_refused():
    model = tiny_txl()
    optimizer = MuonConfig().build(model)
    saved = saved_state(optimizer, model)
    matrices = model.parameter_groups().matrices
    number = next(number for number, parameter in enumerate(model.parameters()) if parameter not in matrices)
    saved[number] = {"momentum_buffer": torch.zeros_like(list(model.parameters())[number])}  # as of an earlier version
    with pytest.raises(UserError, match="of other matrices than those of this version"):
        load_state(optimizer, model, saved)
