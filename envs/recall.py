"""Associative recall: pairs of keys and values, then queries for the value of a key."""

from __future__ import annotations

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from envs.trials import TrialVectorEnv, require_positive


class AssociativeRecallVectorEnv(TrialVectorEnv):
    """Multi-query associative recall (Arora et al. 2023, arXiv:2312.04927) as trials of one episode.

    A trial shows a blank, then ``pairs`` different keys, each followed by its value, then ``queries`` of the keys in
    random order, distinct as far as possible. The right action at a query is the key's value,
    which pays 1; all else pays 0. A perfect memory earns ``queries``, guessing ``queries / values``.

    Observations: 0 is the blank, then keys, then values. A task is the observation and the right answer of each step,
    (T, 2), with answer -1 at steps without a query.

    Args:
        num_envs: rows B.
        pairs, queries, keys, values: see above.
        device: where all tensors are.
        autoreset_mode: see `TrialVectorEnv`.

    Raises:
        ValueError: if a count is below 1, or there are more pairs than keys.
    """

    def __init__(
        self,
        num_envs: int = 1,
        pairs: int = 8,
        queries: int = 8,
        keys: int = 16,
        values: int = 8,
        device: torch.device | str = "cpu",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        require_positive(pairs=pairs, queries=queries, keys=keys, values=values)
        if pairs > keys:
            raise ValueError(f"pairs must be at most keys, got {pairs} and {keys}")
        self.pairs, self.queries, self.keys = pairs, queries, keys
        steps = 1 + 2 * pairs + queries
        super().__init__(
            num_envs,
            num_observations=1 + keys + values,
            num_actions=values,
            episodes=1,
            episode_length=steps,
            task_shape=(steps, 2),
            device=device,
            autoreset_mode=autoreset_mode,
        )

    def sample_tasks(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw keys, values and queries: (n, T, 2) whole numbers in float32."""
        device = generator.device

        def order(of: int) -> Tensor:
            return torch.rand(n, of, generator=generator, device=device).argsort(1)

        keys = order(self.keys)[:, : self.pairs]  # (n, pairs)
        values = torch.randint(self.num_actions, keys.shape, generator=generator, device=device)
        rounds = -(-self.queries // self.pairs)
        asked = torch.cat([order(self.pairs) for _ in range(rounds)], dim=1)[:, : self.queries]
        shown = torch.stack([1 + keys, 1 + self.keys + values], dim=2).flatten(1)  # (n, 2 pairs)
        blank = torch.zeros(n, 1, dtype=torch.long, device=device)
        shown = torch.cat([blank, shown, 1 + keys.gather(1, asked)], dim=1)
        nothing = torch.full((n, 1 + 2 * self.pairs), -1, device=device)
        return torch.stack([shown, torch.cat([nothing, values.gather(1, asked)], dim=1)], dim=2).float()

    def check_tasks(self, tasks: Tensor) -> None:
        """Raise `ValueError` unless observations and answers (B, T, 2) are in range, the first a blank."""
        shown, answers = tasks.unbind(2)
        if not ((shown >= 0) & (shown < self.num_observations)).all() or (shown[:, 0] != 0).any():
            raise ValueError(f"observations must be below {self.num_observations}, and the first must be 0")
        if not ((answers >= -1) & (answers < self.num_actions)).all():
            raise ValueError(f"answers must be -1 or below {self.num_actions}")

    def transition(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Answer with values (B,): reward 1 for the right answer to a query, and the next observations (B,)."""
        clock = self._clock
        if (clock == clock[0]).all():  # the host knows the step, so nothing is transferred
            now, after = (self.tasks[:, min(int(clock[0]) + d, self.horizon - 1)] for d in (0, 1))
        else:
            rows, t = torch.arange(self.num_envs, device=self.device), self._to_device(clock)
            now, after = (self.tasks[rows, (t + d).clamp(max=self.horizon - 1)] for d in (0, 1))
        return (actions == now[:, 1]).float(), after[:, 0].long()
