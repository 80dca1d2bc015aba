"""Every experiment of the suite: task, training and test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from envs.control import GOALS, Goal
from envs.fewshot.augmentation import UNCHANGED, Augmentation
from runs.agents import (
    AGENTS,
    ATTENTION_VARIANTS,
    BANDIT_METHODS,
    CONTROL_METHODS,
    FEWSHOT_AGENTS,
    FEWSHOT_VARIANTS,
    MDP_METHODS,
    MEMORIES,
    TRIAL_AGENTS,
    AnyAgentConfig,
    MAMLConfig,
    MAMLPolicyConfig,
    TransferConfig,
)
from runs.agents.embeddings import (
    OMNIGLOT_EMBEDDING,
    RESIDUAL_EMBEDDING,
    ConvolutionalEmbeddingConfig,
    EmbeddingConfig,
    ResidualEmbeddingConfig,
)
from runs.algorithms.fewshot import FewShotTest, SupervisedTraining
from runs.algorithms.learner import Training
from runs.algorithms.lookahead import LookaheadTraining
from runs.algorithms.meta_rl import TrialTest
from runs.algorithms.policy_gradient import PolicyGradientTraining
from runs.algorithms.ppo import PPOTraining
from runs.algorithms.trpo import TRPOTraining
from runs.algorithms.tuning import Tuning
from runs.catalogue.experiment import Budget, Experiment
from runs.tasks import BanditTask, ControlTask, FewShotTask, MDPTask, RecallTask


def meta_rl(steps: int, **settings: Any) -> dict[str, Training]:
    """PPO and TRPO on the same trials, and the tuning of classical agents; ``settings`` are for PPO.

    TRPO, the paper's algorithm, has those settings that both know.
    """
    shared = {f.name for f in dataclasses.fields(PolicyGradientTraining)}
    common = {name: value for name, value in settings.items() if name in shared}
    return {"ppo": PPOTraining(steps, **settings), "trpo": TRPOTraining(steps, **common), "tuning": Tuning()}


LOOKAHEAD_STEPS = {"bandit": 150, "mdp": 300}
"""Updates of the full budget for MDPs and for bandits of 100 pulls and more, which are trained by lookahead. Bandits
of 500 pulls and more of 10 arms and more have three times as many."""

PASSES: dict[str, Any] = {"epochs": 2, "minibatches": 8}
"""2 epochs of 8 minibatches: as many gradient steps as 4 epochs of 4, in half the time."""

TEN_PULLS = {"snail": 4e-3, "lstm": 4e-3, "gru": 4e-3, "transformer": 2e-3, "maml": 4e-3}
"""Learning rates for 10 pulls: the best of those tried on 10 arms, see published/tuning.json."""

HUNDRED_PULLS = {"snail": 1.6e-2, "lstm": 1.6e-2, "gru": 8e-3, "transformer": 1e-3, "maml": 1.6e-2}
"""The same for 100 pulls and more, tuned on 100 pulls of 5 arms."""

MDPS = {"snail": 8e-3, "lstm": 8e-3, "gru": 4e-3, "transformer": 2e-3, "maml": 8e-3}
"""The same for MDPs, tuned on 10 episodes."""

RECALL = {"snail": 4e-3, "lstm": 2e-3, "gru": 4e-3}
"""The same for recall, tuned on 8 pairs."""

PRETRAINED_RATES = {"snail": 5e-3, "lstm": 5e-3, "gru": 5e-3, "transformer": 7e-4, "maml": 7e-4, "protonet": 5e-3}
"""The same for agents that read a pre-trained embedding."""

OMNIGLOT_RATES = {"snail": 5e-3, "lstm": 5e-3, "gru": 2e-3, "transformer": 7e-4, "maml": 2e-3, "protonet": 2e-3}
"""The same for Omniglot's 5 ways, and for one shot of any characters."""

TWENTY_WAYS = {**OMNIGLOT_RATES, "snail": 2e-3, "transformer": 7e-4}
"""The same for its 20 ways, and that of 5 for agents that were not tuned on 20."""

FULL_BATCH = {10: 1024, 100: 128, 500: 24, 1000: 16}
"""Trials per update of the full budget, by pulls: 10,000 to 16,000 steps, a few seconds of one core."""

MDP_BATCH = {10: 128, 25: 64, 50: 32, 75: 16, 100: 16}
"""The same for MDPs, by episodes."""


QUICK_STEPS = 13_000
"""Approximate environment steps per update of the demo and short budgets: a second or two on one core."""


def _quick_trials(horizon: int, minibatches: int) -> int:
    """Trials per update of the demo and short budgets, given their number of steps."""
    return max(1, QUICK_STEPS // horizon // minibatches) * minibatches


def and_lookahead(
    others: dict[str, Training], training: LookaheadTraining, steps: int, default: bool = False
) -> dict[str, Training]:
    """Other algorithms and that one, with this number of updates."""
    also = {"lookahead": replace(training, steps=steps)}
    return also | others if default else others | also


def _bandit(arms: int, pulls: int, **others: AnyAgentConfig) -> Experiment:
    task = BanditTask(arms, pulls)
    trials = 60_000 if pulls == 10 else 20_000  # an interval of less than 0.3% of the value
    long = pulls >= 100
    quick = {"batch_size": _quick_trials(pulls, PASSES["minibatches"]), **PASSES}
    full = meta_rl(1200 if (pulls, arms) == (10, 50) else 600, batch_size=FULL_BATCH[pulls], **PASSES)
    demo = meta_rl(160, **quick) if long else meta_rl(190, **PASSES)
    short, smoke = meta_rl(40, **quick), meta_rl(4, batch_size=4 * max(2, 640 // pulls))
    steps = full_steps = LOOKAHEAD_STEPS["bandit"]
    lookahead = LookaheadTraining(steps, FULL_BATCH[pulls], value_states=3200 if arms == 50 else 16_000)
    if pulls >= 500:  # which are too few trials to begin with; as few pulls as arms would teach nothing
        lookahead = replace(lookahead, curriculum=0.6, curriculum_episodes=max(50, 2 * arms))
        full_steps = steps if arms == 5 else 3 * steps

    return Experiment(
        f"bandit/n{pulls}-k{arms}",
        f"{pulls} pulls of a {arms}-armed Bernoulli bandit",
        {**AGENTS, "maml": MAMLPolicyConfig(hidden_size=32, layers=1), **MEMORIES, **others, **BANDIT_METHODS},
        {
            "full": Budget(
                task,
                and_lookahead(full, lookahead, full_steps, default=long),
                TrialTest(trials),
                HUNDRED_PULLS if long else TEN_PULLS,
            ),
            "demo": Budget(task, and_lookahead(demo, lookahead, steps // 2, default=long), TrialTest()),
            # its records of all memories are by PPO
            "short": Budget(task, and_lookahead(short, lookahead, 20), TrialTest()),
            "smoke": Budget(task, and_lookahead(smoke, lookahead, 4), TrialTest(trials=2000)),
        },
    )


def _mdp(episodes: int) -> Experiment:
    task = MDPTask(episodes)
    settings: dict[str, Any] = {"epochs": 2, "minibatches": 16, "learning_rate": 1e-3, "posterior_rewards": True}
    full = meta_rl(800, batch_size=MDP_BATCH[episodes], **settings)
    quick = {"batch_size": _quick_trials(10 * episodes, settings["minibatches"]), **settings}
    demo, short, smoke = meta_rl(160, **quick), meta_rl(40, **quick), meta_rl(4, batch_size=32)
    steps = LOOKAHEAD_STEPS["mdp"]
    lookahead = LookaheadTraining(steps, MDP_BATCH[episodes], minibatches=16, temperature=0.3, reverse=0.5)
    if episodes >= 25:  # as for bandits: agents with a state of fixed size hardly learn from few long trials
        lookahead = replace(lookahead, curriculum=0.6, curriculum_episodes=10)
    return Experiment(
        f"mdp/n{episodes}",
        f"{episodes} episodes of 10 steps in a random MDP of 10 states and 5 actions",
        {**TRIAL_AGENTS, **MDP_METHODS},
        {
            "full": Budget(task, and_lookahead(full, lookahead, steps, default=True), TrialTest(trials=10_000), MDPS),
            "demo": Budget(task, and_lookahead(demo, lookahead, steps // 4, default=True), TrialTest(trials=2000)),
            "short": Budget(task, and_lookahead(short, lookahead, 20), TrialTest(trials=2000)),
            "smoke": Budget(task, and_lookahead(smoke, lookahead, 4), TrialTest(trials=200)),
        },
    )


def _control(animal: str, env: str, goal: Goal, show_task: bool = False) -> Experiment:
    """Two episodes of 200 steps, as in the SNAIL paper, or one with the task in the observation, as an upper bound."""
    task = ControlTask(env, episodes=1 if show_task else 2, max_steps=200, goal=goal, show_task=show_task)
    settings: dict[str, Any] = {"epochs": 3, "minibatches": 4, "gae_lambda": 0.95, "discount": 0.99}
    settings |= {"entropy_coef": 0.0, "learning_rate": 5e-4, "reward_prediction": 0.0}
    trials = 64 if show_task else 32

    def learned(steps: int) -> dict[str, Training]:
        return meta_rl(steps, batch_size=trials, **settings)

    hidden: dict[str, AnyAgentConfig] = {
        **MEMORIES,
        "maml": MAMLPolicyConfig(hidden_size=100, inner_steps=1),
        **CONTROL_METHODS,
    }
    agents: dict[str, AnyAgentConfig] = {**AGENTS, **({} if show_task else hidden)}
    return Experiment(
        f"control/{animal}-{goal}{'-told' if show_task else ''}",
        f"200 steps of the {animal} with the {goal} in the observation, an upper bound"
        if show_task
        else f"2 episodes of 200 steps of the {animal} with a hidden {goal}",
        agents,
        {
            "full": Budget(task, learned(400), TrialTest(trials=400)),
            "demo": Budget(task, learned(40), TrialTest(trials=100)),
            "short": Budget(task, learned(10), TrialTest(trials=100)),
            "smoke": Budget(
                replace(task, max_steps=10),
                meta_rl(2, batch_size=8, **{**settings, "minibatches": 2}),
                TrialTest(trials=10),
            ),
        },
    )


def _recall(pairs: int) -> Experiment:
    task = RecallTask(pairs, queries=pairs, keys=2 * pairs)
    # an answer does not affect what follows
    settings: dict[str, Any] = {**PASSES, "reward_prediction": 0.0, "discount": 0.0}

    def budget(steps: int, rates: dict[str, float] | None = None) -> Budget:
        return Budget(task, meta_rl(steps, **settings), TrialTest(trials=20_000), rates or {})

    smoke = Budget(task, meta_rl(4, batch_size=32), TrialTest(trials=200))
    return Experiment(
        f"recall/n{pairs}",
        f"associative recall of {pairs} pairs of keys and values",
        {**AGENTS, **MEMORIES},
        {"full": budget(600, RECALL), "demo": budget(200, RECALL), "short": budget(60), "smoke": smoke},
    )


def supervised(steps: int, queries: int = 15, prototype_loss: float = 1.0, **settings: Any) -> dict[str, Training]:
    """Our training, and the paper's: one query per episode, no auxiliary losses."""
    ours = SupervisedTraining(steps, queries=queries, prototype_loss=prototype_loss, prototype_pool="batch", **settings)
    paper = replace(ours, queries=1, class_loss=0.0, prototype_loss=0.0, augmentation=UNCHANGED, recombined=0)
    # its embedding is not trained on episodes, but to classify all training classes
    pretraining = replace(ours, class_loss=1.0, prototype_loss=0.0, recombined=0)
    return {"supervised": ours, "paper": paper, "pretraining": pretraining}


SMOKE: dict[str, Any] = {"steps": 20, "batch_size": 4, "validation_episodes": 50, "validations": 4}
"""Few-shot training of some seconds."""


def _smoke(task: FewShotTask) -> Budget:
    return Budget(task, supervised(**SMOKE), FewShotTest(episodes=200))


def _fewshot(
    data: str,
    ways: int,
    images: str,
    full: dict[str, Training],
    embedding: EmbeddingConfig = OMNIGLOT_EMBEDDING,
    maml: MAMLConfig | None = None,
    quick: Callable[[FewShotTask, int], Budget] | None = None,
    rates: dict[str, float] | None = None,
) -> Experiment:
    """The paper's protocol: one model for 1 to 5 shots. MAML's steps are its paper's for each experiment."""
    agents = FEWSHOT_AGENTS if maml is None else {**FEWSHOT_AGENTS, "maml": maml}
    task = FewShotTask(data, ways, shots=(1, 2, 3, 4, 5), test_shots=(1, 5), embedding=embedding)

    def part(n: int) -> Budget:
        shorter: dict[str, Any] = {"steps": n, "recombined": 0}  # as in the records of all memories
        changed = {name: replace(cast(SupervisedTraining, training), **shorter) for name, training in full.items()}
        return quick(task, n) if quick else Budget(task, changed, FewShotTest())

    return Experiment(
        f"{data}/{ways}way",
        f"{ways}-way classification of {images}, one model for 1 to 5 shots",
        agents,
        {
            "full": Budget(task, full, FewShotTest(), rates or {}),
            "demo": part(800 if quick else 1000),
            "short": part(200 if quick else 400),
            "smoke": _smoke(task),
        },
    )


def _one_shot(data: str, ways: int, images: str, **others: AnyAgentConfig) -> Experiment:
    """A model for 1 shot only, which takes less time to train."""
    task = FewShotTask(data, ways, shots=(1,), test_shots=(1,))
    return Experiment(
        f"{data}/{ways}way-1shot",
        f"{ways}-way classification of {images}, 1 shot only",
        {**FEWSHOT_AGENTS, **others},
        {
            "full": Budget(task, supervised(7000, recombined=32), FewShotTest(), OMNIGLOT_RATES),
            "demo": Budget(task, supervised(1000, recombined=32), FewShotTest(), OMNIGLOT_RATES),
            "short": Budget(task, supervised(400), FewShotTest()),
            "smoke": _smoke(task),
        },
    )


CHARACTERS, PRINTED, PHOTOGRAPHS = "handwritten characters", "printed characters (glyphs)", "photographs"

BETTER: dict[str, Any] = {"class_loss": 0.5, "augmentation": Augmentation(shift=8, flip=True, colour=0.3)}
"""Regularisation that the paper does not have: there are few training classes, with many images each."""


def _photographs_on_a_processor(task: FewShotTask, steps: int) -> Budget:
    """800 updates take half an hour on one core, with a smaller embedding than the paper's."""
    small = ResidualEmbeddingConfig(size=64, filters=(16, 24, 32, 64), wide=512)
    training = supervised(steps, batch_size=8, learning_rate=1e-3, validation_episodes=100, validations=8, **BETTER)
    return Budget(replace(task, embedding=small), training, FewShotTest())


PRETRAINED = "mini-imagenet/5way-pretrained"


def _pretrained_photographs() -> Experiment:
    """An embedding that is trained once, to classify the training classes, in under an hour of one core.

    The agents are trained on its features, in minutes. MAML adapts the layers that read them.
    """
    task = FewShotTask("mini-imagenet", 5, (1, 2, 3, 4, 5), (1, 5), ConvolutionalEmbeddingConfig())
    # batches of few images of a class
    embedding: dict[str, Any] = {
        "batch_size": 8,
        "queries": 5,
        "learning_rate": 3e-3,
        "weight_decay": 0.05,
        "warmup": 0.05,
        **BETTER,
    }
    source = f"{PRETRAINED}/transfer"

    def budget(updates: int, of_embedding: int) -> Budget:
        pretraining = supervised(of_embedding, **embedding)["pretraining"]
        ours = supervised(updates, weight_decay=0.05, embedding_from=source)["supervised"]
        return Budget(task, {"supervised": ours, "pretraining": pretraining}, FewShotTest(), PRETRAINED_RATES)

    training = {k: replace(cast(SupervisedTraining, t), **SMOKE) for k, t in budget(20, 20).algorithms.items()}
    return Experiment(
        PRETRAINED,
        f"5-way classification of {PHOTOGRAPHS}, with an embedding pre-trained on the training classes",
        {
            "transfer": TransferConfig(),
            **FEWSHOT_AGENTS,
            "maml": MAMLConfig(inner_lr=0.1, inner_steps=5, test_steps=10),
        },
        {
            "full": budget(2000, 5000),
            "demo": budget(800, 1200),
            "short": budget(200, 300),
            "smoke": Budget(task, training, FewShotTest(episodes=200)),
        },
    )


CATALOGUE: dict[str, Experiment] = {
    e.id: e
    for e in (
        *(
            _bandit(arms, pulls, **(ATTENTION_VARIANTS if (pulls, arms) == (100, 5) else {}))
            for pulls in (10, 100, 500)
            for arms in (5, 10, 50)
        ),
        _bandit(arms=50, pulls=1000),
        *(_recall(pairs) for pairs in (8, 32)),
        *(_mdp(episodes) for episodes in (10, 25, 50, 75, 100)),
        *(
            _control(animal, env, goal, show_task)
            for animal, env in (("cheetah", "HalfCheetah-v5"), ("ant", "Ant-v5"))
            for goal in GOALS
            for show_task in (False, True)
        ),
        _fewshot("omniglot", 5, CHARACTERS, supervised(3000, recombined=32), rates=OMNIGLOT_RATES),
        _fewshot(
            "omniglot",
            20,
            CHARACTERS,
            supervised(3000, queries=20, batch_size=8, recombined=16),
            maml=MAMLConfig(inner_lr=0.1, inner_steps=5, test_steps=5),
            rates=TWENTY_WAYS,
        ),
        _one_shot("omniglot", 5, CHARACTERS, **FEWSHOT_VARIANTS),
        _fewshot("glyphs", 5, PRINTED, supervised(3000, recombined=32)),
        _one_shot("glyphs", 5, PRINTED),
        _fewshot(
            "mini-imagenet",
            5,
            PHOTOGRAPHS,
            supervised(30_000, learning_rate=1e-3, **BETTER),
            RESIDUAL_EMBEDDING,
            MAMLConfig(inner_lr=0.01, inner_steps=5, test_steps=10),
            quick=_photographs_on_a_processor,
        ),
        _pretrained_photographs(),
    )
}
