"""Trained agents for use in other programs: ``runs.load("bandit/n10-k5/snail")``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runs.algorithms.fewshot import build_classifier
from runs.algorithms.meta_rl import MetaRLLearner
from runs.results.folder import find_trained
from runs.results.records import PUBLISHED
from runs.system.errors import RunError
from runs.system.machine import Machine, use_bfloat16
from runs.tasks import FewShotTask
from runs.training import build_learner, load_model
from snail.actor_critic import ActorCritic
from snail.classifier import EpisodeModel


class Actor:
    """A trained agent that acts in trials of new tasks.

    Args:
        model: the policy; the value network is not needed.
        horizon: steps of the longest trial.
    """

    def __init__(self, model: ActorCritic, horizon: int):
        self.model, self.horizon = model.eval(), horizon

    @torch.no_grad()
    def act(
        self,
        observation: Tensor,
        state: Any = None,
        previous_action: Tensor | None = None,
        previous_reward: Tensor | None = None,
        done: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Any]:
        """One step of B trials.

        Args:
            observation: (B,) integers, or (B, D) numbers.
            state: the state that the previous step returned; None: the first step of the trials.
            previous_action: (B,) integers or (B, D) numbers, as returned by the previous step.
            previous_reward: (B,).
            done: (B,) whether an inner episode has just ended.
            generator: for sampling the actions; None: torch's global generator.

        Returns:
            actions (B,) or (B, D), sampled from the policy, for the environment; and the state for the next
            step, which replaces the one passed in.

        Raises:
            ValueError: if there is a state, but no previous action and reward.
        """
        head = self.model.actions
        if state is None:
            x = self.model.first_input(observation)
            cache = self.model.init_cache(len(observation), self.horizon)
        elif previous_action is None or previous_reward is None or done is None:
            raise ValueError("after the first step, give previous_action, previous_reward and done")
        else:
            cache, drawn = state
            # in training it saw continuous actions as sampled, before they were fitted to the space
            before = drawn if previous_action.is_floating_point() else previous_action
            x = self.model.encode(observation, before, previous_reward.float(), done)
        parameters, cache = self.model.act(x, cache)
        drawn = head.draw(parameters, head.noise(len(parameters), parameters, generator))
        return head.to_environment(drawn), (cache, drawn)


class Classifier:
    """A trained agent that classifies images given a few examples of each class.

    Args:
        model: maps episodes to logits.
        ways: classes in an episode.
        bfloat16: whether it was trained and tested with bfloat16.
    """

    def __init__(self, model: EpisodeModel, ways: int, bfloat16: bool):
        self.model, self.ways, self.bfloat16 = model.eval(), ways, bfloat16

    @torch.no_grad()
    def classify(self, support_images: Tensor, labels: Tensor, query_images: Tensor) -> Tensor:
        """Probabilities of the classes: (S, C, H, W), (S,) integers below ways, (Q, C, H, W) -> (Q, ways).

        Images are uint8, of the size used in training.

        Raises:
            ValueError: for a label out of range.
        """
        if labels.min() < 0 or labels.max() >= self.ways:
            raise ValueError(f"labels must be from 0 to {self.ways - 1}, got {labels.min()} to {labels.max()}")
        with torch.autocast(query_images.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.model(support_images[None], labels[None], query_images[None])[0]
        return logits.float().softmax(-1)


def load(run: str | Path) -> Actor | Classifier:
    """The trained agent of a run, on the CPU.

    Args:
        run: a run's folder, or EXPERIMENT/AGENT of the published runs.

    Raises:
        RunError: if the run does not exist, or its weights are missing or damaged.
    """
    folder = find_trained(run, [PUBLISHED])
    config = folder.config()
    machine = Machine(torch.device("cpu"))
    if isinstance(config.task, FewShotTask):
        model = build_classifier(config)
        model.load_state_dict(folder.tested_weights(config))
        half = use_bfloat16(getattr(config.training, "bfloat16", False), machine.device)
        return Classifier(model, config.task.ways, half)
    learner = build_learner(config, machine)
    if not isinstance(learner, MetaRLLearner):
        raise RunError(f"{folder.path} has a classical agent, which has no weights to load")
    load_model(learner, folder, config)
    learner.env.close()
    return Actor(learner.model, learner.horizon)
