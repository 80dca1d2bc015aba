"""Random augmentation of training images, for a whole batch at once on its device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue, ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """Random shifts, flips and colour changes per image; none by default."""

    shift: int = 0
    """Maximum shift in pixels, each way; the border is replicated."""
    flip: bool = False
    """Mirror images left to right with probability 1/2."""
    colour: float = 0.0
    """Brightness, contrast and saturation are multiplied by factors within 1 plus or minus this."""

    def __post_init__(self) -> None:
        if self.shift < 0 or not 0 <= self.colour <= 1:
            raise ValueError(f"shift must be at least 0 and colour in 0 ... 1, got {self.shift} and {self.colour}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images (M, C, H, W), uint8 -> the same; ``generator`` is on their device."""
        if self.shift or self.flip:
            images = self._move(images, generator)
        if self.colour:
            images = self._recolour(images, generator)
        return images

    def _move(self, images: Tensor, generator: torch.Generator) -> Tensor:
        M, _, H, W = images.shape
        device = images.device

        def offsets() -> Tensor:
            return torch.randint(-self.shift, self.shift + 1, (M, 1), generator=generator, device=device)

        # replicate the border
        rows = (torch.arange(H, device=device) + offsets()).clamp(0, H - 1)  # (M, H)
        columns = (torch.arange(W, device=device) + offsets()).clamp(0, W - 1)  # (M, W)
        if self.flip:
            mirrored = torch.rand(M, 1, generator=generator, device=device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)  # (M, W)
        image = torch.arange(M, device=device)[:, None, None]
        pixels = images.movedim(1, -1)[image, rows[:, :, None], columns[:, None, :]]  # (M, H, W, C)
        return pixels.movedim(-1, 1)  # (M, C, H, W), channels last in memory

    def _recolour(self, images: Tensor, generator: torch.Generator) -> Tensor:
        M, C = images.shape[:2]

        def factors() -> Tensor:
            draw = torch.rand(M, 1, 1, 1, generator=generator, device=images.device)
            return 1 + self.colour * (2 * draw - 1)  # (M, 1, 1, 1)

        x = images.float() * factors()  # brightness
        x = torch.lerp(_grey(x).mean((1, 2, 3), keepdim=True), x, factors())  # contrast
        if C == 3:
            x = torch.lerp(_grey(x), x, factors())  # saturation
        return x.round().clamp(0, 255).to(torch.uint8)


def _grey(x: Tensor) -> Tensor:
    """(M, C, H, W) -> (M, 1, H, W): luma of colours; images of one channel are grey already."""
    return (x * x.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True) if x.shape[1] == 3 else x


UNCHANGED = Augmentation()
"""No augmentation."""
