"""The probability flow with steps of its own choosing, each picture's own: Dormand & Prince's pair of orders 5 and 4.

In x̂ = x / signal and τ = log(sigma / signal) the flow is dx̂/dτ = ρ eps(x̂), ρ = e^τ. Song et al. 2021 (arXiv
2011.13456), section 4.3. The width of a step follows the estimated error per picture, so that a picture does not depend
on the others in its batch.
"""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.noise import Noise
from fromnoise.runge_kutta import DormandPrince, State
from fromnoise.sampler.base import Denoise, Sampler, Traits
from fromnoise.sampler.exponential import blend, onto, ratio
from fromnoise.schedule.base import Level


@dataclass(frozen=True, kw_only=True)
class Adaptive(Sampler[None]):
    """Each step of the ladder is solved to the tolerances ``rtol`` and ``atol``, in units of the picture's range.

    A ladder of one step is enough. To the clean picture it goes by way of the level with ρ = ``last`` (or the lowest
    the schedule has), from where DDIM takes the last step. Six network calls a step of its own, and one to start.
    Raises ``ValueError`` if a step becomes too small to go on, or an estimate is not a number.
    """

    rtol: float = 1e-3
    atol: float = 1e-3
    last: float = 2e-3

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for tolerances that allow no error at all."""
        if not (self.rtol >= 0 and self.atol > 0 and self.last > 0):
            raise ValueError(
                f"rtol = {self.rtol} must not be negative, atol = {self.atol} and last = {self.last} above 0"
            )

    @property
    def traits(self) -> Traits:
        """Of the fifth order within a step."""
        return Traits(order=5, calls=0, between=True)

    def init(self, steps: int) -> None:
        """Nothing is remembered."""

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: None, noise: Noise) -> tuple[Tensor, None]:
        """From t to s, in as many steps as it takes."""
        schedule = denoise.schedule
        if not math.isfinite(ratio(t).item()):  # No signal at all: a first step of DDIM to where there is some.
            below = schedule.at(torch.tensor(-2 * math.log(1e3), dtype=torch.float64))
            if below.t >= t.t or below.t <= s.t:
                return onto(denoise(x_t, t), s), None
            x_t, t = onto(denoise(x_t, t), below), below
        if s.sigma > 0:
            return self._solve(denoise, x_t, t, s), None
        wanted = torch.tensor(-2 * math.log(self.last), dtype=torch.float64)
        lowest = schedule(1.0) if schedule.whole else schedule.at(wanted)
        if lowest.t < t.t:
            x_t, t = self._solve(denoise, x_t, t, lowest), lowest
        return onto(denoise(x_t, t), s), None

    def _solve(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level) -> Tensor:
        def slope(y: State, tau: Tensor) -> State:
            level = denoise.schedule.at(-2 * tau)
            return (blend((tau.exp(), denoise(blend((level.signal, y[0])), level).eps)),)

        solver, start = DormandPrince(rtol=self.rtol, atol=self.atol), (blend((1 / t.signal, x_t)),)
        _, (x,) = deque(solver(slope, start, ratio(t).log(), ratio(s).log()), maxlen=1).pop()
        return blend((s.signal, x))
