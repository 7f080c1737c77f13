"""What one kind of directory is: its settings as those of a stack, and where its parameters lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from torch import Tensor

from tbptt.errors import UserError
from tbptt.interop.foreign import unchanged
from tbptt.interop.layout import Layout, Stored, moved, one_each
from tbptt.models.stack import StackConfig

Settings = Mapping[str, Any]  # those of config.json
WHERE = "config.json"

# Settings of any model type that have no influence on its losses.
COMMON = frozenset({
    "architectures", "auto_map", "bos_token_id", "dtype", "eos_token_id", "initializer_range",
    "max_position_embeddings", "model_type", "pad_token_id", "tokenizer_class", "torch_dtype", "transformers_version",
    "use_cache",
})  # fmt: skip
# Of rotary positions; what mrope_... is makes a difference for images only.
ROTARY = ("rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved")
FEED_FORWARD = {"gate.weight": "gate_proj.weight", "inner.weight": "up_proj.weight", "outer.weight": "down_proj.weight"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is needed to read the directories of one kind."""

    model_type: str
    defaults: Settings  # the settings that are read, with the values of those that config.json omits
    fixed: Settings  # settings that are supported with one value only
    ignored: frozenset[str]  # settings without influence on losses, besides those of COMMON
    config: Callable[[Settings], StackConfig]
    layout: Callable[[StackConfig], Layout]  # under the names of modules
    flat: Callable[[Settings], Settings] = dict  # config.json as settings of one level
    n_token: Callable[[Settings], int] = itemgetter("vocab_size")  # rows of the embedding
    loaded: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = unchanged  # from the names of files to modules'
    left_out: tuple[str, ...] = ()  # what begins the names of weights that the language model does not have
    whole: str | None = None  # the model type, of images and text, whose text_config is of this one


@dataclass(frozen=True, kw_only=True)
class Family(Source):
    """A source that is also a target: a stack with the same settings can be written as such a directory."""

    architecture: str  # the class that reads it
    mixers: frozenset[str]  # that its layers may have
    settings: Callable[[StackConfig], dict[str, Any]]  # the inverse of `config`
    saved: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = unchanged  # the inverse of `loaded`


def read_settings(family: Source, given: Settings) -> dict[str, Any]:
    """All settings of `family.defaults`. UserError for a setting, or a value of one, that is not supported."""
    if given.get("model_type") == family.whole and isinstance(text := given.get("text_config"), dict):
        given = {**text, "tie_word_embeddings": given.get("tie_word_embeddings", False)}
    given = {key: _plain(value) for key, value in family.flat(given).items()}
    for key, value in given.items():
        if key in family.fixed:
            if value != family.fixed[key]:
                raise UserError(f"{WHERE} has {key}={value}, which must be {family.fixed[key]}")
        elif key in family.defaults:
            _check_type(key, value, family.defaults[key])
        elif (
            key not in family.ignored | COMMON and not key.startswith("_") and value not in (None, False)
        ):  # what is off is not
            raise UserError(f"{WHERE} has {key}={value}, a setting that is not known of {family.model_type} models")
    return dict(family.defaults) | {key: value for key, value in given.items() if key in family.defaults}


def _plain(value: Any) -> Any:
    """Numbers that JSON does not have are written as {"__float__": "Infinity"}."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return float(value["__float__"]) if isinstance(value, dict) and value.keys() == {"__float__"} else value


def _check_type(key: str, value: Any, default: Any) -> None:
    """UserError for a value of another type than the default; where that is None, for text and fractions."""
    kinds = {bool: (bool,), int: (int,), float: (int, float), type(None): (int, list, dict, type(None))}
    fitting = kinds.get(type(default), (object,))
    if not isinstance(value, fitting) or (isinstance(value, bool) and type(default) is not bool):
        problem = "is not supported" if default is None else f"must be a value such as {default}"
        raise UserError(f"{WHERE} has {key}={value!r}, which {problem}")


def rotary(settings: Settings) -> tuple[float, float]:
    """Base and share of rotary positions: those of rope_parameters, else of the settings that versions before 5 wrote.

    UserError if the positions are scaled.
    """
    given = {**(settings["rope_scaling"] or {}), **(settings["rope_parameters"] or {})}
    for key, value in given.items():
        if key not in ROTARY and (key, value) not in (("rope_type", "default"), ("type", "default")):
            raise UserError(f"{WHERE} has rotary positions with {key}={value}, which are not supported")
    known = {**settings, **given}
    return float(known["rope_theta"]), float(known["partial_rotary_factor"])


def ends(config: StackConfig, embedding: str, final_norm: str) -> Layout:
    """Of what comes before and after the layers."""
    names = {"embedding.tables.0": embedding, "final_norm.weight": final_norm}
    return one_each(names if config.tie_weight else names | {"softmax.tables.0": "lm_head.weight"})


def convolution(width: int) -> Stored:
    """A depthwise convolution's weight, which has an axis for its single input channel there."""
    return Stored(("convolution.weight_CW",), shape=(-1, 1, width))


def feed_forward(layer: int, there: str) -> Layout:
    return one_each(FEED_FORWARD, f"layers.{layer}.feed_forward.", there)


def mixer(layout: Layout, layer: int, there: str) -> Layout:
    return moved(layout, f"layers.{layer}.mixer.", there)
