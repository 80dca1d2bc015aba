"""How fast the suite is, beside the same work done the way public SNAIL implementations do it.

Two pieces of work, each with references that compute the same numbers from the same weights:

* ``rollout``: collecting bandit trials with their log-probabilities and values. Ours streams through a cache of fixed
  size and judges all steps of the finished trials in one parallel forward; the references run policy and value network
  over all steps so far for every action.
* ``fewshot``: one update on 5-way episodes. Ours embeds every image once and lets all queries of an episode share its
  support; the references give every query a sequence of its own.

The machine may be busy with other things: all ways take turns in one process, and what is reported of the comparison
is the median over the turns. Achieved FLOP/s are set against matrix products measured in the same turns. While other
programs run, measure with one thread: several wait for one another at every small operation, which hurts most the way
that has least to compute.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from tqdm import tqdm

from envs.fewshot import Episodes
from envs.trials import TrialVectorEnv
from runs.errors import RunError
from runs.meta_rl import Trajectories, rollout
from runs.records import device_name, git_commit
from runs.tasks import BanditTask
from snail.actor_critic import ActorCritic
from snail.attention import AttentionBlock
from snail.classifier import SequenceClassifier
from snail.convolution import CausalConv1d, TCBlock
from snail.embedding import OmniglotEmbedding
from snail.model import SNAIL

What = Literal["all", "rollout", "fewshot"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Sizes:
    """How much work one run of each way is."""

    arms: int = 5
    """Arms of a bandit."""
    pulls: int = 100
    """Steps of a trial."""
    trials: int = 512
    """Trials that stream side by side."""
    rerun_trials: int = 16
    """Trials side by side in the references: what a processor does fastest; more overflow its caches."""
    episodes: int = 16
    """Few-shot episodes in an update."""
    ways: int = 5
    """Classes in an episode."""
    shots: int = 1
    """Examples of each class."""
    queries: int = 15
    """Queries in an episode."""
    matrices: tuple[int, ...] = (1024, 2048)
    """Square matrices whose products give the peak."""


TINY = Sizes(pulls=6, trials=4, rerun_trials=2, episodes=2, ways=3, queries=2, matrices=(32,))


@dataclass(frozen=True)
class Row:
    """What was measured of one way to do the work.

    name: what it does; the first row of a benchmark is ours.
    batch: trials, or sequences, side by side.
    units: environment steps, or queries, in one run.
    flops: floating-point operations of one run, see ``count_flops``.
    seconds: of each run.
    best_rate: units a second in the fastest run.
    speedup: how many times as fast ours is, median over the turns.
    best_flop_rate: FLOP a second in the fastest run.
    share_of_peak: FLOP a second over those of the matrix product of the same turn, median over the turns.
    """

    name: str
    precision: Precision
    batch: int
    units: int
    flops: int
    seconds: tuple[float, ...]
    best_rate: float
    speedup: float
    best_flop_rate: float
    share_of_peak: float


@dataclass(frozen=True)
class Benchmark:
    """One piece of work and all the ways that were measured.

    about: what the work is.
    unit: what a rate counts; batch_unit: what ``Row.batch`` counts.
    peaks: FLOP a second of the fastest matrix product, by precision.
    differences: largest absolute difference of the named results between ours and the plain reference.
    """

    name: str
    about: str
    unit: str
    batch_unit: str
    rows: tuple[Row, ...]
    peaks: dict[str, float]
    differences: dict[str, float]


@dataclass(frozen=True)
class Report:
    """Benchmarks and where they were run.

    load: processes that wanted to run in the last minute before, where the system tells.
    """

    device: str
    threads: int
    load: float | None
    torch: str
    commit: str | None
    date: str
    repetitions: int
    sizes: Sizes
    benchmarks: tuple[Benchmark, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it, the single times included, ready for JSON."""
        return dataclasses.asdict(self)


def bench(
    what: What = "all", device: torch.device | str = "cpu", repetitions: int = 5, sizes: Sizes | None = None
) -> Report:
    """Measure; progress goes to stderr where that is a terminal.

    Raises:
        RunError: for an unknown benchmark, fewer than one repetition, or ways that disagree in what they compute.
    """
    if what not in get_args(What):
        raise RunError(f"what must be one of {', '.join(get_args(What))}, got {what!r}")
    if repetitions < 1:
        raise RunError(f"repetitions must be at least 1, got {repetitions}")
    device, sizes = torch.device(device), sizes or Sizes()
    chosen = [run for name, run in _BENCHMARKS.items() if what in ("all", name)]
    return Report(
        device=device_name(device),
        threads=torch.get_num_threads(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        torch=torch.__version__,
        commit=git_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        repetitions=repetitions,
        sizes=sizes,
        benchmarks=tuple(run(device, repetitions, sizes) for run in chosen),
    )


def render(report: Report) -> str:
    """The report as text."""
    lines = [
        f"{report.device}, threads: {report.threads}, torch {report.torch}",
        f"commit {_or_unknown(report.commit)}, {report.date}, load before: {_or_unknown(report.load)}",
    ]
    for b in report.benchmarks:
        peaks = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in b.peaks.items())
        found = ", ".join(f"{name} {x:.1e}" for name, x in b.differences.items())
        heads = ["", "precision", b.batch_unit, f"{b.unit}/s", "ours is", "MFLOP each", "GFLOP/s", "of peak"]
        cells = [
            [
                row.name,
                row.precision,
                f"{row.batch}",
                f"{row.best_rate:,.0f}",
                f"{row.speedup:.1f} x" if i else "",
                f"{row.flops / row.units / 1e6:,.2f}",
                f"{row.best_flop_rate / 1e9:,.1f}",
                f"{row.share_of_peak:.0%}",
            ]
            for i, row in enumerate(b.rows)
        ]
        lines += ["", f"{b.name}: {b.about}", *_table([heads, *cells])]
        lines += [f"  peak: {peaks}", f"  largest difference between ours and plain PyTorch: {found}"]
    lines += [
        "",
        f"Rates are the best of {report.repetitions} runs. All ways and large matrix products took turns at running;",
        '"ours is" (times as fast) and "of peak" are medians over the turns. FLOP: twice the multiply-adds of matrix',
        "products, convolutions and attention, as executed.",
    ]
    return "\n".join(lines)


def _or_unknown(x: object) -> str:
    return "unknown" if x is None else f"{x:.1f}" if isinstance(x, float) else str(x)


def _table(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines, the first two columns flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(f"{x:<{w}}" if i < 2 else f"{x:>{w}}" for i, (x, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]


# ---- measuring


@dataclass(frozen=True)
class Way:
    """One way to do the work: ``run`` does it once; the rest is as in ``Row``."""

    name: str
    precision: Precision
    batch: int
    units: int
    run: Callable[[], object]


def measure(
    ways: Sequence[Way], device: torch.device, repetitions: int, matrices: Sequence[int]
) -> tuple[tuple[Row, ...], dict[str, float]]:
    """Rows, and the best rate of matrix products by precision, from turns in which every way runs once.

    Ways are compared with the first.
    """
    seconds: list[list[float]] = [[] for _ in ways]
    peaks: dict[str, list[float]] = {name: [] for name in get_args(Precision)}
    with tqdm(total=(repetitions + 1) * len(ways), disable=None) as bar:

        def flops_while_warming_up(way: Way) -> int:
            flops = count_flops(way.run)
            bar.update()
            return flops

        flops = [flops_while_warming_up(way) for way in ways]
        for _ in range(repetitions):
            for name, found in peaks.items():
                found.append(max(matmul_rate(n, getattr(torch, name), device) for n in matrices))
            for way, times in zip(ways, seconds, strict=True):
                times.append(_seconds(way.run, device))
                bar.update()
    rows = (_row(*it, ways[0], seconds[0], peaks) for it in zip(ways, flops, seconds, strict=True))
    return tuple(rows), {name: max(found) for name, found in peaks.items()}


def _row(
    way: Way, flops: int, seconds: list[float], ours: Way, our_seconds: list[float], peaks: dict[str, list[float]]
) -> Row:
    speedups = [(ours.units / a) / (way.units / b) for a, b in zip(our_seconds, seconds, strict=True)]
    shares = [flops / s / peak for s, peak in zip(seconds, peaks[way.precision], strict=True)]
    return Row(
        name=way.name,
        precision=way.precision,
        batch=way.batch,
        units=way.units,
        flops=flops,
        seconds=tuple(seconds),
        best_rate=way.units / min(seconds),
        speedup=statistics.median(speedups),
        best_flop_rate=flops / min(seconds),
        share_of_peak=statistics.median(shares),
    )


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of a run: twice the multiply-adds of matrix products, convolutions and attention.

    They are counted as executed, products with padding and with masked keys included. Elementwise work,
    normalisation, pooling and the optimiser are not counted.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FLOPS_MISSING_IN_TORCH)
    with counter:
        run()
    return counter.get_total_flops()


def _addmm_flops(out: torch.Size, a: torch.Size, b: torch.Size, *rest: Any, **options: Any) -> int:
    return 2 * a[0] * a[1] * b[1]


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *rest: Any, **options: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(
    grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *rest: Any, **options: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


_FLOPS_MISSING_IN_TORCH = {
    torch.ops.aten.addmm_: _addmm_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def matmul_rate(n: int, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP a second of a product of two (n, n) matrices, the faster of two."""
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    out = a @ b
    return 2 * n**3 / min(_seconds(lambda: torch.mm(a, b, out=out), device) for _ in range(2))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_agreement(differences: dict[str, float]) -> None:
    """Rounding may tell the ways apart, and nothing else; convolutions of GPUs round to 10 bits."""
    for name, difference in differences.items():
        if not difference < 1e-2:
            raise RunError(f"the ways to be compared disagree: {name} differ by {difference:.1e}")


# ---- SNAIL as public implementations write it


class PlainAttention(nn.Module):
    """The function of an ``AttentionBlock``, with separate projections and an explicit masked softmax."""

    def __init__(self, block: AttentionBlock):
        super().__init__()
        sizes = [block.key_size, block.key_size, block.value_size]
        parts = zip(block.qkv.weight.split(sizes), block.qkv.bias.split(sizes), strict=True)
        self.query, self.key, self.value = (_with_weights(nn.Linear(*w.T.shape), w, b) for w, b in parts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C + V)."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        scores = query @ key.transpose(1, 2) / key.shape[2] ** 0.5  # (B, T, T)
        future = torch.ones(scores.shape[1:], dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=2)
        return torch.cat([x, weights @ value], dim=2)


class PlainDenseBlock(nn.Module):
    """The function of a dense block, with a library convolution for each of filter and gate."""

    def __init__(self, conv: CausalConv1d):
        super().__init__()
        self.reach = conv.reach
        parts = zip(conv.weight.chunk(2, dim=2), conv.bias.chunk(2), strict=True)

        def plain(weight: Tensor, bias: Tensor) -> nn.Conv1d:
            library = nn.Conv1d(conv.input_size, len(bias), conv.kernel_size, dilation=conv.dilation)
            return _with_weights(library, weight.permute(2, 1, 0), bias)

        self.filter, self.gate = (plain(w, b) for w, b in parts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C + D, T)."""
        padded = F.pad(x, (self.reach, 0))
        return torch.cat([x, torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded))], dim=1)


class PlainTC(nn.Sequential):
    """The function of a ``TCBlock``, channels before time inside as library convolutions want it."""

    def __init__(self, block: TCBlock):
        super().__init__(*(PlainDenseBlock(conv) for conv in block.convs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C + n D)."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def plain_snail(model: SNAIL) -> nn.Sequential:
    """The function of ``model`` with a copy of its weights: (B, T, C) -> (B, T, D)."""
    kinds: dict[type, Callable[[Any], nn.Module]] = {TCBlock: PlainTC, AttentionBlock: PlainAttention}
    blocks = [kinds[type(block)](block) for block in model.blocks]
    return nn.Sequential(copy.deepcopy(model.stem), *blocks, copy.deepcopy(model.head)).to(model.head.weight.device)


def _with_weights(module: Any, weight: Tensor, bias: Tensor) -> Any:
    """A linear layer or convolution with copies of the given weights."""
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias)
    return module


# ---- rollout


@dataclass(frozen=True)
class History:
    """All that an agent without a cache needs to remember: inputs (B, t, C), and the values (B,) of the t steps."""

    inputs: Tensor
    values: tuple[Tensor, ...] = ()


class RerunAgent(ActorCritic):
    """An agent that runs policy and value network over all steps so far, for every action.

    Args:
        agent: whose function it computes.
        policy: (B, t, C) -> (B, t, A), the agent's own or another of the same function.
        value: (B, t, C) -> (B, t, 1), likewise.
    """

    def __init__(self, agent: ActorCritic, policy: nn.Module, value: nn.Module):
        super().__init__(agent.policy, agent.value, agent.num_observations, agent.num_actions)
        self.networks = nn.ModuleList([policy, value])

    def init_cache(self, batch_size: int, max_len: int) -> History:
        """The history before the first step."""
        channels = self.policy.input_size
        return History(torch.empty(batch_size, 0, channels, device=next(self.parameters()).device))

    def act(self, x_t: Tensor, cache: History, in_place: bool = False) -> tuple[Tensor, History]:
        """One step: (B, C), history -> logits (B, A), history."""
        inputs = torch.cat([cache.inputs, x_t[:, None]], dim=1)  # (B, t + 1, C)
        logits, values = (network(inputs)[:, -1] for network in self.networks)
        return logits, History(inputs, (*cache.values, values[:, 0]))


@torch.no_grad()
def stream(agent: ActorCritic, env: TrialVectorEnv, generator: torch.Generator) -> tuple[Trajectories, Tensor]:
    """Our way to collect trials: streaming actions, then all values at once. Trajectories and values (B, T)."""
    assert agent.value is not None
    trials = rollout(agent, env, generator)
    # pieces whose activations stay in a processor's cache
    piece = 32 if trials.inputs.device.type == "cpu" else len(trials.inputs)
    return trials, torch.cat([agent.value(x) for x in trials.inputs.split(piece)])[..., 0]


@torch.no_grad()
def replay(agent: ActorCritic, inputs: Tensor) -> tuple[Tensor, Any]:
    """What an agent does when shown ``inputs`` (B, T, C): log-probabilities (B, T, A) and the final cache."""
    cache, found = agent.init_cache(*inputs.shape[:2]), []
    for x_t in inputs.unbind(1):
        logits, cache = agent.act(x_t, cache)
        found.append(logits.log_softmax(-1))
    return torch.stack(found, dim=1), cache


def rollout_differences(
    agent: ActorCritic, reference: RerunAgent, env: TrialVectorEnv, generator: torch.Generator
) -> dict[str, float]:
    """Largest difference of log-probabilities and values over the trials of ``env``."""
    trials, values = stream(agent, env, generator)
    log_p, history = replay(reference, trials.inputs)  # (B, T, A)
    log_probs = log_p.gather(-1, trials.actions[..., None])[..., 0]  # (B, T)
    return {
        "log-probabilities": _largest(log_probs - trials.log_probs),
        "values": _largest(torch.stack(history.values, dim=1) - values),
    }


def bench_rollout(device: torch.device, repetitions: int, sizes: Sizes) -> Benchmark:
    """Environment steps a second of SNAIL on bandits, with log-probabilities and values."""
    task = BanditTask(sizes.arms, sizes.pulls)
    torch.manual_seed(0)
    channels = ActorCritic.input_size(1, sizes.arms)
    policy, value = SNAIL.policy(channels, sizes.arms, sizes.pulls), SNAIL.value(channels, sizes.pulls)
    agent = ActorCritic(policy, value, 1, sizes.arms).to(device)
    rerun = RerunAgent(agent, policy, value)
    plain = RerunAgent(agent, plain_snail(policy), plain_snail(value))
    generator = torch.Generator(device).manual_seed(0)
    envs = {n: task.make_env(n, device) for n in (sizes.trials, sizes.rerun_trials, 1)}
    for env in envs.values():
        env.reset(seed=0)
    differences = rollout_differences(agent, plain, envs[sizes.rerun_trials], generator)
    check_agreement(differences)

    def way(name: str, trials: int, collect: Callable[[TrialVectorEnv], object]) -> Way:
        return Way(name, "float32", trials, trials * sizes.pulls, lambda: collect(envs[trials]))

    def by_rerun(agent: RerunAgent) -> Callable[[TrialVectorEnv], object]:
        return lambda env: rollout(agent, env, generator)

    def by_streaming(env: TrialVectorEnv) -> object:
        return stream(agent, env, generator)

    ways = [
        way("ours: streaming", sizes.trials, by_streaming),
        way("re-running, our blocks", sizes.rerun_trials, by_rerun(rerun)),
        way("re-running, plain PyTorch", sizes.rerun_trials, by_rerun(plain)),
        way("ours: streaming", 1, by_streaming),
        way("re-running, plain PyTorch", 1, by_rerun(plain)),
    ]
    rows, peaks = measure(ways, device, repetitions, sizes.matrices)
    about = f"policy and value of SNAIL, {sizes.arms}-armed bandits, {sizes.pulls} pulls a trial"
    return Benchmark("rollout", about, "env steps", "trials", rows, peaks, differences)


# ---- few-shot training


class RerunClassifier(nn.Module):
    """Episodes to logits, each query with its own copy of the support, all images embedded and read again for it.

    Args:
        embedding: (M, ...) images -> (M, E).
        model: (B, T, E + ways) -> (B, T, ways).
        ways: classes N in an episode.
    """

    def __init__(self, embedding: nn.Module, model: nn.Module, ways: int):
        super().__init__()
        self.embedding, self.model, self.ways = embedding, model, ways

    def forward(self, episodes: Episodes) -> Tensor:
        """Logits (B, Q, N) of the queries."""
        queries = episodes.query_x.shape[1]
        support = episodes.support_x.repeat_interleave(queries, dim=0)  # (B Q, S, ...)
        images = torch.cat([support, episodes.query_x.flatten(0, 1)[:, None]], dim=1)  # (B Q, S + 1, ...)
        embedded = self.embedding(images.flatten(0, 1)).unflatten(0, images.shape[:2])  # (B Q, S + 1, E)
        labels = F.one_hot(episodes.support_y.repeat_interleave(queries, dim=0), self.ways)  # (B Q, S, N)
        labels = F.pad(labels, (0, 0, 0, 1)).to(embedded.dtype)  # (B Q, S + 1, N)
        logits = self.model(torch.cat([embedded, labels], dim=-1))[:, -1]  # (B Q, N)
        return logits.unflatten(0, (-1, queries)).float()


def random_episodes(sizes: Sizes, device: torch.device) -> Episodes:
    """Episodes of images of noise, in the shapes of Omniglot."""
    generator = torch.Generator().manual_seed(0)
    B, S, Q = sizes.episodes, sizes.ways * sizes.shots, sizes.queries
    images = torch.randint(256, (B, S + Q, 1, 28, 28), dtype=torch.uint8, generator=generator)
    support_y = (torch.arange(S) % sizes.ways).expand(B, S)
    query_y = torch.randint(sizes.ways, (B, Q), generator=generator)
    return Episodes(images[:, :S], support_y, images[:, S:], query_y).to(device)


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer, episodes: Episodes, precision: Precision) -> None:
    """Forward, backward, gradient clipping and a step of the optimiser."""
    with torch.autocast(episodes.query_x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(episodes)  # (B, Q, N)
    loss = F.cross_entropy(logits.flatten(0, 1), episodes.query_y.flatten())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@dataclass(frozen=True)
class Classifiers:
    """Three classifiers that start from the same weights, each with its own copy of them."""

    ours: SequenceClassifier
    rerun: RerunClassifier
    plain: RerunClassifier

    @classmethod
    def build(cls, sizes: Sizes, episodes: Episodes) -> Classifiers:
        """Ours and the two references: one with our blocks and layout, one in plain PyTorch."""
        device = episodes.query_x.device
        torch.manual_seed(0)
        usual, embedding = OmniglotEmbedding().to(device), OmniglotEmbedding(pool_first=True).to(device)
        model = SNAIL.fewshot(embedding.output_size, sizes.ways, sizes.shots).to(device)
        _settle(usual, episodes.support_x.flatten(0, 1))
        # the same layers in another order, hence under other names
        weights = zip(embedding.state_dict(), usual.state_dict().values(), strict=True)
        embedding.load_state_dict(dict(weights))
        embedding.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(
            ours=SequenceClassifier(embedding, model, sizes.ways),
            rerun=RerunClassifier(copy.deepcopy(embedding), copy.deepcopy(model), sizes.ways),
            plain=RerunClassifier(usual, plain_snail(model), sizes.ways),
        )


@torch.no_grad()
def _settle(embedding: nn.Module, images: Tensor) -> None:
    """Take the normalisation's running statistics from ``images``: with the initial ones, embeddings hardly differ."""
    norms = [module for module in embedding.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    embedding(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def fewshot_differences(classifiers: Classifiers, episodes: Episodes) -> dict[str, float]:
    """Largest difference of the logits in float32, with fixed statistics in the normalisation.

    In training the batch statistics differ: a support image counts once in ours, and once a query otherwise.
    """
    models = [classifiers.ours, classifiers.plain]
    ours, plain = (model.eval()(episodes) for model in models)
    for model in models:
        model.train()
    return {"logits": _largest(ours - plain)}


def bench_fewshot(device: torch.device, repetitions: int, sizes: Sizes) -> Benchmark:
    """Queries a second in training SNAIL on few-shot episodes."""
    episodes = random_episodes(sizes, device)
    classifiers = Classifiers.build(sizes, episodes)
    differences = fewshot_differences(classifiers, episodes)
    check_agreement(differences)
    queries = sizes.episodes * sizes.queries

    def way(name: str, model: nn.Module, precision: Precision, sequences: int, fused: bool) -> Way:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=fused or None)
        return Way(name, precision, sequences, queries, lambda: training_step(model, optimizer, episodes, precision))

    ways = [
        way("ours: shared support", classifiers.ours, "bfloat16", sizes.episodes, True),
        way("a sequence a query, our blocks", classifiers.rerun, "bfloat16", queries, True),
        way("a sequence a query, plain PyTorch", classifiers.plain, "float32", queries, False),
    ]
    rows, peaks = measure(ways, device, repetitions, sizes.matrices)
    about = (
        f"an update of embedding and SNAIL, {sizes.ways}-way {sizes.shots}-shot, {sizes.episodes} episodes of "
        f"{sizes.queries} queries"
    )
    return Benchmark("fewshot", about, "queries", "sequences", rows, peaks, differences)


def _largest(x: Tensor) -> float:
    return x.abs().max().item()


_BENCHMARKS: dict[str, Callable[[torch.device, int, Sizes], Benchmark]] = {
    "rollout": bench_rollout,
    "fewshot": bench_fewshot,
}
