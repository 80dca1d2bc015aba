"""20 pulls of 3 arms: can learning improve on Thompson sampling?"""

from baselines.bandits import FiniteHorizonGittins, Thompson
from runs.agents import GRUConfig, SNAILConfig
from runs.algorithms.meta_rl import TrialTest
from runs.catalogue import Budget, Experiment, meta_rl, register
from runs.tasks import BanditTask

task = BanditTask(arms=3, pulls=20)
register(
    Experiment(
        id="few-arms/n20-k3",
        about="20 pulls of a 3-armed Bernoulli bandit",
        agents={
            "snail": SNAILConfig(),
            "snail-narrow": SNAILConfig(width=0.5),
            "gru": GRUConfig(),
            "thompson": Thompson(),
            "finite-gittins": FiniteHorizonGittins(),
        },
        budgets={
            "full": Budget(task, meta_rl(steps=300), TrialTest(trials=20_000)),
            "smoke": Budget(task, meta_rl(steps=3), TrialTest(trials=1000)),
        },
    )
)
