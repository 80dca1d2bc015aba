"""Where tasks come from. Importing this package makes its environments known to Gymnasium."""

from envs.bandits import BernoulliBanditEnv, BernoulliBanditVectorEnv
from envs.registration import register
from envs.trials import TrialEnv, TrialVectorEnv

__all__ = ["BernoulliBanditEnv", "BernoulliBanditVectorEnv", "TrialEnv", "TrialVectorEnv", "register"]

register()
