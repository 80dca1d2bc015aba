"""Every kind of attention against its published formula, written out number by number in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from snail.attention import AttentionBlock, AttentionKind, Mechanism
from snail.attention.scores import SCORE_NAMES, SCORES
from snail.attention.selection import record_weights, recording, score_function_loss, select
from snail.attention.windows import WINDOWS
from snail.sequence import parameter_count

B, H, T, S, K = 2, 3, 4, 5, 4


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def softplus(x):
    return math.log1p(math.exp(x))


def shaken(module):
    """In float64, with parameters that are no special case."""
    generator = torch.Generator().manual_seed(0)
    for p in module.double().parameters():
        p.data = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        p.requires_grad_(False)
    return module


def dot(q, k):
    return sum(float(x) * float(y) for x, y in zip(q, k, strict=True))


def norm(x):
    return math.sqrt(dot(x, x))


def by_formula(name, score, query, key, b, h, t, s):
    q, k = query[b, h, t], key[b, h, s]
    if name == "dot":
        return dot(q, k)
    if name == "scaled-dot":
        return dot(q, k) / math.sqrt(K)
    if name == "cosine":
        return (1 + softplus(dot(q, score.strength[h]))) * dot(q, k) / (norm(q) * norm(k))
    if name == "additive":
        return sum(float(score.vector[h, i]) * math.tanh(float(q[i] + k[i])) for i in range(K))
    if name == "location":
        return dot(q, score.weight[h, :, s])
    joined = [float(x) for other in range(H) for x in query[b, other, t]]  # general: W reads the queries of all heads
    return sum(joined[i] * float(score.weight[i, h * K + j]) * float(k[j]) for i in range(H * K) for j in range(K))


@pytest.mark.parametrize("name", SCORE_NAMES)
def test_scores_are_those_of_the_papers(name):
    score = shaken(SCORES[name](H, K, S))
    query, key = doubles(B, H, T, K), doubles(B, H, S, K)
    scores = score(query, key, torch.arange(S))
    assert scores.shape == (B, H, T, S)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                for s in range(S):
                    expected = by_formula(name, score, query, key, b, h, t, s)
                    assert float(scores[b, h, t, s]) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", ["general", "scaled-dot"])
def test_one_head_of_general_attention_is_the_bilinear_form(name):
    score = SCORES["general"](1, K, S).double()
    query, key = doubles(B, 1, T, K), doubles(B, 1, S, K)
    if name == "scaled-dot":  # what it starts as
        expected = SCORES[name](1, K, S)(query, key, torch.arange(S))
    else:
        shaken(score)
        expected = query @ score.weight @ key.transpose(-1, -2)
    torch.testing.assert_close(score(query, key, torch.arange(S)), expected)


@pytest.mark.parametrize("window_type", WINDOWS)
@pytest.mark.parametrize("score", SCORE_NAMES)
def test_more_heads_cost_no_parameters(score, window_type):
    kind = AttentionKind(score, window_type)
    sizes = {parameter_count(AttentionBlock(6, 8, 4, max_len=10, heads=h, kind=kind)) for h in (1, 2, 4)}
    assert len(sizes) == 1


def test_heads_must_share_keys_and_values_evenly():
    with pytest.raises(ValueError, match="multiples of heads, got 8, 6 and 4"):
        AttentionBlock(5, 8, 6, heads=4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": "euclid"}, "score must be one of scaled-dot, dot, .*, got 'euclid'"),
        ({"window_type": "far"}, "window_type must be one of global, local-m, local-p, got 'far'"),
        ({"selection": "some"}, "selection must be one of soft, hard, gumbel, got 'some'"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"window_type": "local-m", "sinks": -1}, "sinks must not be negative, got -1"),
        ({"window_type": "local-p", "sinks": 1}, "sinks are for the window local-m, got local-p"),
    ],
)
def test_unknown_kinds_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        AttentionKind(**wrong)


@pytest.mark.parametrize("form", ["parallel", "step", "branch"])
def test_location_based_scores_end_somewhere(form):
    block = AttentionBlock(3, 4, 4, max_len=5, kind=AttentionKind("location"))
    x = torch.randn(1, 6, 3)
    _, cache = block.prefill(x[:, :5], max_len=6)
    with pytest.raises(ValueError, match="support at most max_len 5 steps, got 6"):
        {
            "parallel": lambda: block(x),
            "step": lambda: block.step(x[:, 5], cache),
            "branch": lambda: block.branch(x[:, 5:], cache),
        }[form]()
    _, shorter = block.prefill(x[:, :4], max_len=6)
    assert block.branch(x.repeat(1, 3, 1), shorter).shape == (1, 18, 7)  # alternatives are no further steps


def attended(kind, query, key, value):
    """Causal attention of one head by definition, for query (T, K), key (T, K), value (T, V), all in Python."""
    mechanism = shaken(Mechanism(kind, 1, query.shape[-1], len(query)))
    attended_window, rows = mechanism.window, []
    for t in range(len(query)):
        center = None
        if kind.window_type == "local-p":
            hidden = [math.tanh(dot(query[t], attended_window.hidden.weight[i])) for i in range(query.shape[-1])]
            center = t / (1 + math.exp(-dot(hidden, attended_window.vector[0])))
        scores, factors = {}, {}
        for s in range(t + 1):
            if kind.window_type == "local-m" and s >= kind.sinks and not t - s < kind.window:
                continue
            if center is not None and abs(s - center) > kind.window:
                continue
            scores[s] = math.exp(dot(query[t], key[s]) / math.sqrt(query.shape[-1]))
            sigma = kind.window / 2
            factors[s] = 1.0 if center is None else math.exp(-((s - center) ** 2) / (2 * sigma**2))
        total = sum(scores.values())
        rows.append(sum(scores[s] / total * factors[s] * value[s] for s in scores))
    return mechanism, torch.stack(rows)


@pytest.mark.parametrize(("window_type", "sinks"), [*((name, 0) for name in WINDOWS), ("local-m", 1), ("local-m", 3)])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_windows_by_definition(window_type, sinks, window):
    query, key, value = doubles(7, 4), doubles(7, 4) * 2, doubles(7, 3)
    mechanism, expected = attended(
        AttentionKind(window_type=window_type, window=window, sinks=sinks), query, key, value
    )
    got = mechanism.causal(*(x[None, None] for x in (query, key, value)))
    torch.testing.assert_close(got[0, 0], expected, rtol=1e-12, atol=1e-13)


def test_the_predicted_centre_learns():
    """To read what stands at a given place, local-p has to move its centre there: gradients reach it."""
    torch.manual_seed(0)
    mechanism = Mechanism(AttentionKind(window_type="local-p", window=2), 1, 4, 9)
    query, key = torch.ones(1, 1, 9, 4), torch.zeros(1, 1, 9, 4)
    value = torch.arange(9.0)[None, None, :, None]
    optimizer = torch.optim.Adam(mechanism.parameters(), 0.05)

    def centre():
        return mechanism.window.centres(query[:, :, -1:], torch.tensor([8])).item()

    assert abs(centre() - 7) > 1
    for _ in range(200):
        optimizer.zero_grad()
        weights_read = mechanism.causal(query, key, value)[0, 0, -1, 0]
        (weights_read - 3.0).square().backward()  # the share of softmax times the Gaussian times the places
        optimizer.step()
    assert abs(mechanism.causal(query, key, value)[0, 0, -1, 0] - 3.0) < 0.05


@pytest.mark.parametrize("heads", [1, 2])
def test_looking_at_the_weights_changes_nothing(heads):
    """The fast kernels and the definition agree, in all three forms, and the recorded weights are a distribution."""
    torch.manual_seed(0)
    block = AttentionBlock(5, 8, 4, heads=heads)
    x, x_q = torch.randn(2, 6, 5), torch.randn(2, 3, 5)
    for watched in (False, True):
        with recording(weights=watched) as tape:
            y, cache = block.prefill(x, max_len=7)
            found = (y, block.step(x_q[:, 0], cache)[0], block.branch(x_q, cache))
        if not watched:
            expected = found
            assert not tape.weights
    torch.testing.assert_close(found, expected)
    shapes = [tuple(w.shape) for w in tape.weights]
    assert shapes == [(2, heads, 6, 6), (2, heads, 1, 7), (2, heads, 3, 9)]
    for w in tape.weights:
        torch.testing.assert_close(w.sum(-1), torch.ones(w.shape[:-1]))
    assert (tape.weights[0].triu(1) == 0).all()
    assert (tape.weights[2][:, :, 0, 7:] == 0).all()  # an alternative does not see the next


def test_nothing_is_recorded_without_a_tape():
    record_weights(torch.ones(1, 1, 1, 1))
    with recording() as outer:
        with recording(weights=True) as inner:
            record_weights(torch.ones(1, 1, 1, 1))
        record_weights(torch.ones(1, 1, 1, 1))
    assert not outer.weights
    assert len(inner.weights) == 1


LOGITS = torch.tensor([0.0, 1.0, float("-inf"), 2.0])
PROBABILITIES = LOGITS.softmax(-1)


@pytest.mark.parametrize("how", ["hard", "gumbel"])
def test_hard_attention_draws_from_the_softmax_and_else_takes_the_likeliest(how):
    torch.manual_seed(0)
    n = 20_000
    weights = select(LOGITS.expand(n, 1, 1, 4), how, random=True)
    torch.testing.assert_close(weights.sum(-1), torch.ones(n, 1, 1))
    assert ((weights == 0) | (weights == 1)).all() or how == "gumbel"
    standard_error = (PROBABILITIES * (1 - PROBABILITIES) / n).sqrt()
    assert ((weights.mean((0, 1, 2)) - PROBABILITIES).abs() <= 4 * standard_error + 1e-6).all()
    assert select(LOGITS.view(1, 1, 1, 4), how, random=False).flatten().tolist() == [0, 0, 0, 1]


def test_straight_through_gumbel_has_the_softmaxs_gradient():
    torch.manual_seed(0)
    logits = LOGITS.clone().requires_grad_()
    select(logits.view(1, 1, 1, 4), "gumbel", random=True)[..., 1].sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert logits.grad[1] > 0 > logits.grad[3]
    assert logits.grad[2] == 0


@pytest.mark.parametrize("alternatives", [True, False])
@pytest.mark.parametrize("queries", [1, 3])
def test_the_score_function_gradient_is_that_of_the_expected_cost(alternatives, queries):
    """Against the gradient of the expectation, which is a sum over the few outcomes; the baseline must not bias it."""
    torch.manual_seed(0)
    outcome_cost = torch.tensor([3.0, -1.0, 0.0, 2.0])
    logits = torch.tensor([0.0, 1.0, float("-inf"), 0.5], requires_grad=True)
    n = 40_000
    steps = queries if alternatives else 1
    with recording() as tape:
        weights = select(logits.expand(n, 1, steps, 4), "hard", random=True, alternatives=alternatives)
    cost = (weights * outcome_cost).sum(-1)[:, 0].expand(n, queries) + 5  # a constant that a baseline takes off
    found = torch.autograd.grad(score_function_loss(tape, cost), logits)[0]
    expected = torch.autograd.grad((logits.softmax(-1) * outcome_cost).sum(), logits)[0]
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0.03)


def test_without_random_choices_there_is_no_score_function_loss():
    with recording() as tape:
        AttentionBlock(3, 4, 4, kind=AttentionKind(selection="hard")).eval()(torch.randn(2, 5, 3))
    assert score_function_loss(tape, torch.ones(2, 5)) == 0


KINDS = [
    *(AttentionKind(score) for score in SCORE_NAMES),
    AttentionKind(window_type="local-m", window=4),
    AttentionKind(window_type="local-p", window=4),
    AttentionKind(selection="gumbel"),
    AttentionKind(selection="hard"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k.score}-{k.window_type}-{k.selection}")
def test_every_kind_learns_to_look_up(kind):
    """Say which of two colours the one marked item of the past had: nobody can without looking at it.

    A location-based score knows where it looks, but not what is there: it can learn only for a fixed place.
    """
    torch.manual_seed(0)
    n, steps = 64, 4
    block = AttentionBlock(4, 8, 4, max_len=steps, kind=kind)
    head = nn.Linear(8, 2)
    optimizer = torch.optim.Adam([*block.parameters(), *head.parameters()], 0.02)

    def batch(size):
        marked = torch.zeros(size, dtype=torch.long) if kind.score == "location" else torch.randint(3, (size,))
        colour = torch.randint(2, (size, steps))
        x = torch.cat([nn.functional.one_hot(colour, 2), torch.zeros(size, steps, 2)], dim=-1).float()
        x[torch.arange(size), marked, 2] = 1.0
        x[:, -1] = torch.tensor([0.0, 0.0, 0.0, 1.0])  # asks
        return x, colour[torch.arange(size), marked]

    for _ in range(400):
        x, y = batch(n)
        optimizer.zero_grad()
        with recording() as tape:
            cost = nn.functional.cross_entropy(head(block(x)[:, -1]), y, reduction="none")
        (cost.mean() + score_function_loss(tape, cost[:, None])).backward()
        optimizer.step()
    block.eval()
    x, y = batch(1000)
    assert (head(block(x)[:, -1]).argmax(-1) == y).float().mean() > 0.9
