"""What the network's output F means, as four scalars of a level (Karras et al. 2022, arXiv 2206.00364, equation 7):

    x_0 = c_skip · x_t + c_out · F(c_in · x_t, c_time)

Solved for F, that is also what F should be during training, with x_t = signal · x_0 + sigma · eps:

    target = a · x_0 + b · eps,   a = (1 − c_skip · signal) / c_out,   b = −c_skip · sigma / c_out
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from fromnoise.schedule import Level, cast


@dataclass(frozen=True, kw_only=True)
class Parameterization(ABC):
    """Scalars of a level, float64, of the level's shape.

    The network is told ``time_scale · t + time_shift``; the paper's networks count 0 … T−1, hence t − 1.
    """

    time_scale: float = 1.0
    time_shift: float = -1.0

    @abstractmethod
    def c_skip(self, level: Level) -> Tensor:
        """The share of x_t that goes straight into x_0."""

    @abstractmethod
    def c_out(self, level: Level) -> Tensor:
        """The factor of the network's output in x_0."""

    @abstractmethod
    def c_in(self, level: Level) -> Tensor:
        """The factor of x_t before the network sees it."""

    def c_time(self, level: Level) -> Tensor:
        """What the network is told of the time."""
        return level.t * self.time_scale + self.time_shift

    def target(self, x_0: Tensor, eps: Tensor, level: Level) -> Tensor:
        """What the network's output should be."""
        a = (1 - self.c_skip(level) * level.signal) / self.c_out(level)
        b = -self.c_skip(level) * level.sigma / self.c_out(level)
        return cast(a, x_0) * x_0 + cast(b, x_0) * eps

    def x_0(self, x_t: Tensor, output: Tensor, level: Level) -> Tensor:
        """The clean picture that ``output`` stands for."""
        return cast(self.c_skip(level), x_t) * x_t + cast(self.c_out(level), x_t) * output

    def eps(self, x_t: Tensor, output: Tensor, level: Level) -> Tensor:
        """The noise that ``output`` stands for: (x_t − signal · x_0) / sigma, its factors gathered in float64."""
        from_x = (1 - level.signal * self.c_skip(level)) / level.sigma
        from_output = -level.signal * self.c_out(level) / level.sigma
        return cast(from_x, x_t) * x_t + cast(from_output, x_t) * output


@dataclass(frozen=True, kw_only=True)
class Epsilon(Parameterization):
    """F = eps: the paper's choice (Ho et al. 2020, equation 11). Needs some signal at every time."""

    def c_skip(self, level: Level) -> Tensor:
        """1 / signal."""
        return 1 / level.signal

    def c_out(self, level: Level) -> Tensor:
        """−sigma / signal."""
        return -level.sigma / level.signal

    def c_in(self, level: Level) -> Tensor:
        """1."""
        return level.signal * 0 + 1


@dataclass(frozen=True, kw_only=True)
class Sample(Parameterization):
    """F = x_0 (Ho et al. 2020, section 3.2, tried there and found worse with their weighting)."""

    def c_skip(self, level: Level) -> Tensor:
        """0."""
        return level.signal * 0

    def c_out(self, level: Level) -> Tensor:
        """1."""
        return level.signal * 0 + 1

    def c_in(self, level: Level) -> Tensor:
        """1."""
        return level.signal * 0 + 1


@dataclass(frozen=True, kw_only=True)
class Velocity(Parameterization):
    """F = signal · eps − sigma · x_0 (Salimans & Ho 2022, arXiv 2202.00512), for signal² + sigma² = 1.

    In general F = (signal · eps − sigma · x_0) / (signal² + sigma²), which is solvable at every level.
    """

    def c_skip(self, level: Level) -> Tensor:
        """signal / (signal² + sigma²)."""
        return level.signal / (level.signal.square() + level.sigma.square())

    def c_out(self, level: Level) -> Tensor:
        """−sigma."""
        return -level.sigma

    def c_in(self, level: Level) -> Tensor:
        """1."""
        return level.signal * 0 + 1
