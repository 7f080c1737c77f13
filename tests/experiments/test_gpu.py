"""The steps of the GPU experiment name what exists, and each ends with a line, whatever becomes of it."""

from importlib.util import find_spec

import pytest

from experiments.gpu import ROOT, run, steps
from experiments.throughput import composed_with


def test_steps_name_modules_files_and_settings_that_exist(tmp_path):
    for limit, (module, *arguments) in steps(tmp_path).values():
        assert limit > 0 and find_spec(module)
        assert all((ROOT / word).exists() for word in arguments if word.startswith("tests/"))
        composed_with([word for word in arguments if "=" in word and not word.startswith("-")])


@pytest.mark.parametrize("limit, status", [(60, 0), (0.01, None)])
def test_a_step_that_is_not_done_in_time_is_stopped(tmp_path, limit, status):
    ended = run("version", limit, ["this"], tmp_path)
    assert ended["status"] == status
    assert bool((tmp_path / "version.log").read_text()) == (status == 0)
