"""Text to tokens and back, in the language of a run: the prompt at once, what follows token by token."""

from __future__ import annotations

import codecs
from typing import Any, Protocol

import numpy as np

from tbptt.data.config import Level
from tbptt.data.language import Language
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError


def encode(text: str, language: Language) -> np.ndarray:
    """The tokens of a prompt, (n,) int64, n > 0, read as a corpus is; of no text, those of a line break.

    UserError for what the vocabulary lacks, where it has no entry for the unknown, and for a text without a token.
    """
    level, (_, line_end) = language.vocabulary.level, language.vocabulary.line_marks
    tokens = language.read(text or "\n", "the prompt")
    if level is Level.word and line_end and text and not text.endswith("\n"):
        tokens = tokens[:-1]  # its last line goes on
    if not len(tokens):
        raise UserError(f"the prompt {text!r} holds no {level.name} to go on from: give another prompt=")
    return tokens


class Decoder(Protocol):
    """Turns tokens into text as they come."""

    def add(self, token: int) -> str:
        """The text that is certain with this token; none in the middle of a character."""

    def end(self) -> str:
        """What was held back."""


def decoder(language: Language, prompt: str, prompt_tokens: np.ndarray) -> Decoder:
    """A decoder of what follows a prompt."""
    vocabulary = language.vocabulary
    if vocabulary.level is Level.bpe:
        return SubwordDecoder(language.tokenizer, prompt_tokens.tolist()[-8:])
    if vocabulary.level is Level.word:
        return WordDecoder(vocabulary, prompt)
    return ByteDecoder() if vocabulary.level is Level.byte else CharacterDecoder(vocabulary)


class ByteDecoder:
    """UTF-8; bytes that are none become U+FFFD."""

    def __init__(self) -> None:
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        return self.utf8.decode(bytes([token]))

    def end(self) -> str:
        return self.utf8.decode(b"", final=True)


class CharacterDecoder:
    def __init__(self, vocabulary: Vocabulary):
        self.symbols = vocabulary.symbols

    def add(self, token: int) -> str:
        return self.symbols[token]

    def end(self) -> str:
        return ""


class WordDecoder(CharacterDecoder):
    """Words between blanks; what marks the end of a line becomes one, what marks its start nothing."""

    def __init__(self, vocabulary: Vocabulary, prompt: str):
        super().__init__(vocabulary)
        self.line_start, self.line_end = vocabulary.line_marks
        self.at_start = not prompt or prompt[-1].isspace()

    def add(self, token: int) -> str:
        word, blank = self.symbols[token], "" if self.at_start else " "
        if self.at_start and word == self.line_start:
            return ""
        self.at_start = word == self.line_end
        return "\n" if self.at_start else blank + word


class SubwordDecoder:
    """Decodes the newest tokens together with those before them, which say where blanks belong."""

    def __init__(self, tokenizer: Any, before: list[int]):
        self.tokenizer, self.before = tokenizer, before
        self.new: list[int] = []

    def add(self, token: int) -> str:
        self.new.append(token)
        text = self._text()
        return "" if text.endswith("\ufffd") else self._settle(text)

    def end(self) -> str:
        return self._settle(self._text())

    def _text(self) -> str:
        known, all_of_it = (self._decode(tokens) for tokens in (self.before, self.before + self.new))
        return all_of_it[len(known) :]

    def _settle(self, text: str) -> str:
        if self.new:
            self.before, self.new = self.new, []
        return text

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False)
