"""DPM-Solver++: the flow solved in λ = log(signal / sigma), with a polynomial for the estimate of x_0.

Lu et al. 2022 (arXiv 2211.01095): algorithm 1 (one step, two calls), algorithm 2 (two steps remembered), the third
order as in the authors' code, and the stochastic form of appendix A in their second order. Where x_s is clean, and in a
first step, those without noise are DDIM.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.noise import Noise
from fromnoise.sampler.base import Denoise, Sampler, Traits
from fromnoise.sampler.exponential import blend, ends, first_order, phi, pull, width
from fromnoise.sampler.multistep import Past
from fromnoise.schedule.base import Level


@dataclass(frozen=True, kw_only=True)
class DPMSolver2S(Sampler[None]):
    """The estimate at the middle of the step, in λ, stands for the whole step. Two network calls, one in the last."""

    @property
    def traits(self) -> Traits:
        """Of the second order; the middle lies between two times of training."""
        return Traits(order=2, calls=2, least_steps=2, between=True)

    def init(self, steps: int) -> None:
        """Nothing is remembered."""

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: None, noise: Noise) -> tuple[Tensor, None]:
        """To the middle and, with what is estimated there, from t to s."""
        x_0 = denoise(x_t, t).x_0
        if not ends(t, s):
            middle = denoise.schedule.at(t.half_log_snr + s.half_log_snr)
            x_0 = denoise(first_order(x_t, x_0, t, middle), middle).x_0
        return first_order(x_t, x_0, t, s), None


@dataclass(frozen=True, kw_only=True)
class DPMSolver2M(Sampler[Past]):
    """A line through the last two estimates, taken at the middle of the step. One network call."""

    @property
    def traits(self) -> Traits:
        """Of the second order."""
        return Traits(order=2, least_steps=2, between=True)

    def init(self, steps: int) -> Past:
        """No estimates yet."""
        return Past(steps, steps)

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: Past, noise: Noise) -> tuple[Tensor, Past]:
        """x_0 + (x_0 − x_0 before) h / (2 h before) in the place of x_0."""
        x_0 = denoise(x_t, t).x_0
        there = _in_the_middle(x_0, t, s, state)
        return first_order(x_t, there, t, s), state.after(t, x_0, 1)


@dataclass(frozen=True, kw_only=True)
class DPMSolver2MSDE(Sampler[Past]):
    """:class:`DPMSolver2M` for the reverse diffusion instead of the flow:

    x_s = (sigma_s / sigma_t) e^−h x_t + signal_s (1 − e^−2h) x_0 + sigma_s sqrt(1 − e^−2h) noise
    """

    @property
    def traits(self) -> Traits:
        """Of the second order in the moments: the noise a step leaves out of its own slope is made good in the next."""
        return Traits(order=2, least_steps=2, stochastic=True, between=True)

    def init(self, steps: int) -> Past:
        """No estimates yet."""
        return Past(steps, steps)

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: Past, noise: Noise) -> tuple[Tensor, Past]:
        """One network call, and one draw but in the last step."""
        x_0 = denoise(x_t, t).x_0
        there, h = _in_the_middle(x_0, t, s, state), width(t, s)
        after = state.after(t, x_0, 1)
        gone = pull(2 * h)
        kept = (s.sigma / t.sigma) * torch.exp(-h)
        if s.sigma == 0:
            return blend((kept, x_t), (s.signal * gone, there)), after
        return blend((kept, x_t), (s.signal * gone, there), (s.sigma * gone.sqrt(), noise())), after


@dataclass(frozen=True, kw_only=True)
class DPMSolver3M(Sampler[Past]):
    """A parabola through the last three estimates, called the third order by its authors. One network call.

    Their code gives its second derivative half the weight of the integral, φ_3 instead of 2 φ_3 on the second divided
    difference, and so do all that follow it, this one included. The error is smaller than that of
    :class:`DPMSolver2M`, but of the same order; UniPC and DEIS reach the third.
    """

    @property
    def traits(self) -> Traits:
        """Of the second order; see above."""
        return Traits(order=2, least_steps=3, between=True)

    def init(self, steps: int) -> Past:
        """No estimates yet."""
        return Past(steps, steps)

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: Past, noise: Noise) -> tuple[Tensor, Past]:
        """The order grows with what is remembered."""
        x_0 = denoise(x_t, t).x_0
        after = state.after(t, x_0, 2)
        if state.order(3, t, s) < 3:
            return first_order(x_t, _in_the_middle(x_0, t, s, state), t, s), after
        (t_1, x_1), (t_2, x_2) = state.estimates
        h = width(t, s).item()
        r_1, r_2 = width(t_1, t).item() / h, width(t_2, t_1).item() / h
        phi_1, phi_2, phi_3 = phi(-h, 3)
        # d_1 = (x_0 − x_1) / r_1, d_2 = (x_1 − x_2) / r_2, bend = (d_1 − d_2) / (r_1 + r_2):
        # φ_1 x_0 + φ_2 (d_1 + r_1 bend) + φ_3 bend, gathered by estimate.
        bend = (phi_2 * r_1 + phi_3) / (r_1 + r_2)
        w_1, w_2 = (phi_2 + bend) / r_1, -bend / r_2
        weights = s.signal * h * torch.tensor([phi_1 + w_1, w_2 - w_1, -w_2], dtype=torch.float64)
        return blend((s.sigma / t.sigma, x_t), *zip(weights, (x_0, x_1, x_2), strict=True)), after


def _in_the_middle(x_0: Tensor, t: Level, s: Level, past: Past) -> Tensor:
    """x_0 half a step ahead, by the line through it and the estimate before; itself where there is none."""
    if past.order(2, t, s) < 2:
        return x_0
    before, x_1 = past.estimates[0]
    half = width(t, s) / (2 * width(before, t))
    return blend((1 + half, x_0), (-half, x_1))
