"""MAML: initial weights from which a few gradient steps on the support give a classifier (Finn et al. 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from baselines.learn2learn import import_learn2learn
from envs.trials import require_positive
from snail.classifier import EpisodeModel


class EpisodeNorm(nn.Module):
    """Batch normalisation by the statistics of the current batch, in training and evaluation, without running averages.

    Args:
        norm: the normalisation whose scale and shift it uses.
    """

    def __init__(self, norm: _BatchNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.reference: int | None = None
        """Take the statistics from the first ``items`` of the batch; None: from all."""

    def forward(self, x: Tensor) -> Tensor:
        """(M, C, ...) -> (M, C, ...)."""
        if self.reference is None:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        # by hand: F.batch_norm does not differentiate through given statistics
        axes, channels = [0, *range(2, x.ndim)], (-1, *(1,) * (x.ndim - 2))
        variance, mean = torch.var_mean(x[: self.reference], axes, correction=0, keepdim=True)  # (1, C, 1, ...)
        scale = self.weight.view(channels) * (variance + self.eps).rsqrt()
        return (x - mean) * scale + self.bias.view(channels)


def with_episode_norms(module: nn.Module) -> nn.Module:
    """Replace each batch normalisation of the module by an ``EpisodeNorm``."""
    if isinstance(module, _BatchNorm):
        return EpisodeNorm(module)
    for name, child in module.named_children():
        setattr(module, name, with_episode_norms(child))
    return module


class MAML(EpisodeModel):
    """An embedding and a linear layer, whose weights all take gradient steps on the support before classifying.

    After steps ``w <- w - inner_lr * gradient of the support's mean cross-entropy at w``, the adapted weights give the
    logits, and training differentiates through the steps with respect to the initial weights. Finn et al.,
    "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", arXiv:1703.03400, algorithm 2; the steps are
    those of ``learn2learn.algorithms.MAML``. They are taken in float32, also under autocast.

    As in the authors' code, normalisations have no running averages. The queries of an episode are normalised by
    their own statistics, and so **see each other** (transduction), as they did for the published numbers. With
    ``transductive=False`` they are normalised by the support's, each alone (MetaBN of Bronskill et al.,
    arXiv:2003.03284).

    Args:
        embedding: (M, ...) images -> (M, embedding_size); its batch normalisations are replaced.
        embedding_size: channels E of an embedding.
        ways: classes N in an episode.
        inner_lr: learning rate of the inner steps.
        inner_steps: steps in training mode.
        test_steps: steps in evaluation mode.
        first_order: treat the inner gradients as constants.
        transductive: whether the queries of an episode share their batch statistics.

    Raises:
        MissingLibrary: if learn2learn is not installed.
        ValueError: if a number of steps or ``inner_lr`` is not positive.
    """

    def __init__(
        self,
        embedding: nn.Module,
        embedding_size: int,
        ways: int,
        *,
        inner_lr: float,
        inner_steps: int,
        test_steps: int,
        first_order: bool = False,
        transductive: bool = True,
    ):
        super().__init__()
        require_positive(inner_steps=inner_steps, test_steps=test_steps)
        if inner_lr <= 0:
            raise ValueError(f"inner_lr must be positive, got {inner_lr}")
        network = nn.Sequential(with_episode_norms(embedding), nn.Linear(embedding_size, ways))
        self.learner = import_learn2learn().algorithms.MAML(network, lr=inner_lr)
        self.inner_steps, self.test_steps = inner_steps, test_steps
        self.first_order, self.transductive = first_order, transductive

    def check_queries(self, queries: int) -> None:
        """Raise ValueError for a single query that would be normalised by its own statistics."""
        if self.transductive and queries < 2:
            raise ValueError("a transductive MAML needs at least 2 queries in an episode, got 1")

    def predict(self, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Support images (B, S, ...), labels (B, S), queries (B, Q, ...) -> logits (B, Q, N).

        Raises:
            ValueError: for a single query that would be normalised by its own statistics.
        """
        self.check_queries(queries.shape[1])
        episodes = zip(support, labels, queries, strict=True)
        with torch.autocast(queries.device.type, enabled=False):  # bfloat16 would round small steps away
            return torch.stack([self._classify(*episode) for episode in episodes])  # (B, Q, N)

    def _classify(self, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Support (S, ...), labels (S,) and queries (Q, ...) of one episode -> logits (Q, N)."""
        adapted = self._adapted(support, labels)
        if self.transductive:
            return adapted(queries)
        for module in adapted.modules():  # a copy: the weights of self stay unchanged
            if isinstance(module, EpisodeNorm):
                module.reference = len(support)
        return adapted(torch.cat([support, queries]))[len(support) :]

    def _adapted(self, support: Tensor, labels: Tensor) -> nn.Module:
        """The network after its steps on a support (S, ...) with labels (S,)."""
        first_order = self.first_order or not torch.is_grad_enabled()  # no outer gradient, so keep no graph
        with torch.enable_grad():
            learner = self.learner.clone(first_order=first_order)
            for _ in range(self.inner_steps if self.training else self.test_steps):
                learner.adapt(F.cross_entropy(learner(support), labels))
        return learner
