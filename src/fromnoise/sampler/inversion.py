"""DDIM backwards: from a picture to the noise that DDIM would make it from.

Going down, DDIM without noise is x_s = (signal_s / signal_t) x_t + (sigma_s − signal_s sigma_t / signal_t) eps(x_t, t).
Going up, x_t is unknown on both sides; putting x_s in its place under eps is the usual inversion (Song, Meng, Ermon
2020, arXiv 2010.02502, section 4.3; Dhariwal & Nichol 2021, arXiv 2105.05233, appendix F), and repeating that with each
better x_t finds the exact one (Pan et al. 2023, arXiv 2309.04907).
"""

from dataclasses import dataclass

from torch import Tensor

from fromnoise.noise import Noise
from fromnoise.sampler.base import Denoise, Sampler, Traits
from fromnoise.sampler.exponential import blend
from fromnoise.schedule.base import Level


@dataclass(frozen=True, kw_only=True)
class Inversion(Sampler[None]):
    """x_t ← (signal_t / signal_s) x_s + (sigma_t − signal_t sigma_s / signal_s) eps(x_t, t), ``iterations`` times.

    With enough of them, DDIM on the same ladder gives the picture back to rounding. The loop's ``t`` is here the lower
    time and ``s`` the upper one.
    """

    iterations: int = 1

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for fewer than one iteration."""
        if self.iterations < 1:
            raise ValueError(f"iterations = {self.iterations}: must be at least 1")

    @property
    def traits(self) -> Traits:
        """Of the first order, and upward."""
        return Traits(order=1, calls=self.iterations, upward=True)

    def init(self, steps: int) -> None:
        """Nothing is remembered."""

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: None, noise: Noise) -> tuple[Tensor, None]:
        """From the lower level ``t`` up to ``s``."""
        x = x_t
        for _ in range(self.iterations):
            gain = s.signal / t.signal
            x = blend((gain, x_t), (s.sigma - gain * t.sigma, denoise(x, s).eps))
        return x, None
