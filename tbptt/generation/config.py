"""What the `generate` group configures. How far the model looks back is set as for an evaluation: eval.mem_len, ..."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tbptt.errors import UserError


@dataclass
class GenerateConfig:
    name: str
    prompt_file: str | None = None  # a text to go on from, instead of prompt=
    length: int | None = 256  # tokens to add

    def check(self) -> None:
        if self.length is not None and self.length < 1:
            raise UserError(f"generate.length={self.length} must be 1 or more")

    def read_prompt(self, prompt: str | None) -> str:
        """What is to be continued: `prompt` or the text of prompt_file. UserError for both, or for what is no text."""
        if self.prompt_file is None:
            try:
                return (prompt or "").encode().decode()
            except UnicodeEncodeError as error:
                raise UserError("prompt= is not UTF-8 text: give it as such, or as generate.prompt_file") from error
        if prompt is not None:
            raise UserError("prompt= and generate.prompt_file= both say what to go on from: give one of them")
        try:
            return Path(self.prompt_file).expanduser().read_bytes().decode()
        except OSError as error:
            raise UserError(f"generate.prompt_file={self.prompt_file} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"generate.prompt_file={self.prompt_file} is not UTF-8 text ({error.reason} at byte {error.start})"
            ) from error


@dataclass
class SampleConfig(GenerateConfig):
    """Draw each token from the model's distribution, after three changes to it in this order."""

    name: str = "sample"
    length: int | None = 256  # tokens to add; null: until it is stopped
    samples: int = 1  # continuations, side by side
    temperature: float = 1.0  # divides the log-probabilities; 0: always the likeliest token
    top_k: int | None = None  # keep the likeliest so many (Fan et al. 2018)
    top_p: float = 1.0  # keep the fewest that together have this probability (Holtzman et al. 2020)

    def check(self) -> None:
        super().check()
        if self.samples < 1:
            raise UserError(f"generate.samples={self.samples} must be 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"generate.temperature={self.temperature} must be a positive number, or 0 for no chance")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"generate.top_k={self.top_k} must be 1 or more, or null for all")
        if not 0 < self.top_p <= 1:
            raise UserError(f"generate.top_p={self.top_p} must be above 0 and at most 1")


@dataclass
class BeamConfig(GenerateConfig):
    """Look for the likeliest continuation of this length among the best `beams` at every token."""

    name: str = "beam"
    beams: int = 4

    def check(self) -> None:
        super().check()
        if self.beams < 1:
            raise UserError(f"generate.beams={self.beams} must be 1 or more")
        if self.length is None:
            raise UserError("generate.length=null has no end to search for: generate=beam needs a number")


CONFIGS: dict[str, type[GenerateConfig]] = {config.name: config for config in (SampleConfig, BeamConfig)}
