"""The site builds strictly: every page is reached, every link and anchor leads somewhere, in the repository too."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from tbptt import models
from tbptt.cli.config import Config
from tbptt.data.documents import config as documents
from tbptt.evaluation import dynamic_config
from tbptt.generation import config as generation
from tbptt.training import optimizers, schedules

ROOT = Path(__file__).parents[2]
LINKING = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "experiments").glob("*.md"))]
LINKING += sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^(`{3,}).*?^\1", re.MULTILINE | re.DOTALL)
SCHEMAS: list[tuple[str, type]] = [("", Config)]
for group, module in {
    "data.": documents, "model.": models, "optimizer.": optimizers, "scheduler.": schedules, "generate.": generation,
    "eval.dynamic.": dynamic_config,
}.items():  # fmt: skip
    SCHEMAS += [(group, schema) for schema in module.CONFIGS.values()]
LINK = re.compile(r"\]\((?![a-z]+:)([^()\s]+)\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    result = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_site_has_all_pages(site):
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    for page in pages:
        folder = page.parent if page.name == "index.md" else page.with_suffix("")
        assert (site / folder / "index.html").is_file(), page


def test_the_site_loads_nothing_from_other_servers(site):
    loading = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(?:https?:)?//|<link[^>]*href=\"?(?:https?:)?//")
    assert not [page for page in site.rglob("*.html") if loading.search(page.read_text())]


def test_settings_are_described(site):
    page = (site / "api/settings/index.html").read_text()
    assert "<code>trainer.max_steps</code>" in page and "<code>model.mem_len</code>" in page and "](../" not in page
    listed = set(re.findall(r"<tr>\s*<td><code>([\w.]+)</code></td>", page))
    assert {key for group, schema in SCHEMAS for key in settings(group, schema)} <= listed
    assert not [key for key in listed if key.split(".")[-1].isupper()]


def test_logs_are_pages(site):
    assert "experiments.peer" in (site / "experiments/logs/peer.txt/index.html").read_text()


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page):
    for link in LINK.findall(without_code(page.read_text())):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def settings(group: str, schema: type) -> Iterator[str]:
    """The keys of a schema and of its parts."""
    hints = get_type_hints(schema)
    for each in fields(schema):
        if is_dataclass(hints[each.name]):
            yield from settings(f"{group}{each.name}.", hints[each.name])
        elif each.name != "name":
            yield f"{group}{each.name}"


def without_code(text: str) -> str:
    return re.sub(r"`[^`]*`", "", BLOCK.sub("", text))


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_member_of_the_api_pages_exists():
    griffe = pytest.importorskip("griffe")
    package = griffe.load("tbptt", search_paths=[ROOT], allow_inspection=False)
    listed = re.compile(r"^::: tbptt\.(\S+)\n(?: +options:\n +members: \[(.*)\])?", re.MULTILINE)
    for page in (ROOT / "docs/api").glob("*.md"):
        for module, names in listed.findall(page.read_text()):
            missing = set(filter(None, names.split(", "))) - package[module].members.keys()
            assert not missing, f"{page.name}: {module} has no {', '.join(missing)}"
