"""Dynamic evaluation (Krause et al. 2018, arXiv 1709.07432; 2019, arXiv 1904.08378): the weights adapt to the text.

One lane, in order. Every segment is scored before the weights are updated with its gradient:

    theta <- theta - lr g / (R + eps) + min(decay R / mean(R), 1) (theta_0 - theta)

g is the gradient of the segment's mean loss and theta_0 the trained weights. R is the root mean square of each weight's
gradient over segments of the training text; mean(R) is over all weights. For SGD, R + eps and R / mean(R) are 1.

Shapes: T tokens of a segment, one lane.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from tbptt.data.document_lanes import DocumentLanes
from tbptt.data.lanes import Lanes
from tbptt.device import Precision, autocast
from tbptt.errors import UserError
from tbptt.evaluation.config import BurnIn, EvalConfig
from tbptt.evaluation.dynamic_config import RMSDynamicConfig, SGDDynamicConfig
from tbptt.evaluation.score import Score, evaluating, reported_context
from tbptt.models.protocol import RecurrentModel, detach

Rates = list[tuple[Tensor | float, Tensor | float]]  # for each parameter: learning rate, decay to the trained weights


def score_dynamically(
    model: RecurrentModel,
    stream: np.ndarray,
    training_stream: np.ndarray | None,
    config: EvalConfig,
    tgt_len: int,
    precision: Precision = Precision.fp32,
    progress: Callable[[int, int], None] = lambda done, total: None,
    starts: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> Score:
    """Score the n-1 targets of a stream of n tokens while the weights adapt to it; restore the weights at the end.

    `tgt_len` is the model's segment length, used unless `config.tgt_len` is set: the loss depends on it, even under
    same_length. `training_stream` is for the gradient statistics of RMS; SGD needs none. UserError if the loss becomes
    infinite. `progress` is called with the number of segments done and the total. `starts` are the first tokens of the
    documents at which the state is emptied, in `stream` and in `training_stream`.
    """
    assert isinstance(config.dynamic, SGDDynamicConfig)
    stream = stream[: config.max_tokens + 1] if config.max_tokens else stream
    T, started, total = config.tgt_len or tgt_len, time.perf_counter(), 0.0
    parameters = list(model.parameters())
    trained_weights = [parameter.detach().clone() for parameter in parameters]
    segments = -(-(len(stream) - 1) // T)
    with evaluating(model), model.with_context(**config.context()):
        try:
            rates = _rates(model, training_stream, config.dynamic, T, precision, starts[1])
            losses = _losses_with_gradients(model, stream, T, precision, starts[0])
            for done, nll_1T in enumerate(losses, start=1):
                total += nll_1T.sum(dtype=torch.float64).item()
                if not math.isfinite(total):
                    raise UserError(
                        f"eval.dynamic.lr={config.dynamic.lr} led to an infinite loss after {done * T:,} tokens: use a "
                        "smaller one"
                    )
                _update_weights(parameters, trained_weights, rates)
                progress(done, segments)
        finally:
            with torch.no_grad():
                for parameter, trained in zip(parameters, trained_weights):
                    parameter.copy_(trained)
            model.zero_grad()
        context = {"mem_len": None, "clamp_len": None, "same_length": None} | reported_context(model)
    settings = {"tgt_len": T, **context, "batch_size": 1, "burn_in": BurnIn.exact.name}
    settings |= {"reset_state": "document"} if starts[0] is not None else {}
    return Score(len(stream) - 1, total / (len(stream) - 1), time.perf_counter() - started, settings, T)


def _losses_with_gradients(
    model: RecurrentModel, stream: np.ndarray, T: int, precision: Precision, starts_D: np.ndarray | None
) -> Iterator[Tensor]:
    """Yield each segment's losses (1, T), read in one lane; the gradient of their mean is then in the parameters."""
    device = next(model.parameters()).device
    lane = Lanes.cut(stream, 1, T) if starts_D is None else DocumentLanes(stream, starts_D, 1, T)
    state = model.initial_state(1)
    for index in range(len(lane)):
        tokens_1T, targets_1T, *starts_1T = (x.to(device) for x in lane.segment(index))
        model.zero_grad()
        # cuDNN's LSTM has no backward pass in evaluation mode; the native implementation has.
        with autocast(device, precision), torch.backends.cudnn.flags(enabled=False):
            nll_1T, state = model(tokens_1T, targets_1T, state, *starts_1T)
        nll_1T.mean().backward()
        state = detach(state)
        yield nll_1T.detach()


def _rates(
    model: RecurrentModel,
    stream: np.ndarray | None,
    config: SGDDynamicConfig,
    T: int,
    precision: Precision,
    starts_D: np.ndarray | None,
) -> Rates:
    parameters = list(model.parameters())
    if not isinstance(config, RMSDynamicConfig):
        return [(config.lr, config.decay)] * len(parameters)
    assert stream is not None
    squares, segments = [torch.zeros_like(parameter) for parameter in parameters], 0
    for _ in _losses_with_gradients(model, stream[: config.statistics_tokens + 1], T, precision, starts_D):
        segments += 1
        for square, parameter in zip(squares, parameters):
            assert parameter.grad is not None
            square += parameter.grad**2
    roots = [(square / segments).sqrt() for square in squares]
    mean = torch.cat([root.flatten() for root in roots]).mean()
    return [(config.lr / (root + config.eps), (config.decay * root / mean).clamp(max=1)) for root in roots]


@torch.no_grad()
def _update_weights(parameters: list[torch.nn.Parameter], trained_weights: list[Tensor], rates: Rates) -> None:
    """Add the gradient step and the decay towards the trained weights, both computed from the current weights."""
    for parameter, trained, (rate, decay) in zip(parameters, trained_weights, rates):
        assert parameter.grad is not None
        parameter.add_(decay * (trained - parameter) - rate * parameter.grad)
