"""The page in a browser: its script runs and draws every curve, nothing is wider than the screen, nothing is fetched.

Needs Chromium (Debian: apt-get install chromium); skipped where there is none.
"""

import pytest

from tbptt.data.config import Level
from tbptt.report.__main__ import main
from tests.report.browser import CHROMIUM, chromium
from tests.report.pages import add_positions, charts_of, make_generation, make_run, make_sweep, parse

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
WIDTHS = [390, 1400]


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page with everything that one can have: two units, positions, generated text, errors, long names."""
    folder = tmp_path_factory.mktemp("runs")
    sweep = make_sweep(folder / "sweep", [2.0 + number / 10 for number in range(9)], error="no" * 300)
    words = make_run(
        folder / ("a_long_name_" * 12), {"seed": 3, "data": {"name": "text", "path": "x/" * 99}}, 1, Level.word
    )
    for run in (sweep / "0", words):
        add_positions(run, Level.byte if run != words else Level.word, 16)
    generated = make_generation(folder / "generated", "Once", "<b>upon</b> a time " + "x" * 900)
    main([*map(str, (sweep, words, generated)), "--output", str(folder / "page.html")])
    return folder / "page.html"


def curves(tab, panel: int) -> list[str]:
    """The path of every curve."""
    query = (
        f"""[...document.querySelectorAll('[data-panel="{panel}"] path.curve')].map(path => path.getAttribute('d'))"""
    )
    return tab.value(query)


def click(tab, selector: str) -> None:
    tab.value(f"document.querySelector('{selector}').click()")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_is_drawn_within_the_width_and_without_a_problem(tab, file, width, scheme):
    tab.open(file, width, scheme)
    assert tab.value("document.documentElement.scrollWidth <= innerWidth")
    for number, panel in enumerate(charts_of(parse(file))["panels"]):
        paths = curves(tab, number)
        assert len(paths) == sum(len(chart["series"]) for chart in panel["charts"]) > 0
        assert all("NaN" not in path and "Infinity" not in path for path in paths)
    assert not tab.problems and tab.requests == [file.as_uri()]
    ground = tab.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 384) == (scheme == "light")


def test_a_curve_has_all_its_points_in_order(tab, file):
    tab.open(file, 1400)
    series = charts_of(parse(file))["panels"][0]["charts"][0]["series"][0]
    places = [tuple(map(float, pair.split(","))) for pair in curves(tab, 0)[0].removeprefix("M").split("L")]
    assert len(places) == len(series["y"])
    tokens, losses = series["x"]["tokens"], series["y"]
    for (x, y), token, loss in zip(places, tokens, losses):
        share = (token - tokens[0]) / (tokens[-1] - tokens[0])
        assert x == pytest.approx(places[0][0] + share * (places[-1][0] - places[0][0]), abs=0.1)
        share = (loss - losses[0]) / (losses[-1] - losses[0])
        assert y == pytest.approx(places[0][1] + share * (places[-1][1] - places[0][1]), abs=0.1)


def test_buttons_change_the_axis_and_hide_runs_everywhere(tab, file):
    tab.open(file, 1400)
    by_tokens, of_positions = curves(tab, 0), curves(tab, 2)
    click(tab, '[data-panel="0"] [data-x="time"]')
    by_time = curves(tab, 0)
    assert by_time != by_tokens and len(by_time) == len(by_tokens)
    click(tab, '[data-panel="0"] [data-x="tokens"]')
    assert curves(tab, 0) == by_tokens
    click(tab, '[data-panel="2"] [data-log]')
    assert curves(tab, 2) != of_positions
    click(tab, '[data-panel="0"] button[data-run="0"]')
    assert len(curves(tab, 0)) == len(by_tokens) - 2 and len(curves(tab, 2)) == len(of_positions) - 1
    pressed = tab.value("""[...document.querySelectorAll('button[data-run="0"]')].map(b => b.ariaPressed)""")
    assert pressed == ["false", "false"]
    click(tab, '[data-panel="2"] button[data-run="0"]')
    assert curves(tab, 0) == by_tokens and not tab.problems


def test_the_values_under_the_pointer_are_shown(tab, file):
    tab.open(file, 1400)
    series = charts_of(parse(file))["panels"][1]["charts"][0]["series"][0]  # the only one, of words
    plot = "document.querySelector('[data-panel=\"1\"] .plot')"
    tab.value(f"{plot}.scrollIntoView()")
    left, top, width = tab.value(f"(box => [box.x, box.y, box.width])({plot}.getBoundingClientRect())")
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=left + width - 30, y=top + 100)
    tip = tab.value("document.querySelector('.tip').innerText")
    assert f"words seen: {series['x']['tokens'][-1]}" in tip and f"{series['y'][-1]:.5g}" in tip


def test_texts_of_a_run_are_no_elements(tab, file):
    tab.open(file, 390)
    assert "<b>upon</b> a time" in tab.value("document.querySelector('.samples pre').innerText")
