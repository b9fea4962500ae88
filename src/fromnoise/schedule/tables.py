"""The tables of β: what sub-classes of :class:`DiscreteSchedule` there are, one formula each.

A table says how fast pictures drown. All are float64; what a table must satisfy is checked where it is used.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.schedule.discrete import DiscreteSchedule


def _line(first: float, last: float, steps: int) -> Tensor:
    if steps < 1:
        raise ValueError(f"a schedule needs at least 1 step, not {steps}")
    return torch.linspace(first, last, steps, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Linear(DiscreteSchedule):
    """β in equal steps from ``first`` to ``last``: the paper's, 1e-4 to 0.02 over 1000 steps.

    Left out, the ends are scaled by 1000 / ``steps``, so that any number of steps ends in the same noise
    (Nichol & Dhariwal 2021, arXiv 2102.09672); that needs more than 20 steps, or β would reach 1.
    """

    steps: int = 1000
    first: float | None = None
    last: float | None = None

    def betas(self) -> Tensor:
        """β_t = first + (last − first)(t − 1)/(T − 1)."""
        scale = 1000 / max(self.steps, 1)
        first = 1e-4 * scale if self.first is None else self.first
        last = 0.02 * scale if self.last is None else self.last
        if last >= 1 and self.steps > 0:
            raise ValueError(
                f"a linear schedule of {self.steps} steps reaches beta = {last:.3g}; beta must stay below 1: "
                f"take more than 20 steps, or give 'last' yourself"
            )
        return _line(first, last, self.steps)


@dataclass(frozen=True, kw_only=True)
class Quad(DiscreteSchedule):
    """√β in equal steps. One of the tables in the paper's released code; not the one it reports."""

    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02

    def betas(self) -> Tensor:
        """β_t = (√first + (√last − √first)(t − 1)/(T − 1))²."""
        if not (self.first > 0 and self.last > 0):
            raise ValueError(f"first = {self.first} and last = {self.last} must both be above 0")
        return _line(self.first**0.5, self.last**0.5, self.steps).square()


@dataclass(frozen=True, kw_only=True)
class ScaledLinear(DiscreteSchedule):
    """The law of :class:`Quad` with the ends of latent diffusion (Rombach et al. 2022, arXiv 2112.10752)."""

    steps: int = 1000
    first: float = 0.00085
    last: float = 0.012

    def betas(self) -> Tensor:
        """As in :class:`Quad`."""
        return Quad(steps=self.steps, first=self.first, last=self.last).betas()


@dataclass(frozen=True, kw_only=True)
class Constant(DiscreteSchedule):
    """The same β at every step. One of the tables in the paper's released code."""

    steps: int = 1000
    value: float = 0.02

    def betas(self) -> Tensor:
        """β_t = value."""
        return _line(self.value, self.value, self.steps)


@dataclass(frozen=True, kw_only=True)
class Cosine(DiscreteSchedule):
    """ᾱ follows a squared cosine. Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 17; s = 0.008, β ≤ 0.999."""

    steps: int = 1000
    offset: float = 0.008
    max_beta: float = 0.999

    def betas(self) -> Tensor:
        """β_t = min(1 − f(t)/f(t − 1), max_beta) with f(t) = cos²((t/T + s)/(1 + s) · π/2)."""
        f = ((_line(0, 1, self.steps + 1) + self.offset) / (1 + self.offset) * (torch.pi / 2)).cos().square()
        return (1 - f[1:] / f[:-1]).clamp(max=self.max_beta)


@dataclass(frozen=True, kw_only=True)
class Sigmoid(DiscreteSchedule):
    """β along a sigmoid from −``sharpness`` to +``sharpness``. Xu et al. 2022 (GeoDiff, arXiv 2203.02923)."""

    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02
    sharpness: float = 6.0

    def betas(self) -> Tensor:
        """β_t = first + (last − first) · sigmoid(line from −sharpness to sharpness)."""
        return self.first + (self.last - self.first) * _line(-self.sharpness, self.sharpness, self.steps).sigmoid()


@dataclass(frozen=True, kw_only=True)
class Warmup(DiscreteSchedule):
    """β on a line from ``first`` to ``last`` during the first ``fraction`` of the steps, and ``last`` from there on.

    A table in the paper's released code, with fractions 0.1 and 0.5; not the one it reports.
    """

    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02
    fraction: float = 0.1

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for what is no fraction."""
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction = {self.fraction}: must lie between 0 and 1")

    def betas(self) -> Tensor:
        """⌊fraction · T⌋ numbers in equal steps from first to last, both included; then last."""
        beta = _line(self.last, self.last, self.steps)
        rising = int(self.steps * self.fraction)
        if rising:
            beta[:rising] = _line(self.first, self.last, rising)
        return beta


@dataclass(frozen=True, kw_only=True)
class Jsd(DiscreteSchedule):
    """β_t = 1/(T − t + 1), so that ᾱ_t = 1 − t/T: every step takes the same share of the picture's power.

    The table of Sohl-Dickstein et al. 2015 (arXiv 1503.03585), section 2.4.1, also in the paper's released code. No
    signal is left at T, so it needs a parameterization other than epsilon.
    """

    steps: int = 1000

    def betas(self) -> Tensor:
        """1/T, 1/(T − 1), …, 1/2, 1."""
        return 1 / _line(self.steps, 1, self.steps)


@dataclass(frozen=True, kw_only=True)
class Laplace(DiscreteSchedule):
    """log-SNR at t/T is the quantile of a Laplace distribution: most steps where signal and noise are equally strong.

    Hang & Gu 2024 (arXiv 2407.03297), table 1, with their μ = ``location`` and b = ``scale``. The quantile at T is −∞;
    ``max_beta`` leaves a little signal there, as with :class:`Cosine`. diffusers' table of that name is another one: it
    takes √ᾱ for ᾱ.
    """

    steps: int = 1000
    location: float = 0.0
    scale: float = 0.5
    max_beta: float = 0.999

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a scale that is none."""
        if not self.scale > 0:
            raise ValueError(f"scale = {self.scale}: must be above 0")

    def betas(self) -> Tensor:
        """β_t = min(1 − ᾱ(t)/ᾱ(t − 1), max_beta), ᾱ = sigmoid(μ − b · sgn(½ − t/T) · log(1 − 2 |½ − t/T|))."""
        part = _line(0, 1, self.steps + 1)
        from_middle = torch.minimum(part, 1 - part).mul(2).log().neg() * (0.5 - part).sign()
        alpha_bar = (self.location + self.scale * from_middle).sigmoid()
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=self.max_beta)


@dataclass(frozen=True, kw_only=True)
class Given(DiscreteSchedule):
    """The user's own table of β, as it stands."""

    values: tuple[float, ...]

    def betas(self) -> Tensor:
        """``values``."""
        return torch.tensor(self.values, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class ZeroTerminalSNR(DiscreteSchedule):
    """Another schedule, shifted and scaled so that no signal is left at T. Lin et al. 2023 (arXiv 2305.08891), alg. 1.

    The noise cannot be turned back into a picture where there is no signal, so it needs a parameterization other than
    epsilon.
    """

    base: DiscreteSchedule

    def betas(self) -> Tensor:
        """√ᾱ'_t = (√ᾱ_t − √ᾱ_T) · √ᾱ_1 / (√ᾱ_1 − √ᾱ_T), and β from its ratios."""
        signal = self.base.alpha_bar[1:].sqrt()
        if signal.numel() < 2:
            raise ValueError("a schedule of one step cannot be rescaled to zero terminal SNR: take at least 2 steps")
        signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
        alpha_bar = signal.square()
        return 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
