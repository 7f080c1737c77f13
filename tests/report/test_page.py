"""The page that compares runs: what it shows is what the runs have, and nothing in them is more than text."""

import json
import math
import re

import pytest

from tbptt.data.config import Level
from tbptt.report.__main__ import main
from tbptt.report.page.charts import MAX_POINTS, training_seconds
from tbptt.report.page.text import concealed
from tests.report.pages import add_positions, charts_of, make_generation, make_run, make_sweep, parse

HOSTILE = "<script>alert(1)</script>&\"'</script><!--{{ 7 * 7 }}"


def compared(tmp_path, *folders):
    main([*map(str, folders), "--output", str(tmp_path / "page.html")])
    return parse(tmp_path / "page.html")


def test_settings_that_differ_are_shown_and_common_ones_are_folded_away(tmp_path):
    first = make_run(tmp_path / "first", {"seed": 1, "model": {"name": "lstm", "d_model": 8}})
    second = make_run(tmp_path / "second", {"seed": 2, "model": {"name": "lstm", "n_head": 4}})
    settings = compared(tmp_path, first, second).section("Settings that differ")
    differing, partial = settings.all("table", cls="differing")
    rows = [[cell.text for cell in row.all("td")] for row in differing.all("tbody")[0].all("tr")]
    assert [cell.text for cell in differing.all("thead")[0].all("code")] == ["seed"] and rows == [["1"], ["2"]]
    assert {cell.text for cell in partial.all("thead")[0].all("code")} == {"model.d_model", "model.n_head"}
    assert [[cell.text for cell in row.all("td")] for row in partial.all("tr")[1:]] == [["8", "–"], ["–", "4"]]
    folded = settings.all("details")[-1]
    assert "open" not in folded.attributes
    common = dict(zip([name.text for name in folded.all("dt")], [value.text for value in folded.all("dd")]))
    assert common == {"data.name": "text", "data.cache": "${oc.env:SECRET_PLACE}", "model.name": "lstm"}


def test_many_settings_of_few_runs_are_rows(tmp_path):
    names = [f"s{number}" for number in range(4)]
    runs = [make_run(tmp_path / str(i), {"model": {name: i for name in names}}) for i in (0, 1)]
    (table,) = compared(tmp_path, *runs).section("Settings that differ").all("table")
    rows = {row.all("th")[0].text: [cell.text for cell in row.all("td")] for row in table.all("tr")[1:]}
    assert rows == {f"model.{name}": ["0", "1"] for name in names}


def test_settings_that_a_task_does_not_read_are_not_compared(tmp_path):
    trained = make_run(tmp_path / "run", {"generate": {"length": 1}})  # in a stack, mixer b is not used
    page = compared(tmp_path, trained, make_run(tmp_path / "other", {"generate": {"length": 2}}))
    text = page.section("Settings that differ").text
    assert "generate" not in text and "model.a.size" in text and "model.b.size" not in text


@pytest.mark.parametrize("level", [Level.byte, Level.word])
def test_curves_are_the_metrics(tmp_path, level):
    run = make_run(tmp_path / "run", level=level)
    (panel,) = charts_of(compared(tmp_path, run))["panels"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    key = "bpc" if level is Level.byte else "ppl"
    for chart, split in zip(panel["charts"], ("train", "valid"), strict=True):
        chosen = [line for line in lines if line.get("split", "train") == split]
        (series,) = chart["series"]
        assert series["x"]["tokens"] == [line["tokens"] for line in chosen]
        assert series["y"] == [line[key] for line in chosen]
        seconds = [sum(10 / (5 * step) for step in range(1, line["step"] + 1)) for line in chosen]
        assert series["x"]["time"] == pytest.approx(seconds, rel=1e-12)
        assert chart["log_y"] == (level is Level.word)


def test_a_validation_between_two_lines_is_at_its_share_of_the_time():
    lines = [{"tokens": 10, "tokens_per_second": 5}, {"tokens": 15, "split": "valid"}, {"tokens": 30}]
    lines[2]["tokens_per_second"] = 10
    assert training_seconds(lines) == [2.0, 2.5, 4.0]


def test_long_curves_are_thinned_and_keep_their_end(tmp_path):
    run = make_run(tmp_path / "run", steps=2 * MAX_POINTS + 1)
    (train, _) = charts_of(compared(tmp_path, run))["panels"][0]["charts"]
    tokens = train["series"][0]["x"]["tokens"]
    assert MAX_POINTS / 2 < len(tokens) <= MAX_POINTS + 1 and tokens[0] == 10 and tokens[-1] == 20 * MAX_POINTS + 10


def test_a_loss_that_is_not_finite_is_a_gap_and_never_the_best(tmp_path):
    runs = [make_run(tmp_path / str(number), loss=loss) for number, loss in enumerate((2.0, 3.0, math.nan))]
    text = (runs[2] / "metrics.jsonl").read_text()
    (runs[2] / "metrics.jsonl").write_text(text.replace("NaN", "null"))
    page = compared(tmp_path, *runs)
    (panel,) = charts_of(page)["panels"]
    assert {series["run"] for chart in panel["charts"] for series in chart["series"]} == {0, 1}
    (best, *_) = page.section("Results").all("td", cls="best")
    assert best.text.startswith("2.0000") and "nan" in page.section("Results").text


def test_units_and_texts_are_not_compared(tmp_path):
    """Two runs of bytes, one of words with the lowest loss, one of bytes of a shorter text with a lower one."""
    runs = [make_run(tmp_path / f"{loss}", loss=loss, level=level) for loss, level in UNITS]
    results = json.loads((runs[3] / "results.json").read_text()) | {"tokens": 9}
    (runs[3] / "results.json").write_text(json.dumps(results))
    page = compared(tmp_path, *runs)
    panels = charts_of(page)["panels"]
    assert [{s["run"] for chart in panel["charts"] for s in chart["series"]} for panel in panels] == [{0, 1, 3}, {2}]
    assert [panel["charts"][0]["y_label"] for panel in panels] == ["bits per byte", "perplexity"]
    table = page.section("Results").all("table")[0]
    assert len(table.all("tr", cls="group")) == 3
    marked = {cell.text.split()[0] for cell in table.all("td", cls="best")}
    assert "1.5000" in marked and not {"0.5000", "1.0000"} & marked


def test_evaluations_of_other_texts_are_not_compared_though_their_settings_name_one_corpus(tmp_path):
    """What an evaluation has scored is the corpus of its checkpoint, which its own settings do not name."""
    runs = [make_run(tmp_path / f"{loss}", loss=loss) for loss in (2.0, 1.5, 1.0)]
    for run, text, task in zip(runs, "aab", ("train", "eval", "eval")):
        results = json.loads((run / "results.json").read_text()) | {"text_sha256": text, "task": task}
        (run / "results.json").write_text(json.dumps(results))
    groups = compared(tmp_path, *runs).section("Results").all("tr", cls="group")
    assert [group.text.strip() for group in groups] == ["test split of text: 1,234 bytes", "test split: 1,234 bytes"]


UNITS = [(2.0, Level.byte), (1.5, Level.byte), (0.5, Level.word), (1.0, Level.byte)]


@pytest.mark.parametrize("level", [Level.byte, Level.word])
def test_losses_by_position_have_their_band(tmp_path, level):
    run = make_run(tmp_path / "run", level=level)
    rows = add_positions(run, level, 16)
    page = compared(tmp_path, run)
    assert "Loss by position" in page.text
    panel = charts_of(page)["panels"][-1]
    (chart,) = panel["charts"]
    (series,) = chart["series"]
    key = "bpc" if level is Level.byte else "ppl"
    assert series["y"] == [row[key] for row in rows] and panel["log_x"] and panel["base"] == 2
    assert all(low < y < high for low, y, high in zip(series["low"], series["y"], series["high"], strict=True))
    assert all(row["first"] + 1 <= x <= row["last"] + 1 for row, x in zip(rows, series["x"]["position"], strict=True))
    assert chart["marks"] == [{"x": 16, "label": "16 in training", "runs": [0]}]


def test_a_sweep_has_its_members_and_their_errors(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", [2.0, 1.0], error="Traceback\n  in a file\nValueError: no <b>")
    main([str(sweep)])
    page = parse(sweep / "comparison.html")
    items = page.section("Runs").all("li")
    assert [item.all("span")[1].text for item in items] == ["A", "B", "C"]
    assert [item.all("span", cls="given")[0].text for item in items] == ["seed=0", "seed=1", "seed=-1"]
    assert "3 runs: 2 done, 1 failed" in page.all("header")[0].text
    (error,) = page.section("Errors").all("article")
    assert error.all("p")[0].text == "ValueError: no <b>" and "in a file" in error.all("pre")[0].text
    assert len(page.section("Results").all("td", cls="best")) >= 2


def test_a_sweep_and_its_member_are_one_run(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", [2.0, 1.0])
    assert len(compared(tmp_path, sweep, sweep / "1").section("Runs").all("li")) == 2


def test_a_run_that_has_just_begun(tmp_path):
    begun, going = make_run(tmp_path / "begun"), make_run(tmp_path / "going", {"trainer": {"max_steps": 9}})
    for name in ("results.json", "metrics.jsonl"):
        (begun / name).unlink()
    (going / "results.json").unlink()
    (going / "vocabulary.json").write_text(json.dumps({"level": "byte", "symbols": ["00"]}))
    page = compared(tmp_path, begun, going)
    assert "nothing recorded yet" in page.text and "unfinished: step 4 of 9" in page.text
    assert [panel["charts"][0]["y_label"] for panel in charts_of(page)["panels"]] == ["bits per byte"]


def test_names_and_texts_are_only_text(tmp_path):
    run = make_run(tmp_path / HOSTILE.replace("/", "∕"), {"seed": HOSTILE})
    generated = make_generation(tmp_path / "generated", HOSTILE, HOSTILE + "\x00\x0b\n  end")
    sweep = make_sweep(tmp_path / "sweep", [1.0], error=HOSTILE)
    output = tmp_path / "page.html"
    main([str(run), str(generated), str(sweep), "--output", str(output), "--title", HOSTILE])
    page = parse(output)
    assert len(page.all("script")) == 2 and page.all("title")[0].text == HOSTILE and "49" not in page.all("h1")[0].text
    (sample,) = page.section("Generated text").all("pre")
    assert sample.text == HOSTILE + HOSTILE + "\ufffd\ufffd\n  end"
    assert HOSTILE in page.section("Errors").text and HOSTILE in page.section("Settings that differ").text
    assert charts_of(page)["runs"][0]["name"] == run.name


def test_the_page_is_whole_and_loads_nothing(tmp_path):
    run = make_run(tmp_path / "run", {"data": {"name": "text", "url": "https://example.org/a.zip"}})
    page = compared(tmp_path, run)
    assert not page.all("link") and not page.all("img") and not page.all("iframe")
    loading = [each for each in page.all() if {"src", "srcset"} & each.attributes.keys()]
    links = [each.attributes["href"] for each in page.all() if "href" in each.attributes]
    assert not loading and all(link.startswith("#") for link in links)
    assert not re.search(r"@import|url\((?!#)", page.all("style")[0].text)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("https://me:word@host/a", "https://***@host/a"),
        ("https://host/a.zip?signature=1&b=2", "https://host/a.zip?***"),
        ("WANDB_API_KEY=12ab failed", "WANDB_API_KEY=*** failed"),
        ("data.text_key=text", "data.text_key=text"),
    ],
)
def test_credentials_are_concealed(text, shown):
    assert concealed(text) == shown


def test_interpolations_are_not_resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_PLACE", "/where/nobody/looks")
    compared(tmp_path, make_run(tmp_path / "run"))
    assert "/where/nobody/looks" not in (tmp_path / "page.html").read_text()


def refusal(*words) -> str:
    with pytest.raises(SystemExit) as refused:
        main([*map(str, words)])
    assert str(refused.value.code).startswith("Error: ") and "\n" not in refused.value.code
    return refused.value.code


def test_what_cannot_be_compared_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "sweep/.members").mkdir(parents=True)
    assert "no run is given" in refusal()
    assert "does not exist" in refusal(run, "nowhere")
    assert "neither the directory of a run nor of a sweep" in refusal("empty")
    assert "no member of the sweep" in refusal("sweep")
    assert "--output" in refusal(run, "--output", "nowhere/page.html") and "--output" in refusal(run, "--output", run)
    for damage in ("{]\n", '{"loss": 1}\n'):
        (run / "metrics.jsonl").write_text(damage)
        assert f"{run} has a file that is damaged" in refusal(run)
    (run / ".hydra/overrides.yaml").write_text("- a=[")
    assert f"{run} has a file that is damaged" in refusal(run)
    assert not list(tmp_path.rglob("*.html*"))


def test_the_page_is_in_the_current_directory_by_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main([str(make_run(tmp_path / "a")), str(make_run(tmp_path / "b"))])
    assert (tmp_path / "comparison.html").is_file() and capsys.readouterr().out == "Comparison: comparison.html\n"


def luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))


def test_text_is_readable_in_both_schemes(tmp_path):
    """A contrast of at least 4.5 (WCAG 2, level AA), letters on the colours of the runs included."""
    style = compared(tmp_path, make_run(tmp_path / "run")).all("style")[0].text
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in style.split("@media")[:2])
    assert len(light) == len(dark) == 19
    for scheme in (light, dark):
        pairs = [(name, ground) for name in ("ink", "muted", "accent", "bad") for ground in ("card", "soft")]
        pairs += [(f"c{number}", ground) for number in range(8) for ground in ("card", "on")]
        pairs += [("muted", "page"), ("ink", "best"), ("ink", "bad-soft")]
        for one, other in pairs:
            darker, lighter = sorted(luminance(scheme[name]) for name in (one, other))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (one, other)
