"""Heun's rule with EDM's churn: Karras et al. 2022 (arXiv 2206.00364), algorithm 2.

In the coordinates x̂ = x / signal and ρ = sigma / signal the flow is dx̂/dρ = eps, and

    x̂_s = x̂_t + (ρ_s − ρ_t) · (eps(x̂_t, ρ_t) + eps(x̂_t + (ρ_s − ρ_t) eps(x̂_t, ρ_t), ρ_s)) / 2

Before a step, churn may add fresh noise and raise ρ_t to ρ_t (1 + γ), γ = min(churn / steps, √2 − 1).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.noise import Noise
from fromnoise.sampler.base import Denoise, Sampler, Traits
from fromnoise.sampler.exponential import blend, ends, onto, ratio
from fromnoise.schedule.base import Level


@dataclass(frozen=True, kw_only=True)
class Heun(Sampler[int]):
    """Two network calls a step, one in the last. ``churn``, ``t_min``, ``t_max`` and ``noise_scale`` are EDM's S_….

    ``t_min`` and ``t_max`` bound ρ where churn acts. On a schedule that ends, ρ is not raised above its end.
    """

    churn: float = 0.0
    t_min: float = 0.0
    t_max: float = math.inf
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a negative churn or scale."""
        if not (self.churn >= 0 and self.noise_scale >= 0):
            raise ValueError(f"churn = {self.churn} and noise_scale = {self.noise_scale}: must not be negative")

    @property
    def traits(self) -> Traits:
        """Of the second order: churn of scale 1 leads from one level's distribution to another's exactly."""
        return Traits(order=2, calls=2, least_steps=2, stochastic=self.churn > 0, between=True)

    def init(self, steps: int) -> int:
        """Churn is shared out over the steps."""
        return steps

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: int, noise: Noise) -> tuple[Tensor, int]:
        """Churn, Euler, and the corrected slope."""
        if self.churn > 0 and t.signal > 0 and self.t_min <= ratio(t).item() <= self.t_max:
            x_t, t = self._churned(denoise, x_t, t, state, noise)
        first = denoise(x_t, t)
        x_s = onto(first, s)
        if ends(t, s):
            return x_s, state
        second = denoise(x_s, s)
        half = s.signal * (ratio(s) - ratio(t)) / 2
        return x_s + blend((half, second.eps), (-half, first.eps)), state

    def _churned(self, denoise: Denoise, x_t: Tensor, t: Level, steps: int, noise: Noise) -> tuple[Tensor, Level]:
        gamma = min(self.churn / steps, math.sqrt(2) - 1)
        wanted = -2 * (ratio(t) * (1 + gamma)).log()
        end = denoise.schedule(denoise.schedule.horizon).log_snr
        above = denoise.schedule.at(torch.maximum(wanted, end))
        added = self.noise_scale * (ratio(above).square() - ratio(t).square()).clamp(min=0).sqrt()
        return blend((above.signal / t.signal, x_t), (above.signal * added, noise())), above
