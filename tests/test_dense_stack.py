"""A long sequence goes through a stack of dense blocks in pieces, and nothing shows it."""

from __future__ import annotations

import pytest
import torch

import snail.ops.dense_stack
from snail.ops.dense_stack import dense_stack, dense_stack_reference

CHANNELS, FILTERS, DILATIONS = 5, 3, (1, 2, 4)
WIDTH = CHANNELS + FILTERS * len(DILATIONS)


def arguments(kernel_size: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    widths = [CHANNELS + FILTERS * i for i in range(len(DILATIONS))]
    weights = [random(kernel_size, c, 2 * FILTERS) for c in widths]
    return random(11, 4, CHANNELS), weights, [random(2 * FILTERS) for _ in widths]


def gradients(y, x, weights, biases):
    return torch.autograd.grad(y.square().sum(), [x, *weights, *biases])


@pytest.mark.parametrize("rows", [1, 3, 4, 7, 43, 44])
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_pieces_of_any_size_compute_the_same(monkeypatch, kernel_size, rows):
    x, weights, biases = arguments(kernel_size, torch.float64)
    monkeypatch.setattr(snail.ops.dense_stack, "PIECE_BYTES", rows * WIDTH * 8)
    y = dense_stack(x, weights, biases, DILATIONS)
    expected = dense_stack_reference(x, weights, biases, DILATIONS)
    torch.testing.assert_close(y, expected)
    for got, wanted in zip(gradients(y, x, weights, biases), gradients(expected, x, weights, biases), strict=True):
        torch.testing.assert_close(got, wanted)


def test_many_pieces_in_half_precision_sum_exactly_enough(monkeypatch):
    """The weight gradient is one sum over all pieces: rounding it after each would cost digits."""
    x, weights, biases = arguments(2, torch.float32)

    def gradient(rows: int) -> torch.Tensor:
        monkeypatch.setattr(snail.ops.dense_stack, "PIECE_BYTES", rows * WIDTH * 2)
        with torch.autocast("cpu", torch.bfloat16):
            y = dense_stack(x, weights, biases, DILATIONS)
        return gradients(y.float(), x, weights, biases)[1]

    exact = gradients(dense_stack_reference(x, weights, biases, DILATIONS), x, weights, biases)[1]
    errors = [(gradient(rows) - exact).norm() / exact.norm() for rows in (1, 44)]
    assert errors[0] < 1.5 * errors[1] < 0.05


@pytest.mark.parametrize("size", [100, 20_000])
def test_the_tanh_of_large_tensors_is_as_exact(size):
    x = torch.linspace(-12, 12, size)
    torch.testing.assert_close(snail.ops.dense_stack.tanh_(x.clone()), torch.tanh(x), atol=2.5e-7, rtol=0)
