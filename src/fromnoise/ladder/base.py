"""What all spacings share: the contract, the limits of the number of steps, and whole times that stay apart."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.schedule import Schedule

SMALLEST_RATIO = 0.002
"""sigma / signal at the last time above 0 on a clock that does not count steps.

Karras et al. 2022 (arXiv 2206.00364), table 1: half a grey level is twice as much.
"""


class Spacing(ABC):
    """A rule for choosing the times."""

    @abstractmethod
    def ladder(self, schedule: Schedule) -> Tensor:
        """Decreasing times, float64, shape (steps + 1,); the last one is 0. Raises ``ValueError`` if impossible."""


def with_end(times: Sequence[float]) -> Tensor:
    """Increasing times without 0 -> a ladder."""
    return torch.tensor([*reversed(times), 0.0], dtype=torch.float64)


def counted(spacing: Spacing, schedule: Schedule) -> int:
    """T, the number of steps of the clock. Raises ``ValueError`` for a clock that does not count."""
    if not schedule.whole:
        raise ValueError(
            f"{type(spacing).__name__} needs a schedule that counts steps, and {type(schedule).__name__} does not; "
            f"take trailing, linspace, karras, log_snr or given"
        )
    return int(schedule.horizon)


def check_steps(steps: int, most: int | None) -> None:
    """Raises ``ValueError`` for fewer than 1 step, or more than ``most``."""
    if most is not None and not 1 <= steps <= most:
        raise ValueError(f"steps = {steps}: this schedule allows 1 to {most}")
    if steps < 1:
        raise ValueError(f"steps = {steps}: must be at least 1")


def apart(times: Tensor, last: int) -> Tensor:
    """Falling times, at most ``last`` of them -> a ladder of as many whole ones.

    Rounded, halves to even. A time that would then meet the one below it moves up to the next free one, and where the
    clock ends, down.
    """
    rising, free = [], 1
    for t in reversed(times.round().long().tolist()):
        rising.append(max(t, free))
        free = rising[-1] + 1
    for i, highest in zip(reversed(range(len(rising))), range(last, 0, -1), strict=False):
        rising[i] = min(rising[i], highest)
    return with_end([float(t) for t in rising])


def last_time(schedule: Schedule) -> float:
    """The last time above 0: 1 where the clock counts steps, else where the ratio is :data:`SMALLEST_RATIO`."""
    if schedule.whole:
        return 1.0
    return schedule.time(torch.tensor(-2 * math.log(SMALLEST_RATIO), dtype=torch.float64)).item()
