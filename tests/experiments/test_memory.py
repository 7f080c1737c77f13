"""The memory experiment counts weights, Adam's moments, and activations unless they are recomputed."""

from experiments.memory import WORDS, peak
from tests.helpers import composed

TINY = [
    "model.n_layer=6", "model.d_model=32", "model.n_head=2", "model.d_head=16", "model.d_inner=64",
    "model.cutoffs=[1000]", "model.div_val=4", "model.tgt_len=64", "model.mem_len=64", "data.batch_size=64",
]  # fmt: skip


def test_weights_moments_and_activations_are_counted_and_recomputed_activations_are_not():
    kept, recomputed = (peak(composed(*TINY, f"trainer.activation_checkpointing={word}")) for word in ("false", "true"))
    model = composed(*TINY).model.build(WORDS)
    weights = sum(4 * parameter.numel() for parameter in model.parameters())
    for found in (kept, recomputed):
        assert weights <= found["Parameter"] < weights + 2**12  # and what is padded
        assert 2 * weights <= found["Optstate"] < 2 * weights + 2**12
        assert sum(size for kind, size in found.items() if kind != "Total") == found["Total"]
    hidden = 4 * 64 * 64 * 64 * 6  # of all feed-forward layers
    assert kept["Total"] - recomputed["Total"] > hidden
