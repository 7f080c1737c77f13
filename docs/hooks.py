"""MkDocs hooks: a link of a page to a file outside docs/, or to a log, leads to a copy of that file in the site.

So the same links work on a page of the site and in the repository. Markdown becomes a page, other text a page that
shows it, a picture stays one. Copies are found by links alone, and are not searched.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^()#\s]+)(?=[)#])")  # the target of a relative link or picture
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json", ".jsonl": "json"}
PICTURES = (".png", ".svg")
ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to, and those that these link to."""
    pages = [file for file in files if file.is_documentation_page()]
    while pages:
        page = pages.pop()
        for _, path in outside_links(page.content_string, page, config):
            if files.get_file_from_path(site_path(path)) is None and path.is_file():
                file = copy_of(path, config)
                files.append(file)
                if path.suffix == ".md":
                    pages.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave docs/ to the copies."""
    links = dict(outside_links(markdown, page.file, config))
    here = posixpath.dirname(page.file.src_uri)

    def to_copy(match: re.Match[str]) -> str:
        target = links.get(match[1])
        return match[1] if target is None else posixpath.relpath(site_path(target), here or ".")

    return LINK.sub(to_copy, markdown)


def outside_links(markdown: str, file: File, config: MkDocsConfig) -> Iterator[tuple[str, Path]]:
    """The relative links of a page that lead to logs or to places in the repository outside docs/, and where."""
    docs = Path(config.docs_dir)
    source = Path(file.abs_src_path) if file.abs_src_path else ROOT / file.src_uri
    for link in LINK.findall(markdown):
        path = Path(os.path.normpath(source.parent / link))
        if path.is_relative_to(ROOT) and (path.suffix == ".log" or not path.is_relative_to(docs)):
            yield link, path


def site_path(path: Path) -> str:
    """Where the copy of a file of the repository is, among the sources of the site."""
    uri = path.relative_to(ROOT).as_posix()
    return uri if path.suffix in (".md", *PICTURES) else f"{uri}.md"


def copy_of(path: Path, config: MkDocsConfig) -> File:
    if path.suffix in PICTURES:
        return File.generated(config, site_path(path), abs_src_path=str(path))
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".md":
        language = LANGUAGES.get(path.suffix, "text")
        text = f"# {path.name}\n\n`{path.relative_to(ROOT).as_posix()}`\n\n`````{language}\n{text}\n`````\n"
    return File.generated(config, site_path(path), content=f"---\nsearch:\n  exclude: true\n---\n{text}")
