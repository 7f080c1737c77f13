"""A run killed with SIGKILL at random moments ends with the losses and weights of one that was left alone."""

import pytest

from experiments.resilience import compare


@pytest.mark.slow
def test_killed_runs_end_like_undisturbed_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    report = compare(tmp_path, kills=5, seed=3)
    assert report["weights_equal"] and report["losses_equal"] and report["test_loss_equal"]
    assert report["continued_from_steps"], "no kill came after a checkpoint: the test shows nothing"
