"""Image embeddings: one vector per image, learned end to end with the sequence model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from snail.visual_attention import SelfAttention2d


def require_sizes(*sizes: int) -> None:
    """Raise ValueError unless all numbers of channels are at least 1."""
    if min(sizes) < 1:
        raise ValueError(f"an embedding needs at least 1 channel in each layer, got {min(sizes)}")


class OmniglotEmbedding(nn.Module):
    """Four blocks of {3x3 convolution, batch norm, ReLU, 2x2 max-pool} and a linear layer (Vinyals et al. 2016).

    28x28 images shrink 28-14-7-3-1.

    Args:
        output_size: channels E of an embedding.
        filters: channels of every convolution.
        pool_first: pool before the normalisation instead of after the ReLU, which needs a quarter of the memory
            traffic, the bottleneck of this network. As long as the normalisation's scales are positive, as initially,
            this changes only the batch statistics: max-pooling commutes with increasing maps.
        self_attention: self-attention between the 7x7 positions after the second block.
    """

    def __init__(
        self, output_size: int = 64, filters: int = 64, pool_first: bool = False, self_attention: bool = False
    ):
        super().__init__()
        require_sizes(output_size, filters)
        self.output_size = output_size
        blocks: list[nn.Module] = []
        for i, channels in enumerate((1, filters, filters, filters)):
            # a bias would be cancelled by the normalisation
            conv = nn.Conv2d(channels, filters, kernel_size=3, padding=1, bias=False)
            norm, relu, pool = nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2)
            blocks += [conv, pool, norm, relu] if pool_first else [conv, norm, relu, pool]
            if self_attention and i == 1:
                blocks.append(SelfAttention2d(filters))
        self.blocks = nn.Sequential(*blocks)
        self.project = nn.Linear(filters, output_size)

    def forward(self, images: Tensor) -> Tensor:
        """Images (M, 1, 28, 28), uint8 in 0..255 -> (M, E)."""
        if images.shape[1:] != (1, 28, 28):
            raise ValueError(f"images must be (M, 1, 28, 28), got {tuple(images.shape)}")
        x = images.to(self.project.weight.dtype) / 255
        return self.project(self.blocks(x).flatten(1))


class ConvolutionalEmbedding(nn.Module):
    """Four blocks of {3x3 convolution, 2x2 max-pool, batch norm, ReLU} at half the resolution, and a mean.

    84x84 images shrink 84-42-21-10-5-2. It needs few operations: the blocks are those of Vinyals et al. 2016, pooled
    before the normalisation, with more channels where the images are small.

    Args:
        output_size: channels E of an embedding, and of the last convolution.
        filters: channels of the other convolutions.
    """

    def __init__(self, output_size: int = 384, filters: Sequence[int] = (64, 128, 256)):
        super().__init__()
        self.output_size = output_size
        require_sizes(output_size, *filters)
        sizes = (3, *filters, output_size)
        blocks: list[nn.Module] = [nn.AvgPool2d(2)]
        for channels, size in pairwise(sizes):
            # a bias would be cancelled by the normalisation
            conv = nn.Conv2d(channels, size, kernel_size=3, padding=1, bias=False)
            blocks += [conv, nn.MaxPool2d(2), nn.BatchNorm2d(size), nn.ReLU()]
        self.blocks = nn.Sequential(*blocks)
        self.least = 2 ** len(sizes)  # pixels of an image of which something is left

    def forward(self, images: Tensor) -> Tensor:
        """Images (M, 3, H, W), uint8 in 0..255 -> (M, E)."""
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < self.least:
            raise ValueError(f"images must be (M, 3, H, W), of {self.least} pixels or more, got {tuple(images.shape)}")
        x = images.to(next(self.parameters()).dtype) / 127.5 - 1
        return self.blocks(x).mean((2, 3))


class ResidualBlock(nn.Module):
    """Three times {3x3 convolution, batch norm, leaky ReLU}, a 1x1 shortcut around them, 2x2 max-pool, dropout.

    (M, C, H, W) -> (M, D, ceil(H / 2), ceil(W / 2)). Mishra et al. 2018, appendix B.

    Args:
        input_size: channels C of the input.
        filters: channels D of every convolution.
        dropout: dropout probability.
    """

    def __init__(self, input_size: int, filters: int, dropout: float = 0.1):
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (input_size, filters, filters):
            # a bias would be cancelled by the normalisation
            conv = nn.Conv2d(channels, filters, kernel_size=3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(filters), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers)
        self.shortcut = nn.Conv2d(input_size, filters, kernel_size=1)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(M, C, H, W) -> (M, D, ceil(H / 2), ceil(W / 2))."""
        return self.dropout(self.pool(self.layers(x) + self.shortcut(x)))


class ResidualEmbedding(nn.Module):
    """SNAIL's network for mini-ImageNet: four residual blocks, a wide 1x1 convolution, a mean, a 1x1 convolution.

    84x84 images shrink 84-42-21-11-6. Mishra et al. 2018, appendix B.

    Args:
        output_size: channels E of an embedding.
        filters: channels of each residual block.
        wide: channels of the 1x1 convolution before the mean.
        dropout: dropout probability.
    """

    def __init__(
        self,
        output_size: int = 384,
        filters: Sequence[int] = (64, 96, 128, 256),
        wide: int = 2048,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.output_size = output_size
        require_sizes(output_size, *filters, wide)
        sizes = (3, *filters)
        self.blocks = nn.Sequential(*(ResidualBlock(c, d, dropout) for c, d in zip(sizes, filters, strict=False)))
        self.wide = nn.Linear(sizes[-1], wide)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(wide, output_size)

    def forward(self, images: Tensor) -> Tensor:
        """Images (M, 3, 84, 84), uint8 in 0..255 -> (M, E)."""
        if images.shape[1:] != (3, 84, 84):
            raise ValueError(f"images must be (M, 3, 84, 84), got {tuple(images.shape)}")
        x = images.to(self.project.weight.dtype) / 127.5 - 1
        # the paper takes the mean after the wide 1x1 convolution; both are linear, so this is the same, but cheaper
        x = self.blocks(x).mean((2, 3))  # (M, filters)
        return self.project(self.dropout(self.wide(x).relu()))  # (M, E)
