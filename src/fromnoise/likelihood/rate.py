"""Progressive coding: how much is known of a picture after so many of its bits.

After n of the ladder's reverse steps' worth of bits have been sent, the receiver knows x_t, t the n-th time from the
top, and its best guess is the denoiser's x_0. Rate: the bits per dimension of the KL terms above t. Distortion: the
root mean square of x_0 minus the guess, on the scale 0 … 255. Ho, Jain, Abbeel 2020 (arXiv 2006.11239), section 4.3,
figure 5 and table 4; n is the table's T − t + 1.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.denoiser import Estimator
from fromnoise.likelihood.bound import Term
from fromnoise.schedule import noisy

_GREY_LEVELS = 127.5  # in a unit of x_0


@dataclass(frozen=True)
class RatePoint:
    """``steps`` reverse steps done, at time ``t``: bits per dimension so far, and the guess's error on 0 … 255.

    Of an estimate, the middle of a stratum; ``steps`` need not be whole then.
    """

    steps: float
    t: float
    rate: float
    rmse: float


@dataclass(frozen=True)
class Profile:
    """Sums over ``pictures`` pictures of every term's t, bits, x_0_error and eps_error, (4, terms), float64."""

    rungs: tuple[range, ...]
    pictures: int
    sums: Tensor

    @staticmethod
    def of(parts: Sequence[Term]) -> "Profile":
        """Of the terms of one batch."""
        columns = torch.stack([torch.stack([p.bits, p.x_0_error, p.eps_error]) for p in parts]).cpu().double()
        t = torch.stack([p.t.mean() for p in parts]) * columns.shape[2]
        return Profile(tuple(p.rungs for p in parts), columns.shape[2], torch.cat([t[None], columns.sum(2).T]))

    def __add__(self, other: "Profile") -> "Profile":
        """Two batches as one. Raises ``ValueError`` if their terms are of different steps."""
        if self.rungs != other.rungs:
            raise ValueError("only profiles of the same steps can be added")
        return Profile(self.rungs, self.pictures + other.pictures, self.sums + other.sums)

    @property
    def t(self) -> list[float]:
        """The time of every term; of a stratum, the mean of those drawn."""
        return (self.sums[0] / self.pictures).tolist()

    @property
    def bits(self) -> list[float]:
        """Bits per dimension of one step."""
        return (self.sums[1] / self.pictures).tolist()

    def points(self) -> list[RatePoint]:
        """One point a term, from the top of the ladder down; the last has all steps done."""
        points, rate = [], 0.0
        for rungs, t, bits, error in zip(
            self.rungs, self.t, self.bits, (self.sums[2] / self.pictures).tolist(), strict=True
        ):
            middle = (len(rungs) - 1) / 2  # On average, so many of the stratum's steps lie above the one drawn.
            rmse = _GREY_LEVELS * math.sqrt(error)
            points.append(RatePoint(rungs.start + 1 + middle, t, rate + middle * bits, rmse))
            rate += len(rungs) * bits
        return points

    def table(self, rows: int = 10) -> list[RatePoint]:
        """The points nearest to each of ``rows`` equal parts of the ladder, most steps first: the paper's table 4."""
        points, steps = self.points(), self.rungs[-1].stop
        near = {min(points, key=lambda point: abs(point.steps - steps * k / rows)) for k in range(1, rows + 1)}
        return sorted(near, key=lambda point: -point.steps)


def reconstructions(
    denoiser: Estimator, x_0: Tensor, times: Sequence[float], eps: Tensor, **condition: Any
) -> Iterator[Tensor]:
    """The denoiser's x_0 (B, C, H, W) from x_t at each of ``times``.

    ``x_0`` and ``eps`` (B, C, H, W): the same noise at all times, so that only its scale changes along a row.
    """
    for t in times:
        level = denoiser.schedule(t)
        with torch.inference_mode():
            guess = denoiser(noisy(x_0, eps, level), level, **condition).x_0
        yield guess
