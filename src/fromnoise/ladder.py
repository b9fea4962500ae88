"""Which times a sampler visits. A ladder is a decreasing float64 list on the CPU that ends at 0, the clean picture."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.schedule import Schedule


class Spacing(ABC):
    """A rule for choosing the times."""

    @abstractmethod
    def ladder(self, schedule: Schedule) -> Tensor:
        """Decreasing times, float64, shape (steps + 1,); the last one is 0. Raises ``ValueError`` if impossible."""


def with_end(times: list[float]) -> Tensor:
    """Increasing times without 0 -> a ladder."""
    return torch.tensor([*reversed(times), 0.0], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class All(Spacing):
    """Every whole time T, T−1, …, 1: the paper's sampler."""

    def ladder(self, schedule: Schedule) -> Tensor:
        """T + 1 times."""
        return with_end([float(t) for t in range(1, int(schedule.horizon) + 1)])


@dataclass(frozen=True, kw_only=True)
class Strided(Spacing):
    """``steps`` of the T times in equal fractional strides, both ends included, rounded to whole times.

    As in the code of Nichol & Dhariwal 2021 (arXiv 2102.09672). A single step goes straight from T to 0.
    """

    steps: int = 100

    def ladder(self, schedule: Schedule) -> Tensor:
        """steps + 1 times."""
        last = int(schedule.horizon)
        if not 1 <= self.steps <= last:
            raise ValueError(f"steps = {self.steps}: this schedule allows 1 to {last}")
        if self.steps == 1:
            return with_end([float(last)])
        # A running sum, because the rounding of exact halves must fall as in the source.
        stride, position, times = (last - 1) / (self.steps - 1), 0.0, []
        for _ in range(self.steps):
            times.append(float(round(position) + 1))
            position += stride
        return with_end(times)
