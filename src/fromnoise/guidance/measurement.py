"""Inverse problems: of x_0 it is known that y = A x_0 + deviation_y · noise. Guidance by the score of p(y | x_t).

Given x_t, take x_0 as normal about the estimate x̂, with variance r² in all directions. Then

    p(y | x_t) = N(A x̂(x_t), r² A Aᵀ + noise² I)
    ∇ log p(y | x_t) = Jᵀ Aᵀ (y − A x̂) / (r² gram + noise²),   J = ∂x̂ / ∂x_t,   A Aᵀ = gram · I
    x_0 = x̂ + (sigma² / signal) ∇ log p(y | x_t)

Song et al. 2023 (ΠGDM, "Pseudoinverse-guided diffusion models for inverse problems", ICLR), section 3, for any pair
(signal, sigma); differentiating through the estimate is also Chung et al. 2022 (DPS, arXiv 2209.14687). If the data has
the standard deviation d about its mean in all directions, r² is the variance of x_0 given x_t,

    r² = d² sigma² / (signal² d² + sigma²)

and the result is E[x_0 | x_t, y], exactly. With d = 1 this is ΠGDM's choice.
"""

from typing import Any

import torch
from torch import Tensor

from fromnoise.denoiser import Estimator, Prediction
from fromnoise.errors import WrongUse
from fromnoise.guidance.base import Guided, check_scale, steer, thaw
from fromnoise.guidance.operator import Operator
from fromnoise.schedule import Level, cast


class PseudoInverse(Guided):
    """``inner`` guided towards pictures of which ``operator`` gives ``y``.

    * ``y``: in the units of x_0, for one picture or for each of the batch, as ``operator`` gives it.
    * ``noise``: the standard deviation of y's own error; 0 if it is exact.
    * ``deviation``: d, that of the data about its mean. Of a pixel in −1 … 1 it is about one half.
    * ``scale``: a factor of the gradient; 1 is Bayes' rule, 0 the plain call.

    Costs a call of the inner estimator and its gradient, and the memory of both. Raises ``WrongUse`` for numbers out of
    range and for a ``y`` of another shape.
    """

    def __init__(
        self,
        inner: Estimator,
        operator: Operator,
        y: Tensor,
        *,
        noise: float = 0.0,
        deviation: float = 0.5,
        scale: float = 1.0,
    ) -> None:
        super().__init__(inner)
        check_scale(scale)
        if not (noise >= 0 and deviation > 0):
            raise WrongUse(f"noise = {noise} must not be negative, and deviation = {deviation} must be above 0")
        self.operator, self.y = operator, y
        self.noise, self.deviation, self.scale = noise, deviation, scale

    def unclipped(self, x_t: Tensor, level: Level, **condition: Any) -> Prediction:
        """One call of the inner estimator, forwards and backwards."""
        if self.scale == 0:
            return self.inner.unclipped(x_t, level, **condition)
        with torch.inference_mode(False), torch.enable_grad():
            x = thaw(x_t).requires_grad_()
            at = Level(thaw(level.t), thaw(level.signal), thaw(level.sigma))
            given = {name: thaw(value) if isinstance(value, Tensor) else value for name, value in condition.items()}
            estimate = self.inner.unclipped(x, at, **given)
            gradient = torch.autograd.grad(estimate.x_0, x, self._pull(x, estimate, at))[0]
        raw = estimate.raw_variance
        plain = Prediction(estimate.x_0.detach(), estimate.eps.detach(), None if raw is None else raw.detach())
        return steer(plain, self.scale * gradient, level)

    def _pull(self, x_t: Tensor, estimate: Prediction, level: Level) -> Tensor:
        """Aᵀ (y − A x̂) / (r² gram + noise²)."""
        with torch.no_grad():
            found = self.operator.forward(estimate.x_0)
            y = self.y.to(found)
            if y.shape not in {found.shape, found.shape[1:]}:
                raise WrongUse(
                    f"y of shape {tuple(y.shape)}: what is measured of these pictures is {tuple(found.shape)}"
                )
            squared = self.deviation**2 * level.sigma.square()
            r_squared = squared / (level.signal.square() * self.deviation**2 + level.sigma.square())
            variance = r_squared * self.operator.gram + self.noise**2
            return self.operator.adjoint(y - found) / cast(variance, found)

    def ready(self) -> "PseudoInverse":
        """Around the inner one's."""
        return PseudoInverse(
            self.inner.ready(),
            self.operator,
            self.y,
            noise=self.noise,
            deviation=self.deviation,
            scale=self.scale,
        ).eval()
