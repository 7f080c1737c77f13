"""Documents that reset the state are scored as if each were alone, in any number of lanes."""

import csv
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbptt.device import Precision
from tbptt.evaluation.config import BurnIn, EvalConfig
from tbptt.evaluation.dynamic import score_dynamically
from tbptt.evaluation.dynamic_config import SGDDynamicConfig
from tbptt.evaluation.lanes import plan_documents
from tbptt.evaluation.losses import save_document_losses
from tbptt.evaluation.plan import PIECES_AT_ONCE, choose_plan
from tbptt.evaluation.positions import losses_by_position
from tbptt.evaluation.score import Score, score
from tbptt.launch.world import World
from tests.documents import document_streams, losses_alone
from tests.helpers import assert_close
from tests.models.tiny import tiny_lstm, tiny_stack, tiny_txl

MODELS = {
    "txl": tiny_txl,
    "txl_window": lambda: tiny_txl(same_length=True, clamp_len=3),
    "lstm": tiny_lstm,
    "stack": lambda: tiny_stack(layers=["gated_delta", "attention", "slstm"]),
}
build = cache(lambda name: MODELS[name]().eval())
segments, lanes = st.integers(1, 9), st.integers(1, 6)


def scored(name: str, stream, starts_D, **settings) -> Score:
    config = EvalConfig(save_losses="kept", **settings)
    return score(build(name), stream, config, tgt_len=4, precision=Precision.fp64, starts_D=starts_D)


@pytest.mark.parametrize("name", MODELS)
@given(document_streams(), segments, lanes, st.sampled_from(BurnIn))
def test_every_document_has_the_losses_of_the_document_alone(name, documents, tgt_len, batch_size, burn_in):
    found = scored(name, *documents, tgt_len=tgt_len, batch_size=batch_size, burn_in=burn_in)
    assert found.tokens == len(documents[0]) - 1
    assert_close(found.losses_N, losses_alone(build(name), *documents, tgt_len), 1e-10)
    assert found.loss == pytest.approx(found.losses_N.mean(), rel=0, abs=1e-10)
    assert found.settings["reset_state"] == "document" and found.settings["burn_in"] == "exact"


@given(document_streams(), st.integers(1, 20), segments, lanes)
def test_in_pieces_the_state_is_emptied_at_documents_too(documents, piece_len, tgt_len, batch_size):
    stream, starts_D = documents
    found = scored("stack", *documents, tgt_len=tgt_len, batch_size=batch_size, piece_len=piece_len)
    both_D = np.union1d(starts_D, np.arange(0, len(stream) - 1, piece_len))
    assert_close(found.losses_N, losses_alone(build("stack"), stream, both_D, tgt_len), 1e-10)


@given(document_streams(), st.integers(1, 60))
def test_max_tokens_ends_the_last_document(documents, max_tokens):
    found = scored("stack", *documents, max_tokens=max_tokens)
    expected = scored("stack", *documents).losses_N[:max_tokens]
    assert_close(found.losses_N, expected, 1e-10)


@given(document_streams(), segments, lanes, st.booleans())
def test_lanes_begin_at_documents_and_share_out_all_targets(documents, tgt_len, batch_size, sees_cuts):
    stream, starts_D = documents
    plan = plan_documents(len(stream) - 1, tgt_len, batch_size, starts_D, sees_cuts)
    first_B, scored_B, end_B = plan.bounds(range(plan.lanes))
    assert 1 <= plan.lanes <= batch_size and set(scored_B) <= set(starts_D)
    assert [scored_B[0], *end_B] == [0, *scored_B[1:], len(stream) - 1] and (scored_B < end_B).all()
    assert (first_B % tgt_len == 0).all() if sees_cuts else np.array_equal(first_B, scored_B)
    assert (scored_B - first_B < tgt_len).all() and plan.longest == (end_B - first_B).max()


def test_documents_of_equal_length_fill_lanes_evenly():
    plan = plan_documents(80, 4, 4, np.arange(0, 80, 5), sees_cuts=False)
    assert plan.lanes == 4 and plan.longest == 20


def test_documents_of_a_recurrent_model_run_side_by_side_but_not_too_many():
    starts_D = np.arange(0, 50_000, 10)
    plan = choose_plan(build("lstm"), 50_000, EvalConfig(), 8, World(), starts_D)
    assert 1 < plan.batch_size <= PIECES_AT_ONCE


@given(document_streams())
def test_positions_are_counted_from_the_documents_start(documents):
    stream, starts_D = documents
    found = scored("lstm", *documents, by_position=True)
    positions_N = np.concatenate([np.arange(n) for n in np.diff(starts_D, append=len(stream))])[:-1]
    assert found.by_position == losses_by_position(found.losses_N, positions_N)


@given(document_streams())
def test_a_rate_of_nearly_zero_is_the_static_evaluation(documents):
    config = EvalConfig(dynamic=SGDDynamicConfig(lr=1e-300, decay=0.0))
    stream, starts_D = documents
    dynamic = score_dynamically(build("lstm"), stream, None, config, 4, Precision.fp64, starts=(starts_D, None))
    assert dynamic.loss == pytest.approx(scored("lstm", *documents).loss, rel=1e-10)


@given(document_streams())
def test_the_table_of_documents_sums_up_to_the_mean(tmp_path_factory, documents):
    stream, starts_D = documents
    losses_N = np.random.default_rng(0).random(len(stream) - 1)
    table = save_document_losses(losses_N, starts_D, tmp_path_factory.mktemp("losses") / "losses.bin")
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["first_target"]) for row in rows] == starts_D[starts_D < len(losses_N)].tolist()
    weighted = sum(int(row["targets"]) * float(row["loss"]) for row in rows)
    assert weighted / len(losses_N) == pytest.approx(losses_N.mean(), rel=1e-12)
    assert sum(int(row["targets"]) for row in rows) == len(losses_N)
