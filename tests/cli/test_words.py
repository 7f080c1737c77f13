"""Free text on the command line arrives as it is typed, or is refused with the way to type it."""

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from tbptt.cli.config import as_dict, from_dict, text_keys
from tbptt.cli.directories import words_of
from tbptt.cli.quoting import quote_texts
from tbptt.data.config import DataConfig
from tbptt.errors import UserError
from tests.helpers import composed

TEXTS = """010 3e5 7e2 1_000 1. -1e3 true nan a*@%b läuft lr=0.1,seed=3 [a] {b:c} x! a(b p$^$q what? 'a " a\\b"""


@pytest.mark.parametrize("text", [*TEXTS.split(), "a b", "a: b"])
def test_a_path_is_taken_as_it_is_typed(text):
    (word,) = quote_texts([f"data.path={text}"], text_keys())
    assert composed(word).data.path == text


@pytest.mark.parametrize(
    ("typed", "path"),
    [("'a,b'", "a,b"), ('"7e2"', "7e2"), ("a\\,b", "a,b"), ("null", None), ("${oc.env:NOPE,b}/x", "b/x")],
)
def test_what_hydra_reads_as_text_is_left_to_it(typed, path):
    word = f"data.path={typed}"
    assert quote_texts([word], text_keys()) == [word] and composed(word).data.path == path


def members(word: str) -> list[str]:
    overrides = OverridesParser.create().parse_overrides(quote_texts(["-m", word], text_keys())[1:])
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    return [each for (each,) in batch]


@pytest.mark.parametrize(
    ("typed", "prompts"),
    [
        ("3e5,b", ["3e5", "b"]),
        ("010, 1_000 ,true,null,x", ["010", "1_000", "true", "null", "x"]),
        ("choice(a,b)", ["a", "b"]),
        ("\"a,b\",2,'c d'", ["a,b", "2", "c d"]),
        ("7e2", ["7e2"]),
        ("läuft", ["läuft"]),
    ],
)
def test_the_texts_of_a_sweep_arrive_as_they_are_typed(typed, prompts):
    assert [composed(word).prompt for word in members(f"prompt={typed}")] == prompts


@pytest.mark.parametrize("text", ["lr=0.1,seed=3", "läuft,b"])
def test_what_may_be_one_text_or_several_is_refused_with_the_way_to_type_it(text):
    with pytest.raises(UserError) as refused:
        members(f"checkpoint={text}")
    assert f"'checkpoint=\"{text}\"'" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("typed", ["choice(7e2,a)", 'choice("7e2",a)'])
def test_a_choice_in_which_hydra_would_change_a_text_is_refused(typed):
    with pytest.raises(UserError, match=r"without choice"):
        members(f"prompt={typed}")


def test_numbers_and_choices_are_no_text():
    words = ["run.py", "optimizer.lr=1e-4", "seed=1_000", "model=lstm", "model.cutoffs=[1,2]", "trainer.keep=3"]
    assert quote_texts(words, text_keys()) == words
    assert {"prompt", "checkpoint", "data.path", "import.path", "export.path", "hydra.run.dir"} <= text_keys()


def test_text_that_looks_like_an_interpolation_stays_text_in_a_checkpoint():
    data = DataConfig("text", path="a/${b}\\${c}", cache="d")
    assert as_dict(data)["path"] == data.path and from_dict(DataConfig, as_dict(data)) == data


def test_an_interpolation_is_recorded_as_it_was_typed(monkeypatch):
    from hydra import compose, initialize_config_dir

    from tests.helpers import CONF

    with initialize_config_dir(str(CONF), version_base=None):
        hydra = compose("config", ["data.cache=${nowhere.at.all}/x"], return_hydra_config=True).hydra
    assert words_of(hydra.overrides.task) == ["data.cache=${nowhere.at.all}/x"]
