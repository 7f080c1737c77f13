"""The benchmark counts arithmetic as the papers' models need it, and its table has a row for each path and task."""

import pytest

from experiments.throughput import forward_flops, implementation_keys, measure, table, zipf_tokens
from tests.helpers import composed
from tests.models.tiny import VOCABULARY


def test_arithmetic_counts_products_of_a_token():
    config = composed(
        "model.n_layer=2", "model.d_model=6", "model.n_head=2", "model.d_head=5", "model.d_inner=7", "model.tgt_len=4",
        "model.mem_len=8", "model.cutoffs=[10]",
    )  # fmt: skip
    tokens = zipf_tokens(100, VOCABULARY)
    share = (tokens >= 10).mean()
    queries, keys_values, positions_ff = 6 * 10, 3 * 2 * 6 * 10, 6 * 10 + 2 * 6 * 7
    scores = (8 + (1 + 2 + 3 + 4) / 4) * 2 * 5 * 3  # the queries see 1, 2, 3 and 4 keys of the segment
    softmax = 6 * 11 + share * 6 * 20
    expected = 2 * (2 * (queries + keys_values + positions_ff + scores) + softmax)
    assert forward_flops(config.model, tokens, VOCABULARY) == pytest.approx(expected)


STACK = ["model=gdn_tiny", "model.layers=[gated_delta,relative_attention]", "model.n_layer=2", "model.d_model=16"]


@pytest.mark.parametrize("words", [["experiment=debug"], [*STACK, "model.d_inner=8", "model.tgt_len=8"]], ids=len)
def test_a_path_gives_a_row_for_training_and_one_for_evaluation(words):
    config = composed(*words, "data.batch_size=2", "trainer.device=cpu")
    rows = measure(config, VOCABULARY, steps=2, eval_tokens=70, path="plain")
    assert [(row["task"], row["path"]) for row in rows] == [("train", "plain"), ("eval", "plain")]
    assert all(row["tokens_per_second"] > 0 and row["peak_GiB"] is None for row in rows)
    assert len(table(rows).splitlines()) == 4


def test_a_path_chooses_the_implementations_that_the_layers_have():
    assert implementation_keys(composed().model) == ["model.attention"]
    assert implementation_keys(composed(*STACK).model) == ["model.relative_attention.attention", "model.kernels"]
    assert implementation_keys(composed("model=gdn_tiny").model) == ["model.kernels"]
    assert implementation_keys(composed("model=lstm").model) == []
