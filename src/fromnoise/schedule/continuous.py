"""Schedules whose clock does not count steps: any time from 0 to the horizon is as good as another.

Each is written so that neither sigma near the picture nor signal near the noise comes from a difference of nearly equal
numbers: a time of 1e-12 has a sigma of 12 digits. ``time`` is the inverse in closed form.

Networks usually know times of about 0 … 1000. For a clock 0 … 1, time_scale = 1000 in the parameterization tells them
what a schedule of 1000 steps would: 1000 t − 1.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fromnoise.schedule.base import Level, Schedule


class ContinuousSchedule(Schedule):
    """A schedule given by a formula. Sub-classes say only what it is, and what its inverse is."""

    @abstractmethod
    def pair(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(signal, sigma) at times 0 … horizon; exactly (1, 0) at 0. float64, of the shape of ``t``."""

    @abstractmethod
    def solve(self, log_snr: Tensor) -> Tensor:
        """The time with this log-SNR; beyond the ends anything that is beyond them. float64."""

    @property
    def whole(self) -> bool:
        """No."""
        return False

    def __call__(self, t: Tensor | float) -> Level:
        """The level at time(s) 0 … horizon. Raises ``ValueError`` for others."""
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        wrong = t[~((t >= 0) & (t <= self.horizon))]
        if wrong.numel():
            raise ValueError(f"this schedule knows the times 0 … {self.horizon:g}, not {wrong[0].item():g}")
        return Level(t, *self.pair(t))

    def time(self, log_snr: Tensor) -> Tensor:
        """The time with this log-SNR; the nearer end for what the schedule does not reach."""
        return self.solve(torch.as_tensor(log_snr, dtype=torch.float64, device="cpu")).clamp(0, self.horizon)


@dataclass(frozen=True, kw_only=True)
class VariancePreserving(ContinuousSchedule):
    """The limit of the paper's chain for ever more steps: β(t) on a line. Clock 0 … 1.

    ᾱ(t) = exp(−∫β) = exp(−β_min t − (β_max − β_min) t²/2). Song et al. 2021 (arXiv 2011.13456), equation 33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for rates that are none."""
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(f"beta_min = {self.beta_min} must be above 0 and at most beta_max = {self.beta_max}")

    @property
    def horizon(self) -> float:
        """1."""
        return 1.0

    def pair(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1 − ᾱ)."""
        integral = t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)
        return (-0.5 * integral).exp(), (-torch.expm1(-integral)).sqrt()

    def solve(self, log_snr: Tensor) -> Tensor:
        """The root of the quadratic ∫β = −log ᾱ, ᾱ = sigmoid(log-SNR), in the form that does not cancel."""
        integral = (-logsigmoid(log_snr)).clamp(max=0.5 * (self.beta_min + self.beta_max))
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral).sqrt()
        return 2 * integral / (self.beta_min + root)


@dataclass(frozen=True, kw_only=True)
class ContinuousCosine(ContinuousSchedule):
    """ᾱ(t) = cos²(angle) / cos²(angle at 0), the angle growing evenly with t. Clock 0 … 1.

    Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 17, where the angle goes from s/(1 + s) · π/2 to π/2, s =
    ``offset``. It stops short of π/2 where log-SNR is ``log_snr_min``; −15 is that of Hoogeboom et al. 2023 (arXiv
    2301.11093), and −inf gives the formula as published, which leaves no signal at 1 and so does not suit epsilon.
    """

    offset: float = 0.008
    log_snr_min: float = -15.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for an offset below 0 and for an end that is not noise."""
        if not 0 <= self.offset < math.inf:
            raise ValueError(f"offset = {self.offset}: must be 0 or above")
        _check_end(self.log_snr_min)

    @property
    def horizon(self) -> float:
        """1."""
        return 1.0

    def _angles(self) -> tuple[float, float, float]:
        """The angle at 0, the way to the angle at 1, and what that lacks to π/2."""
        first = self.offset / (1 + self.offset) * math.pi / 2
        rest = math.asin(math.cos(first) * math.sqrt(_share(self.log_snr_min)))
        return first, math.pi / 2 - first - rest, rest

    def pair(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """cos² a − cos² b = sin(b − a) sin(b + a), and cos b as the sine of what b lacks to π/2."""
        first, way, rest = self._angles()
        signal = torch.where(t > 0, (rest + (1 - t) * way).sin() / math.cos(first), 1.0)
        return signal, ((way * t).sin() * (2 * first + way * t).sin()).sqrt() / math.cos(first)

    def solve(self, log_snr: Tensor) -> Tensor:
        """From the angle a at 0 to b: sin² b = sin² a + q with q = (1 − ᾱ) cos² a, and sin(b − a) = q / sin(b + a)."""
        first, way, _ = self._angles()
        sin_a, cos_a = math.sin(first), math.cos(first)
        q = (-log_snr).sigmoid() * cos_a**2
        sin_b, cos_b = (sin_a**2 + q).sqrt(), cos_a * log_snr.sigmoid().sqrt()
        sum_ = (sin_b * cos_a + cos_b * sin_a).clamp(min=torch.finfo(torch.float64).tiny)
        return torch.atan2(q / sum_, cos_b * cos_a + sin_b * sin_a) / way


@dataclass(frozen=True, kw_only=True)
class ContinuousSigmoid(ContinuousSchedule):
    """ᾱ falls from 1 to 0 along the piece of a sigmoid from ``start``/``tau`` to ``end``/``tau``. Clock 0 … 1.

    ᾱ = (v(1) − v(t)) / (v(1) − v(0)) with v(t) = sigmoid((start + t (end − start)) / tau): Jabri et al. 2022 (arXiv
    2212.11972); Chen 2023 (arXiv 2301.10972), algorithm 1. A small ``tau`` makes the fall steep. As in
    :class:`ContinuousCosine`, t = 1 lies where log-SNR is ``log_snr_min``, a little before the end of the piece.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    log_snr_min: float = -15.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a piece that is none or so steep that float64 cannot hold it."""
        if not (self.start < self.end and self.tau > 0 and max(-self.start, self.end) / self.tau <= 300):
            raise ValueError(
                f"start = {self.start}, end = {self.end}, tau = {self.tau}: start must be below end, tau above 0, and "
                f"neither end further than 300 tau from 0"
            )
        _check_end(self.log_snr_min)

    @property
    def horizon(self) -> float:
        """1."""
        return 1.0

    def _piece(self) -> tuple[float, float, float, float]:
        """Half the arguments of v at both ends, half their distance, and what is left out of that at t = 1."""
        first, last = 0.5 * self.start / self.tau, 0.5 * self.end / self.tau
        half = last - first
        end = math.exp(self.log_snr_min) * math.cosh(last) / math.cosh(first)
        return first, last, half, 0.5 * math.log1p(2 * end * math.sinh(half) / (1 + end * math.exp(-half)))

    def pair(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """From sigmoid(2x) − sigmoid(2y) = sinh(x − y) / (2 cosh x cosh y)."""
        first, last, half, rest = self._piece()
        gone = (half - rest) * t
        below = math.sinh(half) * (first + gone).cosh()
        signal = ((rest + (half - rest) * (1 - t)).sinh() * math.cosh(first) / below).sqrt()
        return torch.where(t > 0, signal, 1.0), (gone.sinh() * math.cosh(last) / below).sqrt()

    def solve(self, log_snr: Tensor) -> Tensor:
        """SNR · cosh(last)/cosh(first) = sinh(half − gone) / sinh(gone), solved for gone = (half − rest) t."""
        first, last, half, rest = self._piece()
        ratio = log_snr.exp() * (math.cosh(last) / math.cosh(first))
        return 0.5 * torch.log1p(2 * math.sinh(half) / (ratio + math.exp(-half))) / (half - rest)


@dataclass(frozen=True, kw_only=True)
class EDM(ContinuousSchedule):
    """The clock is sigma itself and the signal is never weakened. Karras et al. 2022 (arXiv 2206.00364), table 1.

    The smallest sigma of sampling, 0.002, is a matter of the ladder.
    """

    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for an end that is none."""
        if not 0 < self.sigma_max < math.inf:
            raise ValueError(f"sigma_max = {self.sigma_max}: must be above 0")

    @property
    def horizon(self) -> float:
        """``sigma_max``."""
        return float(self.sigma_max)

    def pair(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 and t."""
        return torch.ones_like(t), t

    def solve(self, log_snr: Tensor) -> Tensor:
        """sigma = exp(−log-SNR / 2)."""
        return (-0.5 * log_snr).exp()


@dataclass(frozen=True, kw_only=True)
class Rectified(ContinuousSchedule):
    """x_t on a straight line from the picture to the noise: signal 1 − t, sigma t. Clock 0 … 1.

    Liu et al. 2022 (arXiv 2209.03003); Lipman et al. 2022 (arXiv 2210.02747), whose clock runs the other way. No signal
    is left at 1: take flow, velocity or sample.
    """

    @property
    def horizon(self) -> float:
        """1."""
        return 1.0

    def pair(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 − t and t."""
        return 1 - t, t

    def solve(self, log_snr: Tensor) -> Tensor:
        """t/(1 − t) = exp(−log-SNR / 2)."""
        return (-0.5 * log_snr).sigmoid()


def _share(log_snr: float) -> float:
    """ᾱ at a log-SNR below 0, −inf included."""
    return math.exp(log_snr) / (1 + math.exp(log_snr))


def _check_end(log_snr_min: float) -> None:
    if not log_snr_min < 0:
        raise ValueError(f"log_snr_min = {log_snr_min}: must be below 0, for the clock ends in noise")
