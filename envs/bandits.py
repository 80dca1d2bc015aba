"""Bernoulli bandits with a uniform prior: batched, and as a single environment."""

from __future__ import annotations

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from envs.trials import TrialEnv, TrialVectorEnv, require_positive


class BernoulliBanditVectorEnv(TrialVectorEnv):
    """
    ## Description
    Many K-armed Bernoulli bandits at once, each row its own. Arm ``i`` pays 1 with probability ``p_i`` and 0
    otherwise, with ``p_i ~ U[0, 1]`` drawn anew for each trial. One trial, which is one Gymnasium episode, is
    N pulls. Only past rewards tell the arms apart, so acting well means to explore and then to exploit.
    Source: Duan et al. (2016), "RL^2", arXiv:1611.02779, and Mishra et al. (2018), "A simple neural attentive
    meta-learner", arXiv:1707.03141, sections on multi-armed bandits.

    ## Observation Space
    ``Discrete(1)`` in each row: a bandit shows nothing. Observations are (B,) int64 zeros on ``device``.

    ## Action Space
    ``Discrete(arms)`` in each row: the arm to pull. Actions are (B,) integers, best as an int64 tensor on
    ``device``; numpy arrays and lists are accepted.

    ## Rewards
    (B,) float32, 1 or 0.

    ## Starting State
    ``reset`` and autoreset draw new success probabilities. ``reset(options={"tasks": p})`` with p (B, arms)
    in [0, 1] puts given ones in place, ``reset(options={"reset_mask": m})`` with m (B,) bool resets only some
    of the rows.

    ## Episode End
    Terminates after ``pulls`` pulls; never truncates. Each pull is an inner episode of one step, so
    ``info["episode_end"]`` is always True.

    ## Arguments
    | Parameter        | Type                 | Default     | Description                               |
    | ---------------- | -------------------- | ----------- | ----------------------------------------- |
    | `num_envs`       | int                  | `1`         | Rows B                                    |
    | `arms`           | int                  | `5`         | Arms K                                    |
    | `pulls`          | int                  | `10`        | Pulls N in one trial                      |
    | `device`         | torch.device or str  | `"cpu"`     | Where all tensors live                    |
    | `autoreset_mode` | AutoresetMode or str | `NEXT_STEP` | `NEXT_STEP` or `DISABLED`; see base class |

    Counts below 1 and ``AutoresetMode.SAME_STEP`` raise `ValueError`.

    ```python
    >>> import gymnasium, envs
    >>> bandits = gymnasium.make_vec("snail/BernoulliBandit-v0", num_envs=64, arms=5, pulls=10)
    >>> observations, info = bandits.reset(seed=0)

    ```

    ## Version History
    * v0: Initial version.
    """

    def __init__(
        self,
        num_envs: int = 1,
        arms: int = 5,
        pulls: int = 10,
        device: torch.device | str = "cpu",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        require_positive(num_envs=num_envs, arms=arms, pulls=pulls)
        super().__init__(
            num_envs,
            num_observations=1,
            num_actions=arms,
            episodes=pulls,
            episode_length=1,
            task_shape=(arms,),
            device=device,
            autoreset_mode=autoreset_mode,
        )

    def sample_tasks(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw success probabilities from U[0, 1]: (n, arms) float32 on the generator's device."""
        return torch.rand(n, self.num_actions, generator=generator, device=generator.device)  # (n, K)

    def check_tasks(self, tasks: Tensor) -> None:
        """Raise `ValueError` unless all success probabilities (B, arms) are in [0, 1]."""
        if not ((tasks >= 0) & (tasks <= 1)).all():
            raise ValueError(f"success probabilities must be between 0 and 1, got {tasks.min():g} to {tasks.max():g}")

    def transition(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Pull arms ``actions`` (B,): 1 with their success probability, 0 otherwise, as (B,) float32."""
        chances = self.tasks.gather(1, actions[:, None]).squeeze(1)  # (B,)
        noise = torch.rand(self.num_envs, generator=self.generator, device=self.device)  # (B,), in [0, 1)
        return (noise < chances).float(), observations


class BernoulliBanditEnv(TrialEnv):
    """
    ## Description
    One K-armed Bernoulli bandit: arm ``i`` pays 1 with probability ``p_i`` and 0 otherwise, with
    ``p_i ~ U[0, 1]`` drawn anew for each trial. One trial, which is one Gymnasium episode, is N pulls. The
    same task as `BernoulliBanditVectorEnv`, which trains much faster, in numpy and python values.

    ## Observation Space
    ``Discrete(1)``: a bandit shows nothing, the observation is always 0.

    ## Action Space
    ``Discrete(arms)``: the arm to pull.

    ## Rewards
    1.0 or 0.0.

    ## Starting State
    ``reset`` draws new success probabilities; ``reset(options={"task": p})`` with p (arms,) in [0, 1] puts
    given ones in place.

    ## Episode End
    Terminates after ``pulls`` pulls; never truncates. Stepping on raises `gymnasium.error.ResetNeeded`. Each
    pull is an inner episode of one step, so ``info["episode_end"]`` is always True.

    ## Arguments
    | Parameter | Type | Default | Description          |
    | --------- | ---- | ------- | -------------------- |
    | `arms`    | int  | `5`     | Arms K               |
    | `pulls`   | int  | `10`    | Pulls N in one trial |

    Counts below 1 raise `ValueError`.

    ```python
    >>> import gymnasium, envs
    >>> bandit = gymnasium.make("snail/BernoulliBandit-v0", arms=5, pulls=10)
    >>> observation, info = bandit.reset(seed=0)

    ```

    ## Version History
    * v0: Initial version.
    """

    def __init__(self, arms: int = 5, pulls: int = 10) -> None:
        super().__init__(BernoulliBanditVectorEnv(1, arms, pulls, autoreset_mode=AutoresetMode.DISABLED))
