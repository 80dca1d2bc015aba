"""Fast weights: a memory of keys and values that every step writes to and reads from (Schmidhuber 1992)."""

from dataclasses import dataclass

import torch

from runs.agents import SequenceAgent
from runs.catalogue import register_agent
from snail import SequenceModel


class FastWeights(SequenceModel):
    """A step reads the values that earlier steps wrote under keys similar to its query."""

    def __init__(self, input_size, output_size, size):
        super().__init__()
        self.input_size, self.output_size, self.size = input_size, output_size, size
        self.project = torch.nn.Linear(input_size, 3 * size)
        self.head = torch.nn.Linear(input_size + size, output_size)

    def init_cache(self, batch_size, max_len):  # the memory: (B, K, V)
        return self.project.weight.new_zeros(batch_size, self.size, self.size)

    def step(self, x_t, cache):  # (B, C), memory -> (B, D), memory
        query, key, value = self.project(x_t).chunk(3, -1)  # (B, K), (B, K), (B, V)
        cache = cache + key[:, :, None] * value[:, None, :]
        return self.head(torch.cat([x_t, (query[:, None] @ cache)[:, 0] / self.size], -1)), cache


@dataclass(frozen=True)
class FastWeightsConfig(SequenceAgent):
    """A memory of outer products."""

    size: int = 64  # rows and columns of the memory

    def build(self, role, input_size, output_size, max_len):
        return FastWeights(input_size, output_size, self.size)


register_agent("fast-weights", FastWeightsConfig(), "bandit/*", "mdp/*", "omniglot/*", "glyphs/*")
