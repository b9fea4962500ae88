"""Distributions of times, each as the map from a uniform number to a time: its inverse distribution function.

One uniform number a picture is all the chance there is, so a resumed run repeats its times. A distribution that is
there only to estimate the same mean with less variance gives its times importance weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fromnoise.objective.history import History
from fromnoise.schedule import Schedule


class Drawn(NamedTuple):
    """Times ``t`` and the importance weights of their losses, both (B,), float64, on the CPU."""

    t: Tensor
    weight: Tensor


@dataclass(frozen=True, kw_only=True)
class Times(ABC):
    """A distribution of times. The numbers of a whole batch are spread first; then all or a part of them is drawn."""

    @property
    @abstractmethod
    def records(self) -> int:
        """How many past losses of each time the distribution depends on; 0 for none."""

    @abstractmethod
    def spread(self, u: Tensor) -> Tensor:
        """The uniform numbers of a whole batch, (B,): each remains uniform, but they may come to depend on another."""

    @abstractmethod
    def __call__(self, u: Tensor, schedule: Schedule, history: History | None = None) -> Drawn:
        """``u`` in [0, 1), float64, (B,), already spread -> :class:`Drawn`.

        Raises ``ValueError`` where the schedule's clock does not suit: one counts steps, another is continuous.
        """


@dataclass(frozen=True, kw_only=True)
class Independent(Times):
    """Neither the other pictures of a batch nor past losses have a part in the time of a picture."""

    @property
    def records(self) -> int:
        """None."""
        return 0

    def spread(self, u: Tensor) -> Tensor:
        """As they are."""
        return u


@dataclass(frozen=True, kw_only=True)
class UniformSteps(Independent):
    """Every whole time 1 … T equally often (Ho et al. 2020, arXiv 2006.11239, algorithm 1)."""

    def __call__(self, u: Tensor, schedule: Schedule, history: History | None = None) -> Drawn:
        """1 + ⌊u T⌋."""
        steps = _steps("uniform_steps", schedule)
        return _even((u.double() * steps).floor().clamp(max=steps - 1) + 1)


@dataclass(frozen=True, kw_only=True)
class UniformTime(Independent):
    """Evenly over a continuous clock (Song et al. 2021, arXiv 2011.13456, equation 7), from ``lowest`` on.

    Time 0 itself is the clean picture, from which there is nothing to learn.
    """

    lowest: float = 1e-5

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a time that is not above 0."""
        if not self.lowest > 0:
            raise ValueError(f"lowest = {self.lowest}: must be above 0, which is the clean picture")

    def __call__(self, u: Tensor, schedule: Schedule, history: History | None = None) -> Drawn:
        """lowest + u (horizon − lowest). Raises ``ValueError``, too, if ``lowest`` is past the end of the clock."""
        end = _end("uniform", schedule)
        if not self.lowest < end:
            raise ValueError(f"lowest = {self.lowest}: must be below {end:g}, where this schedule's clock ends")
        return _even(self.lowest + u.double() * (end - self.lowest))


@dataclass(frozen=True, kw_only=True)
class LogNormal(Independent):
    """log(sigma / signal) is normal: Karras et al. 2022 (EDM, arXiv 2206.00364), table 1, with P_mean and P_std."""

    mean: float = -1.2
    deviation: float = 1.2

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a deviation that is not above 0."""
        _check_deviation(self.deviation)

    def __call__(self, u: Tensor, schedule: Schedule, history: History | None = None) -> Drawn:
        """The time whose log-SNR is −2 (mean + deviation · Φ⁻¹(u)), Φ being the normal distribution function."""
        end = _end("log_normal", schedule)
        return _even(schedule.time(-2 * (self.mean + self.deviation * _normal(u))).clamp(max=end))


@dataclass(frozen=True, kw_only=True)
class LogitNormal(Independent):
    """logit(t / horizon) is normal: Esser et al. 2024 (arXiv 2403.03206), section 3.1, for rectified flow.

    There logit(t) is log(sigma / signal), so this is :class:`LogNormal` with other defaults; on other clocks it is not.
    """

    mean: float = 0.0
    deviation: float = 1.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a deviation that is not above 0."""
        _check_deviation(self.deviation)

    def __call__(self, u: Tensor, schedule: Schedule, history: History | None = None) -> Drawn:
        """horizon · sigmoid(mean + deviation · Φ⁻¹(u))."""
        end = _end("logit_normal", schedule)
        return _even(end * (self.mean + self.deviation * _normal(u)).sigmoid())


@dataclass(frozen=True, kw_only=True)
class Antithetic(Times):
    """``base`` with numbers in equal strides over the batch: each batch covers the clock evenly.

    A single time has the distribution of ``base``; the mean of a batch varies less. Kingma et al. 2021 (VDM,
    arXiv 2107.00630), where it is called the low-discrepancy sampler.
    """

    base: Times = field(default_factory=UniformSteps)

    @property
    def records(self) -> int:
        """Those of ``base``."""
        return self.base.records

    def spread(self, u: Tensor) -> Tensor:
        """(u_0 + i / B) mod 1, where u_0 is the number of the first picture."""
        return (u[:1].double() + torch.arange(len(u), dtype=torch.float64, device=u.device) / len(u)) % 1

    def __call__(self, u: Tensor, schedule: Schedule, history: History | None = None) -> Drawn:
        """As ``base``."""
        return self.base(u, schedule, history)


@dataclass(frozen=True, kw_only=True)
class LossAware(Times):
    """Whole times, the more often the larger their losses: Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 18.

    p_t ∝ √(mean of the squares of the ``last`` losses), mixed with a share ``uniform`` of even times. The weights
    1 / (T p_t) keep the mean of the loss. While a time still lacks some of its ``last`` losses, and where no history is
    kept, times are even.
    """

    last: int = 10
    uniform: float = 0.001

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for values that make no distribution."""
        if self.last < 1:
            raise ValueError(f"last = {self.last}: must be at least 1")
        if not 0 < self.uniform <= 1:
            raise ValueError(f"uniform = {self.uniform}: must lie above 0 and be at most 1, or a time could be lost")

    @property
    def records(self) -> int:
        """``last``."""
        return self.last

    def spread(self, u: Tensor) -> Tensor:
        """As they are."""
        return u

    def __call__(self, u: Tensor, schedule: Schedule, history: History | None = None) -> Drawn:
        """The first time up to which the sum of p exceeds u."""
        steps = _steps("loss_aware", schedule)
        if history is not None and len(history.counts) != steps:
            raise ValueError(f"the history is of {len(history.counts)} times, and this schedule has {steps}")
        if history is None or not history.full:
            return UniformSteps()(u, schedule)
        p = history.losses.square().mean(1).sqrt()
        total = p.sum()
        share = p / total if total > 0 else torch.full_like(p, 1 / steps)
        p = (1 - self.uniform) * share + self.uniform / steps
        edges = p.cumsum(0)
        index = torch.searchsorted(edges, u.double() * edges[-1], right=True).clamp(max=steps - 1)
        return Drawn(index.double() + 1, 1 / (steps * p[index]))


def _even(t: Tensor) -> Drawn:
    return Drawn(t, torch.ones_like(t))


def _normal(u: Tensor) -> Tensor:
    """Φ⁻¹(u), finite for u = 0 too: the smallest number that the generator makes above 0 stands in."""
    return torch.special.ndtri(u.double().clamp(2**-53, 1 - 2**-53))


def _check_deviation(deviation: float) -> None:
    if not deviation > 0:
        raise ValueError(f"deviation = {deviation}: must be above 0")


def _steps(kind: str, schedule: Schedule) -> int:
    if not schedule.whole:
        raise ValueError(
            f"times {kind} count steps, and {type(schedule).__name__} has a continuous clock: take uniform, "
            f"log_normal or logit_normal"
        )
    return int(schedule.horizon)


def _end(kind: str, schedule: Schedule) -> float:
    if schedule.whole:
        raise ValueError(
            f"times {kind} are those of a continuous clock, and {type(schedule).__name__} counts steps: take "
            f"uniform_steps or loss_aware"
        )
    return schedule.horizon
