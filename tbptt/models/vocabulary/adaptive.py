"""Adaptive input embedding and adaptive softmax (Baevski & Auli 2019; Grave et al. 2017), tied as in Transformer-XL.

The vocabulary, sorted by frequency, is divided into clusters: the head [0, cutoffs[0]) and tails [cutoffs[i-1],
cutoffs[i]). Cluster i has embeddings of size d_embed // div_val**i in a table of its own, which embedding and softmax
may share.

Shapes: N tokens (lanes and positions flattened), D model size, E embedding size of a cluster, V entries of a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbptt.models.soft_cap import soft_cap
from tbptt.models.vocabulary.clusters import ClusteredIds, cluster_bounds, zero_outside
from tbptt.models.vocabulary.linear_cross_entropy import linear_cross_entropy
from tbptt.models.vocabulary.lookup import TiedLookup


class AdaptiveEmbedding(nn.Module):
    """Token ids -> vectors of size D, times `scale`, by default sqrt(D).

    As in the original code, there is one projection to D per cluster if `div_val` > 1, else a single one for all
    clusters if `d_embed` differs from D, else none.
    """

    def __init__(
        self,
        vocab_size: int,
        d_embed: int,
        d_model: int,
        cutoffs: Sequence[int],
        div_val: int,
        scale: float | None = None,
    ):
        super().__init__()
        self.scale = d_model**0.5 if scale is None else scale
        self.bounds = cluster_bounds(vocab_size, cutoffs)
        self.d_model = d_model
        self.tied = False  # set by an AdaptiveSoftmax that shares the tables
        self.shared_tables: dict[int, Tensor] = {}  # cluster -> table for the softmax's next forward pass
        sizes = [d_embed // div_val**i for i in range(len(self.bounds))]
        self.tables = nn.ParameterList(
            nn.Parameter(torch.empty(high - low, size)) for (low, high), size in zip(self.bounds, sizes)
        )
        projected = sizes if div_val > 1 else sizes[:1] if d_embed != d_model else []
        self.projections = nn.ParameterList(nn.Parameter(torch.empty(d_model, size)) for size in projected)

    def projection(self, cluster: int) -> Tensor | None:
        """The (D, E) projection of a cluster, None if embeddings already have size D."""
        if not len(self.projections):
            return None
        return self.projections[cluster if len(self.projections) > 1 else 0]

    def forward(self, ids_BT: Tensor | ClusteredIds) -> Tensor:
        self.shared_tables.clear()
        clustered_N = ClusteredIds.ensure(ids_BT, self.bounds).flatten()
        if len(self.bounds) == 1:
            x_ND = self._embed(clustered_N.ids, 0)
        else:
            x_ND = self.tables[0].new_zeros(len(clustered_N.ids), self.d_model)
            for cluster in range(len(self.bounds)):
                index, local_ids, inside = clustered_N.select_cluster(cluster, self.bounds)
                rows = self._embed(local_ids, cluster)
                x_ND = x_ND.to(rows.dtype).index_add(0, index, zero_outside(rows, inside))
        return (x_ND * self.scale).unflatten(0, ids_BT.shape)

    def _embed(self, ids_N: Tensor, cluster: int) -> Tensor:
        if self.tied and torch.is_grad_enabled():
            x_NE, self.shared_tables[cluster] = TiedLookup.apply(self.tables[cluster], ids_N)
        else:
            x_NE = F.embedding(ids_N, self.tables[cluster])
        projection = self.projection(cluster)
        return x_NE if projection is None else F.linear(x_NE, projection)


class AdaptiveSoftmax(nn.Module):
    """Negative log-likelihoods of the next token (`forward`), or all log-probabilities (`log_probs`).

    The head scores its own entries and one entry per tail; as in the original code, tail i (from 1) is head column -i.
    `tie_weight` shares the tables of `embedding`; `tie_projs[i]` shares the projection of cluster i; `logit_cap` is a
    soft limit of all logits.
    """

    def __init__(
        self,
        embedding: AdaptiveEmbedding,
        d_model: int,
        tie_weight: bool,
        tie_projs: Sequence[bool],
        bias: bool = True,
        logit_cap: float | None = None,
    ):
        super().__init__()
        self.logit_cap = logit_cap
        self.bounds = embedding.bounds
        n_tails = len(self.bounds) - 1
        embedding.tied = tie_weight
        self.shared_tables = embedding.shared_tables if tie_weight else {}
        self.tables = nn.ParameterList(
            table if tie_weight else nn.Parameter(torch.empty_like(table)) for table in embedding.tables
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.empty(high - low)) for low, high in self.bounds if bias)
        self.projections = nn.ParameterList()
        for cluster, tied in enumerate(tie_projs):
            shared = embedding.projection(cluster)
            if shared is not None:
                self.projections.append(shared if tied else nn.Parameter(torch.empty_like(shared)))
        if n_tails:
            self.cluster_weight = nn.Parameter(torch.empty(n_tails, embedding.tables[0].shape[1]))
            self.cluster_bias = nn.Parameter(torch.empty(n_tails)) if bias else None

    def forward(self, h_ND: Tensor, targets_N: Tensor | ClusteredIds) -> Tensor:
        """(N, D) hidden states and (N,) target ids -> (N,) losses in nats, in the same order."""
        targets = ClusteredIds.ensure(targets_N, self.bounds)
        head_size = self.bounds[0][1] + len(self.bounds) - 1
        head_targets_N = ids_N = targets.ids
        for tail, (low, high) in enumerate(self.bounds[1:], start=1):
            head_targets_N = head_targets_N.masked_fill((ids_N >= low) & (ids_N < high), head_size - tail)
        head = self._head(self._table(0))
        nll_N = linear_cross_entropy(self._project(h_ND, 0), *head, head_targets_N, self.logit_cap)
        for tail in range(1, len(self.bounds)):
            # A tail without a target is computed too, so that its gradient is zero, not None, as with one large table.
            index, local_ids, inside = targets.select_cluster(tail, self.bounds)
            x_NE = self._project(h_ND.index_select(0, index), tail)
            tail_nll = linear_cross_entropy(x_NE, self._table(tail), self._bias(tail), local_ids, self.logit_cap)
            nll_N = nll_N.index_add(0, index, zero_outside(tail_nll, inside))
        return nll_N

    def log_probs(self, h_ND: Tensor) -> Tensor:
        """(N, D) hidden states -> (N, vocabulary size) log-probabilities."""
        head = self._capped(F.linear(self._project(h_ND, 0), *self._head(self.tables[0]))).log_softmax(-1)
        tails = [head[:, -tail, None] + self._logits(h_ND, tail).log_softmax(-1) for tail in range(1, len(self.bounds))]
        return torch.cat([head[:, : self.bounds[0][1]], *tails], dim=-1)

    def _table(self, cluster: int) -> Tensor:
        """The view of the table from the embedding's forward pass, which accumulates both gradients; else the table."""
        return self.shared_tables.pop(cluster, self.tables[cluster])

    def _bias(self, cluster: int) -> Tensor | None:
        return self.biases[cluster] if len(self.biases) else None

    def _head(self, table_VE: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the head: its own entries, then the tails."""
        bias = self._bias(0)
        if len(self.bounds) == 1:
            return table_VE, bias
        if bias is not None and self.cluster_bias is not None:
            bias = torch.cat([bias, self.cluster_bias])
        return torch.cat([table_VE, self.cluster_weight]), bias

    def _logits(self, h_ND: Tensor, cluster: int) -> Tensor:
        return self._capped(F.linear(self._project(h_ND, cluster), self.tables[cluster], self._bias(cluster)))

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.logit_cap is None else soft_cap(logits, self.logit_cap)

    def _project(self, h_ND: Tensor, cluster: int) -> Tensor:
        return F.linear(h_ND, self.projections[cluster].t()) if len(self.projections) else h_ND
