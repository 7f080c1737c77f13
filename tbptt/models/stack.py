"""A stack of layers whose mixers are chosen one by one: recurrent ones, attention, or hybrids of them.

Shapes: B lanes, T tokens of the segment, D d_model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tbptt.device import Precision, product_dtype
from tbptt.errors import UserError
from tbptt.models.checks import check_at_least, check_probabilities
from tbptt.models.documents import tokens_since_start
from tbptt.models.dropout import Dropout
from tbptt.models.feed_forward import FeedForward, FeedForwardKind
from tbptt.models.mixers import (
    AttentionConfig,
    GatedDeltaConfig,
    GLAConfig,
    LSTMMixerConfig,
    Mamba2Config,
    MixerConfig,
    MLSTMConfig,
    RelativeAttentionConfig,
    RGLRUConfig,
    SLSTMConfig,
)
from tbptt.models.mixers.initialisation import init_linear
from tbptt.models.mixers.kernels import Kernels, fused_obstacle, pick_kernels
from tbptt.models.norms import Norm, make_norm
from tbptt.models.protocol import State
from tbptt.models.vocabulary.clusters import ClusteredIds
from tbptt.models.vocabulary.model import VocabularyConfig, VocabularyModel

log = logging.getLogger(__name__)


@dataclass
class StackConfig(VocabularyConfig):
    name: str = "stack"
    n_layer: int = 4
    d_model: int = 128  # size of embeddings and of layers' outputs
    layers: list[str] = field(default_factory=lambda: ["gated_delta"])  # names of mixers, repeated up to n_layer
    feed_forward: FeedForwardKind = FeedForwardKind.swiglu  # after every mixer; swiglu and geglu are gated
    d_inner: int = 256  # hidden units of the feed-forward layers
    feed_forward_bias: bool = False  # biases in it
    norm: Norm = Norm.rms  # rms_plus_one: the weights are stored as their distance from 1
    norm_eps: float = 1e-5  # added to the mean square, or to the variance
    norm_after: list[str] = field(
        default_factory=list
    )  # mixers whose layers normalise what they add, not what they read
    scale_embedding: bool = False  # embeddings times sqrt(d_model)
    embedding_scale: float | None = None  # with scale_embedding, the factor in place of sqrt(d_model)
    softmax_bias: bool = False  # a bias for every token
    logit_cap: float | None = None  # a soft limit of the logits
    dropout: float = 0.0  # on embeddings, on what layers add, and on the last layer's output
    tgt_len: int = 64  # tokens per segment
    kernels: Kernels = Kernels.auto  # the implementation of the recurrences of gated_delta, gla and mamba2
    gated_delta: GatedDeltaConfig = field(default_factory=GatedDeltaConfig)
    mamba2: Mamba2Config = field(default_factory=Mamba2Config)
    mlstm: MLSTMConfig = field(default_factory=MLSTMConfig)
    slstm: SLSTMConfig = field(default_factory=SLSTMConfig)
    rg_lru: RGLRUConfig = field(default_factory=RGLRUConfig)
    gla: GLAConfig = field(default_factory=GLAConfig)
    lstm: LSTMMixerConfig = field(default_factory=LSTMMixerConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    relative_attention: RelativeAttentionConfig = field(default_factory=RelativeAttentionConfig)

    RESULT_NEUTRAL: ClassVar[tuple[str, ...]] = ("kernels",)

    def mixers(self) -> list[MixerConfig]:
        """The configuration of every layer's mixer."""
        return [getattr(self, self.layers[layer % len(self.layers)]) for layer in range(self.n_layer)]

    def unused_settings(self) -> list[str]:
        """Settings of mixers that no layer is, as they are typed."""
        others = (
            part for part in vars(self).values() if isinstance(part, MixerConfig) and part.NAME not in self.layers
        )
        return [
            f"model.{mixer.NAME}.{each.name}={getattr(mixer, each.name)}"
            for mixer in others
            for each in fields(mixer)
            if getattr(mixer, each.name) != getattr(type(mixer)(), each.name)
        ]

    def check(self, vocab_size: int | None) -> None:
        super().check(vocab_size)
        check_at_least(self, 1, "n_layer", "d_model", "d_inner")
        check_probabilities(self, "dropout")
        known = [key for key, value in vars(self).items() if isinstance(value, MixerConfig)]
        if not self.layers or any(name not in known for name in self.layers):
            raise UserError(
                f"model.layers={list(self.layers)} must be a list of mixers, each one of {', '.join(known)}"
            )
        if self.embedding_scale is not None and not self.scale_embedding:
            raise UserError(f"model.embedding_scale={self.embedding_scale} is only for model.scale_embedding=true")
        if unused := [name for name in self.norm_after if name not in self.layers]:
            raise UserError(f"model.norm_after={unused} must be mixers of model.layers={list(self.layers)}")
        if self.logit_cap is not None and self.logit_cap <= 0:
            raise UserError(f"model.logit_cap={self.logit_cap} must be a positive number, or null for no limit")
        for mixer in self.mixers():
            mixer.check(self.d_model)

    def check_eval(self, settings: dict[str, Any]) -> None:
        mixers = self.mixers()
        known = {key for mixer in mixers for key in mixer.CONTEXT}
        unused = [f"eval.{key}={value}" for key, value in settings.items() if key not in known]
        if not known:
            super().check_eval(settings)
        elif unused:
            names = ", ".join(dict.fromkeys(mixer.NAME for mixer in mixers))
            raise UserError(f"{', '.join(unused)} does not apply to this model, whose layers are {names}")
        for mixer in mixers:
            mixer.check_eval(settings)

    def any_segments(self, settings: dict[str, Any]) -> bool:
        return all(mixer.any_segments(settings) for mixer in self.mixers())

    def check_precision(self, precision: Precision, device: torch.device) -> None:
        if precision is Precision.fp16 and device.type == "cpu":
            raise UserError("trainer.precision=fp16: PyTorch lacks float16 operations on a CPU; use fp32 or bf16")
        for sizes in filter(None, (mixer.kernel_sizes() for mixer in self.mixers())):
            obstacle = fused_obstacle(sizes, device, product_dtype(precision))
            if self.kernels is Kernels.fused and obstacle:
                raise UserError(f"model.kernels=fused {obstacle}: use model.kernels=auto or plain")
        for mixer in self.mixers():
            mixer.check_precision(precision, device)

    def waits_for_starts(self, precision: Precision, device: torch.device) -> bool:
        """An LSTM is cut where documents start, and kernels are told by numbers of the host."""
        sizes, dtype = filter(None, (mixer.kernel_sizes() for mixer in self.mixers())), product_dtype(precision)
        with_kernels = any(pick_kernels(self.kernels, each, device, dtype) is Kernels.fused for each in sizes)
        return with_kernels or any(mixer is self.lstm for mixer in self.mixers())

    def build(self, vocab_size: int, activation_checkpointing: bool = False) -> Stack:
        self.check(vocab_size)
        return Stack(self, vocab_size, activation_checkpointing)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + feed_forward(norm(x)) where there is one; with norm_after, x + norm(mixer(x))."""

    def __init__(self, config: StackConfig, layer: int):
        super().__init__()
        c, mixer = config, config.mixers()[layer]
        self.norm_after = mixer.NAME in c.norm_after
        self.mixer_norm = make_norm(c.norm, c.d_model, c.norm_eps)
        self.mixer = mixer.build(c.d_model, layer, c.n_layer)
        self.mixer.kernels, self.mixer.kernel_sizes = c.kernels, mixer.kernel_sizes()
        self.feed_forward: FeedForward | None = None
        if c.feed_forward is not FeedForwardKind.none:
            self.feed_forward_norm = make_norm(c.norm, c.d_model, c.norm_eps)
            self.feed_forward = FeedForward(c.d_model, c.d_inner, c.feed_forward, c.feed_forward_bias)
        self.drop = Dropout(c.dropout)

    def forward(self, x_BTD: Tensor, state: State, since_BT: Tensor | None = None) -> tuple[Tensor, State]:
        y_BTD, state = self.mixer(x_BTD if self.norm_after else self.mixer_norm(x_BTD), state, since_BT)
        x_BTD = x_BTD + self.drop(self.mixer_norm(y_BTD) if self.norm_after else y_BTD)
        if self.feed_forward is not None:
            norm = self.feed_forward_norm
            y_BTD = norm(self.feed_forward(x_BTD)) if self.norm_after else self.feed_forward(norm(x_BTD))
            x_BTD = x_BTD + self.drop(y_BTD)
        return x_BTD, state


class Stack(VocabularyModel):
    """The state is a tuple of the mixers' states, one per layer."""

    layers: Any  # a ModuleList of Block

    def __init__(self, config: StackConfig, vocab_size: int, activation_checkpointing: bool = False):
        super().__init__()
        c, self.activation_checkpointing = config, activation_checkpointing
        self.kernels, self.names = c.kernels, [mixer.NAME for mixer in c.mixers()]
        self.embedding = c.make_embedding(vocab_size, c.embedding_scale if c.scale_embedding else 1.0)
        self.layers = nn.ModuleList(Block(c, layer) for layer in range(c.n_layer))
        self.final_norm = make_norm(c.norm, c.d_model, c.norm_eps)
        self.softmax = c.make_softmax(self.embedding, c.softmax_bias, c.logit_cap)
        self.drop = Dropout(c.dropout)
        if unused := [name for name in dict.fromkeys(c.layers) if name not in self.names]:
            log.warning("model.n_layer=%s leaves %s of model.layers=%s unused", c.n_layer, unused, list(c.layers))
        if c.kernels is Kernels.fused and not any(mixer.kernel_sizes() for mixer in c.mixers()):
            log.warning("model.kernels=fused has no effect: model.layers=%s have no kernels", list(c.layers))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Mixers as their references, embeddings and feed-forward layers N(0, 0.02)."""
        for part in (self.embedding, self.softmax):
            for name, parameter in part.named_parameters():
                if "bias" in name:
                    parameter.zero_()
                else:
                    parameter.normal_(0, 0.02)
        for layer in self.layers:
            layer.mixer.reset_parameters()
            if layer.feed_forward is not None:
                init_linear(layer.feed_forward)

    def initial_state(self, batch_size: int) -> State:
        return tuple(layer.mixer.initial_state(batch_size) for layer in self.layers)

    def reach(self, tgt_len: int) -> int | None:
        reaches = [layer.mixer.reach(tgt_len) for layer in self.layers]
        return None if None in reaches else sum(reaches)

    def any_segments(self) -> bool:
        return all(layer.mixer.any_segments() for layer in self.layers)

    def cost(self, tgt_len: int) -> tuple[float, float]:
        multiplications, activations = super().cost(tgt_len)
        of_mixers = [layer.mixer.cost(tgt_len) for layer in self.layers]
        return multiplications + sum(each for each, _ in of_mixers), max(activations, *(each for _, each in of_mixers))

    def state_size(self) -> int:
        return sum(layer.mixer.state_size() for layer in self.layers)

    def for_inference(self, state: State) -> State:
        return tuple(layer.mixer.for_inference(part) for layer, part in zip(self.layers, state, strict=True))

    def blocks(self) -> list[nn.Module]:
        """Whole layers, or their feed-forward alone where the mixer is not to be compiled."""
        parts = (layer if layer.mixer.COMPILES else layer.feed_forward for layer in self.layers)
        return [part for part in parts if part is not None]

    def context(self) -> dict[str, Any]:
        """The mixers' settings; of mem_len the largest where they differ, None if one has no limit."""
        found: dict[str, Any] = {}
        for layer in self.layers:
            for key, value in layer.mixer.context().items():
                found[key] = value if key not in found else _longer(found[key], value)
        return found

    def set_context(self, **settings: Any) -> None:
        """For all mixers that have the setting."""
        super().set_context(**settings)
        for layer in self.layers:
            own = layer.mixer.context()
            layer.mixer.set_context(**{key: value for key, value in settings.items() if key in own})

    @contextmanager
    def with_context(self, **settings: Any) -> Iterator[None]:
        before = [layer.mixer.context() for layer in self.layers]
        try:
            self.set_context(**settings)
            yield
        finally:
            for layer, context in zip(self.layers, before):
                layer.mixer.set_context(**context)

    def notes(self) -> list[str]:
        like = self.embedding.tables[0]
        mixers = {name: layer.mixer for name, layer in zip(self.names, self.layers) if layer.mixer.kernel_sizes}
        forms = ", ".join(f"{name} is {mixer.kernels_for(like).name}" for name, mixer in mixers.items())
        of_kernels = [f"model.kernels={self.kernels.name}: {forms}"] if forms else []
        return of_kernels + list(dict.fromkeys(note for layer in self.layers for note in layer.mixer.notes()))

    def hidden(
        self, tokens_BT: Tensor | ClusteredIds, state: State, starts_BT: Tensor | None = None
    ) -> tuple[Tensor, State]:
        x_BTD, new = self.drop(self.embedding(tokens_BT)), []
        since_BT = None if starts_BT is None else tokens_since_start(starts_BT)
        for layer, layer_state in zip(self.layers, state, strict=True):
            if self.activation_checkpointing and self.training:
                x_BTD, layer_state = checkpoint(layer, x_BTD, layer_state, since_BT, use_reentrant=False)
            else:
                x_BTD, layer_state = layer(x_BTD, layer_state, since_BT)
            new.append(layer_state)
        return self.drop(self.final_norm(x_BTD)), tuple(new)


def _longer(a: int | None, b: int | None) -> int | None:
    """None is without limit."""
    return None if a is None or b is None else max(a, b)
