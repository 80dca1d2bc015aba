"""All agents by name: each is a configuration that builds its model."""

from __future__ import annotations

from dataclasses import replace

from baselines.bandits import (
    UCB1,
    BanditMethod,
    EpsilonGreedy,
    FiniteHorizonGittins,
    Gittins,
    Greedy,
    OptimisticThompson,
    Random,
    Thompson,
)
from baselines.classical_agent import ClassicalAgent
from baselines.mdps import (
    BEB,
    OPSRL,
    PSRL,
    UCRL2,
    EpsilonGreedyPolicy,
    GreedyPolicy,
    MDPMethod,
    Oracle,
    RandomPolicy,
)
from baselines.random_actions import RandomActions
from runs.agents.embeddings import GlimpseEmbeddingConfig, OmniglotEmbeddingConfig
from runs.agents.fewshot import (
    AligningSeq2SeqConfig,
    EncoderDecoderConfig,
    MAMLConfig,
    PrototypicalConfig,
    Seq2SeqConfig,
    SetAttentionConfig,
    TransferConfig,
)
from runs.agents.interface import ActorCriticSpec, FewShotAgent, SequenceAgent, TrialAgent
from runs.agents.maml_policy import MAMLPolicyConfig
from runs.agents.memories import (
    LinearAttentionConfig,
    Mamba2Config,
    MinimalConfig,
    RotaryConfig,
    S5Config,
    XLSTMConfig,
)
from runs.agents.sequence import EmbeddingSNAILConfig, GRUConfig, LSTMConfig, SNAILConfig, TransformerConfig
from snail.attention.scores import SCORE_NAMES

__all__ = [
    "AGENTS",
    "ATTENTION_VARIANTS",
    "BANDIT_METHODS",
    "CONTROL_METHODS",
    "FEWSHOT_AGENTS",
    "FEWSHOT_MEMORIES",
    "FEWSHOT_VARIANTS",
    "MDP_METHODS",
    "MEMORIES",
    "METHODS",
    "TRIAL_AGENTS",
    "ActorCriticSpec",
    "AnyAgentConfig",
    "EmbeddingSNAILConfig",
    "FewShotAgent",
    "GRUConfig",
    "LSTMConfig",
    "MAMLConfig",
    "MAMLPolicyConfig",
    "PrototypicalConfig",
    "SNAILConfig",
    "SequenceAgent",
    "TransferConfig",
    "TransformerConfig",
    "TrialAgent",
]

AnyAgentConfig = FewShotAgent | TrialAgent | ClassicalAgent
"""Any agent, trained or classical."""

AGENTS: dict[str, SequenceAgent] = {
    "snail": SNAILConfig(),
    "lstm": LSTMConfig(forget_bias=1.0),
    "gru": GRUConfig(),
    "transformer": TransformerConfig(scale_tokens=True),
}
"""The agents for every experiment."""

MEMORIES: dict[str, SequenceAgent] = {
    "rotary": RotaryConfig(),
    "s5": S5Config(),
    "mamba2": Mamba2Config(),
    "gated-deltanet": LinearAttentionConfig(),
    "deltanet": LinearAttentionConfig(gated=False),
    "linear-attention": LinearAttentionConfig(delta=False, gated=False),
    "mingru": MinimalConfig(),
    "minlstm": MinimalConfig(kind="lstm"),
    "xlstm": XLSTMConfig(),
}
"""Sequence models that came after SNAIL, for every experiment."""

FEWSHOT_MEMORIES: dict[str, FewShotAgent] = {**MEMORIES, "set-attention": SetAttentionConfig()}
"""The same for few-shot classification, and an order-free control."""

TRIAL_AGENTS: dict[str, TrialAgent] = {**AGENTS, "maml": MAMLPolicyConfig(), **MEMORIES}
"""The agents for bandits, MDPs and control."""

FEWSHOT_AGENTS: dict[str, FewShotAgent] = {
    **AGENTS,
    "maml": MAMLConfig(),
    "protonet": PrototypicalConfig(),
    **FEWSHOT_MEMORIES,
}
"""The agents for few-shot classification."""

ATTENTION_VARIANTS: dict[str, SequenceAgent] = {
    **{f"snail-{score}": SNAILConfig(score=score) for score in SCORE_NAMES if score != "scaled-dot"},
    "snail-local-m": SNAILConfig(window_type="local-m"),
    "snail-local-p": SNAILConfig(window_type="local-p"),
    "snail-4-heads": SNAILConfig(heads=4),
    "snail-convolutions": SNAILConfig(blocks="convolutions"),
    "snail-attention": SNAILConfig(blocks="attention"),
    "snail-dilation-2": SNAILConfig(first_dilation=2),
    "snail-half": SNAILConfig(width=0.5),
    "snail-double": SNAILConfig(width=2.0),
}
"""Ablations of SNAIL, for every kind of experiment."""

FEWSHOT_VARIANTS: dict[str, FewShotAgent] = {
    **ATTENTION_VARIANTS,
    "snail-local-m": SNAILConfig(window_type="local-m", window=3),  # of an episode with 6 items
    "snail-local-p": SNAILConfig(window_type="local-p", window=3),
    "snail-hard": SNAILConfig(selection="hard"),
    "snail-gumbel": SNAILConfig(selection="gumbel"),
    "snail-glimpses": EmbeddingSNAILConfig(),
    "snail-hard-glimpses": EmbeddingSNAILConfig(embedding=GlimpseEmbeddingConfig(selection="hard")),
    "snail-self-attention": EmbeddingSNAILConfig(embedding=OmniglotEmbeddingConfig(self_attention=True)),
    "seq2seq": Seq2SeqConfig(),
    "seq2seq-aligned": AligningSeq2SeqConfig(),
    "encoder-decoder": EncoderDecoderConfig(),
    "transfer": TransferConfig(),
}
"""Ablations for few-shot classification, and the mechanisms that SNAIL is based on."""

BANDIT_METHODS: dict[str, BanditMethod] = {
    "random": Random(),
    "greedy": Greedy(),
    "eps-greedy": EpsilonGreedy(),
    "ucb1": UCB1(),
    "thompson": Thompson(),
    "optimistic-thompson": OptimisticThompson(),
    "gittins": Gittins(),
    "finite-gittins": FiniteHorizonGittins(),
}

_BAYESIAN: dict[str, GreedyPolicy | EpsilonGreedyPolicy | PSRL | OPSRL | UCRL2 | BEB] = {
    "greedy": GreedyPolicy(),
    "eps-greedy": EpsilonGreedyPolicy(),
    "psrl": PSRL(),
    "opsrl": OPSRL(),
    "ucrl2": UCRL2(),
    "beb": BEB(),
}

MDP_METHODS: dict[str, MDPMethod] = {
    "random": RandomPolicy(),
    **_BAYESIAN,
    # with a prior mean of 0, as the papers' numbers imply
    **{f"{name}-mean0": replace(method, prior_mean=0.0) for name, method in _BAYESIAN.items()},
    "oracle": Oracle(),
}

CONTROL_METHODS: dict[str, ClassicalAgent] = {"random": RandomActions()}

METHODS: dict[str, ClassicalAgent] = {**BANDIT_METHODS, **MDP_METHODS}
"""The classical agents."""
