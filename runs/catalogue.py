"""Every experiment of the suite, as data: what is learned, with how much training, and how it is measured."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from baselines.trial_method import TrialMethod
from envs.augmentation import UNCHANGED, Augmentation
from runs.agents import (
    AGENTS,
    ATTENTION_VARIANTS,
    BANDIT_METHODS,
    FEWSHOT_AGENTS,
    FEWSHOT_VARIANTS,
    MDP_METHODS,
    AnyAgentConfig,
    FewShotAgent,
    MAMLConfig,
    TransferConfig,
)
from runs.config import from_dict, options_of, to_dict
from runs.embeddings import OMNIGLOT_EMBEDDING, RESIDUAL_EMBEDDING, EmbeddingConfig, ResidualEmbeddingConfig
from runs.errors import RunError
from runs.learner import Test, Training
from runs.meta_rl import MetaRLTraining, TrialTest
from runs.ppo import PPOTraining
from runs.supervised import FewShotTest, SupervisedTraining
from runs.tasks import BanditTask, DataName, FewShotTask, MDPTask, Task
from runs.trpo import TRPOTraining
from runs.tuning import Tuning


@dataclass(frozen=True)
class RunConfig:
    """One run: everything that decides its numbers, but for the device."""

    experiment: str
    """Name in the catalogue."""
    agent: str
    """Name of the agent."""
    budget: str
    """How much training: full, demo or smoke."""
    seed: int
    """Seed of the initial weights and of everything drawn in training."""
    task: Annotated[Task, options_of(Task)]
    """What is learned."""
    model: Annotated[AnyAgentConfig, options_of(FewShotAgent, TrialMethod)]
    """What learns it."""
    training: Annotated[Training, options_of(Training)]
    """How it learns."""
    test: Annotated[Test, options_of(Test)]
    """How it is measured."""


@dataclass(frozen=True)
class Budget:
    """How much of an experiment is done: its task, the ways of training, the usual one first, and its test."""

    task: Task
    algorithms: Mapping[str, Training]
    test: Test


_OWN_WAYS: dict[str, type] = {"tuning": TrialMethod, "pretraining": TransferConfig}
"""Algorithms that are for some kind of agent alone, which has no other."""

_NOT_FOR: dict[str, type] = {"paper": MAMLConfig}
"""Algorithms that some agents cannot do: a single query has no statistics for MAML to normalise it by."""

BUDGETS = ("full", "demo", "short", "smoke")
"""From the most training to the least; tables show the first of these that has been run."""


@dataclass(frozen=True)
class Experiment:
    """A task that agents are compared on."""

    id: str
    about: str
    agents: Mapping[str, AnyAgentConfig]
    budgets: Mapping[str, Budget]

    def algorithms(self, agent: str) -> tuple[str, ...]:
        """The ways of training an agent, the usual one first; some agents have their own."""
        ways = dict.fromkeys(name for b in self.budgets.values() for name in b.algorithms)
        model = self.agents[agent]
        own = {name for name, kind in _OWN_WAYS.items() if isinstance(model, kind)}
        possible = (name for name in ways if (name in own if own else name not in _OWN_WAYS))
        return tuple(name for name in possible if not isinstance(model, _NOT_FOR.get(name, ())))

    def limit(self) -> float | None:
        """What no agent can pass in expectation, in units of the metric; None where it is not known."""
        return self.budgets["full"].task.limit()

    def config(self, agent: str, seed: int = 0, budget: str = "full", algorithm: str | None = None) -> RunConfig:
        """The run of one agent; without ``algorithm`` trained in the usual way.

        Raises:
            RunError: if the experiment has no such agent, budget or algorithm.
        """
        for what, name, known in (("agent", agent, self.agents), ("budget", budget, self.budgets)):
            if name not in known:
                raise RunError(_unknown(what, name, tuple(known)) + f" for {self.id}")
        ways = self.algorithms(agent)
        if algorithm is not None and algorithm not in ways:
            raise RunError(_unknown("algorithm", algorithm, ways) + f" for {agent} on {self.id}")
        b = self.budgets[budget]
        training = b.algorithms[algorithm or ways[0]]
        return RunConfig(self.id, agent, budget, seed, b.task, self.agents[agent], training, b.test)


def find(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        RunError: if there is none; the message suggests the nearest.
    """
    if name not in CATALOGUE:
        raise RunError(
            _unknown("experiment", name, tuple(CATALOGUE))
            + "; `snail list` shows all, `snail --extend FILE` knows yours"
        )
    return CATALOGUE[name]


def register(experiment: Experiment) -> None:
    """Add an experiment to the catalogue.

    Args:
        experiment: its id is ``family/name`` of small letters, digits and hyphens, as are its agents' names: they name
            folders. Its budgets are some of `BUDGETS`, "full" among them.

    Raises:
        RunError: if there is one of that id already, or it is malformed, or one of its runs cannot be trained or does
            not survive being written to JSON and read back.
    """
    if not re.fullmatch(f"{_NAME}/{_NAME}", experiment.id):
        raise RunError(f"an experiment's id must be family/name of a-z, 0-9 and hyphens, got {experiment.id!r}")
    if experiment.id in CATALOGUE:
        raise RunError(f"there is an experiment {experiment.id} already; choose another id")
    if "full" not in experiment.budgets or not set(experiment.budgets) <= set(BUDGETS):
        raise RunError(
            f"{experiment.id}: budgets must be some of {', '.join(BUDGETS)}, full among them, "
            f"got {', '.join(experiment.budgets) or 'none'}"
        )
    if not experiment.agents:
        raise RunError(f"{experiment.id} has no agents")
    for agent in experiment.agents:
        _check_runs(experiment, agent)
    CATALOGUE[experiment.id] = experiment


def register_agent(name: str, config: AnyAgentConfig, *experiments: str) -> None:
    """Add an agent to experiments of the catalogue.

    Args:
        name: of small letters, digits and hyphens.
        config: a frozen dataclass that derives from `SequenceAgent`, `FewShotAgent` or `TrialMethod`.
        experiments: ids, or patterns such as ``bandit/*``.

    Raises:
        RunError: if a pattern has no experiment, one of them has an agent of that name, or one of its runs cannot be
            trained or does not survive being written to JSON and read back. Nothing is added then.
    """
    added: dict[str, Experiment] = {}
    for pattern in experiments:
        found = fnmatch.filter(CATALOGUE, pattern)
        if not found:
            raise RunError(_unknown("experiment", pattern, tuple(CATALOGUE)) + "; `snail list` shows all")
        for e in map(find, found):
            if name in e.agents:
                raise RunError(f"{e.id} has an agent {name} already; choose another name")
            added[e.id] = replace(e, agents={**e.agents, name: config})
            _check_runs(added[e.id], name)
    CATALOGUE.update(added)


_NAME = "[a-z0-9]+(-[a-z0-9]+)*"


def _check_runs(experiment: Experiment, agent: str) -> None:
    """Raise RunError unless every run of an agent can be trained, named and read back from its folder."""
    where = f"{agent} on {experiment.id}"
    if not re.fullmatch(_NAME, agent):
        raise RunError(f"an agent's name must be of a-z, 0-9 and hyphens, got {agent!r}")
    for name, budget in experiment.budgets.items():
        ways = [way for way in experiment.algorithms(agent) if way in budget.algorithms]
        if not ways:
            known = ", ".join(budget.algorithms) or "none"
            raise RunError(f"{where}: the {name} budget has no algorithm for this agent, got {known}")
        for way in ways:
            config = experiment.config(agent, budget=name, algorithm=way)
            try:
                hash(config)
                same = from_dict(RunConfig, to_dict(config), where) == config
            except TypeError as e:
                raise RunError(f"{where}: settings must be numbers, strings and tuples of them ({e})") from e
            if not same:
                raise RunError(f"{where}: its settings are not the same after they were written to JSON and read back")


def as_catalogued(config: RunConfig) -> bool:
    """Whether a run has the settings of the catalogue: tables show only such runs."""
    return config == find(config.experiment).config(config.agent, config.seed, config.budget)


def _unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f", did you mean {near[0]}?" if near else f", choose from {', '.join(known)}"
    return f"unknown {what} {name!r}{hint}"


def meta_rl(steps: int, **settings: Any) -> dict[str, Training]:
    """Both algorithms on the same trials, and the tuning of the methods that do not learn; settings are PPO's."""
    shared = {f.name for f in dataclasses.fields(MetaRLTraining)}
    common = {name: value for name, value in settings.items() if name in shared}
    return {"ppo": PPOTraining(steps, **settings), "trpo": TRPOTraining(steps, **common), "tuning": Tuning()}


FULL_STEPS = {10: 600, 100: 2000, 500: 600, 1000: 600}
"""Updates of the full budget, by pulls; 10 pulls of 50 arms need twice as many."""
PASSES: dict[str, Any] = {"epochs": 2, "minibatches": 8}
"""As many steps as 4 epochs of 4 minibatches, for half the time."""
FULL_BATCH = {10: 1024, 100: 128, 500: 256, 1000: 128}
"""Trials in an update of the full budget, by pulls: some 10,000 steps where a processor does it, 128,000 for a GPU."""


def _bandit(arms: int, pulls: int, **others: AnyAgentConfig) -> Experiment:
    task = BanditTask(arms, pulls)
    trials = 60_000 if pulls == 10 else 20_000  # an interval of less than 0.3% of the value
    demo = {"demo": Budget(task, meta_rl(190, **PASSES), TrialTest())} if pulls == 10 else {}
    few = meta_rl(40, batch_size=FULL_BATCH[pulls], **PASSES)
    full = meta_rl(FULL_STEPS[pulls] * (2 if arms > pulls else 1), batch_size=FULL_BATCH[pulls], **PASSES)
    short = {"short": Budget(task, few, TrialTest())} if others else {}
    return Experiment(
        f"bandit/n{pulls}-k{arms}",
        f"{pulls} pulls of a {arms}-armed Bernoulli bandit",
        {**AGENTS, **others, **BANDIT_METHODS},
        {
            "full": Budget(task, full, TrialTest(trials)),
            **demo,
            **short,
            "smoke": Budget(task, meta_rl(4, batch_size=4 * max(2, 640 // pulls)), TrialTest(trials=2000)),
        },
    )


def _mdp(episodes: int) -> Experiment:
    task = MDPTask(episodes)
    batch_size = {10: 128, 25: 64}.get(episodes, 256)  # 13,000 to 16,000 steps for a processor, more for a GPU
    settings = {"batch_size": batch_size, "epochs": 2, "minibatches": 16, "learning_rate": 1e-3}
    return Experiment(
        f"mdp/n{episodes}",
        f"{episodes} episodes of 10 steps in a random MDP of 10 states and 5 actions",
        {**AGENTS, **MDP_METHODS},
        {
            "full": Budget(task, meta_rl(1600, **settings), TrialTest(trials=10_000)),
            "smoke": Budget(task, meta_rl(4, batch_size=32), TrialTest(trials=200)),
        },
    )


def supervised(steps: int, queries: int = 15, prototype_loss: float = 1.0, **settings: Any) -> dict[str, Training]:
    """Ours, and with what the paper published: one query an episode, and nothing but its loss."""
    ours = SupervisedTraining(steps, queries=queries, prototype_loss=prototype_loss, prototype_pool="batch", **settings)
    paper = replace(ours, queries=1, class_loss=0.0, prototype_loss=0.0, augmentation=UNCHANGED)
    # its embedding is not trained on episodes, but on telling all training classes apart
    pretraining = replace(ours, class_loss=1.0, prototype_loss=0.0)
    return {"supervised": ours, "paper": paper, "pretraining": pretraining}


def _smoke(task: FewShotTask) -> Budget:
    training = supervised(20, batch_size=4, validation_episodes=50, validations=4)
    return Budget(task, training, FewShotTest(episodes=200))


def _fewshot(
    data: DataName,
    ways: int,
    images: str,
    full: dict[str, Training],
    embedding: EmbeddingConfig = OMNIGLOT_EMBEDDING,
    maml: MAMLConfig | None = None,
    demo: Callable[[FewShotTask], Budget] | None = None,
) -> Experiment:
    """The paper's protocol: one model for 1 to 5 shots. MAML's steps are its paper's for each experiment."""
    agents = FEWSHOT_AGENTS if maml is None else {**FEWSHOT_AGENTS, "maml": maml}
    task = FewShotTask(data, ways, shots=(1, 2, 3, 4, 5), test_shots=(1, 5), embedding=embedding)
    budgets = {"full": Budget(task, full, FewShotTest()), **({"demo": demo(task)} if demo else {})}
    return Experiment(
        f"{data}/{ways}way",
        f"{ways}-way classification of {images}, one model for 1 to 5 shots",
        agents,
        {**budgets, "smoke": _smoke(task)},
    )


def _one_shot(data: DataName, ways: int, images: str, **others: AnyAgentConfig) -> Experiment:
    """A model for 1 shot alone, which learns in less time."""
    short = {"short": Budget(FewShotTask(data, ways, (1,), (1,)), supervised(400), FewShotTest())} if others else {}
    task = FewShotTask(data, ways, shots=(1,), test_shots=(1,))
    return Experiment(
        f"{data}/{ways}way-1shot",
        f"{ways}-way classification of {images}, 1 shot only",
        {**FEWSHOT_AGENTS, **others},
        {
            "full": Budget(task, supervised(7000), FewShotTest()),
            "demo": Budget(task, supervised(1000), FewShotTest()),
            **short,
            "smoke": _smoke(task),
        },
    )


CHARACTERS, PRINTED, PHOTOGRAPHS = "handwritten characters", "printed characters made here", "photographs"
BETTER: dict[str, Any] = {"class_loss": 0.5, "augmentation": Augmentation(shift=8, flip=True, colour=0.3)}
"""What the paper does not have and photographs need: they are few, and every class has many to tell apart."""


def _photographs_on_a_processor(task: FewShotTask) -> Budget:
    """Half an hour of one core, which is too little for the paper's embedding: a smaller one."""
    small = ResidualEmbeddingConfig(size=64, filters=(16, 24, 32, 64), wide=512)
    training = supervised(800, batch_size=8, learning_rate=1e-3, validation_episodes=100, validations=8, **BETTER)
    return Budget(replace(task, embedding=small), training, FewShotTest())


CATALOGUE: dict[str, Experiment] = {
    e.id: e
    for e in (
        *(
            _bandit(arms, pulls, **(ATTENTION_VARIANTS if (pulls, arms) == (100, 5) else {}))
            for pulls in (10, 100, 500)
            for arms in (5, 10, 50)
        ),
        _bandit(arms=50, pulls=1000),
        *(_mdp(episodes) for episodes in (10, 25, 50, 75, 100)),
        _fewshot("omniglot", 5, CHARACTERS, supervised(12_000)),
        _fewshot(
            "omniglot",
            20,
            CHARACTERS,
            supervised(6000, queries=20),
            maml=MAMLConfig(inner_lr=0.1, inner_steps=5, test_steps=5),
        ),
        _one_shot("omniglot", 5, CHARACTERS, **FEWSHOT_VARIANTS),
        _fewshot("glyphs", 5, PRINTED, supervised(6000)),
        _one_shot("glyphs", 5, PRINTED),
        _fewshot(
            "mini-imagenet",
            5,
            PHOTOGRAPHS,
            supervised(30_000, learning_rate=1e-3, **BETTER),
            RESIDUAL_EMBEDDING,
            MAMLConfig(inner_lr=0.01, inner_steps=5, test_steps=10),
            demo=_photographs_on_a_processor,
        ),
    )
}
