"""RePaint: a part of the picture is known, and any sampler paints the rest. Lugmayr et al. 2022 (arXiv 2201.09865).

After each step the known part is put in, with fresh noise of the level reached:

    x_s ← mask · (signal_s known + sigma_s noise) + (1 − mask) · x_s

What was painted had not seen that noise, so the two parts do not yet agree. Hence the way back, by q(x_t | x_s),

    x_t = (signal_t / signal_s) x_s + sqrt(β) noise,   β of the step

and the step again, ``resamples`` times in all. This is algorithm 1 there, with jumps of one step.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fromnoise.errors import WrongUse
from fromnoise.mask import check_mask, keep
from fromnoise.noise import Noise
from fromnoise.sampler.base import Denoise, Sampler, Traits
from fromnoise.sampler.exponential import blend
from fromnoise.schedule.base import Level, noisy
from fromnoise.transition import forward_log_variance


@dataclass(frozen=True, kw_only=True, eq=False)
class RePaint(Sampler[Any]):
    """``inner`` with ``known`` (an x_0, (C, H, W) or (B, C, H, W)) kept where ``mask`` is true.

    In the clean picture the known pixels are those given, bit for bit. Nothing is remembered from step to step, for
    each begins from a picture that the one before did not make: rules that use several steps are of first order here.
    Raises ``WrongUse`` for fewer than one ``resamples``, a rule that goes upward, and a mask or picture that does not
    fit.
    """

    inner: Sampler[Any]
    known: Tensor
    mask: Tensor
    resamples: int = 10

    def __post_init__(self) -> None:
        """Raises ``WrongUse``."""
        check_mask(self.mask)
        if self.resamples < 1:
            raise WrongUse(f"resamples = {self.resamples}: must be at least 1, which is none again")
        if self.inner.traits.upward:
            raise WrongUse(f"{type(self.inner).__name__} goes from the picture to the noise: it paints nothing")

    @property
    def traits(self) -> Traits:
        """Those of ``inner``, but for more calls, noise, and the first order."""
        of = self.inner.traits
        return Traits(
            order=1, calls=of.calls * self.resamples, stochastic=True, between=of.between, variance=of.variance
        )

    def init(self, steps: int) -> Any:
        """What ``inner`` knows before its first step."""
        return self.inner.init(steps)

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: Any, noise: Noise) -> tuple[Tensor, Any]:
        """As often as is asked for; once where x_s is clean, for the known part has no noise there."""
        known = self.known.to(x_t)
        if known.shape not in {x_t.shape, x_t.shape[1:]}:
            raise WrongUse(
                f"the known picture is of shape {tuple(known.shape)}, those painted of {tuple(x_t.shape[1:])}"
            )
        x_s, _ = self.inner.step(denoise, x_t, t, s, state, noise)
        if s.sigma == 0:
            return keep(self.mask, known, x_s), state
        x_s = keep(self.mask, noisy(known, noise(), s), x_s)
        for _ in range(self.resamples - 1):
            x_t = blend((t.signal / s.signal, x_s), ((0.5 * forward_log_variance(t, s)).exp(), noise()))
            x_s, _ = self.inner.step(denoise, x_t, t, s, state, noise)
            x_s = keep(self.mask, noisy(known, noise(), s), x_s)
        return x_s, state
