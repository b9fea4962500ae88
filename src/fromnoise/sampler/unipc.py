"""UniPC: a predictor of any order, and a corrector that uses the next step's network call once more.

Zhao et al. 2023 (arXiv 2302.04867), algorithms 1 and 2, for estimates of x_0. In λ = log(signal / sigma) and with
h = λ_s − λ_t,

    x_s = (sigma_s / sigma_t) x_t + signal_s (1 − e^−h) D_0 − signal_s B Σ_m a_m (D_m − D_0) / r_m

where D_m are earlier estimates at λ_t + r_m h (and, in the corrector, the one at s with r = 1), and a solves
Σ_m a_m r_m^(k−1) = −h k! φ_(k+1)(−h) / B for k = 1 … order − 1 (the corrector: order). B is −h (bh1) or e^−h − 1 (bh2).
The solution is the integral of the polynomial through all D, whatever B. With a single D_m the authors' code takes
a = 1/2 in the place of the solution, and only there B matters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.noise import Noise
from fromnoise.sampler.base import Denoise, Sampler, Traits
from fromnoise.sampler.exponential import blend, ends, first_order, integrals, nodes, pull, width
from fromnoise.sampler.multistep import Past
from fromnoise.schedule.base import Level

Points = tuple[tuple[Level, Tensor], ...]


@dataclass(frozen=True)
class _Memory:
    """Beside earlier estimates: the (corrected) x, level and order that the last prediction started from."""

    past: Past
    origin: tuple[Tensor, Level, int] | None = None


@dataclass(frozen=True, kw_only=True)
class UniPC(Sampler[_Memory]):
    """``order`` of the predictor, 1 to 3; the corrector adds one. One network call a step. ``bh2`` picks B."""

    order: int = 2
    bh2: bool = True

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for an order there is not."""
        if self.order not in {1, 2, 3}:
            raise ValueError(f"order = {self.order}: must be 1, 2 or 3")

    @property
    def traits(self) -> Traits:
        """The corrector raises the order by one."""
        return Traits(order=self.order + 1, least_steps=self.order, between=True)

    def init(self, steps: int) -> _Memory:
        """No estimates yet."""
        return _Memory(Past(steps, steps))

    def step(
        self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: _Memory, noise: Noise
    ) -> tuple[Tensor, _Memory]:
        """Correct x_t with the estimate just made there, then predict x_s."""
        x_0, past = denoise(x_t, t).x_0, state.past
        if state.origin is not None:
            x, before, order = state.origin
            x_t = self._transfer(x, past.estimates[0][1], before, t, (*past.estimates[1:order], (t, x_0)))
        order = past.order(self.order, t, s, always_lower=True)
        x_s = self._transfer(x_t, x_0, t, s, past.estimates[: order - 1])
        origin = None if ends(t, s) else (x_t, t, order)
        return x_s, _Memory(past.after(t, x_0, self.order), origin)

    def _transfer(self, x_t: Tensor, x_0: Tensor, t: Level, s: Level, points: Points) -> Tensor:
        """x_s by the polynomial through x_0 at t and ``points``."""
        if not points:
            return first_order(x_t, x_0, t, s)
        h, r = width(t, s), nodes(t, s, [t, *(level for level, _ in points)])
        if len(points) == 1:
            weight = (pull(h) if self.bh2 else h) / (2 * r[1])
            weights = torch.stack([pull(h) - weight, weight])
        else:
            weights = h * integrals(r, -h.item())
        estimates = (x_0, *(estimate for _, estimate in points))
        return blend((s.sigma / t.sigma, x_t), *zip(s.signal * weights, estimates, strict=True))
