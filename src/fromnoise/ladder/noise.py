"""Times chosen by how noisy the picture is there: by the ratio ρ = sigma / signal, which is EDM's sigma.

Both rules go from the largest ratio to the smallest, both included. Unless they are given, these are the ratios at the
ends of the schedule: at T and 1 where its clock counts steps, else that at the horizon and EDM's 0.002. Where no signal
is left at the end, its ratio is infinite; the end is then the first time all the same, and the rule takes EDM's 80 for
its ratio (or the ratio at T − 1, where that is smaller).
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.ladder.base import SMALLEST_RATIO, Spacing, apart, check_steps
from fromnoise.schedule import Schedule

LARGEST_RATIO = 80.0
"""The ratio taken for the end where no signal is left there. Karras et al. 2022 (arXiv 2206.00364), table 1."""


@dataclass(frozen=True, kw_only=True)
class ByNoise(Spacing):
    """A rule for the ratio. Sub-classes say how it falls."""

    steps: int = 20
    sigma_max: float | None = None
    """The ratio to begin with."""
    sigma_min: float | None = None
    """The ratio of the last step."""
    between: bool = False
    """Whether times between whole ones are taken where the clock counts steps; else they are rounded, and times that
    would meet move up to the next free one."""

    @abstractmethod
    def ratios(self, high: float, low: float) -> Tensor:
        """``steps`` ratios from ``high`` down to ``low``, float64; ``high`` alone for a single step."""

    def ladder(self, schedule: Schedule) -> Tensor:
        """steps + 1 times. Raises ``ValueError`` for ratios that the schedule does not reach."""
        whole = schedule.whole and not self.between
        check_steps(self.steps, int(schedule.horizon) if whole else None)
        lowest, highest = _reach(schedule)
        for name, ratio in (("sigma_max", self.sigma_max), ("sigma_min", self.sigma_min)):
            if ratio is not None and not (lowest <= ratio <= highest and 0 < ratio < math.inf):
                raise ValueError(f"{name} = {ratio:g}: this schedule has ratios from {lowest:.4g} to {highest:.4g}")
        low = (lowest or SMALLEST_RATIO) if self.sigma_min is None else self.sigma_min
        high = self.sigma_max
        if high is None:
            high = min(highest, LARGEST_RATIO) if _ends_bare(schedule) else highest
        if self.steps > 1 and (low > high or (low == high and not whole)):
            raise ValueError(f"sigma_min = {low:g} must be below sigma_max = {high:g}")
        times = schedule.time(-2 * self.ratios(high, low).log())
        # The ends themselves, not what the rounding of logarithms makes of them.
        if self.sigma_max is None:
            times[0] = schedule.horizon
        if self.sigma_min is None and schedule.whole and self.steps > 1:
            times[-1] = 1.0
        return apart(times, int(schedule.horizon)) if whole else torch.cat([times, times.new_zeros(1)])


@dataclass(frozen=True, kw_only=True)
class Karras(ByNoise):
    """ρ^(1/``rho``) in equal steps. Karras et al. 2022 (arXiv 2206.00364), equation 5; dense near the picture."""

    rho: float = 7.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for an exponent that is none."""
        if not self.rho > 0:
            raise ValueError(f"rho = {self.rho}: must be above 0")

    def ratios(self, high: float, low: float) -> Tensor:
        """(high^(1/rho) + k/(steps − 1) (low^(1/rho) − high^(1/rho)))^rho."""
        return (
            torch.linspace(high ** (1 / self.rho), low ** (1 / self.rho), self.steps, dtype=torch.float64) ** self.rho
        )


@dataclass(frozen=True, kw_only=True)
class UniformLogSNR(ByNoise):
    """log-SNR in equal steps. Lu et al. 2022 (DPM-Solver, arXiv 2206.00927), section 3.3: the limit of a large rho."""

    def ratios(self, high: float, low: float) -> Tensor:
        """high · (low / high)^(k/(steps − 1))."""
        return torch.linspace(math.log(high), math.log(low), self.steps, dtype=torch.float64).exp()


def _ends_bare(schedule: Schedule) -> bool:
    """Whether no signal is left at the end of the clock."""
    return schedule(schedule.horizon).signal.item() == 0


def _reach(schedule: Schedule) -> tuple[float, float]:
    """The smallest and largest ratio of the schedule's times above 0 that have some signal."""
    end = schedule.horizon
    if not schedule.whole:
        return 0.0, math.inf if _ends_bare(schedule) else _ratio(schedule, end)
    return _ratio(schedule, 1.0), _ratio(schedule, max(end - 1, 1.0) if _ends_bare(schedule) else end)


def _ratio(schedule: Schedule, t: float) -> float:
    level = schedule(t)
    return (level.sigma / level.signal).item()
