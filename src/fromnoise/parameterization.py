"""What the network's output F means, as four scalars of a level (Karras et al. 2022, arXiv 2206.00364, equation 7):

    x_0 = c_skip · x_t + c_out · F(c_in · x_t, c_time)

Solved for F, that is also what F should be during training, with x_t = signal · x_0 + sigma · eps:

    target = a · x_0 + b · eps,   a = (1 − c_skip · signal) / c_out,   b = −c_skip · sigma / c_out
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fromnoise.schedule import DiscreteSchedule, Level, Linear, cast


@dataclass(frozen=True, kw_only=True)
class Parameterization(ABC):
    """Scalars of a level, float64, of the level's shape."""

    @abstractmethod
    def c_skip(self, level: Level) -> Tensor:
        """The share of x_t that goes straight into x_0."""

    @abstractmethod
    def c_out(self, level: Level) -> Tensor:
        """The factor of the network's output in x_0."""

    @abstractmethod
    def c_in(self, level: Level) -> Tensor:
        """The factor of x_t before the network sees it."""

    @abstractmethod
    def c_time(self, level: Level) -> Tensor:
        """What the network is told of the time."""

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
class OnClock(Parameterization):
    """The network is told ``time_scale`` · t + ``time_shift``; the paper's networks count 0 … T−1, hence t − 1.

    On a clock 0 … 1 a scale of 1000 says what a schedule of 1000 steps would.
    """

    time_scale: float = 1.0
    time_shift: float = -1.0

    def c_time(self, level: Level) -> Tensor:
        """What the network is told of the time."""
        return level.t * self.time_scale + self.time_shift


@dataclass(frozen=True, kw_only=True)
class Epsilon(OnClock):
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
class Sample(OnClock):
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
class Velocity(OnClock):
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


@dataclass(frozen=True, kw_only=True)
class Flow(OnClock):
    """F = eps − x_0: the velocity of the straight line from the picture to the noise, d x_t / dt of rectified flow.

    Liu et al. 2022 (arXiv 2209.03003), equation 1; Lipman et al. 2022 (arXiv 2210.02747). Solvable at every level,
    whatever the schedule: x_0 = (x_t − sigma · F) / (signal + sigma).
    """

    def c_skip(self, level: Level) -> Tensor:
        """1 / (signal + sigma)."""
        return 1 / (level.signal + level.sigma)

    def c_out(self, level: Level) -> Tensor:
        """−sigma / (signal + sigma)."""
        return -level.sigma / (level.signal + level.sigma)

    def c_in(self, level: Level) -> Tensor:
        """1."""
        return level.signal * 0 + 1


@dataclass(frozen=True, kw_only=True)
class PosteriorMean(OnClock):
    """F = the mean μ̃ of q(x_{t−1} | x_t, x_0): what the paper compares its choice with (Ho et al. 2020, table 2).

    μ̃ = A x_0 + B x_t (equation 7), which with s = t − 1 and ρ = SNR_t / SNR_s is A = signal_s (1 − ρ) and
    B = (signal_t / signal_s)(sigma_s / sigma_t)². At t = 1, μ̃ is x_0.

    ``schedule`` must be the one in use, for a level does not know its neighbour; the coefficients raise ``ValueError``
    if it is another. There is none between 1 and 2, nor at 0.
    """

    schedule: DiscreteSchedule = field(default_factory=Linear)

    def _coefficients(self, t: Level) -> tuple[Tensor, Tensor]:
        """A and B."""
        known = bool((t.t <= self.schedule.horizon).all())
        if not known or bool(((self.schedule(t.t).signal - t.signal).abs() > 1e-9).any()):
            raise ValueError(
                "PosteriorMean has another schedule than the one in use: it must be given that one, which must count "
                "steps; on a clock that does not, take sample"
            )
        s = self.schedule(t.t - 1)
        from_x_t = t.signal / s.signal * (s.sigma / t.sigma).square()
        return -s.signal * torch.expm1(t.log_snr - s.log_snr), from_x_t

    def c_skip(self, level: Level) -> Tensor:
        """−B / A."""
        from_x_0, from_x_t = self._coefficients(level)
        return -from_x_t / from_x_0

    def c_out(self, level: Level) -> Tensor:
        """1 / A."""
        return 1 / self._coefficients(level)[0]

    def c_in(self, level: Level) -> Tensor:
        """1."""
        return level.signal * 0 + 1


@dataclass(frozen=True, kw_only=True)
class Karras(Parameterization):
    """EDM's: input and target have variance 1 at every level for data of deviation ``sigma_data``, and errors of the
    network are amplified as little as possible. Karras et al. 2022 (arXiv 2206.00364), table 1 and appendix B.6.

    Their formulas are for signal 1; on other schedules they hold for x_t / signal and ρ = sigma / signal, and the
    factors below are those of x_t itself. c_time is infinite where no signal is left.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a deviation that is none."""
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data = {self.sigma_data}: must be above 0")

    def _variance(self, level: Level) -> Tensor:
        """Of x_t."""
        return (level.signal * self.sigma_data).square() + level.sigma.square()

    def c_skip(self, level: Level) -> Tensor:
        """signal · sigma_data² / (signal² sigma_data² + sigma²)."""
        return level.signal * self.sigma_data**2 / self._variance(level)

    def c_out(self, level: Level) -> Tensor:
        """sigma · sigma_data / √(signal² sigma_data² + sigma²)."""
        return level.sigma * self.sigma_data / self._variance(level).sqrt()

    def c_in(self, level: Level) -> Tensor:
        """1 / √(signal² sigma_data² + sigma²)."""
        return self._variance(level).rsqrt()

    def c_time(self, level: Level) -> Tensor:
        """log(ρ) / 4, which is −log-SNR / 8."""
        return -level.half_log_snr / 4
