"""The GRU's recurrence with its own backward pass, against torch's GRU and numerical gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baselines.gru_scan import gru_scan, gru_scan_reference
from baselines.recurrent import GRU

T, B, C, H = 7, 3, 2, 4


@pytest.mark.parametrize("scan", [gru_scan, gru_scan_reference])
def test_states_and_gradients_are_torchs(scan):
    torch.manual_seed(0)
    theirs = nn.GRU(C, H).double()
    x, weight = torch.randn(T, B, C).double().requires_grad_(), torch.randn(T, B, H).double()
    parameters = [theirs.weight_ih_l0, theirs.bias_ih_l0, theirs.weight_hh_l0, theirs.bias_hh_l0]
    told = F.linear(x, *parameters[:2])
    ours, expected = scan(told, *parameters[2:]), theirs(x)[0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-14)
    got, wanted = (torch.autograd.grad((y * weight).sum(), [x, *parameters]) for y in (ours, expected))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-13)


def test_gradients_and_their_gradients_are_what_differences_give():
    torch.manual_seed(0)
    arguments = [torch.randn(*shape).double().requires_grad_() for shape in ((3, 2, 6), (6, 2), (6,))]
    assert torch.autograd.gradcheck(gru_scan, arguments)
    assert torch.autograd.gradgradcheck(gru_scan, arguments)
    told, weight, bias = arguments  # and where some are not asked for
    assert torch.autograd.gradgradcheck(lambda w: gru_scan(told.detach(), w, bias.detach()), [weight])


def test_half_precision_is_left_to_torch():
    torch.manual_seed(0)
    model, x = GRU(C, 3, H), torch.randn(B, T, C)
    with torch.autocast("cpu", torch.bfloat16):
        half = model._run(x)[0]
        torch.testing.assert_close(half, model.rnn(x)[0], rtol=0, atol=0)
    torch.testing.assert_close(model._run(x)[0], half.float(), rtol=0, atol=0.03)
