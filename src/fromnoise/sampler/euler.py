"""Euler's rule in the coordinates of EDM, x̂ = x / signal and ρ = sigma / signal, where the flow is dx̂/dρ = eps.

Karras et al. 2022 (arXiv 2206.00364), equation 4 and algorithm 1. One such step is exactly one of DDIM:
x̂ + (ρ_s − ρ_t) eps is (x_0 + ρ_s eps). It has a name of its own because people look for it.
"""

from dataclasses import dataclass

from torch import Tensor

from fromnoise.noise import Noise
from fromnoise.sampler.base import Denoise, Sampler, Traits
from fromnoise.sampler.exponential import blend, onto, ratio
from fromnoise.schedule.base import Level


@dataclass(frozen=True, kw_only=True)
class Euler(Sampler[None]):
    """x̂_s = x̂_t + (ρ_s − ρ_t) eps. One network call a step; may visit times between those of training."""

    @property
    def traits(self) -> Traits:
        """Of the first order."""
        return Traits(order=1, between=True)

    def init(self, steps: int) -> None:
        """Nothing is remembered."""

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: None, noise: Noise) -> tuple[Tensor, None]:
        """One network call."""
        return onto(denoise(x_t, t), s), None


@dataclass(frozen=True, kw_only=True)
class EulerAncestral(Sampler[None]):
    """Euler to a level below ρ_s, and noise up to it: ρ_up = η · ρ_s sqrt(ρ_t² − ρ_s²) / ρ_t, ρ_down² = ρ_s² − ρ_up².

    Crowson's k-diffusion (2022). With ``eta`` 1 it is the paper's chain with the small variance; with 0, Euler's rule.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a negative amount of noise, or more than there is."""
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta = {self.eta}: must lie between 0 (no noise) and 1 (the paper's chain)")

    @property
    def traits(self) -> Traits:
        """Of the first order, with noise."""
        return Traits(order=1, stochastic=self.eta > 0, between=True)

    def init(self, steps: int) -> None:
        """Nothing is remembered."""

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: None, noise: Noise) -> tuple[Tensor, None]:
        """One network call; no noise in the last step."""
        prediction = denoise(x_t, t)
        if self.eta == 0 or s.sigma == 0:
            return onto(prediction, s), None
        share = (1 - (ratio(s) / ratio(t)).square()).clamp(min=0).sqrt()  # sqrt(ρ_t² − ρ_s²) / ρ_t, where ρ_t is large
        up = self.eta * ratio(s) * share
        down = (ratio(s).square() - up.square()).clamp(min=0).sqrt()
        return blend((s.signal, prediction.x_0), (s.signal * down, prediction.eps), (s.signal * up, noise())), None
