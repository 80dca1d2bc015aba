"""Hessian-vector products, which second-order learners need, are exact in every model."""

from __future__ import annotations

import pytest
import torch

import snail.convolution
from baselines.recurrent import GRU, LSTM
from baselines.transformer import Transformer
from snail import SNAIL, TC, Attention
from snail.ops.dense_stack import dense_stack_reference

MODELS = {
    "snail": lambda: SNAIL(3, 2, 9, (TC(4), Attention(4, 4), TC(4))),
    "lstm": lambda: LSTM(3, 2, 5),
    "gru": lambda: GRU(3, 2, 5),
    "transformer": lambda: Transformer(3, 2, 9, width=8),
}


@pytest.mark.parametrize("name", MODELS)
def test_hessian_vector_product_against_finite_differences(name):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    x, weight = torch.randn(2, 9, 3).double(), torch.randn(2, 9, 2).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    direction = [torch.randn_like(p) for p in parameters]

    def gradient(create_graph: bool = False):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the fused kernels are first order
            loss = (model(x).square() * weight).sum()
            return torch.autograd.grad(loss, parameters, create_graph=create_graph)

    inner = sum((g * d).sum() for g, d in zip(gradient(create_graph=True), direction, strict=True))
    exact = torch.autograd.grad(inner, parameters)
    step = 1e-5
    with torch.no_grad():
        for p, d in zip(parameters, direction, strict=True):
            p += step * d
    above = gradient()
    with torch.no_grad():
        for p, d in zip(parameters, direction, strict=True):
            p -= 2 * step * d
    below = gradient()
    for e, a, b in zip(exact, above, below, strict=True):
        torch.testing.assert_close(e, (a - b) / (2 * step), atol=1e-5, rtol=1e-4)


def test_through_branch_and_past():
    torch.manual_seed(0)
    model = SNAIL(3, 2, 9, (TC(4), Attention(4, 4), TC(4))).double()
    x, x_q = torch.randn(2, 6, 3).double(), torch.randn(2, 4, 3).double()
    parameters = list(model.parameters())

    def product(plain: bool):
        with pytest.MonkeyPatch.context() as patch, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            if plain:
                patch.setattr(snail.convolution, "dense_stack", dense_stack_reference)
            loss = model.branch(x_q, model.prefill(x)[1]).square().sum()
            first = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
            return torch.autograd.grad(
                sum(g.square().sum() for g in first if g is not None), parameters, allow_unused=True
            )

    for fast, plain in zip(product(plain=False), product(plain=True), strict=True):
        assert (fast is None) == (plain is None)
        if fast is not None:
            torch.testing.assert_close(fast, plain)
