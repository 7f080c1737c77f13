"""Threads sleep while they wait where the machine is busy already, and as the user says in any case."""

import os
import subprocess
import sys

import pytest

from tbptt.threads import choose_wait_policy


@pytest.mark.parametrize(
    ("given", "load", "policy"),
    [
        ({}, 0.3, None),
        ({}, 1.7, "passive"),
        ({"OMP_WAIT_POLICY": "active"}, 9.0, "active"),
        ({"GOMP_SPINCOUNT": "5"}, 9.0, None),
        ({"OMP_WAIT_POLICY": "passive", "TBPTT_WAIT_POLICY": "passive"}, 0.3, None),  # inherited from a busy machine
    ],
)
def test_a_busy_machine_is_noticed_and_the_user_decides(given, load, policy):
    env = dict(given)
    choose_wait_policy(env, load, cores=2)
    assert env.get("OMP_WAIT_POLICY") == policy


def test_it_is_chosen_before_torch_is_loaded():
    code = (
        "import sys, tbptt.threads; assert list(sys.modules).index('tbptt.threads') < list(sys.modules).index('torch')"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("OMP")}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0
