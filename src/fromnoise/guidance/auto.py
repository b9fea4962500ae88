"""Autoguidance: away from what a worse version of the same network says. Karras et al. 2024 (arXiv 2406.02507).

    x_0 = b + w (a − b)

with a the good network's estimate and b the bad one's: smaller, or trained for less long. Unlike classifier-free
guidance it needs no labels, and does not push towards the most typical of a class.
"""

from typing import Any

from torch import Tensor

from fromnoise.denoiser import Estimator, Prediction
from fromnoise.errors import WrongUse
from fromnoise.guidance.base import Guided, Interval, check_interval, check_scale, choose, extrapolate, inside
from fromnoise.schedule import Level


class Auto(Guided):
    """``inner`` guided by ``weak``; both are given the condition.

    ``scale`` 1 is none, and 0 is ``weak`` alone; ``interval`` as in :class:`ClassifierFree`. The raw variance and the
    limits are the inner one's. Raises ``WrongUse`` for numbers out of range and for a ``weak`` of another schedule.
    """

    def __init__(self, inner: Estimator, weak: Estimator, scale: float, *, interval: Interval = (0.0, 1.0)) -> None:
        super().__init__(inner)
        check_scale(scale)
        check_interval(interval)
        if weak.schedule != inner.schedule:
            raise WrongUse(
                f"the guiding model was trained on another schedule, {weak.schedule}, than the guided one, "
                f"{inner.schedule}: take a checkpoint of the same settings"
            )
        self.weak, self.scale, self.interval = weak, scale, interval

    def unclipped(self, x_t: Tensor, level: Level, **condition: Any) -> Prediction:
        """One call of each; of the inner one alone where it is not guided."""
        plain = self.inner.unclipped(x_t, level, **condition)
        where = inside(self.interval, level, self.schedule)
        if self.scale == 1 or not bool(where.any()):
            return plain
        weak = self.weak.unclipped(x_t, level, **condition)
        return choose(where, extrapolate(weak, plain, self.scale), plain)

    def ready(self) -> "Auto":
        """Of both."""
        return Auto(self.inner.ready(), self.weak.ready(), self.scale, interval=self.interval).eval()
