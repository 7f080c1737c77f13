"""The gradients of a short convolution, in 16 bits and for any number of lanes."""

import pytest
import torch

from tbptt.models.mixers.short_convolution import ShortConvolution
from tests.helpers import assert_relatively_close


@pytest.mark.parametrize("lanes", [1, 16, 1024])
def test_the_gradient_of_weights_in_bf16_is_as_near_for_many_lanes_as_for_one(lanes):
    torch.manual_seed(0)
    convolution = ShortConvolution(channels=6)
    torch.nn.init.normal_(convolution.weight_CW)
    x_BTC, past_BPC, dy_BTC = (torch.randn(lanes, length, 6).bfloat16() for length in (9, 3, 9))

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        y_BTC, _ = convolution(x_BTC.to(dtype), past_BPC.to(dtype))
        return torch.autograd.grad(y_BTC, convolution.weight_CW, dy_BTC.to(dtype))[0]

    assert_relatively_close(gradient(torch.bfloat16), gradient(torch.float32), 0.005)
