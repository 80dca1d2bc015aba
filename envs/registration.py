"""Names of the environments in Gymnasium's registry."""

from __future__ import annotations

import gymnasium

# Trials end by themselves, so none has a `max_episode_steps`: Gymnasium's `TimeLimit` would add a truncation.
_ENTRY_POINTS = {
    "snail/BernoulliBandit-v0": ("envs.bandits:BernoulliBanditEnv", "envs.bandits:BernoulliBanditVectorEnv"),
    "snail/TabularMDP-v0": ("envs.mdps:TabularMDPEnv", "envs.mdps:TabularMDPVectorEnv"),
}


def register() -> None:
    """Register the environments for `gymnasium.make` and `make_vec`; repeated calls have no effect.

    ``import envs`` calls it, so ``gymnasium.make("envs:snail/BernoulliBandit-v0")`` needs no import at all.
    """
    for name, (entry_point, vector_entry_point) in _ENTRY_POINTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point, vector_entry_point=vector_entry_point)
