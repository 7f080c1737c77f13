"""Learning rates are the closed forms that their names promise."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbptt.errors import UserError
from tbptt.training.schedules import (
    CONFIGS,
    ConstantConfig,
    CosineConfig,
    DecayForm,
    InverseSqrtConfig,
    PlateauConfig,
    WSDConfig,
)

LR = 0.2
steps = st.integers(1, 500)


@given(steps)
def test_cosine_is_half_a_cosine_from_the_base_rate_to_zero(max_steps):
    schedule = CosineConfig().build(LR, max_steps)
    rates = [schedule.lr(step) for step in range(max_steps + 1)]
    assert rates[0] == LR
    assert rates[-1] == pytest.approx(0, abs=1e-15)
    assert all(a > b for a, b in pairwise(rates))
    for step, rate in enumerate(rates):
        # A half cosine: the rate and its mirror image add up, and 2 rate / base - 1 is the cosine of the share done.
        assert rate + rates[max_steps - step] == pytest.approx(LR)
        assert math.acos(max(-1, min(1, 2 * rate / LR - 1))) == pytest.approx(math.pi * step / max_steps, abs=1e-7)


def test_min_factor_is_where_the_cosine_ends():
    schedule = CosineConfig(min_factor=0.1).build(LR, 50)
    assert schedule.lr(0) == LR
    assert schedule.lr(50) == pytest.approx(0.1 * LR)


@pytest.mark.parametrize("config", CONFIGS.values())
@given(st.integers(1, 100))
def test_warm_up_is_a_line_from_zero_to_where_the_schedule_starts(config, warmup_steps):
    schedule = config(warmup_steps=warmup_steps).build(LR, 1_000)
    rise = LR / (warmup_steps + 1)
    for step in range(warmup_steps + 1):
        assert schedule.lr(step) == pytest.approx(rise * (step + 1))


@given(st.integers(1, 100), steps)
def test_a_warm_up_shifts_the_schedule_and_changes_nothing_else(warmup_steps, step):
    warmed, plain = CosineConfig(warmup_steps=warmup_steps).build(LR, warmup_steps + 500), CosineConfig().build(LR, 500)
    assert warmed.lr(warmup_steps + step) == plain.lr(step)


@given(st.integers(1, 200), steps)
def test_inverse_sqrt_times_the_root_of_the_step_is_constant(warmup_steps, step):
    schedule = InverseSqrtConfig(warmup_steps=warmup_steps).build(LR, 10_000)
    later = warmup_steps + step
    assert schedule.lr(later) * math.sqrt(later) == pytest.approx(LR * math.sqrt(warmup_steps))


@given(st.integers(10, 500), st.floats(0, 1), st.sampled_from(DecayForm), st.sampled_from([0.0, 0.1]))
def test_wsd_is_constant_and_then_falls_to_its_end(max_steps, decay_share, form, min_factor):
    config = WSDConfig(decay_share=decay_share, form=form, min_factor=min_factor)
    rates = [config.build(LR, max_steps).lr(step) for step in range(max_steps + 1)]
    first = max_steps - round(decay_share * max_steps)
    assert set(rates[: first + 1]) == {LR}
    assert all(a > b for a, b in pairwise(rates[first:]))
    assert rates[-1] == pytest.approx(min_factor * LR if first < max_steps else LR, abs=1e-15)


@given(st.integers(10, 200), st.integers(1, 200))
def test_two_wsd_runs_are_one_until_the_shorter_decays(short, longer):
    """So that a run of the stable phase serves as the beginning of any length."""
    one, other = (WSDConfig(decay_share=0.25).build(LR, steps) for steps in (short, short + longer))
    for step in range(short - round(0.25 * short) + 1):
        assert one.lr(step) == other.lr(step)


def test_wsd_decays_by_the_form_it_is_given():
    rates = {form: WSDConfig(decay_share=1.0, form=form).build(1.0, 4).lr(1) for form in DecayForm}
    assert rates[DecayForm.linear] == pytest.approx(0.75)
    assert rates[DecayForm.cosine] == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert rates[DecayForm.sqrt] == pytest.approx(0.5)


@given(steps)
def test_constant_is_constant(step):
    assert ConstantConfig().build(LR, 10).lr(step) == LR


@pytest.mark.parametrize("config", [CosineConfig, InverseSqrtConfig, ConstantConfig])
def test_only_plateau_heeds_validation(config):
    schedule, deaf = config().build(LR, 100), config().build(LR, 100)
    for loss in (3.0, 4.0, 5.0, 6.0):
        schedule.observe(loss)
    assert [schedule.lr(step) for step in range(100)] == [deaf.lr(step) for step in range(100)]


@given(st.integers(1, 5), st.sampled_from([0.5, 0.25]))
def test_plateau_decays_after_patience_validations_without_a_new_best(patience, decay):
    schedule = PlateauConfig(patience=patience, decay=decay).build(LR, 100)
    schedule.observe(3.0)
    for rounds in range(1, 4):
        for _ in range(patience):
            assert schedule.lr(7) == pytest.approx(LR * decay ** (rounds - 1))
            schedule.observe(3.0)  # as good as the best is no new best
        assert schedule.lr(7) == pytest.approx(LR * decay**rounds)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=30, unique=True))
def test_plateau_never_decays_while_every_validation_is_a_new_best(losses):
    schedule = PlateauConfig(patience=1).build(LR, 100)
    for loss in sorted(losses, reverse=True):
        schedule.observe(loss)
        assert schedule.lr(0) == LR


def test_a_new_best_makes_plateau_wait_anew():
    schedule = PlateauConfig(patience=2, decay=0.5).build(LR, 100)
    for loss in (3.0, 3.1, 2.9, 3.0, 2.8, 2.9):
        schedule.observe(loss)
        assert schedule.lr(0) == LR
    schedule.observe(2.9)
    assert schedule.lr(0) == LR / 2


def test_plateau_stops_at_min_factor():
    schedule = PlateauConfig(patience=1, decay=0.5, min_factor=0.3).build(LR, 100)
    for _ in range(5):
        schedule.observe(1.0)
    assert schedule.lr(0) == pytest.approx(0.3 * LR)


@given(st.lists(st.floats(0.1, 10), max_size=12), st.lists(st.floats(0.1, 10), min_size=1, max_size=12))
def test_plateau_continues_from_its_saved_state(before, after):
    config = PlateauConfig(patience=2)
    whole, resumed = config.build(LR, 100), config.build(LR, 100)
    for loss in before:
        whole.observe(loss)
    resumed.load_state_dict(whole.state_dict())
    for loss in after:
        whole.observe(loss)
        resumed.observe(loss)
        assert resumed.lr(3) == whole.lr(3)


@pytest.mark.parametrize(
    "config, named",
    [
        (CosineConfig(warmup_steps=-1), r"scheduler\.warmup_steps"),
        (PlateauConfig(decay=1.0), r"scheduler\.decay"),
        (PlateauConfig(patience=0), r"scheduler\.patience"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(config, named):
    with pytest.raises(UserError, match=named):
        config.check()
