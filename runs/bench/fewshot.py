"""Speed of few-shot training, compared with a separate sequence for every query."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.fewshot.episodes import Episodes, EpisodeSampler
from runs.bench.measure import Benchmark, Candidate, EpisodeSizes, Precision, Sizes, check_agreement, largest, measure
from snail.classifier import SequenceClassifier
from snail.embedding import OmniglotEmbedding
from snail.minimal import minimal_copy
from snail.model import SNAIL


class RerunClassifier(nn.Module):
    """A few-shot classifier that processes a separate copy of the support for each query.

    Args:
        embedding: (M, ...) images -> (M, E).
        model: (B, T, E + ways) -> (B, T, ways).
        ways: classes N in an episode.
    """

    def __init__(self, embedding: nn.Module, model: nn.Module, ways: int):
        super().__init__()
        self.embedding, self.model, self.ways = embedding, model, ways

    def forward(self, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        """Support images (B, S, ...), labels (B, S), queries (B, Q, ...) -> logits (B, Q, N)."""
        Q = queries.shape[1]
        images = torch.cat([support.repeat_interleave(Q, dim=0), queries.flatten(0, 1)[:, None]], dim=1)
        # (B Q, S + 1, ...)
        embedded = self.embedding(images.flatten(0, 1)).unflatten(0, images.shape[:2])  # (B Q, S + 1, E)
        one_hot = F.one_hot(labels.repeat_interleave(Q, dim=0), self.ways)  # (B Q, S, N)
        one_hot = F.pad(one_hot, (0, 0, 0, 1)).to(embedded.dtype)  # (B Q, S + 1, N)
        logits = self.model(torch.cat([embedded, one_hot], dim=-1))[:, -1]  # (B Q, N)
        return logits.unflatten(0, (-1, Q)).float()


def noise_sampler(sizes: EpisodeSizes, device: torch.device) -> EpisodeSampler:
    """Episodes of random images with Omniglot's shapes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (500, 20, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return EpisodeSampler(images.to(device), sizes.ways, sizes.queries)


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, episodes: Episodes, precision: Precision) -> None:
    """Forward, backward, gradient clipping and optimiser step."""
    with torch.autocast(episodes.query_x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(*episodes.inputs)  # (B, Q, N)
    loss = F.cross_entropy(logits.flatten(0, 1), episodes.query_y.flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@dataclass(frozen=True)
class Classifiers:
    """Three classifiers with separate copies of the same weights."""

    ours: SequenceClassifier
    rerun: RerunClassifier
    plain: RerunClassifier

    @classmethod
    def build(cls, sizes: EpisodeSizes, episodes: Episodes) -> Classifiers:
        """Ours and two references: one with our blocks and layout, one in plain PyTorch."""
        device = episodes.query_x.device
        torch.manual_seed(0)
        usual, embedding = OmniglotEmbedding().to(device), OmniglotEmbedding(pool_first=True).to(device)
        model = SNAIL.fewshot(embedding.output_size, sizes.ways, sizes.shots).to(device)
        _settle(usual, episodes.support_x.flatten(0, 1))
        # the same layers under other names
        weights = zip(embedding.state_dict(), usual.state_dict().values(), strict=True)
        embedding.load_state_dict(dict(weights))
        embedding.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(
            ours=SequenceClassifier(embedding, model, sizes.ways),
            rerun=RerunClassifier(copy.deepcopy(embedding), copy.deepcopy(model), sizes.ways),
            plain=RerunClassifier(usual, minimal_copy(model), sizes.ways),
        )


@torch.no_grad()
def _settle(embedding: nn.Module, images: Tensor) -> None:
    """Set the running statistics from ``images``: with the initial ones, embeddings hardly differ."""
    norms = [module for module in embedding.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    embedding(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def fewshot_differences(classifiers: Classifiers, episodes: Episodes) -> dict[str, float]:
    """Largest difference of the logits in float32, with fixed batch-norm statistics.

    In training the batch statistics differ: a support image counts once in ours, and once per query otherwise.
    """
    models = [classifiers.ours, classifiers.plain]
    ours, plain = (model.eval()(*episodes.inputs) for model in models)
    for model in models:
        model.train()
    return {"logits": largest(ours - plain)}


def bench_few(device: torch.device, repetitions: int, sizes: Sizes) -> Benchmark:
    """Queries per second in training SNAIL on short episodes."""
    return _bench("fewshot", device, repetitions, sizes.few, sizes.matrices)


def bench_many(device: torch.device, repetitions: int, sizes: Sizes) -> Benchmark:
    """Queries per second in training SNAIL on long episodes."""
    return _bench("fewshot, long", device, repetitions, sizes.many, sizes.matrices)


def _bench(
    name: str, device: torch.device, repetitions: int, sizes: EpisodeSizes, matrices: tuple[int, ...]
) -> Benchmark:
    sampler, generator = noise_sampler(sizes, device), torch.Generator(device).manual_seed(0)
    draw = partial(sampler.sample, sizes.episodes, sizes.shots, generator)
    episodes = draw()
    classifiers = Classifiers.build(sizes, episodes)
    differences = fewshot_differences(classifiers, episodes)
    check_agreement(differences)
    queries = sizes.episodes * sizes.queries

    def way(name: str, model: nn.Module, precision: Precision, sequences: int, fused: bool) -> Candidate:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=fused or None)
        return Candidate(
            name, precision, sequences, queries, lambda: training_step(model, optimizer, episodes, precision)
        )

    candidates = [
        way("ours: shared support", classifiers.ours, "bfloat16", sizes.episodes, True),
        Candidate("drawing these episodes", "float32", sizes.episodes, queries, draw),
        way("one sequence per query, our blocks", classifiers.rerun, "bfloat16", queries, True),
        way("one sequence per query, plain PyTorch", classifiers.plain, "float32", queries, False),
    ]
    rows, peaks = measure(candidates, device, repetitions, matrices)
    about = (
        f"an update of embedding and SNAIL, {sizes.ways}-way {sizes.shots}-shot, {sizes.episodes} episodes of "
        f"{sizes.queries} queries"
    )
    return Benchmark(name, about, "queries", "sequences", rows, peaks, differences)
