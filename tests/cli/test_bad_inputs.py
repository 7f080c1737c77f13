"""Wrong commands of every kind are answered with one sentence; experiments/bad_inputs.py has all of them."""

from pathlib import Path

import pytest

from experiments.bad_inputs import Workplace, all_cases, fault

pytestmark = pytest.mark.slow
CASES = all_cases()
SAMPLE = [case for case in CASES if case.kind.endswith("file")][::8] + CASES[::60]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workplace:
    return Workplace(Path(tmp_path_factory.mktemp("place")))


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: f"{case.kind}: {' '.join(case.words)}")
def test_a_wrong_command_is_answered_and_leaves_nothing_half_written(place, case):
    assert fault(place, case) == ""


def test_there_are_cases_of_every_kind():
    kinds = {case.kind for case in CASES}
    assert len(CASES) > 400 and {"wrong type", "out of range", "contradiction", "huge file"} <= kinds
