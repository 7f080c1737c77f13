"""Threads spin shortly, or sleep at once where the machine is busy already, and wait as the user says in any case."""

import os
import subprocess
import sys

import pytest

from tbptt.threads import choose_wait_policy


@pytest.mark.parametrize(
    ("given", "load", "waiting"),
    [
        ({}, 0.3, {"GOMP_SPINCOUNT": "1000"}),
        ({}, 1.7, {"OMP_WAIT_POLICY": "passive"}),
        ({"OMP_WAIT_POLICY": "active"}, 9.0, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "5"}, 9.0, {"GOMP_SPINCOUNT": "5"}),
    ],
)
def test_a_busy_machine_is_noticed_and_the_user_decides(given, load, waiting):
    env = dict(given)
    choose_wait_policy(env, load, cores=2)
    env.pop("TBPTT_WAIT_POLICY", None)
    assert env == waiting


@pytest.mark.parametrize(("before", "after"), [(0.3, 1.7), (1.7, 0.3)])
def test_a_choice_of_ours_is_made_anew_on_another_machine(before, after):
    inherited, fresh = {}, {}
    choose_wait_policy(inherited, before, cores=2)
    choose_wait_policy(inherited, after, cores=2)
    choose_wait_policy(fresh, after, cores=2)
    assert inherited == fresh


def test_it_is_chosen_before_torch_is_loaded():
    code = (
        "import sys, tbptt.threads; assert list(sys.modules).index('tbptt.threads') < list(sys.modules).index('torch')"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith("OMP")}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0
