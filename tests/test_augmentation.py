"""Random changes to training images."""

from __future__ import annotations

import pytest
import torch

from envs.fewshot.augmentation import Augmentation


def images(channels: int = 3, count: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, 9, 11), dtype=torch.uint8, generator=generator)


def change(augmentation: Augmentation, x: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return augmentation(x, torch.Generator().manual_seed(seed))


def test_nothing_happens_by_default():
    assert Augmentation()(images(), torch.Generator()) is not None
    assert torch.equal(change(Augmentation(), images()), images())


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_shifted_by_itself_and_its_border_goes_on(channels):
    x = images(channels)
    y = change(Augmentation(shift=2), x)
    assert y.shape == x.shape and y.dtype == torch.uint8
    found = set()
    for before, after in zip(x, y, strict=True):
        padded = torch.nn.functional.pad(before[None].float(), (2, 2, 2, 2), mode="replicate")[0].to(torch.uint8)
        fits = [
            (i - 2, j - 2) for i in range(5) for j in range(5) if torch.equal(padded[:, i : i + 9, j : j + 11], after)
        ]
        assert len(fits) == 1
        found.add(fits[0])
    assert len(found) > 12 and {abs(i) for shift in found for i in shift} == {0, 1, 2}


def test_half_of_the_images_are_mirrored():
    x = images(count=400)
    y = change(Augmentation(flip=True), x)
    mirrored = [torch.equal(after, before.flip(-1)) for before, after in zip(x, y, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, x, y, strict=True))
    assert 150 < sum(mirrored) < 250


def test_colours_change_by_no_more_than_was_asked():
    grey = torch.full((200, 3, 4, 4), 100, dtype=torch.uint8)
    y = change(Augmentation(colour=0.3), grey)
    assert (y.flatten(1).float().std(1) == 0).all()  # an even grey stays one: only its brightness can change
    assert 70 <= y.min() < 75 and 125 < y.max() <= 130
    red = torch.zeros(200, 3, 4, 4, dtype=torch.uint8)
    red[:, 0] = 100
    y = change(Augmentation(colour=0.3), red).float()
    ratio = y[:, 1, 0, 0] / y[:, 0, 0, 0]  # 0 as it was; less contrast or saturation mixes grey into it
    assert ratio.min() == 0 and 0.05 < ratio.max() < 0.25


def test_the_generator_alone_decides():
    everything = Augmentation(shift=1, flip=True, colour=0.2)
    assert torch.equal(change(everything, images()), change(everything, images()))
    assert not torch.equal(change(everything, images()), change(everything, images(), seed=2))


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="shift must be at least 0"):
        Augmentation(shift=-1)
    with pytest.raises(ValueError, match=r"colour in 0 \.\.\. 1"):
        Augmentation(colour=1.5)
