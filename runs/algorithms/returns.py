"""Returns, advantages and losses of policy-gradient learning, as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(rewards: Tensor, values: Tensor, discount: float, gae_lambda: float) -> Tensor:
    """Generalised advantage estimates of whole trials (Schulman et al. 2016, equation 16).

    ``A_t = sum_l (discount gae_lambda)^l delta_{t+l}`` with ``delta_t = r_t + discount V_{t+1} - V_t``; nothing
    follows the last step.

    Args:
        rewards: (B, T).
        values: (B, T) estimates V_t of the discounted return from step t on.

    Returns:
        (B, T). Advantage plus value is the lambda-return.
    """
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    delta = rewards + discount * following - values  # (B, T)
    steps = torch.arange(delta.shape[1], device=delta.device)
    later = steps[:, None] - steps  # (T, T): time from step t, the column, to that of the row
    weights = (discount * gae_lambda) ** later.clamp(min=0).to(delta.dtype)
    return delta @ weights.tril()  # one product: a loop over steps would be thousands of small kernels on a GPU


def mean_over(x: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of the valid entries; None: of all."""
    return x.mean() if valid is None else torch.where(valid, x, 0.0).sum() / valid.sum().clamp(min=1)


def clipped_surrogate_loss(log_ratio: Tensor, advantages: Tensor, clip: float, valid: Tensor | None = None) -> Tensor:
    """PPO's pessimistic surrogate (Schulman et al. 2017, equation 7), negated, mean over all steps.

    ``-mean(min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A))``.

    Args:
        log_ratio: log pi(a|s) - log pi_old(a|s), any shape.
        advantages: the same shape.
        clip: clipping range of the ratio.
        valid: the same shape, which steps count; None: all.
    """
    ratio = log_ratio.exp()
    return mean_over(-torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages), valid)


def standardized(x: Tensor, valid: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance over the first dimension, for every entry of the others: (B, ...) -> (B, ...).

    valid: the same shape, which entries count; the others become 0. None: all.
    """
    if valid is None:
        return (x - x.mean(0)) / (x.std(0, correction=0) + 1e-8)
    mean, std = moments(x, valid)
    return torch.where(valid, (x - mean) / (std + 1e-8), 0.0)


def moments(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the valid entries over the first dimension; 0 if there are none."""
    n = valid.sum(0).clamp(min=1)
    mean = torch.where(valid, x, 0.0).sum(0) / n
    return mean, (torch.where(valid, x - mean, 0.0).square().sum(0) / n).sqrt()
