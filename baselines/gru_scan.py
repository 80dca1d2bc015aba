"""The GRU's recurrence with a custom backward pass: on CPUs, autograd records about twenty operations per step.

Letters of the shapes: T steps, B sequences, H units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gru_scan(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The states (T, B, H) of a GRU that starts from zero: `gru_scan_reference`, but faster.

    Args:
        inputs: (T, B, 3 H) the input's contribution to reset gate, update gate and candidate, including its bias.
        weight, bias: (3 H, H) and (3 H,) for the state, in the same order.
    """
    return _GRUScan.apply(inputs, weight, bias)


def gru_scan_reference(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Step by step as in Cho et al. 2014, in torch's variant: the reset gate scales ``U h + b``, not h.

    r = sigmoid(x_r + U_r h + b_r),  z = sigmoid(x_z + U_z h + b_z),  n = tanh(x_n + r (U_n h + b_n)),
    h' = (1 - z) n + z h
    """
    h = inputs.new_zeros(inputs.shape[1], weight.shape[1])
    states = []
    for x in inputs.unbind():
        (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, dim=-1), torch.addmm(bias, h, weight.mT).chunk(3, dim=-1)
        z = (x_z + h_z).sigmoid()
        n = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
        h = n + z * (h - n)
        states.append(h)
    return torch.stack(states)


class _GRUScan(torch.autograd.Function):
    """With ``create_graph=True``, backward differentiates the reference."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """See `gru_scan`."""
        steps, batch, _ = inputs.shape
        size = weight.shape[1]
        states = inputs.new_zeros(steps + 1, batch, size)
        gates, candidate, offered = (inputs.new_empty(steps, batch, n * size) for n in (2, 1, 1))
        columns = weight.mT.contiguous()  # the layout in which small products are fastest
        for t in range(steps):
            h = states[t]
            recurrent = torch.addmm(bias, h, columns)
            torch.add(inputs[t, :, : 2 * size], recurrent[:, : 2 * size], out=gates[t]).sigmoid_()
            offered[t] = recurrent[:, 2 * size :]
            r, z = gates[t].chunk(2, dim=-1)
            n = torch.addcmul(inputs[t, :, 2 * size :], r, offered[t], out=candidate[t]).tanh_()
            torch.lerp(n, h, z, out=states[t + 1])
        ctx.save_for_backward(inputs, weight, bias, states, gates, candidate, offered)
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """All that does not depend on later steps is computed for all steps at once."""
        (grad,) = gradients
        inputs, weight, bias, states, gates, n, offered = ctx.saved_tensors
        if torch.is_grad_enabled():
            with torch.enable_grad():
                y = gru_scan_reference(inputs, weight, bias)
            wanted = [x for x, needed in zip((inputs, weight, bias), ctx.needs_input_grad, strict=True) if needed]
            found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
            return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)
        steps, batch, size = n.shape
        r, z = gates.chunk(2, dim=-1)
        of_candidate = (1 - z) * (1 - n * n)  # derivative of h' by n's argument
        of_offer = of_candidate * r
        slopes = torch.stack([of_offer * offered * (1 - r), (states[:-1] - n) * z * (1 - z), of_offer], dim=2)
        grad_recurrent = torch.zeros_like(slopes)  # (T, B, 3, H); zeros, as products may read beside operands
        of_state, later = torch.empty_like(n), torch.zeros_like(n[0])
        for t in reversed(range(steps)):
            dh = torch.add(grad[t], later, out=of_state[t])
            torch.mul(dh[:, None], slopes[t], out=grad_recurrent[t])
            later = torch.addmm(dh * z[t], grad_recurrent[t].flatten(1), weight)
        flat = grad_recurrent.view(steps * batch, 3 * size)
        grad_weight, grad_bias = flat.mT @ states[:-1].reshape(-1, size), flat.sum(0)
        grad_recurrent[:, :, 2] = of_state * of_candidate  # the same for the input, except for the candidate
        return grad_recurrent.view(steps, batch, -1), grad_weight, grad_bias
