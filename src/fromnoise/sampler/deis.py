"""DEIS and iPNDM: the noise, not the picture, is carried on by a polynomial.

In x̂ = x / signal and ρ = sigma / signal the flow is dx̂/dρ = eps, so a step adds ∫ eps dρ from ρ_t to ρ_s.

* DEIS puts a polynomial in log ρ through the last estimates and integrates it exactly. Zhang & Chen 2022
  (arXiv 2204.13902), the form called log ρ.
* iPNDM takes the weights of Adams and Bashforth, which belong to equal steps in ρ, wherever the steps are: Liu et al.
  2022 (arXiv 2202.09778), without their costly first steps (Zhang & Chen 2022).
"""

import math
from dataclasses import dataclass

from torch import Tensor

from fromnoise.noise import Noise
from fromnoise.sampler.base import Denoise, Sampler, Traits
from fromnoise.sampler.exponential import blend, integrals, nodes, onto, ratio, width
from fromnoise.sampler.multistep import Past
from fromnoise.schedule.base import Level


def _check_order(order: int) -> None:
    if order not in {1, 2, 3, 4}:
        raise ValueError(f"order = {order}: must be 1, 2, 3 or 4")


@dataclass(frozen=True, kw_only=True)
class DEIS(Sampler[Past]):
    """x̂_s = x̂_t + Σ_m w_m eps_m, w_m the integral of the m-th Lagrange polynomial. One network call a step."""

    order: int = 3

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for an order there is not."""
        _check_order(self.order)

    @property
    def traits(self) -> Traits:
        """Of the order asked for."""
        return Traits(order=self.order, least_steps=self.order, between=True)

    def init(self, steps: int) -> Past:
        """No estimates yet."""
        return Past(steps, steps)

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: Past, noise: Noise) -> tuple[Tensor, Past]:
        """The order grows with what is remembered; the last step is DDIM's."""
        prediction = denoise(x_t, t)
        order, after = state.order(self.order, t, s), state.after(t, prediction.eps, self.order - 1)
        if order == 1:
            return onto(prediction, s), after
        points, h = ((t, prediction.eps), *state.estimates[: order - 1]), width(t, s)
        # ∫ ℓ_m(log ρ) dρ, with log ρ = log ρ_t − v h and dρ = −h ρ_s e^(h (1 − v)) dv.
        weights = -h * s.sigma * integrals(nodes(t, s, [level for level, _ in points]), h.item())
        return blend((s.signal / t.signal, x_t), *zip(weights, [eps for _, eps in points], strict=True)), after


@dataclass(frozen=True, kw_only=True)
class IPNDM(Sampler[Past]):
    """The weighted sum of the last noises in the place of the newest, then a step of DDIM. One network call a step."""

    order: int = 4

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for an order there is not."""
        _check_order(self.order)

    @property
    def traits(self) -> Traits:
        """Of the order asked for where the steps are equal in ρ."""
        return Traits(order=self.order, least_steps=self.order, between=True)

    def init(self, steps: int) -> Past:
        """No estimates yet."""
        return Past(steps, steps)

    def step(self, denoise: Denoise, x_t: Tensor, t: Level, s: Level, state: Past, noise: Noise) -> tuple[Tensor, Past]:
        """The order grows with what is remembered."""
        prediction = denoise(x_t, t)
        after = state.after(t, prediction.eps, self.order - 1)
        if not math.isfinite(ratio(t).item()):
            return onto(prediction, s), after
        eps = (prediction.eps, *(estimate for _, estimate in state.estimates))[: self.order]
        step = s.signal * (ratio(s) - ratio(t))
        terms = [(step * w, e) for w, e in zip(_ADAMS_BASHFORTH[len(eps) - 1], eps, strict=True)]
        return blend((s.signal / t.signal, x_t), *terms), after


_ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
