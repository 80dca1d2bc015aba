"""SNAIL, a simple neural attentive meta-learner: the model and the two heads that it is used through."""

from snail.actor_critic import ActorCritic
from snail.attention import AttentionBlock, AttentionKind
from snail.classifier import EmbeddingClassifier, EpisodeModel, PretrainedClassifier, SequenceClassifier
from snail.convolution import CausalConv1d, DenseBlock, TCBlock
from snail.embedding import ConvolutionalEmbedding, OmniglotEmbedding, ResidualEmbedding
from snail.model import FEWSHOT_BLOCKS, RL_POLICY_BLOCKS, RL_VALUE_BLOCKS, SNAIL, TC, Attention
from snail.sequence import SequenceModel, parameter_count

__version__ = "0.1.0"

__all__ = [
    "FEWSHOT_BLOCKS",
    "RL_POLICY_BLOCKS",
    "RL_VALUE_BLOCKS",
    "SNAIL",
    "TC",
    "ActorCritic",
    "Attention",
    "AttentionBlock",
    "AttentionKind",
    "CausalConv1d",
    "ConvolutionalEmbedding",
    "DenseBlock",
    "EmbeddingClassifier",
    "EpisodeModel",
    "OmniglotEmbedding",
    "PretrainedClassifier",
    "ResidualEmbedding",
    "SequenceClassifier",
    "SequenceModel",
    "TCBlock",
    "parameter_count",
]
