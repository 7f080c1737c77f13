"""Quotes free text on the command line (prompts, paths, ...), so that Hydra's grammar keeps it as it is typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection

from antlr4 import InputStream
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import OverrideLexer

from tbptt.errors import UserError

Token = OverrideLexer
NUMBERS = (Token.INT, Token.FLOAT, Token.BOOL)
BORDERS = (Token.COMMA, Token.POPEN, Token.PCLOSE)  # between the values of a sweep


def quote_texts(arguments: list[str], keys: Collection[str]) -> list[str]:
    """Quote the values of the text settings `keys` where Hydra's grammar would change or refuse them.

    Hydra reads 7e2 as a number and refuses letters such as "ä". A prompt is text to its last sign, but commas separate
    the prompts of a sweep. UserError for a value that may be one text or several.
    """
    sweep = any(re.fullmatch("-m|--m[ultirun]*|hydra.mode=MULTIRUN", each) for each in arguments)
    return [_quote(argument, keys, sweep) for argument in arguments]


def _quote(argument: str, keys: Collection[str], sweep: bool) -> str:
    match = re.fullmatch(r"(?s)(\+{0,2})([\w.]+)=(.*)", argument)
    if not match or match[2] not in keys:
        return argument
    prefix, key, text = match.groups()
    if key == "prompt" and not sweep:
        return f"{prefix}{key}={_quotes(literal(text))}"
    override = _parsed(argument)
    if override is None:
        if sweep and "," in text:
            each = shlex.quote(f"{key}={','.join(_quotes(each.strip()) for each in text.split(','))}")
            raise UserError(
                f"{key}={text} may be one text or several: quote it, as in {quoted(key, text)}, or each, as in {each}"
            )
        return f"{prefix}{key}={_quotes(text)}"
    value = override._value  # with its quotes
    if isinstance(value, list | dict):
        return f"{prefix}{key}={_quotes(text)}"
    if isinstance(value, ChoiceSweep) and not value.simple_form:  # choice(...), which drops quotes
        read_again = [_parsed(f"{key}={each}") for each in override.sweep_string_iterator()]
        if any(each and isinstance(each._value, int | float) for each in read_again):
            raise UserError(
                f"{key}={text} has a text that reads as a number: list the texts, each in quotes, without choice(...)"
            )
        return argument
    if isinstance(value, ChoiceSweep | int | float) or (key == "prompt" and value is None):
        kinds = (*NUMBERS, Token.NULL) if key == "prompt" else NUMBERS
        return f"{prefix}{key}={_quote_numbers(text, kinds)}"
    return argument


def quoted(key: str, text: str) -> str:
    """How to type key=text in a shell, as one text."""
    return shlex.quote(f"{key}={_quotes(text)}")


def _parsed(argument: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _quote_numbers(text: str, kinds: tuple[int, ...]) -> str:
    """Quote the numbers and truth values in `text` that are a value of their own, not a part of a word."""
    lexer = OverrideLexer(InputStream(text.strip()))
    lexer.mode(OverrideLexer.VALUE_MODE)
    tokens = lexer.getAllTokens()
    kinds_before = [Token.COMMA, *(token.type for token in tokens)]
    kinds_after = [*(token.type for token in tokens[1:]), Token.COMMA]
    return "".join(
        _quotes(token.text) if token.type in kinds and before in BORDERS and after in BORDERS else token.text
        for before, token, after in zip(kinds_before, tokens, kinds_after)
    )


def _quotes(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


def literal(text: str) -> str:
    r"""Escape ${, which OmegaConf would replace by the value of a setting."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", text)
