"""What training knows of a task and no agent sees: mean rewards, and a critic that is told; and a lambda that rises."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_runs import BANDIT, CPU

import baselines.beliefs
import runs.tasks
from baselines.mdps import Statistics
from baselines.planning import policy_value, value_iteration
from runs.agents import GRUConfig, SNAILConfig
from runs.algorithms.meta_rl import MetaRLLearner, TrialTest
from runs.algorithms.ppo import PPOLearner, PPOTraining
from runs.algorithms.returns import generalized_advantages, standardized
from runs.algorithms.rollout import rollout
from runs.algorithms.schedules import ramp
from runs.algorithms.trpo import TRPOTraining
from runs.catalogue import RunConfig, find
from runs.system.errors import RunError
from runs.tasks import BanditTask, MDPTask, RecallTask
from runs.training import build_learner, evaluate

TOLD = PPOTraining(4, 16, minibatches=2, expected_rewards=True, privileged_critic=True)
MDP = MDPTask(episodes=2, states=3, actions=2, episode_length=4)
BELIEF = PPOTraining(4, 16, minibatches=2, expected_rewards=True, belief_critic=True)
TASKS = {"bandit": BanditTask(arms=3, pulls=5), "mdp": MDP}


def learner_of(task: str = "mdp", model=GRUConfig(8), training=TOLD, **changes) -> PPOLearner:  # noqa: B008
    config = replace(BANDIT, task=TASKS[task], model=model, training=replace(training, **changes), test=TrialTest(50))
    built = build_learner(config, CPU)
    assert isinstance(built, PPOLearner)
    return built


def played(built: MetaRLLearner):
    trials = rollout(built.model, built.env, built.generator)
    return trials, built.model.observations(trials.inputs)


def test_expected_rewards_are_the_tasks_means():
    for name, task in TASKS.items():
        trials, seen = played(learner_of(name))
        expected = task.expected_rewards(trials.tasks, seen, trials.actions)
        for b in range(len(seen)):
            for t in range(seen.shape[1]):
                s, a = int(seen[b, t]), int(trials.actions[b, t])
                mean = trials.tasks[b, a] if name == "bandit" else trials.tasks[b, s, a, -1]
                assert expected[b, t] == mean


def test_the_mean_of_drawn_rewards_is_the_expected_one():
    """On one task, many times over: by the environment itself."""
    for task in TASKS.values():
        env = task.make_env(4000, "cpu")
        one = env.sample_tasks(1, torch.Generator().manual_seed(1)).expand(4000, *env.task_shape)
        observations, _ = env.reset(seed=0, options={"tasks": one})
        actions = torch.ones(4000, dtype=torch.long)
        rewards = env.step(actions)[1]
        expected = task.expected_rewards(one, observations[:, None], actions[:, None])
        assert expected.std() < 1e-6
        assert (rewards.mean() - expected.mean()).abs() < 4 * rewards.std() / 4000**0.5


def best(task: torch.Tensor, state: int, left: int) -> list[float]:
    """Optimal values of all actions in a state with so many decisions left, by the definition."""
    if left == 0:
        return [0.0] * task.shape[1]
    later = [max(best(task, s, left - 1)) for s in range(task.shape[0])]
    return [
        float(task[state, a, -1]) + sum(float(task[state, a, s]) * later[s] for s in range(task.shape[0]))
        for a in range(task.shape[1])
    ]


def test_critics_of_mdps_are_told_optimal_values():
    trials, seen = played(learner_of())
    told = MDP.privileged(trials.tasks, seen)
    assert told.shape == (*seen.shape, MDP.privileged_size)
    for b in range(3):
        for t in range(8):
            s, left = int(seen[b, t]), 4 - t % 4
            values, means = best(trials.tasks[b], s, left), trials.tasks[b, s, :, -1].tolist()
            expected = torch.tensor([*(v / 4 for v in values), *means, max(best(trials.tasks[b], 0, 4)) / 4])
            torch.testing.assert_close(told[b, t], expected, rtol=1e-4, atol=1e-5)


def test_regrets_are_losses_against_optimal_values():
    trials, seen = played(learner_of())
    found = MDP.regrets(trials.tasks, seen, trials.actions)
    for b in range(3):
        for t in range(8):
            values = best(trials.tasks[b], int(seen[b, t]), 4 - t % 4)
            assert float(found[b, t]) == pytest.approx(max(values) - values[int(trials.actions[b, t])], abs=1e-5)
    tasks, actions = torch.tensor([[0.25, 0.75, 0.5]]), torch.tensor([[0, 1, 2]])
    assert TASKS["bandit"].regrets(tasks, actions * 0, actions).tolist() == [[0.5, 0.0, 0.25]]


def test_regrets_and_expected_rewards_add_up_to_the_optimum():
    """Over many trials of random actions in one MDP: so learning from either has the same expected gradient."""
    env = MDP.make_env(4000, "cpu")
    one = env.sample_tasks(1, torch.Generator().manual_seed(1)).expand(4000, *env.task_shape)
    now, _ = env.reset(seed=0, options={"tasks": one})
    states, actions = [], torch.randint(2, (4000, 8), generator=torch.Generator().manual_seed(2))
    for t in range(8):
        states.append(now)
        now = env.step(actions[:, t])[0]
    seen = torch.stack(states, dim=1)
    earned = MDP.expected_rewards(one, seen, actions).sum(1)
    lost = MDP.regrets(one, seen, actions).sum(1)
    optimum = 2 * max(best(one[0], 0, 4))
    sums = earned + lost
    assert abs(sums.mean() - optimum) < 4 * sums.std() / 4000**0.5
    assert earned.std() > 0.1 and lost.std() > 0.1


def test_critics_of_bandits_are_told_the_arms():
    tasks = torch.tensor([[0.25, 0.75, 0.5]])
    told = TASKS["bandit"].privileged(tasks, torch.zeros(1, 5, dtype=torch.long))
    assert torch.equal(told, torch.tensor([0.25, 0.75, 0.5, 0.75]).expand(1, 5, 4))


def test_belief_states_of_bandits_say_what_is_known_of_each_arm_before_each_pull():
    tasks = torch.tensor([[0.25, 0.75, 0.5]])
    actions, rewards = torch.tensor([[1, 1, 0, 1]]), torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    found = TASKS["bandit"].belief(tasks, torch.zeros_like(actions), actions, rewards)
    assert found.shape == (1, 4, TASKS["bandit"].belief_size)

    def arm(chance: float, pulls: int, wins: int) -> list[float]:
        return [chance, (wins + 1) / (pulls + 2), pulls / 4, math.log(pulls + 1) / math.log(5)]

    best = [arm(0.75, 0, 0), arm(0.75, 1, 1), arm(0.75, 2, 1), arm(0.75, 2, 1)]
    worst = [arm(0.25, 0, 0)] * 3 + [arm(0.25, 1, 0)]
    for t in range(4):
        expected = torch.tensor([*best[t], *arm(0.5, 0, 0), *worst[t], t / 4])
        torch.testing.assert_close(found[0, t], expected)


def test_belief_states_of_mdps_are_those_of_planning_step_by_step(monkeypatch):
    """The features of all steps at once, in parts, against a loop that counts and plans before each step."""
    monkeypatch.setattr(baselines.beliefs, "STEPS_AT_ONCE", 24)
    trials, states = played(learner_of())
    found = MDP.belief(trials.tasks, states, trials.actions, trials.rewards)
    posterior = MDP.posterior_rewards(states, trials.actions, trials.rewards)
    (B, T), H = states.shape, 4
    assert found.shape == (B, T, MDP.belief_size)
    chances, means = trials.tasks[..., :-1], trials.tasks[..., -1]
    seen, rows, optimal = Statistics.none(trials.tasks), torch.arange(B), value_iteration(chances, means, H)
    for t in range(T):
        h, now = t % H, states[:, t]
        believed = value_iteration(seen.mean_chances(), seen.mean_rewards(prior_mean=1.0), H)
        earned = policy_value(chances, means, believed.argmax(-1))
        expected = [
            *(optimal[rows, h, now] / H, believed[rows, h, now] / H, means[rows, now]),
            seen.visits[rows, now].log1p() / math.log1p(T),
            torch.stack([earned[rows, h, now], earned[:, 0, 0], optimal[:, 0, 0].amax(-1)], dim=1) / H,
            (seen.visits > 0).float().mean((1, 2))[:, None],
            torch.tensor([h / H, t / T]).expand(B, 2),
        ]
        torch.testing.assert_close(found[:, t], torch.cat(expected, dim=1))
        torch.testing.assert_close(posterior[:, t], seen.mean_rewards(prior_mean=1.0)[rows, now])
        seen.add(now, trials.actions[:, t], trials.rewards[:, t], states[:, t + 1] if h < H - 1 else None)


def test_posterior_means_of_bandits_count_successes_before_each_pull():
    actions, rewards = torch.tensor([[1, 1, 0, 1]]), torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    found = TASKS["bandit"].posterior_rewards(torch.zeros_like(actions), actions, rewards)
    expected = [[1 / 2, 1 / 2, 1 / 2], [1 / 2, 2 / 3, 1 / 2], [1 / 2, 2 / 4, 1 / 2], [1 / 3, 2 / 4, 1 / 2]]
    torch.testing.assert_close(found, torch.tensor([expected]))


@pytest.mark.parametrize("name", TASKS)
def test_posterior_means_are_the_best_prediction_of_the_environments_rewards(name):
    """Nothing is left in the true means, less their posterior means, that these could predict."""
    task = TASKS[name]
    env = task.make_env(20_000, "cpu")
    learner = learner_of(name)
    env.reset(seed=0)
    trials = rollout(learner.model, env, learner.generator)
    seen = learner.model.observations(trials.inputs)
    found = task.posterior_rewards(seen, trials.actions, trials.rewards)
    rows = torch.arange(len(seen))[:, None]
    true = trials.tasks[:, None].expand_as(found) if name == "bandit" else trials.tasks[rows, seen, :, -1]
    left = (true - found)[:, -1]  # (B, A), before the last step
    for product in (left, left * found[:, -1]):
        error = product.std(0) / len(product) ** 0.5
        assert (product.mean(0).abs() < 4 * error).all()
    assert (left.var(0) < 0.98 * true[:, -1].var(0)).all()


@pytest.mark.parametrize("task", TASKS)
def test_a_belief_critic_reads_belief_states_alone(task):
    built = learner_of(task, training=BELIEF, epochs=1, minibatches=1)
    trials, seen = played(built)
    batch, _ = built._compute_advantages(trials, 0.3)
    assert torch.equal(batch.privileged, TASKS[task].belief(trials.tasks, seen, trials.actions, trials.rewards))
    _, values = built.model(batch.inputs, batch.privileged)
    assert torch.equal(values, built.model(torch.randn_like(batch.inputs), batch.privileged)[1])
    assert not torch.allclose(values, built.model(batch.inputs, batch.privileged + 1)[1])
    loss, _ = built._losses(batch, torch.tensor(0.0))
    found = torch.autograd.grad(loss, list(built.model.value.parameters()))
    by_hand = torch.autograd.grad(0.5 * (values - batch.targets).square().mean(), list(built.model.value.parameters()))
    assert all(x.abs().max() > 0 for x in found)
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize("training", [TOLD, BELIEF], ids=["privileged", "belief"])
@pytest.mark.parametrize("task", TASKS)
def test_neither_acting_nor_testing_sees_it(task, training, monkeypatch):
    """Test returns are the same where asking for it is an error; and a policy never reads what the critic is told."""
    built = learner_of(task, training=training)
    built.update(0)
    plain = build_learner(
        replace(
            BANDIT, task=TASKS[task], test=TrialTest(50), model=GRUConfig(8),
            training=replace(training, expected_rewards=False, privileged_critic=False, belief_critic=False),
        ),
        CPU,
    )  # fmt: skip
    plain.model.policy.load_state_dict(built.model.policy.state_dict())  # it has the same inputs

    def forbidden(*args):
        raise AssertionError("asked for what no agent may see")

    for kind in (BanditTask, MDPTask):
        for name in ("expected_rewards", "regrets", "privileged", "belief"):
            monkeypatch.setattr(kind, name, forbidden)
    trials, _ = played(built)
    assert trials.inputs.shape[2] == built.model.policy.input_size
    if training.belief_critic:
        assert built.model.value.belief == TASKS[task].belief_size
    else:
        assert built.model.value.input_size == built.model.policy.input_size + TASKS[task].privileged_size
    found = [m.samples for m in evaluate(built, quiet=True)]
    assert all(torch.equal(a, m.samples) for a, m in zip(found, evaluate(plain, quiet=True), strict=True))
    with pytest.raises(AssertionError, match="no agent may see"):
        built.update(1)


def test_agents_get_and_logs_show_the_rewards_that_were_drawn():
    built = learner_of("bandit")
    trials, _ = played(built)
    assert set(trials.rewards.flatten().tolist()) <= {0.0, 1.0}
    shown = trials.inputs[:, 1:, -2]  # the previous reward
    assert torch.equal(shown, trials.rewards[:, :-1])
    batch, _ = built._compute_advantages(trials, 0.3)
    assert torch.equal(batch.rewards, trials.rewards) and not torch.equal(batch.predictable, trials.rewards)


@pytest.mark.parametrize("gae_lambda", [0.3, 0.95])
def test_actions_are_judged_by_expected_rewards_and_told_values(gae_lambda):
    built = learner_of()
    trials, seen = played(built)
    told = MDP.privileged(trials.tasks, seen)
    expected = MDP.expected_rewards(trials.tasks, seen, trials.actions)
    with torch.no_grad():
        values = built.model.value(torch.cat([trials.inputs, told], dim=-1))[..., 0]
    batch, _ = built._compute_advantages(trials, gae_lambda)
    advantages = generalized_advantages(expected, values, 1.0, gae_lambda)
    torch.testing.assert_close(batch.advantages, standardized(advantages))
    torch.testing.assert_close(batch.predictable, expected)


def test_actions_are_judged_by_regrets_and_rewards_are_predicted():
    built = learner_of(training=BELIEF, regrets=True)
    trials, seen = played(built)
    batch, _ = built._compute_advantages(trials, 0.9)
    with torch.no_grad():
        _, values = built.model(trials.inputs, batch.privileged)
    regrets = MDP.regrets(trials.tasks, seen, trials.actions)
    torch.testing.assert_close(batch.advantages, standardized(generalized_advantages(-regrets, values, 1.0, 0.9)))
    assert torch.equal(batch.predictable, MDP.expected_rewards(trials.tasks, seen, trials.actions))
    assert torch.equal(batch.rewards, trials.rewards)


def test_the_norm_of_the_policys_gradient_is_logged_before_it_is_clipped():
    norms = []
    for limit in (1e9, 1e-3):
        built = learner_of("bandit", epochs=1, minibatches=1, max_grad_norm=limit)
        norms.append(built.update(0)["gradient_norm"])
        left = torch.nn.utils.get_total_norm([p.grad for p in built.passes.parts[0]])
        torch.testing.assert_close(left, norms[-1].clamp(max=limit), rtol=1e-3, atol=0)
    assert norms[0] == norms[1] > 0.01


@pytest.mark.parametrize("predicted_are", ["drawn", "expected", "posterior"])
def test_gradients_of_the_loss_are_those_of_its_definition(predicted_are):
    known = {"expected_rewards": predicted_are == "expected", "posterior_rewards": predicted_are == "posterior"}
    built = learner_of("bandit", **known, epochs=1, minibatches=1, max_grad_norm=1e9)
    batch, _ = built._compute_advantages(built._play(), 0.3)
    loss, _ = built._losses(batch, torch.tensor(built.training.entropy_coef))
    names, parameters = zip(*built.model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters)
    y = built.model.policy(batch.inputs)
    p, A = y[..., :3].softmax(-1), 3
    chosen = p.gather(-1, batch.actions[..., None])[..., 0]
    surrogate = (chosen / chosen.detach() * batch.advantages).mean()  # nothing is clipped where the policy is the same
    entropy = -(p * p.log()).sum(-1).mean()
    predicted, rewards = y[..., A : 2 * A], batch.rewards
    if predicted_are == "posterior":
        rewards = TASKS["bandit"].posterior_rewards(batch.actions * 0, batch.actions, batch.rewards)  # (B, T, A)
    else:
        predicted = predicted.gather(-1, batch.actions[..., None])[..., 0]
        rewards = batch.predictable if predicted_are == "expected" else rewards
    v = built.model.value(torch.cat([batch.inputs, batch.privileged], dim=-1))[..., 0]
    by_hand = -surrogate - 0.02 * entropy + (predicted - rewards).square().mean()
    by_hand = by_hand + 0.5 * (v - batch.targets).square().mean()
    for name, a, b in zip(names, found, torch.autograd.grad(by_hand, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)


def test_learning_in_half_precision_has_nearly_the_same_gradient(bfloat16_anywhere):
    built = learner_of("bandit", bfloat16=True, model=SNAILConfig(width=0.5))
    batch, _ = built._compute_advantages(built._play(), 0.3)
    found = []
    for half in (False, True):
        built._half = half
        loss, _ = built._losses(batch, torch.tensor(built.training.entropy_coef))
        assert loss.dtype == torch.float32
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(built.model.parameters()))]))
    assert not torch.equal(*found)
    assert torch.cosine_similarity(*found, dim=0) > 0.99


def test_the_ratio_is_taken_between_numerics_of_the_same_kind(bfloat16_anywhere):
    """At the first minibatch of an update the policy is the one that was judged: the ratio is 1."""
    built = learner_of("bandit", bfloat16=True, model=SNAILConfig(width=0.5))
    batch, _ = built._compute_advantages(built._play(), 0.3)
    with torch.no_grad():
        _, logs = built._losses(batch, torch.tensor(built.training.entropy_coef))
    assert logs["kl"].abs() < 1e-7


def test_lambda_rises_where_it_is_told_to():
    assert [ramp(x, 0.3, 0.9, 0.2, 0.7) for x in (0.0, 0.2, 0.45, 0.7, 1.0)] == pytest.approx([0.3, 0.3, 0.6, 0.9, 0.9])
    built = learner_of("bandit", gae_lambda=0.3, final_lambda=0.9, lambda_rise=(0.0, 0.5))
    assert [built._lambda(x) for x in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.3, 0.6, 0.9, 0.9])
    assert learner_of("bandit")._lambda(1.0) == 0.3


@pytest.mark.parametrize(
    "experiment, algorithm", [("bandit/n10-k5", "ppo"), ("bandit/n100-k5", "lookahead"), ("mdp/n10", "lookahead")]
)
def test_all_agents_of_a_task_are_trained_alike(experiment, algorithm):
    def shared(agent, **choice):
        return replace(find(experiment).config(agent, **choice).training, learning_rate=0.0)

    expected = find(experiment).budgets["full"].algorithms[algorithm]
    for agent in ("snail", "lstm", "gru", "transformer", "maml"):
        assert shared(agent) == replace(expected, learning_rate=0.0)
        for training in (shared(agent, algorithm="ppo"), find(experiment).config(agent, algorithm="trpo").training):
            assert not (training.expected_rewards or training.regrets or training.belief_critic)
            assert training.final_lambda is None
        assert shared(agent, algorithm="ppo").posterior_rewards == experiment.startswith("mdp")


@pytest.mark.parametrize("critic", [{"privileged_critic": True}, {"belief_critic": True, "regrets": True}])
def test_trust_regions_can_have_it_all(critic):
    training = TRPOTraining(
        2, 16, minibatches=2, cg_steps=2, expected_rewards=True, final_lambda=0.9, bfloat16=True, **critic
    )
    built = build_learner(replace(BANDIT, task=MDP, training=training, model=SNAILConfig(width=0.25)), CPU)
    assert all(x.isfinite().all() for step in range(2) for x in built.update(step).values())


class _Silent(runs.tasks.BanditTask):
    privileged_size = 0
    privileged = runs.tasks.TrialTask.privileged
    regrets = runs.tasks.TrialTask.regrets
    expected_rewards = runs.tasks.TrialTask.expected_rewards


@pytest.mark.parametrize(
    "config, why",
    [
        (replace(BANDIT, training=replace(TOLD, shared_trunk=True)), "a shared trunk acts as well"),
        (
            replace(BANDIT, task=_Silent(3, 4), training=TOLD),
            "_Silent has no privileged information; give --training.no-privileged",
        ),
        (replace(BANDIT, training=replace(BELIEF, shared_trunk=True)), "a shared trunk acts as well.*no-belief-critic"),
        (replace(BANDIT, training=replace(BELIEF, privileged_critic=True)), "give --training.no-privileged-critic"),
        (replace(BANDIT, task=RecallTask(2, 2), training=BELIEF), "RecallTask has no belief states"),
        (replace(BANDIT, training=replace(BELIEF, regrets=True, discount=0.9)), "regrets need discount 1, got 0.9"),
        (
            replace(BANDIT, training=PPOTraining(4, 16, posterior_rewards=True, reward_prediction=0.0)),
            "posterior rewards need reward prediction",
        ),
        (replace(BANDIT, training=replace(TOLD, lambda_rise=(0.5, 0.5))), "two rising fractions"),
    ],
)
def test_what_cannot_be_is_refused_before_training(config: RunConfig, why):
    with pytest.raises(RunError, match=why):
        build_learner(config, CPU)


def test_a_task_without_means_says_so():
    config = replace(BANDIT, task=_Silent(3, 4), training=replace(TOLD, privileged_critic=False))
    with pytest.raises(ValueError, match="_Silent has no expected rewards"):
        build_learner(config, CPU).update(0)
    training = replace(TOLD, privileged_critic=False, expected_rewards=False, regrets=True)
    with pytest.raises(ValueError, match="_Silent has no regrets"):
        build_learner(replace(config, training=training), CPU).update(0)
    config = replace(BANDIT, task=RecallTask(2, 2), training=PPOTraining(4, 16, posterior_rewards=True))
    with pytest.raises(ValueError, match="RecallTask has no posterior rewards; give --training"):
        build_learner(config, CPU).update(0)
