"""Causal self-attention: the block that models are made of, and the kinds of attention it can have."""

from snail.attention.block import AttentionBlock
from snail.attention.mechanism import PLAIN, AttentionKind, Mechanism

__all__ = ["PLAIN", "AttentionBlock", "AttentionKind", "Mechanism"]
