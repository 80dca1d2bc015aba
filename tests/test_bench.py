"""The benchmark's ways compute the same, its counts are right, its report is whole. No test looks at a time."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from runs import bench as b
from runs.errors import RunError
from runs.tasks import BanditTask
from snail import SNAIL, TC, ActorCritic, Attention, AttentionBlock, OmniglotEmbedding, TCBlock

CPU = torch.device("cpu")


def macs(
    batch: int,
    steps: int,
    size_in: int,
    stem: int,
    filters: tuple[int, ...],
    layers: int,
    kv: int,
    size_out: int,
    keys_read: int,
    taps_skipped: bool = True,
) -> int:
    """Multiply-adds of a SNAIL of TC blocks and one attention block, written out by hand for one sequence.

    ``keys_read``: (query, key) pairs that the attention multiplies. ``taps_skipped``: whether products with the zeros
    before the first step are left out.
    """  # fmt: skip
    total, width = steps * size_in * stem, stem
    for f in filters:
        for layer in range(layers):
            past = max(0, steps - 2**layer) if taps_skipped else steps
            total += (steps + past) * width * 2 * f
            width += f
    total += steps * width * 3 * kv + keys_read * 2 * kv + steps * (width + kv) * size_out
    return batch * total


def policy_macs(batch: int, steps: int, keys_read: int, taps_skipped: bool = True) -> int:
    return macs(batch, steps, 7, 32, (32, 32), 3, 32, 5, keys_read, taps_skipped)


def value_macs(batch: int, steps: int, taps_skipped: bool = True) -> int:
    return macs(batch, steps, 7, 32, (16, 16), 3, 16, 1, steps**2, taps_skipped)


@pytest.fixture(scope="module")
def report() -> b.Report:
    return b.bench("all", CPU, repetitions=2, sizes=b.TINY)


@pytest.mark.parametrize("T", [1, 2, 6, 11])
def test_plain_snail_is_the_same_function(T):
    torch.manual_seed(0)
    model = SNAIL(4, 3, 11, (Attention(5, 4), TC(6), Attention(4, 4), TC(3)), stem=7, kernel_size=3)
    x = torch.randn(2, T, 4)
    torch.testing.assert_close(b.plain_snail(model)(x), model(x), atol=1e-6, rtol=1e-5)


def test_rerunning_an_agent_gives_what_streaming_gives():
    torch.manual_seed(0)
    policy, value = SNAIL.policy(7, 5, 12), SNAIL.value(7, 12)
    agent = ActorCritic(policy, value, 1, 5)
    env = BanditTask(5, 12).make_env(3, CPU)
    for rerun in (
        b.RerunAgent(agent, policy, value),
        b.RerunAgent(agent, b.plain_snail(policy), b.plain_snail(value)),
    ):
        differences = b.rollout_differences(agent, rerun, env, torch.Generator().manual_seed(0))
        assert set(differences) == {"log-probabilities", "values"}
        assert max(differences.values()) < 1e-5


def test_difference_is_seen():
    torch.manual_seed(0)
    policy, value = SNAIL.policy(7, 5, 4), SNAIL.value(7, 4)
    other = b.RerunAgent(ActorCritic(policy, value, 1, 5), SNAIL.policy(7, 5, 4), SNAIL.value(7, 4))
    env = BanditTask(5, 4).make_env(3, CPU)
    differences = b.rollout_differences(ActorCritic(policy, value, 1, 5), other, env, torch.Generator().manual_seed(0))
    assert min(differences.values()) > 1e-2
    with pytest.raises(RunError, match="disagree: log-probabilities"):
        b.check_agreement(differences)
    with pytest.raises(RunError, match="nan"):
        b.check_agreement({"values": float("nan")})


def test_classifiers_agree_in_logits_and_gradients():
    episodes = b.random_episodes(b.TINY, CPU)
    models = b.Classifiers.build(b.TINY, episodes)
    logits, gradients = [], []
    for model in (models.ours, models.rerun, models.plain):
        out = model.eval()(episodes)
        F.cross_entropy(out.flatten(0, 1), episodes.query_y.flatten()).backward()
        logits.append(out)
        gradients.append(model.embedding.blocks[0].weight.grad)
    assert logits[0].std(dim=1).max() > 1e-3  # queries are told apart, or agreement would say little
    assert gradients[0].abs().max() > 1e-5
    for i in (1, 2):
        torch.testing.assert_close(logits[i], logits[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gradients[i], gradients[0], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_step_trains(precision):
    episodes = b.random_episodes(b.TINY, CPU)
    models = b.Classifiers.build(b.TINY, episodes)
    for model in (models.ours, models.rerun, models.plain):
        before = [p.detach().clone() for p in model.parameters()]
        b.training_step(model, torch.optim.AdamW(model.parameters(), 1e-3), episodes, precision)
        assert all((p != q).any() for p, q in zip(model.parameters(), before, strict=True))


def test_flops_of_a_parallel_forward():
    torch.manual_seed(0)
    model = SNAIL(3, 2, 6, (TC(4), TC(5), Attention(6, 6)), stem=8)
    by_hand = 2 * macs(2, 6, 3, 8, (4, 5), 3, 6, 2, keys_read=36)
    assert b.count_flops(lambda: model(torch.randn(2, 6, 3))) == by_hand
    without_grad = torch.no_grad()(model)
    assert b.count_flops(lambda: without_grad(torch.randn(2, 6, 3))) == by_hand


def test_flops_of_a_backward_pass():
    """Each product of the forward has two of its size in the backward: for its weight and for its input."""
    block = TCBlock(3, 6, 4)
    forward = 2 * 2 * sum((6 + 6 - 2**i) * (3 + 4 * i) * 8 for i in range(3))
    assert b.count_flops(lambda: block(torch.randn(2, 6, 3)).sum().backward()) == 3 * forward


def test_flops_of_attention_with_its_backward():
    block = AttentionBlock(3, 4, 4)
    projection, product = 2 * 6 * 3 * 12, 6 * 6 * 4  # of one sequence
    # dQ, dK, dV and the gradient of the weights, and once more Q K where a kernel did not keep it
    possible = [2 * 2 * (projection + products * product) for products in (6, 7)]
    assert b.count_flops(lambda: block(torch.randn(2, 6, 3)).sum().backward()) in possible


def test_flops_of_the_image_embedding():
    embedding = OmniglotEmbedding(output_size=7, filters=4)
    images = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    by_hand = 2 * 3 * (28**2 * 9 * 4 + (14**2 + 7**2 + 3**2) * 9 * 4 * 4 + 4 * 7)
    assert b.count_flops(lambda: embedding(images)) == by_hand


def test_flops_of_the_rollout_rows(report):
    T, trials, rerun_trials = b.TINY.pulls, b.TINY.trials, b.TINY.rerun_trials
    streaming = policy_macs(1, T, keys_read=T * (T + 1) // 2) + value_macs(1, T)
    rerunning, plainly = (
        sum(policy_macs(1, t, t * t, skipped) + value_macs(1, t, skipped) for t in range(1, T + 1))
        for skipped in (True, False)
    )
    by_hand = [trials * streaming, rerun_trials * rerunning, rerun_trials * plainly, streaming, plainly]
    assert [row.flops for row in report.benchmarks[0].rows] == [2 * n for n in by_hand]


def test_rows_follow_from_the_times(report):
    for benchmark in report.benchmarks:
        ours = benchmark.rows[0]
        assert ours.speedup == 1
        assert set(benchmark.peaks) == {"float32", "bfloat16"}
        for row in benchmark.rows:
            assert len(row.seconds) == report.repetitions == 2
            assert row.best_rate == row.units / min(row.seconds)
            assert row.best_flop_rate == row.flops / min(row.seconds)
            ratios = [(ours.units / a) / (row.units / c) for a, c in zip(ours.seconds, row.seconds, strict=True)]
            assert row.speedup == pytest.approx(sum(ratios) / 2)  # the median of two


def test_report_is_rendered_and_kept(report):
    text = b.render(report)
    assert [x.name for x in report.benchmarks] == ["rollout", "fewshot"]
    for benchmark in report.benchmarks:
        for words in (benchmark.name, benchmark.about, f"{benchmark.unit}/s", *(row.name for row in benchmark.rows)):
            assert words in text
    assert torch.__version__ in text and report.device in text and report.date in text
    data = json.loads(json.dumps(report.to_dict()))
    assert data["benchmarks"][1]["rows"][0]["units"] == b.TINY.episodes * b.TINY.queries
    assert data["sizes"]["pulls"] == b.TINY.pulls


def test_one_benchmark_alone():
    assert [x.name for x in b.bench("rollout", CPU, 1, b.TINY).benchmarks] == ["rollout"]


def test_wrong_arguments_are_named():
    with pytest.raises(RunError, match=r"what must be one of all, rollout, fewshot, got 'rolout'"):
        b.bench("rolout")  # type: ignore[arg-type]
    with pytest.raises(RunError, match="repetitions must be at least 1, got 0"):
        b.bench(repetitions=0)
