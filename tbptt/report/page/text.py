"""Text of a page: numbers with the digits that matter, settings as they are typed, nothing secret."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
QUERY = re.compile(r"(?<=://)([^\s?]+\?)\S+")  # of an address: it may hold a token
SECRET = re.compile(r"(?i)\b(\w*(?:api_?key|password|secret|access_token|auth_token))(\s*[=:]\s*)\S+")


def concealed(text: str) -> str:
    """The text without what looks like a credential, and without control characters."""
    text = SECRET.sub(r"\1\2***", QUERY.sub(r"\1***", CREDENTIALS.sub("***", text)))
    return "".join("\ufffd" if c not in "\n\t" and (c < " " or "\x7f" <= c < "\xa0") else c for c in text)


def shown_setting(value: Any) -> str:
    """As it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(shown_setting(each) for each in value)}]"
    return concealed(f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value))


def breakable(text: str) -> Markup:
    """Text with names of settings, which a narrow column may break after a dot, an underscore or a sign."""
    return Markup(re.sub(r"([._=])(?=[A-Za-z])", r"\1<wbr>", str(escape(text))))


def whole(number: float) -> str:
    return f"{number:,.0f}"


def fixed(number: float) -> str:
    """Losses in nats or bits: differences of 0.001 matter."""
    return f"{number:.4f}"


def significant(number: float) -> str:
    """Perplexities and rates: four digits, more only before the point."""
    digits = next((digits for digits, below in ((3, 10), (2, 100), (1, 1000)) if abs(number) < below), 0)
    return f"{number:,.{digits}f}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
