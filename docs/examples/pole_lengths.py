"""Balance a pole of unknown length: a public environment, CartPole, with a drawn task."""

from dataclasses import dataclass

import gymnasium

from runs.agents import GRUConfig, SNAILConfig
from runs.algorithms.meta_rl import TrialTest
from runs.catalogue import Budget, Experiment, meta_rl, register
from runs.tasks import GymnasiumTask


class PoleLength(gymnasium.Wrapper):
    """A new task is a new pole length, drawn with the environment's own generator."""

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed)
        if options and options.get("new_task"):
            pole = self.env.unwrapped
            pole.length = pole.np_random.uniform(0.2, 2.0)
            pole.polemass_length = pole.masspole * pole.length
        return observation, info


@dataclass(frozen=True)
class PoleTask(GymnasiumTask):
    """CartPole in the wrapper."""

    def make(self) -> gymnasium.Env:
        return PoleLength(super().make())


task = PoleTask("CartPole-v1", episodes=3, max_steps=100)
learning = {"gae_lambda": 0.95, "discount": 0.99, "minibatches": 4}
budgets = {
    "full": Budget(task, meta_rl(100, batch_size=64, **learning), TrialTest(trials=500)),
    "smoke": Budget(task, meta_rl(2, batch_size=8, **learning), TrialTest(trials=20)),
}
agents = {"gru": GRUConfig(hidden_size=64), "snail": SNAILConfig(width=0.5)}
register(Experiment("pole/n3", "3 episodes of balancing a pole of unknown length", agents, budgets))
