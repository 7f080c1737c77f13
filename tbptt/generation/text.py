"""Encodes a prompt as tokens, and decodes the generated tokens one by one, with the vocabulary of a run."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

from tbptt.data.config import Level
from tbptt.data.language import Language
from tbptt.data.vocabulary import Vocabulary
from tbptt.errors import UserError


def encode(text: str, language: Language) -> np.ndarray:
    """The tokens of a prompt, (n,) int64, n > 0, tokenized like the corpus: like one document if it has documents.

    Otherwise an empty prompt is read as a line break.

    UserError if the text has no token, or has unknown symbols and the vocabulary has no entry for them.
    """
    level, (_, line_end) = language.vocabulary.level, language.vocabulary.line_marks
    begins_document = language.vocabulary.start is not None
    tokens = language.read(text or ("" if begins_document else "\n"), "the prompt")
    if level is Level.word and line_end and text and not text.endswith("\n"):
        tokens = tokens[:-1]  # its last line is not finished
    tokens = language.as_document(tokens)
    if not len(tokens):
        raise UserError(f"the prompt {text!r} holds no {level.name}: give another prompt=")
    return tokens


class Decoder(Protocol):
    """Decodes tokens incrementally."""

    def add(self, token: int) -> str:
        """The text that this token completes; empty within a multi-token character."""

    def end(self) -> str:
        """The text of incomplete characters at the end."""


def decoder(language: Language, prompt: str, prompt_tokens: np.ndarray) -> Decoder:
    """A decoder for the continuation of a prompt."""
    vocabulary = language.vocabulary
    if vocabulary.start is None:
        return _text_decoder(language, prompt, prompt_tokens)
    prompt_tokens = prompt_tokens[prompt_tokens != vocabulary.start]
    of_prompt = _text_decoder(language, prompt, prompt_tokens)
    return DocumentDecoder(vocabulary.start, of_prompt, partial(_text_decoder, language, "", prompt_tokens[:0]))


def _text_decoder(language: Language, prompt: str, prompt_tokens: np.ndarray) -> Decoder:
    vocabulary = language.vocabulary
    if vocabulary.level is Level.bpe:
        return SubwordDecoder(language.tokenizer, prompt_tokens.tolist()[-8:])
    if vocabulary.level is Level.word:
        return WordDecoder(vocabulary, prompt)
    return ByteDecoder() if vocabulary.level is Level.byte else CharacterDecoder(vocabulary)


class DocumentDecoder:
    """The start token of a document ends the text before it, also an incomplete character, with a blank line."""

    def __init__(self, start: int, texts: Decoder, of_next: Callable[[], Decoder]):
        """`texts` decodes the document that has begun, and `of_next` makes the decoder of each further one."""
        self.start, self.texts, self.of_next = start, texts, of_next

    def add(self, token: int) -> str:
        if token != self.start:
            return self.texts.add(token)
        ended, self.texts = self.texts.end(), self.of_next()
        return f"{ended}\n\n"

    def end(self) -> str:
        return self.texts.end()


class ByteDecoder:
    """UTF-8; invalid bytes become U+FFFD."""

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
    """Words separated by spaces. The line-end symbol becomes a line break, the line-start symbol nothing."""

    def __init__(self, vocabulary: Vocabulary, prompt: str):
        super().__init__(vocabulary)
        self.line_start, self.line_end = vocabulary.line_marks
        self.at_start = not prompt or prompt[-1].isspace()

    def add(self, token: int) -> str:
        word, separator = self.symbols[token], "" if self.at_start else " "
        if self.at_start and word == self.line_start:
            return ""
        self.at_start = word == self.line_end
        return "\n" if self.at_start else separator + word


class SubwordDecoder:
    """Decodes new tokens together with those before them, on which the spaces between tokens depend."""

    def __init__(self, tokenizer: Any, context: list[int]):
        self.tokenizer, self.context = tokenizer, context
        self.new: list[int] = []

    def add(self, token: int) -> str:
        self.new.append(token)
        text = self._text()
        return "" if text.endswith("\ufffd") else self._commit(text)

    def end(self) -> str:
        return self._commit(self._text())

    def _text(self) -> str:
        context, whole = (self._decode(tokens) for tokens in (self.context, self.context + self.new))
        return whole[len(context) :]

    def _commit(self, text: str) -> str:
        if self.new:
            self.context, self.new = self.new, []
        return text

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False)
