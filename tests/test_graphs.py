"""Steps that a GPU records and replays: what can be tested without one."""

from __future__ import annotations

import contextlib

import pytest
import torch
from tiny_runs import learner_for
from torch._subclasses.fake_tensor import FakeTensorMode

from runs.agents import AGENTS
from runs.algorithms import passes
from runs.algorithms.cuda_graphs import WARM_UP, ReplayedStep
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.ppo import PPOTraining
from runs.system.machine import Machine
from runs.tasks import BanditTask


@pytest.mark.parametrize("agent", AGENTS)
def test_a_step_of_ppo_reads_nothing_back_to_the_host(agent, monkeypatch):
    """Tensors without numbers go through all of it: anything that depended on one would fail."""
    monkeypatch.setattr(passes, "require_finite", lambda *_: None)  # which looks, on a processor alone
    training = PPOTraining(1, batch_size=8, minibatches=2, belief_critic=True, expected_rewards=True, regrets=True)
    learner = learner_for(training, BanditTask(3, 5), AGENTS[agent], TrialTest(10), 0, Machine(torch.device("cpu")))
    batch, _ = learner._compute_advantages(learner._play(), 0.3)
    before = [p.clone() for p in learner.model.parameters()]
    with FakeTensorMode(allow_non_fake_inputs=True):
        logs = learner.passes.step(torch.tensor(0.1), *vars(batch).values())
    assert set(logs) == {
        "loss",
        "policy_loss",
        "value_loss",
        "entropy",
        "reward_error",
        "kl",
        "clip_fraction",
        "gradient_norm",
    }
    assert all(map(torch.equal, before, learner.model.parameters()))
    with FakeTensorMode(), pytest.raises(RuntimeError):  # so it would have failed
        torch.zeros(1).item()


class Recording:
    """Does on a processor what `torch.cuda.CUDAGraph` does: computes the results of a call again, in place."""

    def __init__(self) -> None:
        self.again = lambda: None

    def replay(self) -> None:
        self.again()


@pytest.fixture
def recorded(monkeypatch):
    """Sums of x, plus y where it is given, which count the updates of a state; and the recordings made."""
    state, made = torch.zeros(()), []

    def step(x, y):
        state.add_(1)
        return {"sum": x.sum() + (0 if y is None else y), "updates": state.clone()}

    replayed = ReplayedStep(step, graphs=True)

    @contextlib.contextmanager
    def record(graph):
        count = state.clone()
        yield
        state.copy_(count)  # recording computes nothing

        def again():
            for name, x in step(*replayed._inputs).items():
                replayed._logs[name].copy_(x)

        graph.again = again
        made.append(graph)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(replayed, "_beside", step)
    return replayed, made


def test_replayed_steps_see_new_inputs_and_leave_old_results_alone(recorded):
    replayed, made = recorded
    found = [replayed(torch.full((2,), float(i)), None) for i in range(WARM_UP + 3)]
    assert [x["sum"].item() for x in found] == [2.0 * i for i in range(WARM_UP + 3)]
    assert [x["updates"].item() for x in found] == [i + 1 for i in range(WARM_UP + 3)]
    assert len(made) == 1


def test_inputs_of_another_shape_begin_anew(recorded):
    replayed, made = recorded
    for size in (2, 3):
        for _ in range(WARM_UP + 2):
            assert replayed(torch.ones(size), torch.tensor(1.0))["sum"] == size + 1
    assert len(made) == 2


def test_without_graphs_it_is_the_step_itself():
    assert ReplayedStep(lambda x: {"x": x + 1}, graphs=False)(torch.tensor(1))["x"] == 2
