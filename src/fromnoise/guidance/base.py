"""What all guided estimators share: an estimator inside, a share of the clock, two ways to move an estimate.

An estimate is (x_0, eps) with x_t = signal · x_0 + sigma · eps. What is linear in x_0 is linear in eps, so both are
moved and still agree; neither has to be had from the other by a division.
"""

import math
from abc import ABC

import torch
from torch import Tensor

from fromnoise.denoiser import Estimator, Prediction
from fromnoise.errors import WrongUse
from fromnoise.schedule import Level, Schedule, cast

Interval = tuple[float, float]
"""Where guidance acts, both ends included, in shares t / horizon of the schedule's clock: (0, 1) is everywhere."""


class Guided(Estimator, ABC):
    """Around ``inner``: changes its estimates before they are limited, and leaves the limits to it."""

    def __init__(self, inner: Estimator) -> None:
        super().__init__(inner.schedule)
        self.inner = inner

    def settle(self, x_t: Tensor, estimate: Prediction, level: Level) -> Prediction:
        """As the inner estimator does."""
        return self.inner.settle(x_t, estimate, level)


def check_scale(scale: float) -> None:
    """Raises ``WrongUse`` for what is no strength of guidance."""
    if not (math.isfinite(scale) and scale >= 0):
        raise WrongUse(f"guidance scale = {scale}: must be a number, at least 0")


def check_interval(interval: Interval) -> None:
    """Raises ``WrongUse`` for what is no interval of shares."""
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise WrongUse(f"guidance interval = {low}, {high}: both are shares of the clock, 0 to 1, the lower one first")


def inside(interval: Interval, level: Level, schedule: Schedule) -> Tensor:
    """Whether ``level`` lies in the interval: bool on the CPU, of the level's shape."""
    share = level.t / schedule.horizon
    return (share >= interval[0]) & (share <= interval[1])


def extrapolate(start: Prediction, end: Prediction, weight: float) -> Prediction:
    """start + weight · (end − start); the raw variance is that of ``end``."""
    x_0, eps = start.x_0 + weight * (end.x_0 - start.x_0), start.eps + weight * (end.eps - start.eps)
    return Prediction(x_0, eps, end.raw_variance)


def choose(where: Tensor, chosen: Prediction, other: Prediction) -> Prediction:
    """``chosen`` for the pictures ``where`` says so (bool on the CPU, shape () or (B,)), ``other`` for the rest."""
    if bool(where.all()):
        return chosen
    rows = cast(where, chosen.x_0).bool()
    x_0, eps = torch.where(rows, chosen.x_0, other.x_0), torch.where(rows, chosen.eps, other.eps)
    return Prediction(x_0, eps, other.raw_variance)


def steer(estimate: Prediction, gradient: Tensor, level: Level) -> Prediction:
    """The estimate after ``gradient``, that of a log-probability at x_t, is added to the score.

        x_0 + (sigma² / signal) · gradient,   eps − sigma · gradient

    Where no signal is left, x_t says nothing of x_0 and the estimate stays as it is.
    """
    weight = torch.where(level.signal > 0, level.sigma.square() / level.signal, torch.zeros_like(level.signal))
    back = torch.where(level.signal > 0, level.sigma, torch.zeros_like(level.sigma))
    x_0, eps = estimate.x_0 + cast(weight, gradient) * gradient, estimate.eps - cast(back, gradient) * gradient
    return Prediction(x_0, eps, estimate.raw_variance)


def thaw(tensor: Tensor) -> Tensor:
    """A copy that may take part in a gradient. What samplers pass on was made in inference mode and may not."""
    return tensor.detach().clone()
