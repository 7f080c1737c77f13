"""A multi-layer LSTM language model (as in Merity et al. 2018, without their regularisation methods).

Shapes: B lanes, T tokens of the segment, L layers, D d_model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tbptt.device import Precision
from tbptt.models.checks import check_at_least, check_probabilities
from tbptt.models.dropout import Dropout
from tbptt.models.lstm_pieces import run_lstm
from tbptt.models.protocol import State
from tbptt.models.vocabulary.clusters import ClusteredIds
from tbptt.models.vocabulary.model import VocabularyConfig, VocabularyModel


@dataclass
class LSTMConfig(VocabularyConfig):
    name: str = "lstm"
    n_layer: int = 2
    d_model: int = 512  # hidden units of every layer
    dropout: float = 0.0  # on embeddings, between layers and on the last layer's output
    tgt_len: int = 128  # tokens per segment

    def check(self, vocab_size: int | None) -> None:
        super().check(vocab_size)
        check_at_least(self, 1, "n_layer", "d_model")
        check_probabilities(self, "dropout")

    def waits_for_starts(self, precision: Precision, device: torch.device) -> bool:
        return True

    def build(self, vocab_size: int, activation_checkpointing: bool = False) -> LSTM:
        """`activation_checkpointing` has no effect: nn.LSTM keeps what its gradient needs."""
        self.check(vocab_size)
        return LSTM(self, vocab_size)


class LSTM(VocabularyModel):
    """LSTM language model. The state is (h, c), each (B, L, D), in the dtype of the weights in every precision."""

    def __init__(self, config: LSTMConfig, vocab_size: int):
        super().__init__()
        c = config
        self.embedding = c.make_embedding(vocab_size)
        # One by one: with several layers, cuDNN draws dropout masks that no checkpoint and no recomputation can repeat.
        self.layers = nn.ModuleList(nn.LSTM(c.d_model, c.d_model, batch_first=True) for _ in range(c.n_layer))
        self.softmax = c.make_softmax(self.embedding)
        self.d_model, self.drop = c.d_model, Dropout(c.dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Recurrent weights U(-1/sqrt(D), 1/sqrt(D)) as in torch, forget gate bias 1, others as in Transformer-XL."""
        D = self.d_model
        for name, parameter in self.named_parameters():
            if "layers" in name and "weight" in name:
                parameter.uniform_(-(D**-0.5), D**-0.5)
            elif "bias" in name:
                parameter.zero_()
                if "bias_ih" in name:
                    parameter[D : 2 * D] = 1.0
            else:
                parameter.normal_(0, 0.01 if "projections" in name else 0.02)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        zeros = self.embedding.tables[0].new_zeros(batch_size, len(self.layers), self.d_model)
        return zeros, zeros.clone()

    def reach(self, tgt_len: int) -> None:
        return None

    def any_segments(self) -> bool:
        return True

    def hidden(
        self, tokens_BT: Tensor | ClusteredIds, state: State, starts_BT: Tensor | None = None
    ) -> tuple[Tensor, State]:
        x_BTD, (h_BLD, c_BLD), new = self.embedding(tokens_BT), state, []
        y_BTD = x_BTD.to(c_BLD.dtype)
        with torch.autocast(x_BTD.device.type, enabled=False):  # it would round c at every border of segments
            for layer, h_BD, c_BD in zip(self.layers, h_BLD.unbind(1), c_BLD.unbind(1)):
                y_BTD, state_1BD = run_lstm(layer, self.drop(y_BTD), h_BD[None], c_BD[None], starts_BT)
                new.append(state_1BD)
        states = tuple(torch.cat(parts).transpose(0, 1).contiguous() for parts in zip(*new))
        return self.drop(y_BTD.to(x_BTD.dtype)), states
