"""DDIM: the same marginals as the paper's chain, with as much or as little noise as one likes.

    x_s = signal_s x_0 + sqrt(sigma_s² − v_d) eps + sqrt(v) noise

Source: Song, Meng, Ermon 2020 (arXiv 2010.02502), equations 12 and 16.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.noise import Noise
from fromnoise.sampler.base import Denoise, Sampler, Traits
from fromnoise.sampler.exponential import blend, onto
from fromnoise.schedule.base import Level
from fromnoise.transition import forward_log_variance, posterior_log_variance


@dataclass(frozen=True, kw_only=True)
class DDIM(Sampler[None]):
    """v = v_d = η² β̃. With ``eta`` 0 it is deterministic; with 1, the paper's chain with the small variance."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a negative amount of noise, or more than there is."""
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta = {self.eta}: must lie between 0 (no noise) and 1 (the paper's chain)")

    @property
    def traits(self) -> Traits:
        """Of the first order."""
        return Traits(order=1, stochastic=self.eta > 0)

    def init(self, steps: int) -> None:
        """Nothing is remembered."""

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: None, noise: Noise) -> tuple[Tensor, None]:
        """One network call."""
        prediction = denoise(x_t, t)
        if self.eta == 0 or s.sigma == 0:
            return onto(prediction, s), None
        deviation = self.eta * (0.5 * posterior_log_variance(t, s)).exp()
        rest = (s.sigma.square() - deviation.square()).clamp(min=0).sqrt()
        return blend((s.signal, prediction.x_0), (rest, prediction.eps), (deviation, noise())), None


@dataclass(frozen=True, kw_only=True)
class DDIMLarge(Sampler[None]):
    """v = β and v_d = β̃: the paper's chain with the large variance, called σ̂ there. Poor on short ladders."""

    @property
    def traits(self) -> Traits:
        """Of the first order, with noise."""
        return Traits(order=1, stochastic=True)

    def init(self, steps: int) -> None:
        """Nothing is remembered."""

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: None, noise: Noise) -> tuple[Tensor, None]:
        """One network call; no noise in the last step."""
        prediction = denoise(x_t, t)
        if s.sigma == 0:
            return onto(prediction, s), None
        rest = (s.sigma.square() - posterior_log_variance(t, s).exp()).clamp(min=0).sqrt()
        deviation = torch.exp(0.5 * forward_log_variance(t, s))
        return blend((s.signal, prediction.x_0), (rest, prediction.eps), (deviation, noise())), None
