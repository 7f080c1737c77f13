"""The settings of the `generate` group. Context settings are those of an evaluation: eval.mem_len, ..."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tbptt.data.reading import decode, readable
from tbptt.errors import UserError


@dataclass
class GenerateConfig:
    name: str
    prompt_file: str | None = None  # file with the prompt, instead of prompt=
    length: int | None = 256  # tokens to generate

    def check(self) -> None:
        if self.length is not None and self.length < 1:
            raise UserError(f"generate.length={self.length} must be 1 or more")

    def read_prompt(self, prompt: str | None) -> str:
        """The prompt: `prompt` or the text of prompt_file. UserError if both are set or the text is not UTF-8."""
        if self.prompt_file is None:
            try:
                return (prompt or "").encode().decode()
            except UnicodeEncodeError as error:
                raise UserError(
                    "prompt= is not valid UTF-8 text: correct it, or use generate.prompt_file=FILE"
                ) from error
        if prompt is not None:
            raise UserError("prompt= and generate.prompt_file= are both set: set only one of them")
        name = f"generate.prompt_file={self.prompt_file}"
        with readable(name):
            content = Path(self.prompt_file).expanduser().read_bytes()
        return decode(content, name)


@dataclass
class SampleConfig(GenerateConfig):
    """Sample each token after applying temperature, top_k and top_p to the model's distribution, in this order."""

    name: str = "sample"
    length: int | None = 256  # tokens to generate; null: until a stop signal
    samples: int = 1  # continuations, generated in parallel
    temperature: float = 1.0  # divides the log-probabilities; 0: greedy decoding
    top_k: int | None = None  # keep only this many most likely tokens (Fan et al. 2018)
    top_p: float = 1.0  # nucleus: keep the fewest tokens with this total probability (Holtzman et al. 2020)

    def check(self) -> None:
        super().check()
        if self.samples < 1:
            raise UserError(f"generate.samples={self.samples} must be 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(
                f"generate.temperature={self.temperature} must be a positive number, or 0 for greedy decoding"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"generate.top_k={self.top_k} must be 1 or more, or null for all tokens")
        if not 0 < self.top_p <= 1:
            raise UserError(f"generate.top_p={self.top_p} must be above 0 and at most 1")


@dataclass
class BeamConfig(GenerateConfig):
    """Beam search for the most likely continuation of `length` tokens."""

    name: str = "beam"
    beams: int = 4  # continuations kept after every token

    def check(self) -> None:
        super().check()
        if self.beams < 1:
            raise UserError(f"generate.beams={self.beams} must be 1 or more")
        if self.length is None:
            raise UserError("generate.length=null is not possible with generate=beam: set a number of tokens")


CONFIGS: dict[str, type[GenerateConfig]] = {config.name: config for config in (SampleConfig, BeamConfig)}
