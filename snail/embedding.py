"""Image embeddings: one vector an image, learned end to end with the sequence model that reads it."""

from __future__ import annotations

from torch import Tensor, nn


class OmniglotEmbedding(nn.Module):
    """Four blocks of {3x3 convolution, batch norm, ReLU, 2x2 max-pool} and a linear layer (Vinyals et al. 2016).

    28x28 images shrink 28-14-7-3-1.

    Args:
        output_size: channels E of an embedding.
        filters: channels of every convolution.
        pool_first: pool before the normalisation instead of after the ReLU, at a quarter of the memory traffic,
            which is what this network's time goes into. While the normalisation's scales are positive, as they start
            out, that changes only the batch statistics: max-pooling commutes with increasing maps.
    """

    def __init__(self, output_size: int = 64, filters: int = 64, pool_first: bool = False):
        super().__init__()
        self.output_size = output_size
        blocks: list[nn.Module] = []
        for channels in (1, filters, filters, filters):
            # a bias would be cancelled by the normalisation
            conv = nn.Conv2d(channels, filters, kernel_size=3, padding=1, bias=False)
            norm, relu, pool = nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2)
            blocks += [conv, pool, norm, relu] if pool_first else [conv, norm, relu, pool]
        self.blocks = nn.Sequential(*blocks)
        self.project = nn.Linear(filters, output_size)

    def forward(self, images: Tensor) -> Tensor:
        """Images (M, 1, 28, 28), uint8 in 0..255 -> (M, E)."""
        if images.shape[1:] != (1, 28, 28):
            raise ValueError(f"images must be (M, 1, 28, 28), got {tuple(images.shape)}")
        x = images.to(self.project.weight.dtype) / 255
        return self.project(self.blocks(x).flatten(1))
