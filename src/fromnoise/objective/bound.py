"""The variational bound as a loss, term by term, in bits per dimension:

    vb_t = KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)),  and −log p(x_0 | x_1) for t = 1

Both losses here need neighbouring times t and t − 1, hence a schedule that counts steps, and estimate x_0 without
clipping, which would leave no gradient.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fromnoise.denoiser import Denoiser, Prediction
from fromnoise.gaussian import bits_per_dim
from fromnoise.objective.base import EDGES, Loss, Objective, check_channels, mean_loss
from fromnoise.objective.history import History
from fromnoise.objective.simple import check_weights, weighted_error
from fromnoise.objective.weighting import Even, Weighting
from fromnoise.schedule import Level, Schedule, noisy
from fromnoise.transition import LearnedRange, Pair, Small, Variance, bound_term, reverse


@dataclass(frozen=True, kw_only=True)
class Hybrid(Objective):
    """The squared error trains the mean, and the bound the variance: L_simple + ``bound_weight`` · L_vlb.

    Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 16. The network has a second output v for every channel
    (:class:`~fromnoise.transition.LearnedRange`); the bound's gradient reaches v alone. The term of one time estimates
    the sum of T of them, hence error + bound_weight · T · vb_t.
    """

    weighting: Weighting = field(default_factory=Even)
    bound_weight: float = 0.001

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a weight below 0."""
        if not self.bound_weight >= 0:
            raise ValueError(f"bound_weight = {self.bound_weight}: must not be negative")

    @property
    def learns_variance(self) -> bool:
        """Yes."""
        return True

    def check(self, denoiser: Denoiser) -> None:
        """Neighbours, and times and weights at the ends of the clock."""
        second_pair(denoiser.schedule)
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
        schedule = denoiser.schedule
        second = second_pair(schedule)
        drawn = self.times(u.cpu(), schedule, history)
        t, s = schedule(drawn.t), schedule(drawn.t - 1)
        x_t = noisy(x_0, eps, t)
        output = denoiser.output(x_t, t, **condition)
        check_channels(output, x_0, doubled=True)
        mean, v = output.chunk(2, dim=1)
        error = weighted_error(mean, x_0, eps, t, denoiser, self.weighting)
        prediction = denoiser.read(x_t, torch.cat([mean.detach(), v], 1), t)
        term = _bits(x_0, x_t, prediction, t, s, LearnedRange(), second)
        return mean_loss(error + self.bound_weight * schedule.horizon * term, drawn)


@dataclass(frozen=True, kw_only=True)
class Bound(Objective):
    """The variational bound itself, T · vb_t: its mean is the bound without its prior term, in bits per dimension.

    Ho et al. 2020 (arXiv 2006.11239), equation 5, and with :class:`~fromnoise.transition.LearnedRange` the L_vlb of
    Nichol & Dhariwal 2021 (arXiv 2102.09672), who train it with loss-aware times.
    """

    variance: Variance = field(default_factory=Small)

    @property
    def learns_variance(self) -> bool:
        """If ``variance`` does."""
        return isinstance(self.variance, LearnedRange)

    def check(self, denoiser: Denoiser) -> None:
        """Neighbours, and times."""
        second_pair(denoiser.schedule)
        self.times(EDGES, denoiser.schedule)

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
        schedule = denoiser.schedule
        second = second_pair(schedule)
        drawn = self.times(u.cpu(), schedule, history)
        t, s = schedule(drawn.t), schedule(drawn.t - 1)
        x_t = noisy(x_0, eps, t)
        output = denoiser.output(x_t, t, **condition)
        check_channels(output, x_0, doubled=self.learns_variance)
        term = _bits(x_0, x_t, denoiser.read(x_t, output, t), t, s, self.variance, second)
        return mean_loss(schedule.horizon * term, drawn)


def second_pair(schedule: Schedule) -> Pair:
    """The levels of times 2 and 1, whose β̃ stands in for the last step's. Raises ``ValueError`` if there are none."""
    if not schedule.whole:
        raise ValueError(
            f"a bound is a sum over the steps of a chain, and {type(schedule).__name__} has a continuous clock: take "
            f"the simple objective, or a schedule that counts steps"
        )
    if schedule.horizon < 2:
        raise ValueError("a bound needs a schedule of at least 2 steps")
    return schedule(2), schedule(1)


def _bits(
    x_0: Tensor, x_t: Tensor, prediction: Prediction, t: Level, s: Level, variance: Variance, second: Pair
) -> Tensor:
    """vb_t, (B,)."""
    p = reverse(x_t, prediction.x_0, prediction.raw_variance, t, s, variance, second)
    return bits_per_dim(bound_term(x_0, x_t, p, t, s))
