"""Transfer learning: an embedding pre-trained on all training classes, and a new classifier for every episode."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snail.classifier import EmbeddingClassifier
from snail.sequence import at_least_float32


@torch.no_grad()
def fit_linear_classifier(x: Tensor, y: Tensor, ways: int, steps: int, learning_rate: float) -> tuple[Tensor, Tensor]:
    """Softmax regression of B episodes at once, by gradient descent from zero.

    x: (B, S, E); y: (B, S) integers below N. Returns weights (B, N, E) and biases (B, N).
    """
    target = F.one_hot(y, ways).to(x.dtype)  # (B, S, N)
    weight, bias = x.new_zeros(len(x), ways, x.shape[-1]), x.new_zeros(len(x), ways)
    for _ in range(steps):
        error = ((x @ weight.transpose(1, 2) + bias[:, None]).softmax(-1) - target) / x.shape[1]  # (B, S, N)
        weight -= learning_rate * error.transpose(1, 2) @ x
        bias -= learning_rate * error.sum(1)
    return weight, bias


class TransferClassifier(EmbeddingClassifier):
    """Fits a linear classifier to the embedded support of each episode; the embedding is pre-trained.

    It is trained to classify all training classes (``--training.class-loss``), and its vectors are normalised
    to length 1: Tian et al., "Rethinking Few-Shot Image Classification: a Good Embedding Is All You Need?",
    arXiv:2003.11539; the baseline of Chen et al., "A Closer Look at Few-shot Classification", arXiv:1904.04232.

    Args:
        embedding: (M, ...) images -> (M, E).
        ways: classes N in an episode.
        steps: gradient steps on the support.
        learning_rate: learning rate of these steps.
    """

    def __init__(self, embedding: nn.Module, ways: int, steps: int = 100, learning_rate: float = 10.0):
        super().__init__(embedding, ways)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.steps, self.learning_rate = steps, learning_rate

    @torch.no_grad()
    def predict(self, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Embeddings (B, S, E), labels (B, S), embeddings (B, Q, E) -> logits (B, Q, N), which carry no gradient."""
        support, queries = (F.normalize(at_least_float32(x), dim=-1) for x in (support, queries))
        with torch.autocast(queries.device.type, enabled=False):
            weight, bias = fit_linear_classifier(support, labels, self.ways, self.steps, self.learning_rate)
            return queries @ weight.transpose(1, 2) + bias[:, None]
