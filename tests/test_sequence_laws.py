"""The laws of the sequence-model contract, over every model and block, forward and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from baselines.linear_attention import LinearAttention
from baselines.mamba import Mamba2
from baselines.maml_policy import MAMLPolicy
from baselines.min_recurrent import MinGRU, MinLSTM
from baselines.recurrent import GRU, LSTM
from baselines.residual import Residual
from baselines.rotary import RotaryTransformer
from baselines.state_space import DiagonalStateSpace
from baselines.transformer import Transformer
from baselines.xlstm import MatrixLSTM, ScalarLSTM
from snail import (
    SNAIL,
    TC,
    Attention,
    AttentionBlock,
    AttentionKind,
    CausalConv1d,
    DenseBlock,
    SequenceModel,
    TCBlock,
)
from snail.actions import Categorical
from snail.attention.scores import SCORE_NAMES

C = 5


class BySteps(SequenceModel):
    """Says no more than a model must: all else is the base class's."""

    def __init__(self):
        super().__init__()
        self.input_size, self.output_size = C, 3
        self.move, self.head = torch.nn.Linear(C + 6, 6), torch.nn.Linear(6, 3)

    def init_cache(self, batch_size, max_len):
        return torch.ones(batch_size, 6), (torch.zeros(batch_size, 2, 6),)  # not all zeros, and nested

    def step(self, x_t, cache, in_place=False):
        state, (trace,) = cache
        state = torch.tanh(self.move(torch.cat([x_t, state], -1)))
        trace = torch.stack([trace[:, 1], state], 1)
        return self.head(trace.sum(1)), (state, (trace,))


def residual(memory, mlp=True) -> Residual:
    """Two layers of a memory."""
    return Residual(C, 3, 8, [memory, memory], mlp)


MODELS = {
    "conv": lambda T: CausalConv1d(C, 7, kernel_size=2, dilation=3),
    "conv-k4": lambda T: CausalConv1d(C, 7, kernel_size=4, dilation=2),
    "conv-k1": lambda T: CausalConv1d(C, 7, kernel_size=1),
    "dense": lambda T: DenseBlock(C, 4, dilation=2),
    "tc": lambda T: TCBlock(C, T, 4),
    "tc-k3-from2": lambda T: TCBlock(C, T, 4, kernel_size=3, first_dilation=2),
    "attention": lambda T: AttentionBlock(C, 6, 4),
    "snail-fewshot": lambda T: SNAIL(C, 3, T, blocks=(Attention(8, 4), TC(6), Attention(8, 6), TC(6))),
    "snail-policy": lambda T: SNAIL.policy(C, 3, T),
    "snail-value": lambda T: SNAIL.value(C, T),
    "snail-k3-from2": lambda T: SNAIL(C, 3, T, (TC(4), Attention(4, 4)), 6, kernel_size=3, first_dilation=2),
    "by-steps": lambda T: BySteps(),
    "lstm": lambda T: LSTM(C, 3, 9),
    "gru": lambda T: GRU(C, 3, 9),
    "transformer": lambda T: Transformer(C, 3, T, width=16),
    "transformer-learned": lambda T: Transformer(C, 3, T, width=16, positions="learned"),
    "transformer-concatenated": lambda T: Transformer(C, 3, T, width=16, combination="concatenate"),
    "s5": lambda T: residual(lambda: DiagonalStateSpace(8, 6)),
    "mamba2": lambda T: residual(lambda: Mamba2(8, 4, 4), mlp=False),
    "gated-deltanet": lambda T: residual(lambda: LinearAttention(8, 2)),
    "deltanet": lambda T: residual(lambda: LinearAttention(8, 2, gated=False)),
    "linear-attention": lambda T: residual(lambda: LinearAttention(8, 2, delta=False, gated=False)),
    "mingru": lambda T: residual(lambda: MinGRU(8)),
    "minlstm": lambda T: residual(lambda: MinLSTM(8)),
    "xlstm": lambda T: Residual(C, 3, 8, [lambda: MatrixLSTM(8, 2), lambda: ScalarLSTM(8, 2)]),
    "rotary": lambda T: RotaryTransformer(C, 3, T, width=16),
    "rotary-window": lambda T: RotaryTransformer(
        C, 3, T, width=16, kind=AttentionKind(window_type="local-m", window=3, sinks=2)
    ),
    "maml": lambda T: MAMLPolicy(1, Categorical(2), T, hidden_size=6, inner_steps=3),
    "transformer-no-positions": lambda T: Transformer(C, 3, T, width=16, layers=1, heads=1, positions="none"),
}
KINDS = {
    **{score: AttentionKind(score) for score in SCORE_NAMES},
    "local-m": AttentionKind(window_type="local-m", window=3),
    "sinks": AttentionKind(window_type="local-m", window=2, sinks=2),
    "local-p": AttentionKind(window_type="local-p", window=3),
    "location-local-p": AttentionKind("location", "local-p", 2),
    "hard": AttentionKind(selection="hard"),
    "gumbel": AttentionKind("additive", "local-p", 4, "gumbel"),
}
MODELS |= {
    f"attention-{name}": lambda T, kind=kind: AttentionBlock(C, 6, 4, T, 2, kind) for name, kind in KINDS.items()
}
MODELS |= {
    "snail-location-heads": lambda T: SNAIL(C, 3, T, (Attention(4, 4, 2, AttentionKind("location")), TC(4))),
    "transformer-cosine": lambda T: Transformer(C, 3, T, width=16, kind=AttentionKind("cosine", "local-m", 5)),
}
LENGTHS = (1, 2, 9, 16)


def law(check: Callable[[SequenceModel, torch.Tensor], None]) -> Callable[[str], None]:
    """A test a model: ``check`` at each of the lengths, with an input (3, T, C)."""

    @pytest.mark.parametrize("name", MODELS)
    def test(name: str) -> None:
        for T in LENGTHS:
            torch.manual_seed(0)
            check(MODELS[name](T).eval(), torch.randn(3, T, C))  # hard attention is deterministic only then

    return test


def unrolled(model, x, cache=None, start=0):
    """The outputs of step after step from ``start``."""
    cache = model.init_cache(len(x), x.shape[1]) if cache is None else cache
    outputs = []
    for t in range(start, x.shape[1]):
        y, cache = model.step(x[:, t], cache)
        outputs.append(y.clone())  # an output may live in the cache
    return torch.stack(outputs, dim=1), cache


def gradients(model, y, x):
    """Gradients of a fixed random projection of y, for the parameters and the input."""
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    x.grad = None
    (y * weights).sum().backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    return {**found, "input": x.grad.clone()}


def assert_same(model, run, reference, x):
    """Two ways to compute the same thing agree, in values and in gradients."""
    x = x.clone().requires_grad_()
    expected = reference(x)
    expected_gradients = gradients(model, expected, x)
    got = run(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients(model, got, x), expected_gradients, atol=1e-4, rtol=1e-4)


@law
def test_step_equals_forward(model, x):
    with torch.no_grad():
        torch.testing.assert_close(unrolled(model, x)[0], model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_gradients_flow_through_the_steps_of_models_with_a_state(name):
    torch.manual_seed(0)
    model, x = MODELS[name](9), torch.randn(3, 9, C)
    assert_same(model, lambda x: unrolled(model, x)[0], model, x)


@law
def test_prefill_equals_forward_and_step_goes_on(model, x):
    T = x.shape[1]
    assert_same(model, lambda x: model.prefill(x, max_len=T)[0], model, x)
    with torch.no_grad():
        for past in {1, T // 2, T - 1} - {0, T}:
            y, cache = model.prefill(x[:, :past], max_len=T)
            y = torch.cat([y, unrolled(model, x, cache, past)[0]], dim=1)
            torch.testing.assert_close(y, model(x), atol=1e-5, rtol=1e-5)


@law
def test_branch_equals_separate_sequences(model, x):
    past, queries = x.shape[1] - 1, 4
    x_q = torch.randn(len(x), queries, C, generator=torch.Generator().manual_seed(2))
    both = torch.cat([x[:, :past], x_q], dim=1)

    def separate(both):
        prefix = both[:, :past]
        return torch.stack(
            [model(torch.cat([prefix, both[:, past + q : past + q + 1]], dim=1))[:, -1] for q in range(queries)], dim=1
        )

    def run(both):
        cache = model.prefill(both[:, :past], max_len=max(past, 1))[1] if past else model.init_cache(len(x), 1)
        return model.branch(both[:, past:], cache)

    assert_same(model, run, separate, both)


@law
def test_branching_leaves_the_cache_as_it_is(model, x):
    T = x.shape[1]
    with torch.no_grad():
        _, cache = model.prefill(x[:, : T - 1], max_len=T) if T > 1 else (None, model.init_cache(len(x), T))
        model.branch(torch.randn_like(x[:, -1:]), cache)
        y, _ = model.step(x[:, -1], cache)
        torch.testing.assert_close(y, model(x)[:, -1], atol=1e-5, rtol=1e-5)


@law
def test_the_future_changes_nothing(model, x):
    y = model(x)
    for t in range(x.shape[1] - 1):
        changed = x.clone()
        changed[:, t + 1 :] = 1e3
        assert torch.equal(model(changed)[:, : t + 1], y[:, : t + 1])


@law
def test_rows_do_not_see_each_other(model, x):
    changed = x.clone()
    changed[0] = 1e3
    assert torch.equal(model(changed)[1:], model(x)[1:])


@pytest.mark.parametrize("name", [name for name in MODELS if name != "conv-k1"])
def test_the_past_matters(name):
    """Guards the laws above against a model that ignores its past."""
    model, x = MODELS[name](16), torch.randn(3, 16, C)
    changed = x.clone()
    changed[:, :-1] += 1
    assert not torch.equal(model(changed)[:, -1], model(x)[:, -1])


@pytest.mark.parametrize("name", ["tc", "attention", "snail-policy", "transformer"])
def test_a_full_cache_is_an_error(name):
    model = MODELS[name](8).eval()
    cache = model.init_cache(2, 3)
    with torch.no_grad():
        for _ in range(3):
            _, cache = model.step(torch.randn(2, C), cache)
        with pytest.raises(ValueError, match="room for 3 steps"):
            model.step(torch.randn(2, C), cache)
