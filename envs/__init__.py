"""Where tasks come from. Importing this package makes its environments known to Gymnasium."""

from envs.bandits import BernoulliBanditEnv, BernoulliBanditVectorEnv
from envs.mdps import TabularMDPEnv, TabularMDPVectorEnv
from envs.registration import register
from envs.rl2 import RL2Observation
from envs.trials import TrialEnv, TrialVectorEnv

__all__ = [
    "BernoulliBanditEnv",
    "BernoulliBanditVectorEnv",
    "RL2Observation",
    "TabularMDPEnv",
    "TabularMDPVectorEnv",
    "TrialEnv",
    "TrialVectorEnv",
    "register",
]

register()
