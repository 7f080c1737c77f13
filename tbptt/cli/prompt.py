"""Quotes the text of `prompt=`, so that Hydra does not parse it."""

from __future__ import annotations

import re


def quote_prompt(arguments: list[str]) -> list[str]:
    """Quote the text of prompt=, so that commas, braces and other symbols of Hydra's grammar are taken literally.

    The arguments of a sweep are not changed: there, commas separate the prompts.
    """
    if {"-m", "--multirun"} & set(arguments):
        return arguments
    return [re.sub(r"(?s)\Aprompt=(.*)\Z", lambda match: f'prompt="{_escaped(match[1])}"', each) for each in arguments]


def _escaped(text: str) -> str:
    """Escape text for Hydra's double quotes: quotes, backslashes before quotes, and ${ are escaped."""
    text = re.sub(r'(\\*)("|\Z)', lambda match: match[1] * 2 + match[2].replace('"', '\\"'), text)
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)
