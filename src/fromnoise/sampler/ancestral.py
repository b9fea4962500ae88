"""The paper's sampler: draw x_s from p(x_s | x_t), down the whole ladder.

Ho, Jain, Abbeel 2020 (arXiv 2006.11239), algorithm 2; on a shortened ladder, Nichol & Dhariwal 2021 (arXiv 2102.09672).
"""

from dataclasses import dataclass, field

from torch import Tensor

from fromnoise.noise import Noise
from fromnoise.sampler.base import Denoise, Sampler, Traits
from fromnoise.schedule.base import Level
from fromnoise.transition import Small, Variance, reverse


@dataclass(frozen=True, kw_only=True)
class Ancestral(Sampler[None]):
    """x_s = mean(x_t, x_0) + deviation · noise, and the mean alone in the last step. One network call a step."""

    variance: Variance = field(default_factory=Small)

    @property
    def traits(self) -> Traits:
        """Of the first order, with noise."""
        return Traits(order=1, stochastic=True, variance=self.variance)

    def init(self, steps: int) -> None:
        """Nothing is remembered."""

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: None, noise: Noise) -> tuple[Tensor, None]:
        """One draw."""
        prediction = denoise(x_t, t)
        p = reverse(x_t, prediction.x_0, prediction.raw_variance, t, s, self.variance)
        return (p.mean if s.sigma == 0 else p.sample(noise())), None
