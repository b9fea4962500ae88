"""The squared error, in the space of the network's output:

loss = E over t, x_0, eps of  weight(t) · mean over dimensions of (F(x_t, t) − target)²
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fromnoise.denoiser import Denoiser
from fromnoise.objective.base import EDGES, Loss, Objective, check_channels, mean_loss
from fromnoise.objective.history import History
from fromnoise.objective.weighting import Even, Weighting
from fromnoise.schedule import Level, cast, noisy


@dataclass(frozen=True, kw_only=True)
class Simple(Objective):
    """A weighted squared error. With the defaults and epsilon: Ho et al. 2020 (arXiv 2006.11239), equation 14."""

    weighting: Weighting = field(default_factory=Even)

    @property
    def learns_variance(self) -> bool:
        """No."""
        return False

    def check(self, denoiser: Denoiser) -> None:
        """Times and weights at the ends of the clock."""
        check_weights(self.weighting, denoiser, denoiser.schedule(self.times(EDGES, denoiser.schedule).t))

    def __call__(
        self,
        denoiser: Denoiser,
        x_0: Tensor,
        u: Tensor,
        eps: Tensor,
        *,
        history: History | None = None,
        **condition: Any,
    ) -> Loss:
        """As :meth:`Objective.__call__`."""
        drawn = self.times(u.cpu(), denoiser.schedule, history)
        level = denoiser.schedule(drawn.t)
        output = denoiser.output(noisy(x_0, eps, level), level, **condition)
        check_channels(output, x_0, doubled=False)
        return mean_loss(weighted_error(output, x_0, eps, level, denoiser, self.weighting), drawn)


def weighted_error(
    output: Tensor, x_0: Tensor, eps: Tensor, level: Level, denoiser: Denoiser, weighting: Weighting
) -> Tensor:
    """weight · mean of (output − target)², (B,)."""
    error = (output - denoiser.parameterization.target(x_0, eps, level)).square().flatten(1).mean(1)
    return cast(weighting(level, denoiser.parameterization), error) * error


def check_weights(weighting: Weighting, denoiser: Denoiser, level: Level) -> None:
    """Raises ``ValueError`` where a weight is no number to multiply a loss with."""
    weight = weighting(level, denoiser.parameterization)
    if not bool((weight.isfinite() & (weight >= 0)).all()):
        wrong = int((~(weight.isfinite() & (weight >= 0))).nonzero()[0])
        raise ValueError(
            f"{type(weighting).__name__} weights the {type(denoiser.parameterization).__name__} loss at time "
            f"{level.t[wrong].item():g} with {weight[wrong].item():g}: take another weighting or parameterization"
        )
