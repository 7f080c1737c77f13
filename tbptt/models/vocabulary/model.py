"""What all models here have for their vocabulary: adaptive embedding and softmax, and their settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch

from tbptt.errors import UserError
from tbptt.models.protocol import ModelConfig, RecurrentModel
from tbptt.models.vocabulary.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from tbptt.models.vocabulary.clusters import ClusteredIds


@dataclass
class VocabularyConfig(ModelConfig):
    d_model: int
    d_embed: int | None = None  # embedding size of the first cluster; d_model if not given
    div_val: int = 1  # the embedding size is divided by this from cluster to cluster
    cutoffs: list[int] = field(default_factory=list)  # first token ids of all clusters but the first
    tie_weight: bool = True  # softmax and embedding share their tables
    tie_projs: list[bool] | None = None  # per cluster: share the projection. None: all, but Transformer-XL's first

    TIES_FIRST: ClassVar[bool] = True  # whether the default of tie_projs shares the projection of the first cluster

    def check(self, vocab_size: int | None) -> None:
        super().check(vocab_size)
        cutoffs = list(self.cutoffs)
        if any(low >= high for low, high in pairwise([0, *cutoffs])):
            raise UserError(f"model.cutoffs={cutoffs} must be positive and ascending, such as [20000, 40000, 200000]")
        if vocab_size is not None and cutoffs and cutoffs[-1] >= vocab_size:
            raise UserError(
                f"model.cutoffs={cutoffs} must be below the vocabulary size, {vocab_size}; "
                "for a small vocabulary use model.cutoffs=[]"
            )
        if self.div_val < 1:
            raise UserError(f"model.div_val={self.div_val} must be 1 or more")
        d_embed = self.d_model if self.d_embed is None else self.d_embed
        if d_embed < 1:
            raise UserError(f"model.d_embed={d_embed} must be 1 or more")
        if d_embed // self.div_val ** len(cutoffs) < 1:
            raise UserError(
                f"model.div_val={self.div_val} gives the last of {len(cutoffs) + 1} clusters an embedding size below 1 "
                f"(model.d_embed={d_embed}): use a smaller div_val or fewer cutoffs"
            )
        if self.tie_projs is not None and len(self.tie_projs) != len(cutoffs) + 1:
            raise UserError(
                f"model.tie_projs has {len(self.tie_projs)} entries, but must have {len(cutoffs) + 1}: "
                f"one for each cluster of model.cutoffs={cutoffs}"
            )

    def make_embedding(self, vocab_size: int, scale: float | None = None) -> AdaptiveEmbedding:
        d_embed = self.d_embed or self.d_model
        return AdaptiveEmbedding(vocab_size, d_embed, self.d_model, self.cutoffs, self.div_val, scale)

    def make_softmax(
        self, embedding: AdaptiveEmbedding, bias: bool = True, logit_cap: float | None = None
    ) -> AdaptiveSoftmax:
        default = [self.TIES_FIRST, *[True] * len(self.cutoffs)]
        tie_projs = default if self.tie_projs is None else self.tie_projs
        return AdaptiveSoftmax(embedding, self.d_model, self.tie_weight, tie_projs, bias, logit_cap)


class VocabularyModel(RecurrentModel):
    """A model with an adaptive embedding and softmax: token ids are sorted by cluster on the host."""

    embedding: AdaptiveEmbedding
    softmax: AdaptiveSoftmax

    def send(self, ids: Any, device: torch.device, multiple: int = 1) -> ClusteredIds:
        return super().send(ClusteredIds.from_ids(ids, self.embedding.bounds, multiple), device)
