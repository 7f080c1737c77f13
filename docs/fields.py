"""The comment behind a field of a dataclass is its description in the site: on the pages of the API (as an extension of
Griffe, which reads the sources) and in the tables of the page of settings (as a hook of MkDocs).
"""

from __future__ import annotations

import io
import re
import tokenize
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LISTED = re.compile(r"^- ([\w.]+|top level): \[(\w+)\]\(\.\./\.\./(tbptt/\S+)\.py\)$", re.MULTILINE)
TYPES = {"int": "integer", "float": "number", "bool": "`true`, `false`", "str": "text", "None": "`null`"}


class FieldComments(griffe.Extension):
    """`max_steps: int = 200_000  # updates` is described by "Updates."."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        for member in cls.members.values():
            if isinstance(member, griffe.Attribute) and member.docstring is None and (comment := comment_of(member)):
                member.docstring = griffe.Docstring(f"{as_sentence(comment)}.", parent=member)


def as_sentence(comment: str) -> str:
    """With a capital letter, unless it begins with a name of the code."""
    return comment[0].upper() + comment[1:] if comment.split()[0].isalpha() else comment


def comment_of(field: griffe.Attribute) -> str:
    """The comment in the lines of a field; empty without one."""
    if field.lineno is None or field.endlineno is None:
        return ""
    assert isinstance(field.filepath, Path)
    lines = field.lines_collection[field.filepath][field.lineno - 1 : field.endlineno]
    tokens = tokenize.generate_tokens(io.StringIO("\n".join(line.strip() for line in lines) + "\n").readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    text = " ".join(comment.removeprefix("#").strip() for comment in comments if not comment.startswith("# fmt"))
    return text.replace("<", "&lt;")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """On the page of settings, put a table of its fields in the place of every listed dataclass."""
    return LISTED.sub(table, markdown) if page.file.src_uri == "api/settings.md" else markdown


def table(match: re.Match[str]) -> str:
    group, name, module = match.groups()
    prefix = "" if group == "top level" else f"{group}."
    cls = package()[f"{module.removeprefix('tbptt/').replace('/', '.')}.{name}"]
    lines = [
        f"`{name}`, [{module}.py](../../{module}.py)",
        "",
        "| key | may be | default | |",
        "| --- | --- | --- | --- |",
    ]
    for key, member in cls.all_members.items():
        if member.is_attribute and "property" not in member.labels and is_setting(key, str(member.annotation)):
            cells = (f"`{prefix}{key}`", kind(member.annotation), default(str(member.value)), comment_of(member))
            lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines)


@cache
def package() -> griffe.Module:
    loaded = griffe.load("tbptt", search_paths=[ROOT], allow_inspection=False)
    assert isinstance(loaded, griffe.Module)
    return loaded


def is_setting(key: str, annotation: str) -> bool:
    """Not a constant, and not a group, whose settings are listed by themselves."""
    return key != "name" and not key.startswith("_") and not key.isupper() and "Config" not in annotation


def kind(annotation: Any) -> str:
    """The type of a setting in words; the names of an enumeration's members."""
    parts = [part.strip() for part in str(annotation).split("|")]
    return ", ".join(dict.fromkeys(TYPES.get(part) or members(part, annotation) or in_words(part) for part in parts))


def members(name: str, annotation: Any) -> str:
    """Of the enumeration of that name; empty if it is none of ours."""
    for part in annotation.iterate(flat=True) if isinstance(annotation, griffe.Expr) else ():
        if isinstance(part, griffe.ExprName) and part.name == name and part.canonical_path.startswith("tbptt."):
            found = package()[part.canonical_path.removeprefix("tbptt.")]
            if found.is_class:
                return ", ".join(f"`{each}`" for each, member in found.members.items() if member.is_attribute)
    return ""


def in_words(part: str) -> str:
    inside = re.fullmatch(r"list\[(\w+)\]", part)
    return f"list of {TYPES.get(inside[1], inside[1])}" if inside else ""


def default(value: str) -> str:
    """As it is typed on the command line."""
    if factory := re.fullmatch(r"field\(default_factory=(?:lambda: )?(.*)\)", value):
        value = {"list": "[]", "dict": "{}"}.get(factory[1], factory[1])
    value = {"None": "null", "True": "true", "False": "false"}.get(value, value)
    value = re.sub(r"^[A-Z]\w*\.(\w+)$", r"\1", value)
    return "" if value in ("MISSING", "null") else f"`{value}`".replace("''", "").replace("'", "")
