"""MAML for trials."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.maml_policy import MAMLPolicy
from runs.agents.interface import ActorCriticSpec, TrialAgent
from runs.agents.sequence import GRUConfig
from snail.actions import Categorical
from snail.actor_critic import ActorCritic
from snail.observations import OneHot


@dataclass(frozen=True)
class MAMLPolicyConfig(TrialAgent):
    """MAML: a memoryless network whose weights take policy-gradient steps during a trial.

    Its critic, which only training uses, is a GRU.
    """

    hidden_size: int = 64
    """Units of each hidden layer."""
    layers: int = 2
    """Hidden layers."""
    inner_lr: float = 2.0
    """Initial learning rate of the gradient steps; training learns one for each layer."""
    inner_steps: int = 9
    """Gradient steps per trial, evenly spaced."""
    inner_discount: float = 0.99
    """Discount factor of rewards in the gradient steps, within an episode."""
    first_order: bool = False
    """Do not differentiate through the inner gradients: less time and memory."""

    def build_actor_critic(self, spec: ActorCriticSpec) -> ActorCritic:
        """Build the actor-critic, without reward prediction.

        Raises:
            ValueError: for a shared trunk, or a trial too short for the gradient steps.
        """
        if spec.shared:
            raise ValueError("MAML adapts only the policy; give --training.no-shared-trunk")
        if self.inner_steps >= spec.horizon:
            raise ValueError(f"inner_steps must be below the trial's {spec.horizon} steps, got {self.inner_steps}")
        encoder = OneHot(spec.observations) if isinstance(spec.observations, int) else spec.observations
        head = Categorical(spec.actions) if isinstance(spec.actions, int) else spec.actions
        policy = MAMLPolicy(
            encoder.channels,
            head,
            spec.horizon,
            hidden_size=self.hidden_size,
            layers=self.layers,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            discount=self.inner_discount,
            first_order=self.first_order,
        )
        value = spec.value(policy.input_size, lambda n: GRUConfig().build("value", n, 1, spec.horizon))
        return ActorCritic(policy, value, encoder, head)
