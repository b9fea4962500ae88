"""Times chosen by the clock: all, in equal strides, or the user's own.

The names trailing, leading and linspace are those of Lin et al. 2023 (arXiv 2305.08891), table 2. Networks count from 0
to T − 1 and these times from 1 to T, so each is one above what that table says. On a clock that does not count steps,
times are what the rule says, unrounded.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fromnoise.ladder.base import Spacing, apart, check_steps, counted, last_time, with_end
from fromnoise.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class All(Spacing):
    """Every whole time T, T−1, …, 1: the paper's sampler."""

    def ladder(self, schedule: Schedule) -> Tensor:
        """T + 1 times."""
        return with_end([float(t) for t in range(1, counted(self, schedule) + 1)])


@dataclass(frozen=True, kw_only=True)
class Strided(Spacing):
    """``steps`` of the T times in equal fractional strides, both ends included, rounded to whole times.

    As in the code of Nichol & Dhariwal 2021 (arXiv 2102.09672). A single step goes straight from T to 0.
    """

    steps: int = 100

    def ladder(self, schedule: Schedule) -> Tensor:
        """steps + 1 times."""
        last = counted(self, schedule)
        check_steps(self.steps, last)
        if self.steps == 1:
            return with_end([float(last)])
        # A running sum, because the rounding of exact halves must fall as in the source.
        stride, position, times = (last - 1) / (self.steps - 1), 0.0, []
        for _ in range(self.steps):
            times.append(float(round(position) + 1))
            position += stride
        return with_end(times)


@dataclass(frozen=True, kw_only=True)
class Trailing(Spacing):
    """Equal strides from the end of the clock: horizon · (1 − k/steps). Always begins where the noise does."""

    steps: int = 20

    def ladder(self, schedule: Schedule) -> Tensor:
        """steps + 1 times, rounded where the clock counts steps."""
        check_steps(self.steps, int(schedule.horizon) if schedule.whole else None)
        end = schedule.horizon
        stride = end / self.steps
        if schedule.whole:
            stride = end - (end - stride)  # as the first two times have it, so that exact halves round as in the source
        times = end - torch.arange(self.steps, dtype=torch.float64) * stride
        return apart(times, int(end)) if schedule.whole else _ended(times)


@dataclass(frozen=True, kw_only=True)
class Leading(Spacing):
    """Equal whole strides ⌊T/steps⌋ from 1 + ``offset`` upwards: DDIM's "uniform" (Song et al. 2021, arXiv 2010.02502).

    It begins below T, where some signal is left; :class:`Trailing` does not. ``offset`` is 1 for many latent models.
    """

    steps: int = 20
    offset: int = 0

    def ladder(self, schedule: Schedule) -> Tensor:
        """steps + 1 times. Raises ``ValueError`` for an offset that leads past T."""
        last = counted(self, schedule)
        check_steps(self.steps, last)
        stride = last // self.steps
        room = last - 1 - (self.steps - 1) * stride
        if not 0 <= self.offset <= room:
            raise ValueError(f"offset = {self.offset}: with steps = {self.steps} this schedule allows 0 to {room}")
        return with_end([float(1 + self.offset + k * stride) for k in range(self.steps)])


@dataclass(frozen=True, kw_only=True)
class Linspace(Spacing):
    """Equal strides between the ends of the clock, both included. A single step goes straight from its end to 0.

    Where the clock does not count steps, the last time above 0 is that of sigma/signal = 0.002.
    """

    steps: int = 20

    def ladder(self, schedule: Schedule) -> Tensor:
        """steps + 1 times, rounded where the clock counts steps."""
        check_steps(self.steps, int(schedule.horizon) if schedule.whole else None)
        end, least = schedule.horizon, last_time(schedule)
        above = torch.arange(self.steps, dtype=torch.float64) * ((end - least) / max(self.steps - 1, 1))
        # Rounded as the network counts, from 0: halves go to the even one of its times.
        times = (above.round() if schedule.whole else above) + least
        times[-1] = end
        return apart(times.flip(0), int(end)) if schedule.whole else _ended(times.flip(0))


@dataclass(frozen=True, kw_only=True)
class Quadratic(Spacing):
    """Dense near the picture: 1 + ⌊0.8 T (k/(steps − 1))²⌋. DDIM's for CIFAR-10 (Song et al. 2021, arXiv 2010.02502).

    It begins at 0.8 T, where some signal is left. Times that the source would visit twice move up to the next free one.
    A single step goes straight from there to 0.
    """

    steps: int = 20

    def ladder(self, schedule: Schedule) -> Tensor:
        """steps + 1 times."""
        last = counted(self, schedule)
        check_steps(self.steps, last)
        # In this order of operations, because squares that should be whole numbers must fall as in the source.
        root = math.sqrt(0.8 * last)
        roots = torch.arange(self.steps, dtype=torch.float64) * (root / max(self.steps - 1, 1))
        roots[-1] = root
        return apart(roots.flip(0).square().floor() + 1, last)


@dataclass(frozen=True, kw_only=True)
class GivenTimes(Spacing):
    """The user's own times, falling, on the schedule's clock; the 0 at the end may be left out."""

    times: tuple[float, ...]

    def ladder(self, schedule: Schedule) -> Tensor:
        """``times``. Raises ``ValueError`` unless they fall and the schedule knows them."""
        times = self.times[:-1] if self.times and self.times[-1] == 0 else self.times
        if not times:
            raise ValueError("times: needs at least one time above 0")
        for above, below in pairwise([*times, 0.0]):
            if not above > below:
                raise ValueError(f"times: must fall, and {below:g} comes after {above:g}")
        ladder = torch.tensor([*times, 0.0], dtype=torch.float64)
        schedule(ladder)
        return ladder


def _ended(times: Tensor) -> Tensor:
    """Falling times without 0 -> a ladder."""
    return torch.cat([times, times.new_zeros(1)])
