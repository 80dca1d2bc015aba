"""Random tabular MDPs: batched, and as a single environment."""

from __future__ import annotations

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from envs.trials import TrialEnv, TrialVectorEnv, require_positive


class TabularMDPVectorEnv(TrialVectorEnv):
    """
    ## Description
    Many random Markov decision processes at once, each row its own. Taking action ``a`` in state ``s`` pays a
    reward from ``N(mu_sa, 1)`` and leads to the next state with probabilities ``P_sa``. For each trial the means
    are drawn anew from ``mu_sa ~ N(1, 1)`` and the probabilities from a flat Dirichlet distribution. One trial,
    which is one Gymnasium episode, is N inner episodes of H steps, each of which starts in state 0.
    Source: Duan et al. (2016), "RL^2", arXiv:1611.02779, section 3.2, and Mishra et al. (2018), "A simple neural
    attentive meta-learner", arXiv:1707.03141, section on tabular MDPs.

    ## Observation Space
    ``Discrete(states)`` in each row: the state. Observations are (B,) int64 on ``device``.

    ## Action Space
    ``Discrete(actions)`` in each row. Actions are (B,) integers, best as an int64 tensor on ``device``; numpy
    arrays and lists are accepted.

    ## Rewards
    (B,) float32, normally distributed with variance 1 around the mean of state and action.

    ## Starting State
    State 0. ``reset`` and autoreset draw new MDPs. ``reset(options={"tasks": m})`` with m (B, states, actions,
    states + 1) puts given ones in place: ``m[..., :states]`` are the transition probabilities, ``m[..., states]``
    the mean rewards. ``reset(options={"reset_mask": r})`` with r (B,) bool resets only some of the rows.

    ## Episode End
    Terminates after ``episodes`` inner episodes of ``episode_length`` steps; never truncates.
    ``info["episode_end"]`` is True where the state shown opens an inner episode.

    ## Arguments
    | Parameter        | Type                 | Default     | Description                               |
    | ---------------- | -------------------- | ----------- | ----------------------------------------- |
    | `num_envs`       | int                  | `1`         | Rows B                                    |
    | `states`         | int                  | `10`        | States S                                  |
    | `actions`        | int                  | `5`         | Actions A                                 |
    | `episodes`       | int                  | `10`        | Inner episodes N in one trial             |
    | `episode_length` | int                  | `10`        | Steps H in one inner episode              |
    | `device`         | torch.device or str  | `"cpu"`     | Where all tensors live                    |
    | `autoreset_mode` | AutoresetMode or str | `NEXT_STEP` | `NEXT_STEP` or `DISABLED`; see base class |

    Counts below 1 and ``AutoresetMode.SAME_STEP`` raise `ValueError`.

    ```python
    >>> import gymnasium, envs
    >>> mdps = gymnasium.make_vec("snail/TabularMDP-v0", num_envs=64, episodes=10)
    >>> states, info = mdps.reset(seed=0)

    ```

    ## Version History
    * v0: Initial version.
    """

    def __init__(
        self,
        num_envs: int = 1,
        states: int = 10,
        actions: int = 5,
        episodes: int = 10,
        episode_length: int = 10,
        device: torch.device | str = "cpu",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        require_positive(num_envs=num_envs, states=states, actions=actions)
        super().__init__(
            num_envs,
            num_observations=states,
            num_actions=actions,
            episodes=episodes,
            episode_length=episode_length,
            task_shape=(states, actions, states + 1),
            device=device,
            autoreset_mode=autoreset_mode,
        )

    def sample_tasks(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw MDPs: (n, S, A, S + 1) float32 on the generator's device, probabilities first, then mean rewards."""
        S, A = self.num_observations, self.num_actions
        # a flat Dirichlet: independent exponentials, normalised
        weights = torch.empty(n, S, A, S, device=generator.device).exponential_(generator=generator)
        chances = weights / weights.sum(-1, keepdim=True)  # (n, S, A, S)
        means = 1 + torch.randn(n, S, A, 1, generator=generator, device=generator.device)
        return torch.cat([chances, means], dim=-1)

    def check_tasks(self, tasks: Tensor) -> None:
        """Raise `ValueError` unless ``tasks`` (B, S, A, S + 1) hold probabilities and finite mean rewards."""
        if not tasks.isfinite().all():
            raise ValueError("MDPs must be finite numbers")
        chances = tasks[..., :-1]
        if not (chances >= 0).all():
            raise ValueError(f"transition probabilities must not be negative, got {chances.min():g}")
        if ((sums := chances.sum(-1)) - 1).abs().max() > 1e-4:
            raise ValueError(f"transition probabilities must add up to 1, got sums of {sums.min():g} to {sums.max():g}")

    def transition(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Take ``actions`` (B,) in states ``observations`` (B,): rewards (B,) float32, next states (B,) int64."""
        rows = torch.arange(self.num_envs, device=self.device)
        here = self.tasks[rows, observations, actions]  # (B, S + 1)
        rewards = here[:, -1] + torch.randn(self.num_envs, generator=self.generator, device=self.device)
        cumulative = here[:, :-1].cumsum(-1)  # (B, S)
        # scaled by the total, which rounding leaves a little off 1
        point = torch.rand(self.num_envs, generator=self.generator, device=self.device) * cumulative[:, -1]
        states = (cumulative <= point[:, None]).sum(-1)  # (B,): how many states lie before the point
        return rewards, states.clamp(max=self.num_observations - 1)


class TabularMDPEnv(TrialEnv):
    """
    ## Description
    One random Markov decision process: action ``a`` in state ``s`` pays a reward from ``N(mu_sa, 1)`` and leads
    to the next state with probabilities ``P_sa``, with ``mu_sa ~ N(1, 1)`` and ``P_sa`` from a flat Dirichlet
    distribution, drawn anew for each trial. One trial, which is one Gymnasium episode, is N inner episodes of H
    steps. The same task as `TabularMDPVectorEnv`, which trains much faster, in numpy and python values.

    ## Observation Space
    ``Discrete(states)``: the state.

    ## Action Space
    ``Discrete(actions)``.

    ## Rewards
    Normally distributed with variance 1 around the mean of state and action.

    ## Starting State
    State 0. ``reset`` draws a new MDP; ``reset(options={"task": m})`` with m (states, actions, states + 1) puts a
    given one in place, transition probabilities first and mean rewards last.

    ## Episode End
    Terminates after ``episodes`` inner episodes of ``episode_length`` steps. Stepping on raises
    `gymnasium.error.ResetNeeded`. ``info["episode_end"]`` is True where the state shown opens an inner episode.

    ## Arguments
    | Parameter        | Type | Default | Description                   |
    | ---------------- | ---- | ------- | ----------------------------- |
    | `states`         | int  | `10`    | States S                      |
    | `actions`        | int  | `5`     | Actions A                     |
    | `episodes`       | int  | `10`    | Inner episodes N in one trial |
    | `episode_length` | int  | `10`    | Steps H in one inner episode  |

    Counts below 1 raise `ValueError`.

    ```python
    >>> import gymnasium, envs
    >>> mdp = gymnasium.make("snail/TabularMDP-v0", episodes=10)
    >>> state, info = mdp.reset(seed=0)

    ```

    ## Version History
    * v0: Initial version.
    """

    def __init__(self, states: int = 10, actions: int = 5, episodes: int = 10, episode_length: int = 10) -> None:
        disabled = AutoresetMode.DISABLED
        super().__init__(TabularMDPVectorEnv(1, states, actions, episodes, episode_length, autoreset_mode=disabled))
