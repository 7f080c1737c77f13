"""Transformer-XL (Dai et al. 2019, arXiv 1901.02860), numerically equal to the authors' code.

Shapes: B lanes, T tokens of the segment, M memory positions, K = M + T keys, D d_model, H heads, E d_head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tbptt.device import Precision, parameter_dtype
from tbptt.errors import UserError
from tbptt.models.alignment import aligned_linear, crop
from tbptt.models.attention.choice import Attention, check_attention, pick_attention
from tbptt.models.attention.relative import (
    RelativeAttention,
    causal_mask,
    inverse_frequencies,
    key_distances,
    next_memory,
    sinusoid,
)
from tbptt.models.attention.remembered import next_remembered, visible_before
from tbptt.models.checks import check_at_least, check_context, check_probabilities
from tbptt.models.documents import tokens_since_start
from tbptt.models.dropout import Dropout, relu_dropout
from tbptt.models.protocol import InitialMemory, State
from tbptt.models.vocabulary.clusters import ClusteredIds
from tbptt.models.vocabulary.model import VocabularyConfig, VocabularyModel

NO_ZEROS = "initial_memory=zeros has no meaning for documents that reset the state, which start from the empty memory"


@dataclass
class TransformerXLConfig(VocabularyConfig):
    name: str = "transformer_xl"
    n_layer: int = 4
    d_model: int = 256  # size of embeddings and of layers' outputs
    n_head: int = 4  # attention heads
    d_head: int = 64  # size of one
    d_inner: int = 1024  # hidden units of the feed-forward layers
    dropout: float = 0.0  # of embeddings, of what layers add, and of the last output
    dropatt: float = 0.0  # dropout of attention weights
    pre_lnorm: bool = False  # LayerNorm before attention and feed-forward, not after their sums
    untie_r: bool = False  # separate position biases u, v in every layer
    tgt_len: int = 128  # tokens per segment
    mem_len: int = 128  # positions remembered per layer
    clamp_len: int = -1  # larger distances are clamped to this; -1: no limit
    same_length: bool = False  # every query sees exactly mem_len keys, itself included
    initial_memory: InitialMemory = InitialMemory.empty  # zeros: mem_len zero vectors that are attended to
    attention: Attention = Attention.auto  # the implementation of relative attention

    TIES_FIRST: ClassVar[bool] = False  # as in the original code
    CONTEXT: ClassVar[tuple[str, ...]] = ("mem_len", "clamp_len", "same_length")
    RESULT_NEUTRAL: ClassVar[tuple[str, ...]] = ("attention",)

    def check(self, vocab_size: int | None) -> None:
        super().check(vocab_size)
        check_at_least(self, 1, "n_layer", "d_model", "n_head", "d_head", "d_inner")
        check_probabilities(self, "dropout", "dropatt")
        if self.d_model % 2:
            raise UserError(
                f"model.d_model={self.d_model} must be even: position embeddings are half sines and half cosines"
            )
        check_context("model.", self.mem_len, self.clamp_len, self.same_length)

    def check_eval(self, settings: dict[str, Any]) -> None:
        check_context("eval.", **{key: settings.get(key, getattr(self, key)) for key in self.CONTEXT})

    def check_documents(self, settings: dict[str, Any]) -> None:
        if settings.get("initial_memory", self.initial_memory.name) == InitialMemory.zeros.name:
            raise UserError(NO_ZEROS)

    def any_segments(self, settings: dict[str, Any]) -> bool:
        return settings.get("same_length", self.same_length)

    def check_precision(self, precision: Precision, device: torch.device) -> None:
        check_attention("model.attention", self.attention, self.d_head, device, parameter_dtype(precision))

    def build(self, vocab_size: int, activation_checkpointing: bool = False) -> TransformerXL:
        self.check(vocab_size)
        return TransformerXL(self, vocab_size, activation_checkpointing)


class FeedForward(nn.Module):
    def __init__(self, d_model: int, d_inner: int, dropout: float):
        super().__init__()
        self.inner = nn.Linear(d_model, d_inner)
        self.outer = nn.Linear(d_inner, d_model)
        self.dropout = dropout

    def forward(self, x_BTD: Tensor) -> Tensor:
        h_BTI = relu_dropout(aligned_linear(x_BTD, self.inner), self.dropout if self.training else 0.0)
        return crop(aligned_linear(h_BTI, self.outer), x_BTD.shape[-1])


class Layer(nn.Module):
    """Relative attention, then feed-forward; LayerNorm after each residual sum or (pre_lnorm) before each branch."""

    NOT_MATRICES: ClassVar = ("content_bias_HE", "position_bias_HE")

    def __init__(self, config: TransformerXLConfig):
        super().__init__()
        c = config
        self.pre_lnorm = c.pre_lnorm
        self.attention = RelativeAttention(c.d_model, c.n_head, c.d_head, c.dropatt, c.attention)
        self.attention_norm = nn.LayerNorm(c.d_model)
        self.feed_forward = FeedForward(c.d_model, c.d_inner, c.dropout)
        self.feed_forward_norm = nn.LayerNorm(c.d_model)
        self.drop = Dropout(c.dropout)
        if c.untie_r:
            self.content_bias_HE = nn.Parameter(torch.empty(c.n_head, c.d_head))
            self.position_bias_HE = nn.Parameter(torch.empty(c.n_head, c.d_head))

    def forward(
        self, x_BTD, memory, positions_KD, content_bias_HE, position_bias_HE, window, since_BT, mask
    ) -> tuple[Tensor, Tensor | None]:
        """As of `RelativeAttention.forward`."""
        arguments = positions_KD, content_bias_HE, position_bias_HE, window, since_BT, mask
        if self.pre_lnorm:
            memory = self.attention_norm(memory) if memory.dim() == 3 else memory
            y_BTD, keys_values = self.attention(self.attention_norm(x_BTD), memory, *arguments)
            x_BTD = x_BTD + self.drop(y_BTD)
            return x_BTD + self.drop(self.feed_forward(self.feed_forward_norm(x_BTD))), keys_values
        y_BTD, keys_values = self.attention(x_BTD, memory, *arguments)
        x_BTD = self.attention_norm(x_BTD + self.drop(y_BTD))
        return self.feed_forward_norm(x_BTD + self.drop(self.feed_forward(x_BTD))), keys_values

    def keys_values(self, x_BTD: Tensor, fused: bool) -> Tensor:
        """Keys and values of this layer's inputs: (B, T, 2, H, E)."""
        return self.attention.keys_values(self.attention_norm(x_BTD) if self.pre_lnorm else x_BTD, fused)


class TransformerXL(VocabularyModel):
    """The state is a tuple of memories, one (B, M, D) per layer: the last M <= mem_len inputs of that layer.

    For inference it holds their keys and values (B, M, 2, H, E) instead, so that each position is projected once.
    With documents, one more tensor (B,) counts the tokens that are remembered of every lane's document.
    """

    NOT_MATRICES: ClassVar = ("content_bias_HE", "position_bias_HE")
    inverse_frequency: Tensor
    layers: Any  # a ModuleList of Layer

    def __init__(self, config: TransformerXLConfig, vocab_size: int, activation_checkpointing: bool = False):
        super().__init__()
        c = config
        self.d_model, self.untie_r, self.activation_checkpointing = c.d_model, c.untie_r, activation_checkpointing
        self.mem_len, self.clamp_len, self.same_length = c.mem_len, c.clamp_len, c.same_length
        self.initial_memory, self.attention = c.initial_memory, c.attention
        self.n_head, self.d_head = c.n_head, c.d_head
        self.embedding = c.make_embedding(vocab_size)
        self.register_buffer("inverse_frequency", inverse_frequencies(c.d_model), persistent=False)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.n_layer))
        if not c.untie_r:
            self.content_bias_HE = nn.Parameter(torch.empty(c.n_head, c.d_head))
            self.position_bias_HE = nn.Parameter(torch.empty(c.n_head, c.d_head))
        self.softmax = c.make_softmax(self.embedding)
        self.drop = Dropout(c.dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As in the original code: N(0, 0.02), projections of embeddings N(0, 0.01), LayerNorm N(1, 0.02), biases 0."""
        for name, parameter in self.named_parameters():
            if "projections" in name:
                parameter.normal_(0, 0.01)
            elif "norm.weight" in name:
                parameter.normal_(1, 0.02)
            elif name.endswith(("_HE", "weight")) or "tables" in name:
                parameter.normal_(0, 0.02)
            else:
                parameter.zero_()

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        like = self.embedding.tables[0]
        length = self.mem_len if self.initial_memory is InitialMemory.zeros else 0
        return tuple(like.new_zeros(batch_size, length, self.d_model) for _ in self.layers)

    def for_inference(self, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        fused = self._attention() is Attention.fused
        keys_values = (layer.keys_values(memory, fused) for layer, memory in zip(self.layers, state))
        return *keys_values, *state[len(self.layers) :]

    def reach(self, tgt_len: int) -> int:
        """Each layer sees mem_len positions further back, rounded up to whole segments."""
        return len(self.layers) * -(-self.mem_len // tgt_len) * tgt_len

    def any_segments(self) -> bool:
        return self.same_length

    def cost(self, tgt_len: int) -> tuple[float, float]:
        keys, heads, dense = self.mem_len + tgt_len, self.n_head, sum(p.numel() for p in self.layers.parameters())
        head_size, d_embed = self.embedding.tables[0].shape  # most tokens are in the first cluster
        multiplications = dense + head_size * d_embed + 3 * len(self.layers) * keys * heads * self.d_head
        return multiplications, 4 * max(head_size, heads * keys)

    def state_size(self) -> int:
        """Of keys and values."""
        return 2 * len(self.layers) * self.mem_len * self.n_head * self.d_head

    def context(self) -> dict[str, Any]:
        window = {key: getattr(self, key) for key in TransformerXLConfig.CONTEXT}
        return window | {"initial_memory": self.initial_memory.name}

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def notes(self) -> list[str]:
        return [f"model.attention={self.attention.name}: attention is {self._attention().name}"]

    def _attention(self) -> Attention:
        weight = self.embedding.tables[0]
        return pick_attention(self.attention, self.d_head, weight.device, weight.dtype)

    def set_context(self, **settings: Any) -> None:
        super().set_context(**settings)
        settings = self.context() | settings
        if settings["initial_memory"] not in InitialMemory.__members__:
            choices = ", ".join(InitialMemory.__members__)
            raise UserError(f"initial_memory={settings['initial_memory']} must be one of {choices}")
        check_context("", **{key: settings[key] for key in TransformerXLConfig.CONTEXT})
        self.initial_memory = InitialMemory[settings["initial_memory"]]
        self.mem_len, self.clamp_len, self.same_length = (settings[key] for key in TransformerXLConfig.CONTEXT)

    def hidden(
        self, tokens_BT: Tensor | ClusteredIds, state: Sequence[Tensor], starts_BT: Tensor | None = None
    ) -> tuple[Tensor, State]:
        if starts_BT is not None and self.initial_memory is InitialMemory.zeros:
            raise UserError(NO_ZEROS)
        T, K = tokens_BT.shape[1], state[0].shape[1] + tokens_BT.shape[1]
        since_BT = None if starts_BT is None else tokens_since_start(starts_BT)
        since_BT = visible_before(since_BT, state[0], T, *state[len(self.layers) :])
        x_BTD = self.drop(self.embedding(tokens_BT))
        distance_K = key_distances(K, self.clamp_len, like=self.inverse_frequency)
        positions_KD = self.drop(sinusoid(distance_K, self.inverse_frequency))
        window = self.mem_len if self.same_length else None
        mask = causal_mask(T, K, window, x_BTD, since_BT) if self._attention() is Attention.plain else None
        memories = []
        for layer, memory in zip(self.layers, state):
            owner = layer if self.untie_r else self
            bias = owner.content_bias_HE, owner.position_bias_HE
            arguments = x_BTD, memory, positions_KD, *bias, window, since_BT, mask
            if self.activation_checkpointing and self.training:
                y_BTD, keys_values = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                y_BTD, keys_values = layer(*arguments)
            memories.append(next_memory(memory, x_BTD, keys_values, self.mem_len))
            x_BTD = y_BTD
        return self.drop(x_BTD), (*memories, *next_remembered(since_BT).values())
