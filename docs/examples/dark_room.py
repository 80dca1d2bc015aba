"""A dark room: find the hidden goal in the first episode, and go straight to it in the others."""

from dataclasses import dataclass

import torch

from envs import TrialVectorEnv
from runs.agents import AGENTS
from runs.algorithms.meta_rl import TrialTest
from runs.catalogue import Budget, Experiment, meta_rl, register
from runs.tasks import TrialTask


class DarkRoom(TrialVectorEnv):
    """The agent sees its own position, but not the goal; every step on the goal pays 1."""

    def sample_tasks(self, n, generator):  # (n,) where the goals are
        return torch.randint(self.num_observations, (n,), generator=generator, device=generator.device).float()

    def transition(self, observations, actions):  # (B,) where the agent is, and 0 to 4: stay, left, right, up, down
        row = (observations // 4 - (actions == 3).long() + (actions == 4).long()).clamp(0, 3)
        column = (observations % 4 - (actions == 1).long() + (actions == 2).long()).clamp(0, 3)
        here = 4 * row + column
        return (here == self.tasks).float(), here  # rewards, and where the agent is now


@dataclass(frozen=True)
class DarkRoomTask(TrialTask):
    """Rooms of 4 by 4 places."""

    episodes: int = 3  # of 10 steps each

    def make_env(self, num_envs, device, episodes=None):
        sizes = {"num_observations": 16, "num_actions": 5, "episode_length": 10, "task_shape": ()}
        return DarkRoom(num_envs, **sizes, episodes=episodes or self.episodes, device=device, autoreset_mode="Disabled")


steps = {"full": 200, "smoke": 3}
budgets = {b: Budget(DarkRoomTask(), meta_rl(n, batch_size=128), TrialTest(trials=2000)) for b, n in steps.items()}
register(Experiment("dark-room/n3", "3 episodes in a dark room", AGENTS, budgets))
