"""What is read and written does not depend on the locale: the code names the encoding of every text."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "run.py", *(path for folder in ("tbptt", "experiments") for path in (ROOT / folder).rglob("*.py"))]


def in_the_encoding_of_the_locale(code: str) -> list[str]:
    """The calls that open a file, a pipe or a socket as text without naming its encoding."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if _opens_text(call) and not _has(call, "encoding")]


def _opens_text(call: ast.Call) -> bool:
    method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if method else getattr(call.func, "id", "")
    first = 1 if name == "fdopen" or (name == "open" and not method) else 0  # the position of the mode
    mode = [*call.args[first:], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [node.value for each in mode for node in ast.walk(each) if isinstance(node, ast.Constant)]
    text = all(isinstance(each, str) and "b" not in each for each in modes)
    if name in ("open", "fdopen"):
        return text and (not method or name == "fdopen" or bool(modes) or not call.args)
    if name in ("NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"):
        return text and bool(modes)
    return (method and name in ("read_text", "write_text", "makefile")) or _has(call, "text", "universal_newlines")


def _has(call: ast.Call, *keywords: str) -> bool:
    return any(keyword.arg in keywords for keyword in call.keywords)


def test_every_text_names_its_encoding():
    found = {file: in_the_encoding_of_the_locale(file.read_text(encoding="utf-8")) for file in FILES}
    assert len(found) > 100 and {str(file.relative_to(ROOT)): calls for file, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "code",
    [
        "open('book.txt')",
        "open(p, 'w')",
        "(a / b).read_text()",
        "p.write_text(t)",
        "p.open()",
        "p.open('a')",
        "subprocess.run(c, text=True)",
        "s.makefile()",
        "NamedTemporaryFile('w')",
    ],
)
def test_a_text_without_encoding_is_found(code):
    assert in_the_encoding_of_the_locale(code) == [ast.unparse(ast.parse(code))]
    named = code[:-1] + ("" if code.endswith("()") else ", ") + "encoding='utf-8')"
    assert in_the_encoding_of_the_locale(named) == []
