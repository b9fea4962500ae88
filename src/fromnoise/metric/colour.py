"""How bright each channel is, and how much it varies: what a tint of the samples shows in.

On the scale of the pictures, 0 … 255, over all pixels of all pictures:

    mean_c = E[x_c]        deviation_c = √(E[x_c²] − mean_c²)

``spread`` is the deviation of the pictures' own means, so the mean of n pictures differs from that of all by about
spread / √n through chance alone. What goes far beyond that is drift.

Sums are whole numbers, hence exact: neither the order of the pictures nor the size of a batch matters.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fromnoise.errors import WrongUse


@dataclass(frozen=True, kw_only=True)
class Colours:
    """Of ``count`` pictures; one number a channel, on the scale 0 … 255."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    spread: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> Self:
        """A stream of batches, uint8 (B, C, H, W). Raises :class:`~fromnoise.errors.WrongUse` for anything else, or
        if no picture comes."""
        count, pixels = 0, 1
        first = square = own = torch.zeros((), dtype=torch.int64)
        for batch in batches:
            if batch.dtype != torch.uint8 or batch.ndim != 4:
                raise WrongUse(f"colours are of uint8 pictures (B, C, H, W), not {batch.dtype} {tuple(batch.shape)}")
            x = batch.cpu().to(torch.int64)
            sums = x.sum((2, 3))
            first, square, own = first + sums.sum(0), square + x.square().sum((0, 2, 3)), own + sums.square().sum(0)
            count, pixels = count + len(x), x.shape[2] * x.shape[3]
        if not count:
            raise WrongUse("colours are of pictures, and there are none")
        # Whole numbers as long as they are subtracted: nothing cancels.
        n = count * pixels
        deviation = [math.sqrt(n * q - s * s) / n for s, q in zip(first.tolist(), square.tolist(), strict=True)]
        spread = [math.sqrt(count * q - s * s) / n for s, q in zip(first.tolist(), own.tolist(), strict=True)]
        mean = tuple(s / n for s in first.tolist())
        return cls(mean=mean, deviation=tuple(deviation), spread=tuple(spread), count=count)


def drift(samples: Colours, data: Colours) -> tuple[float, float]:
    """The largest distance of a channel's mean from the data's, and what chance does to as many real pictures.

    Both on the scale 0 … 255; the second is one standard error, spread / √n of the ``data``, its largest channel.
    """
    far = max(abs(ours - theirs) for ours, theirs in zip(samples.mean, data.mean, strict=True))
    return far, max(data.spread) / math.sqrt(samples.count)
