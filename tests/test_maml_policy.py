"""MAML for trials against its definition written out for one trial, and its gradients against differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_runs import learner_for
from torch import Tensor
from torch.func import functional_call, grad

from baselines.maml_policy import MAMLPolicy
from runs.agents import MAMLPolicyConfig
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.ppo import PPOTraining
from runs.algorithms.trpo import TRPOTraining, fisher_product
from runs.system.machine import Machine
from runs.tasks import BanditTask, MDPTask
from snail.actions import ActionHead, Categorical, Gaussian

B, SEEN, T, DISCOUNT = 3, 4, 10, 0.9
HEADS = {
    "discrete": lambda: Categorical(3),
    "continuous": lambda: Gaussian(-torch.ones(2), torch.ones(2)),
    "squashed": lambda: Gaussian(-torch.ones(2), torch.ones(2), squash=True),
}
CPU = Machine(torch.device("cpu"))


def policy(head: ActionHead, **settings) -> MAMLPolicy:
    torch.manual_seed(0)
    model = MAMLPolicy(
        SEEN, head.double(), T, hidden_size=5, inner_lr=0.5, inner_steps=3, discount=DISCOUNT, **settings
    ).double()
    for p in model.parameters():  # what starts at 0 would hide its part of the gradient
        p.data += 0.1 * torch.randn_like(p)
    return model


def inputs(head: ActionHead) -> Tensor:
    """Trials whose episodes end at random."""
    torch.manual_seed(1)
    seen, reward = torch.randn(B, T, SEEN), torch.randn(B, T, 1)
    if isinstance(head, Categorical):
        action = torch.eye(3)[torch.randint(3, (B, T))]
    else:
        action = torch.randn(B, T, 2).tanh()
    return torch.cat([seen, action, reward, (torch.rand(B, T, 1) < 0.4).float()], dim=-1).double()


def written_out(model: MAMLPolicy, weights: dict[str, Tensor], x: Tensor, first_order: bool = False) -> Tensor:
    """The outputs (T, D) of one trial (T, C), as in the docstring, with `torch.func` for the gradients."""
    head, A = model.actions, model.actions.channels
    names = [f"layers.{i}.{kind}" for i in range(len(model.layers)) for kind in ("weight", "bias")]
    w = {name: weights[name] for name in names}

    def outputs(w: dict[str, Tensor], x: Tensor) -> Tensor:
        h = x[:, :SEEN]
        for i in range(len(model.layers)):
            h = (torch.tanh(h) if i else h) @ w[f"layers.{i}.weight"].T + w[f"layers.{i}.bias"]
        return h

    found = []
    for start in range(0, T, 3):  # 10 steps, 4 phases: of 3 steps each, and 1
        now = x[start : start + 3]
        found.append(outputs(w, now))
        if start + 3 >= T:
            break
        told = x[start + 1 : start + 4]
        rewards, ended = told[:, SEEN + A], told[:, SEEN + A + 1] > 0
        returns, times = [], []
        for t in range(3):
            total, time = 0.0, 0.0
            for j in range(t, 3):
                total, time = total + DISCOUNT ** (j - t) * rewards[j], time + DISCOUNT ** (j - t)
                if ended[j]:
                    break
            returns.append(total)
            times.append(time)
        scale = sum(times) / 3
        b = functional_call(
            model.baseline, {n[9:]: p for n, p in weights.items() if n[:9] == "baseline."}, (now[:, :SEEN],)
        )

        def objective(w: dict[str, Tensor], now=now, told=told, returns=returns, times=times, b=b, scale=scale):
            log_p = head.log_probability(head.parameters_of(outputs(w, now)), head.decode(told[:, SEEN : SEEN + A]))
            return sum(log_p[t] * (returns[t] - times[t] * b[t, 0]) / scale for t in range(3)) / 3

        step = grad(objective)(w)
        if first_order:
            step = {name: g.detach() for name, g in step.items()}
        w = {n: w[n] + weights["log_rates"][i].exp() * step[n] for i, n in enumerate(names)}
    return torch.cat(found)


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("kind", HEADS)
def test_outputs_and_gradients_are_those_of_the_definition(kind, first_order):
    head = HEADS[kind]()
    model, x = policy(head, first_order=first_order), inputs(head)
    parameters = [*model.parameters(), *head.parameters()]
    weighted = torch.randn(B, T, head.outputs, dtype=torch.float64)
    named = dict(model.named_parameters())
    expected = torch.stack([written_out(model, named, trial, first_order) for trial in x])
    got = model(x)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)
    for g, e in zip(
        torch.autograd.grad((got * weighted).sum(), parameters, allow_unused=first_order),
        torch.autograd.grad((expected * weighted).sum(), parameters, allow_unused=first_order),
        strict=True,
    ):
        if e is not None:
            torch.testing.assert_close(g, e, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("kind", HEADS)
def test_second_derivatives_are_those_of_differences(kind):
    """Through the steps, by every learned number: initial weights, rates, baseline, and standard deviations."""
    head = HEADS[kind]()
    model, x = policy(head), inputs(head)
    parameters = [*model.parameters(), *head.parameters()]
    weighted = torch.randn(B, T, head.outputs, dtype=torch.float64)

    def loss() -> Tensor:
        return (model(x) * weighted).sum()

    gradients = torch.autograd.grad(loss(), parameters)
    assert all(g.abs().max() > 0 for g in gradients)
    for p, g in zip(parameters, gradients, strict=True):
        for i in range(0, p.numel(), max(1, p.numel() // 4)):
            ends = []
            for sign in (1, -1):
                p.data.view(-1)[i] += sign * 1e-5
                with torch.no_grad():  # as in acting: the inner gradients are taken all the same
                    ends.append(loss())
                p.data.view(-1)[i] -= sign * 1e-5
            torch.testing.assert_close(g.reshape(-1)[i], (ends[0] - ends[1]) / 2e-5, atol=1e-7, rtol=1e-5)


def test_fisher_products_are_those_of_differences():
    """TRPO differentiates once more: against differences of the divergence's gradient."""
    head = HEADS["continuous"]()
    model, x = policy(head), inputs(head)
    parameters = [*model.parameters(), *head.parameters()]

    def distributions() -> Tensor:
        return head.parameters_of(model(x))

    vector = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64)
    got = fisher_product(distributions, head.kl_divergence, parameters, 0.0)(vector)
    present = distributions().detach()

    def gradient(scale: float) -> Tensor:
        parts = vector.split([p.numel() for p in parameters])
        for p, v in zip(parameters, parts, strict=True):
            p.data += scale * v.view_as(p)
        kl = head.kl_divergence(present, distributions()).mean()
        found = torch.cat([g.flatten() for g in torch.autograd.grad(kl, parameters)])
        for p, v in zip(parameters, parts, strict=True):
            p.data -= scale * v.view_as(p)
        return found

    torch.testing.assert_close(got, (gradient(1e-5) - gradient(-1e-5)) / 2e-5, atol=1e-5, rtol=1e-4)


def test_a_step_makes_what_paid_more_probable():
    head = Categorical(3)
    model = MAMLPolicy(0, head, 2, inner_steps=1)
    won, lost = torch.zeros(2, 5), torch.zeros(2, 5)
    won[1] = torch.tensor([0.0, 1, 0, 1, 1])  # action 1 paid 1
    lost[1] = torch.tensor([0.0, 1, 0, -1, 1])
    y = model(torch.stack([won, lost])).softmax(-1)
    torch.testing.assert_close(y[:, 0], torch.full((2, 3), 1 / 3))
    assert y[0, 1, 1] > 1 / 3 > y[1, 1, 1]


@pytest.mark.parametrize("training", [PPOTraining(60, 256, learning_rate=1e-2), TRPOTraining(25, 256)])
def test_it_learns_to_adapt(training):
    """10 pulls of 2 arms: without adapting no policy earns more than 5."""
    learner = learner_for(training, BanditTask(2, 10), MAMLPolicyConfig(16, 1), TrialTest(trials=2000), 0, CPU)
    for step in range(learner.steps):
        logs = learner.update(step)
        assert logs["step_forward_mismatch"] < 1e-4
    (found,) = learner.evaluate(lambda *_: None)
    assert found.mean - found.ci95 > 5.6


@pytest.mark.parametrize(
    ("agent", "training", "match"),
    [
        (MAMLPolicyConfig(inner_steps=10), {}, "below the trial's 10 steps, got 10"),
        (MAMLPolicyConfig(inner_steps=0), {}, "inner_steps must be at least 1, got 0"),
        (MAMLPolicyConfig(inner_lr=0.0), {}, "inner_lr must be positive"),
        (MAMLPolicyConfig(), {"shared_trunk": True}, "no-shared-trunk"),
    ],
)
def test_wrong_settings_are_refused(agent, training, match):
    training = replace(PPOTraining(1, 4), **training)
    with pytest.raises(ValueError, match=match):
        learner_for(training, MDPTask(1), agent, TrialTest(10), 0, CPU)
