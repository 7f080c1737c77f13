"""The text of `prompt=`, which Hydra's grammar must not parse."""

from __future__ import annotations

import re


def quote_prompt(arguments: list[str]) -> list[str]:
    """The command line with the text of prompt= quoted, so that Hydra takes all of it for text, commas and braces too.

    A sweep's is left alone: there a comma stands between two prompts.
    """
    if {"-m", "--multirun"} & set(arguments):
        return arguments
    return [re.sub(r"(?s)\Aprompt=(.*)\Z", lambda match: f'prompt="{_escaped(match[1])}"', word) for word in arguments]


def _escaped(text: str) -> str:
    """Text between double quotes as Hydra reads it: a quote, and backslashes before one, are escaped; so is ${."""
    text = re.sub(r'(\\*)("|\Z)', lambda match: match[1] * 2 + match[2].replace('"', '\\"'), text)
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)
